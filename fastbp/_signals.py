"""Ctrl-C while something is done that must be done as a whole."""
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def whole() -> Iterator[None]:
    """Let a SIGINT that comes within the block have its effect at its end.

    Python calls the handler, which raises KeyboardInterrupt, between any two instructions of the main thread, so also within
    Numba, where it leaves half-compiled functions behind, or is lost in a function that LLVM called. What compiled code does
    needs no such block: a signal waits for its end.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):      # nothing would be raised here
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
