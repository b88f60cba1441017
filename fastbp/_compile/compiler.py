"""Numba policy: the flags of every compiled function, and how one is compiled for a fixed signature and kept on disk.

contract   a product and a sum may become one FMA; nothing else of `fastmath`, which would lose NaNs
numpy      a division by zero gives inf, as in NumPy
nogil      other Python threads run while a kernel does

NUMBA_DISABLE_JIT=1 is for debugging: Numba's decorators return the plain Python functions then. Kernels cannot run as such, so
reference.py computes in their place, and what has no reference says so.
"""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from numba import config, njit, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.typing.templates import infer_global

from .._runtime import sigint
from . import bitcode, disk_cache, notice

FLAGS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "boundscheck": False}

# A kernel is called by compiled code only. The wrappers that others need would be a third of the time to compile it.
_BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# Whether reference.py computes. It is read once: numba.config.DISABLE_JIT of later on is for the user's own functions.
DISABLED = bool(config.DISABLE_JIT)


class Disabled(RuntimeError):
    """NUMBA_DISABLE_JIT is 1, and what was asked for needs compiled code."""


def check_enabled(what: str) -> None:
    """Raise Disabled, a RuntimeError, if `what` cannot be compiled."""
    if DISABLED:
        raise Disabled(f"NUMBA_DISABLE_JIT is 1, expected 0 for {what}: it needs compiled code")


@contextmanager
def _compiling() -> Iterator[None]:
    """Have Numba compile within the block, also after the user has set numba.config.DISABLE_JIT."""
    asked, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        yield
    finally:
        config.DISABLE_JIT = asked


def kernel(function, **options):
    """Decorator of a function that other compiled functions call."""
    if DISABLED:
        return function
    with _compiling():
        dispatcher = njit(**FLAGS, **_BARE, pipeline_class=bitcode.Compiler, **options)(function)
    template = dispatcher.get_call_template
    # Numba would compile it again for each integer that a caller passes as a literal.
    dispatcher.get_call_template = lambda arguments, keywords: template(tuple(map(types.unliteral, arguments)), keywords)
    return dispatcher


inlined = partial(kernel, forceinline=True)       # by LLVM, into an inner loop


def formula(function):
    """Decorator of a function of integers and records that compiled code and Python call alike, such as a size or a choice.

    Python keeps the function as it is; compiled code finds the kernel in its place.
    """
    if not DISABLED:
        function.kernel = kernel(function)                              # Numba's type does not keep it alive
        infer_global(function, types.Dispatcher(function.kernel))
    return function


def _compile(function, signature, name, **options):
    check_enabled(name)
    with notice.compiling(f"the kernel {name}"), sigint.defer_sigint(), global_compiler_lock, _compiling():
        dispatcher = njit(**FLAGS, **options)(function)
        disk_cache.attach(dispatcher, name)
        dispatcher.compile(signature)
    return dispatcher.overloads[signature.args]


def entry(function, signature, name):
    """The C function behind `function`, to be called from Python.

    It skips Numba's dispatcher, which would look up the types of all arguments: the caller must have checked them.
    """
    return _compile(function, signature, name, no_cfunc_wrapper=True).entry_point


def native(function, signature, name, parallel=False):
    """The address of `function` with the C calling convention."""
    compiled = _compile(function, signature, name, parallel=parallel, no_cpython_wrapper=True)
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


if hasattr(os, "register_at_fork"):
    # No fork while another thread compiles: the child would wait for ever on a lock that nobody holds there.
    os.register_at_fork(before=global_compiler_lock.acquire, after_in_parent=global_compiler_lock.release,
                        after_in_child=global_compiler_lock.release)
