"""How many threads a step may use, and whether it may use any.

Numba brings three threading layers. TBB is safe everywhere, but PyPI's is found only if it is loaded beforehand. GNU
OpenMP kills a forked child that computes after its parent did. The work queue aborts the process when two Python
threads call at once, so with that one, or with none, kernels run serially. A layer that the user chose
(NUMBA_THREADING_LAYER), or that the user's code has started, is left as it is.
"""
import contextlib
import ctypes
import importlib.metadata
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from numbers import Integral

import numba

from . import _cpu, _signals, _state

MOST = 1 << 10                  # threads that a kernel is told of

_TBB = {"linux": "libtbb.so.12", "darwin": "libtbb.12.dylib", "win32": "tbb12.dll"}

_lock = threading.RLock()
_wanted = None                  # what the user asked for
_prepared = False
_layer = None                   # "tbb", "omp", "serial", or None before one is needed
_starter = None                 # the thread that TBB takes for the main one
_limits = []                    # of those that compute on fewer threads now
_is_alone = True                # whether a fork was from a process with one Python thread


def set_num_threads(n: int) -> None:
    """Let kernels use up to n threads, from now on and in the whole process.

    n may be larger than the number of cores, and results do not depend on it. Raises TypeError if n is not an integer
    and ValueError if it is less than 1.
    """
    global _wanted
    if not isinstance(n, Integral) or isinstance(n, bool):
        raise TypeError(f"n was {n!r}, expected an integer of at least 1")
    if n < 1:
        raise ValueError(f"n was {n}, expected an integer of at least 1")
    with _signals.whole(), _lock:
        _wanted = int(n)
        if _prepared:
            _apply()


@contextlib.contextmanager
def at_most(n: int) -> Iterator[None]:
    """Meanwhile kernels of this process use up to n threads, whoever calls them: an engine has more of its own."""
    with _signals.whole(), _lock:
        _limits.append(n)
        if _prepared:
            _apply()
    try:
        yield
    finally:
        with _signals.whole(), _lock:
            _limits.remove(n)
            if _prepared:
                _apply()


def get_num_threads() -> int:
    """The number of threads that kernels may use: the last set_num_threads, else FASTBP_NUM_THREADS, else the cores that this
    process may use, or NUMBA_NUM_THREADS if that is less. Without a safe threading layer, kernels run serially whatever this
    number is.
    """
    global _wanted
    with _lock:
        if _wanted is None:
            _wanted = _from_environment() or min(_cpu.cores(), numba.config.NUMBA_NUM_THREADS)
        return _wanted


def layer() -> str:
    """"tbb", "omp" or "serial"; "not started" before the first kernel that may use threads. Starts nothing."""
    return _layer or "not started"


def prepare() -> None:
    """Tell compiled code about caches and threads: once in a process, before the first kernel is compiled or loaded."""
    global _prepared
    if _prepared:
        return
    with _signals.whole(), _lock:
        if not _prepared:
            caches = _cpu.caches()
            _state.words[_state.L1], _state.words[_state.L2], _state.words[_state.L3] = caches
            load_tbb()
            _apply()
            _prepared = True


def _apply():
    global _layer
    n = min([get_num_threads(), *_limits])
    if n > 1 and _layer is None:
        _layer = _start()
    _state.words[_state.THREADS] = min(n, MOST) if _layer in ("tbb", "omp") else 1


def _start():
    """Start Numba's threads, unless they run, and return the name of a layer that is safe to use."""
    global _starter
    started = _running()
    _starter = threading.main_thread().ident if started else threading.get_ident()
    if not started:
        with contextlib.suppress(ValueError):       # the user's choice of layer cannot be loaded
            numba.get_num_threads()
    name = _running()
    return name if name in ("tbb", "omp") else "serial"


def _running():
    """The name of the layer that Numba runs, or None."""
    try:
        return numba.threading_layer()
    except ValueError:
        return None


def load_tbb():
    """Load PyPI's TBB, which the system's loader would not find for Numba."""
    name = _TBB.get(sys.platform)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError):
        for path in importlib.metadata.files("tbb") or ():
            if path.name == name:
                ctypes.CDLL(os.fspath(path.locate()))


def _from_environment():
    text = os.environ.get("FASTBP_NUM_THREADS")
    if not text:
        return None
    try:
        n = int(text)
    except ValueError:
        n = 0
    if n < 1:
        warnings.warn(f"FASTBP_NUM_THREADS was {text!r}, expected an integer of at least 1; using the default",
                      RuntimeWarning, stacklevel=3)
        return None
    return n


def _before_fork():
    """No fork while a layer starts: the child would wait for ever on a lock of Numba's."""
    global _is_alone
    _lock.acquire()
    _is_alone = len(sys._current_frames()) == 1


def _after_fork():
    """In a forked child: OpenMP's threads are lost.

    TBB's are ended before a fork and started again after it, but only if the thread that started TBB forks, and no other one
    that has used it lives: else the child has TBB's locks and tables as they were in the middle of something, and no threads.
    """
    global _layer
    _state.forget_threads()
    name = _running()
    if name == "omp" or name == "tbb" and not (_is_alone and _starter in (None, threading.get_ident())):
        _layer = "serial"
        _state.words[_state.THREADS] = 1
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_after_fork)
