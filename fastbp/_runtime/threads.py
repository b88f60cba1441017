"""The number of threads that a step may use, and the handling of threads in a fork.

A forked child can use threads only with TBB, which ends its threads before a fork and starts them again afterwards. TBB does so
only if it knows no thread but the forking one, and it knows a thread from the thread's first use of it on. So a thread leaves
TBB after each use (kernels/schedule/tbb.py), and a fork waits for the threads that are using it.
"""
import contextlib
import ctypes
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from numbers import Integral

import numba

from . import cpu, sigint, state, threading_layer
from .threading_layer import SAFE, SERIAL

# The largest number of threads that kernels are told of.
MOST = 1 << 10

# The longest time, in seconds, that a fork waits for other threads to leave TBB. A run of training steps takes about 0.03 s.
_FORK_WAITS = 1.0

# The linker's name of tbb::attach, which belongs to the binary interface of TBB's version 12.
_ATTACH = "_ZN3tbb6detail2r13getERNS0_2d121task_scheduler_handleE"

# The linker's name of tbb::finalize, which belongs to the binary interface of TBB's version 12.
_FINALIZE = "_ZN3tbb6detail2r18finalizeERNS0_2d121task_scheduler_handleEl"

_lock = threading.RLock()       # The lock for what follows.
_wanted = None                  # The number of threads that the user asked for, or None before it is known.
_prepared = False               # Whether compiled code was told about caches and threads.
_layer = None                   # The layer in use: "tbb", "omp", "serial", or None before one is needed.
_note = None                    # The text that the user should know about the layer, or None.
_is_told = False                # Whether the user was told the note.
_limits = []                    # The limits of the thread_limit() blocks that are running.
_is_alone = True                # Whether the process that forked had only one Python thread.


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
    with sigint.defer_sigint(), _lock:
        _wanted = int(n)
        if _prepared:
            _apply()
    _tell()


@contextlib.contextmanager
def thread_limit(n: int) -> Iterator[None]:
    """Limit all kernels of this process to n threads during the block. The engine that calls them has threads of its own."""
    with sigint.defer_sigint(), _lock:
        _limits.append(n)
        if _prepared:
            _apply()
    try:
        yield
    finally:
        with sigint.defer_sigint(), _lock:
            _limits.remove(n)
            if _prepared:
                _apply()


def get_num_threads() -> int:
    """Return the number of threads that kernels may use. Starts no threads.

    It is the number of the last set_num_threads, else FASTBP_NUM_THREADS, else the smaller of the number of cores that this
    process may use and NUMBA_NUM_THREADS. Where no safe threading layer can be loaded it is 1, and show_config says why.
    """
    n = wanted()
    return n if n == 1 or _find()[0] in SAFE else 1


def wanted() -> int:
    """Return the number of threads that the user asked for, or the default, even if there is no threading layer."""
    global _wanted
    with _lock:
        if _wanted is None:
            _wanted = _from_environment() or min(cpu.cores(), numba.config.NUMBA_NUM_THREADS)
        return _wanted


def layer() -> str:
    """Return "tbb", "omp" or "serial", or "not started" before the first kernel. Starts nothing."""
    return _layer or "not started"


def describe() -> str:
    """Return the threading layer, whether it runs, and what the user should know about it. Starts nothing."""
    name, note = _find()
    name = name if _layer or name == SERIAL else f"{name}, not started"
    return f"{name} ({note})" if note else name


def prepare() -> None:
    """Tell compiled code about caches and threads, once in a process, before the first kernel is compiled or loaded."""
    global _prepared
    if _prepared:
        return
    with sigint.defer_sigint(), _lock:
        if not _prepared:
            caches = cpu.caches()
            state.words[state.L1], state.words[state.L2], state.words[state.L3] = caches.l1, caches.l2, caches.l3
            _apply()
            _prepared = True
    _tell()


def start() -> bool:
    """Start a safe threading layer unless one runs, and return whether one runs now.

    Loading parallel code starts the layer that the user chose, even for a single thread. So call this before it.
    """
    global _layer, _note
    with sigint.defer_sigint(), _lock:
        if _layer is None:
            name, _note = _find()
            _layer = _start(name) if name in SAFE else SERIAL
        return _layer in SAFE


def _apply():
    """Tell compiled code the number of threads, and start a threading layer if that is more than 1."""
    n = min([wanted(), *_limits])
    state.words[state.THREADS] = min(n, MOST) if n > 1 and start() else 1


def _find():
    """Return the layer in use or, if there is none yet, the one to start, and what the user should know about it."""
    return threading_layer.find() if _layer is None else (_layer, _note)


def _start(name):
    """Start Numba's threads unless they run, and return the name of the layer, or SERIAL if they cannot be started."""
    global _note
    owner, main = threading.get_ident(), threading.main_thread().ident
    if threading_layer.running():
        owner = state.words[state.TBB_OWNER] or main          # the user's code started it: nobody knows in which thread
    else:
        try:
            threading_layer.start(name)
        except (ValueError, ImportError, OSError) as error:
            _note = f"Numba cannot start its layer {name}: fastbp's kernels are serial ({error})"
            return SERIAL
    state.words[state.TBB_OWNER], state.words[state.MAIN] = owner, main
    if name == "tbb" and hasattr(os, "fork"):
        with contextlib.suppress(OSError, AttributeError):      # then Numba prints a warning at a fork beside other threads
            tbb = ctypes.CDLL(threading_layer.TBB_LIBRARY.get(sys.platform))
            functions = [ctypes.cast(getattr(tbb, symbol), ctypes.c_void_p).value for symbol in (_ATTACH, _FINALIZE)]
            state.words[state.TBB_ATTACH], state.words[state.TBB_FINALIZE] = functions
    return name


def _tell():
    """Warn the user once with the note about the layer, unless one thread was asked for."""
    global _is_told
    if _note and not _is_told and wanted() > 1:
        _is_told = True
        warnings.warn(_note, RuntimeWarning, stacklevel=3)


def _from_environment():
    """Return the number in FASTBP_NUM_THREADS, or None if it is not set or, with a warning, if it is not valid."""
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
    """Wait until no layer is being started, and until other threads have left TBB.

    If a layer were being started, the child would wait for ever on a lock of Numba's.
    """
    global _is_alone
    _lock.acquire()
    _is_alone = len(sys._current_frames()) == 1
    state.words[state.FORKING] = 1
    end = time.monotonic() + _FORK_WAITS
    while state.words[state.INSIDE] > 0 and time.monotonic() < end:
        time.sleep(1e-4)


def _after_fork_in_parent():
    """Let threads use TBB again."""
    state.words[state.FORKING] = 0
    _lock.release()


def _after_fork_in_child():
    """Make kernels serial if the threading layer does not work in the child.

    OpenMP's threads are lost in a fork. TBB's threads are started again, but only if the thread that started TBB forks. Another
    Python thread may have been using TBB other than through kernels. Then the child inherits TBB's locks and tables in the
    middle of a change, so it does not use them.
    """
    global _layer, _note, _is_told
    state.forget_threads()
    name = threading_layer.running()
    is_owner = state.words[state.TBB_OWNER] in (0, threading.get_ident())
    if name == "omp" or name == "tbb" and not (_is_alone and is_owner):
        _layer, _note, _is_told = SERIAL, "this process was forked from one whose threads it cannot use", True
        state.words[state.THREADS] = 1
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
