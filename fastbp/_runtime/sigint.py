"""The deferring of signals while a block runs that must not be interrupted."""
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# The numbers of the signals that programs use to stop or interrupt something, as far as the system has them. SIGCHLD and the
# signals of faults are not among them.
_STOPPING = tuple(int(getattr(signal, name)) for name in
                  ("SIGINT", "SIGTERM", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU",
                   "SIGBREAK") if hasattr(signal, name))


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Defer signals that arrive during the block, such as Ctrl-C or a program's own SIGALRM, until it ends.

    Python calls a handler between any two instructions of the main thread, so also within Numba. An exception from a handler
    would leave half-compiled functions behind there, or be lost in a function that LLVM called. Compiled code needs no such
    block: Python calls handlers only after it has returned.
    """
    if threading.current_thread() is not threading.main_thread():       # handlers run in the main thread only
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
