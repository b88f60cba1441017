"""Signals while something is done that must be done as a whole."""
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# The signals that programs handle, where the system has them; SIGCHLD and those of faults are not for stopping anything.
_STOPPING = tuple(int(getattr(signal, name)) for name in
                  ("SIGINT", "SIGTERM", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU",
                   "SIGBREAK") if hasattr(signal, name))


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Let signals that come within the block, Ctrl-C or a program's own SIGALRM, have their effect at its end.

    Python calls a handler between any two instructions of the main thread, so also within Numba, where what it raises leaves
    half-compiled functions behind, or is lost in a function that LLVM called. What compiled code does needs no such block: a
    signal waits for its end.
    """
    if threading.current_thread() is not threading.main_thread():       # no handler runs here
        yield
        return
    handlers = {number: handler for number in _STOPPING if callable(handler := signal.getsignal(number))}
    came = []
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
