"""The way fastbp uses Numba: the flags of every compiled function, and compiling for a fixed signature with the disk cache.

nogil       Other Python threads run while a kernel runs.
error_model "numpy": a division by zero gives inf, as in NumPy.
fastmath    "contract" alone: a product and a sum may become one FMA. The rest of `fastmath` would lose NaNs.

NUMBA_DISABLE_JIT=1 is for debugging: Numba's decorators then return plain Python functions. Kernels cannot run as plain Python,
so reference.py computes in their place. A function without a reference raises Disabled.
"""
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from numba import config, njit, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.typing.templates import infer_global

from .._runtime import sigint
from . import bitcode, disk_cache, notice

# The flags of every function that fastbp compiles; the module's docstring explains them.
FLAGS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "boundscheck": False}

# The further flags of kernels. Only compiled code calls them, so they need no wrappers, which would be a third of the time that
# compiling takes.
_BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# Whether reference.py computes instead of kernels. It is read once: a later change of numba.config.DISABLE_JIT concerns the
# user's own functions only.
DISABLED = bool(config.DISABLE_JIT)


class Disabled(RuntimeError):
    """An error for what needs compiled code while NUMBA_DISABLE_JIT is 1."""


def check_enabled(what: str) -> None:
    """Raise Disabled, a RuntimeError, if `what` cannot be compiled."""
    if DISABLED:
        raise Disabled(f"NUMBA_DISABLE_JIT is 1, expected 0 for {what}: it needs compiled code")


@contextmanager
def _compiling() -> Iterator[None]:
    """Make Numba compile within the block, even if the user has set numba.config.DISABLE_JIT since."""
    asked, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        yield
    finally:
        config.DISABLE_JIT = asked


def kernel(function, **options):
    """Decorate a function that other compiled functions call."""
    if DISABLED:
        return function
    with _compiling():
        dispatcher = njit(**FLAGS, **_BARE, pipeline_class=bitcode.Compiler, **options)(function)
    template = dispatcher.get_call_template
    # Without this, Numba would compile the function again for each integer that a caller passes as a literal.
    dispatcher.get_call_template = lambda arguments, keywords: template(tuple(map(types.unliteral, arguments)), keywords)
    return dispatcher


# The decorator of a kernel that LLVM inlines into an inner loop.
inlined = partial(kernel, forceinline=True)


def formula(function):
    """Decorate a function of integers and records, such as a size or a choice, that both compiled code and Python call.

    Python calls the function as it is; compiled code calls a kernel made from it.
    """
    if not DISABLED:
        function.kernel = kernel(function)                              # keeps the kernel alive, which Numba's type does not
        infer_global(function, types.Dispatcher(function.kernel))
    return function


def _compile(function, signature, name, **options):
    """Return Numba's result of compiling the function for that signature, from the disk cache if it is there."""
    check_enabled(name)
    with notice.compiling(f"the kernel {name}"), sigint.defer_sigint(), global_compiler_lock, _compiling():
        dispatcher = njit(**FLAGS, **options)(function)
        disk_cache.attach(dispatcher, name)
        dispatcher.compile(signature)
    return dispatcher.overloads[signature.args]


def entry(function, signature, name):
    """Return the C function behind `function`, to be called from Python.

    It skips Numba's dispatcher, which would look up the types of all arguments: the caller must have checked them.
    """
    return _compile(function, signature, name, no_cfunc_wrapper=True).entry_point


class _Definition(ctypes.Structure):
    """Python's PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


# The calling convention METH_FASTCALL: the address of the arguments' addresses, and how many there are.
_FASTCALL = 0x80

# The definitions of all methods, which Python's functions refer to.
_definitions = []

# PyCFunction_NewEx(definition, self, name of the module).
_new_method = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.POINTER(_Definition), ctypes.py_object, ctypes.py_object)(
    ("PyCFunction_NewEx", ctypes.pythonapi))


def method(function, owner, name):
    """Return a Python function that calls the compiled `function`, without any conversion of arguments.

    function: (owner, arguments, count) -> result. All but the count are addresses: of the object `owner`, of the addresses of
    the arguments, and of the result with a new reference. The result 0 means that an exception has been set.
    """
    address = native(function, types.intp(types.intp, types.intp, types.intp), name)
    definition = _Definition(name.encode(), address, _FASTCALL, None)
    _definitions.append(definition)
    return _new_method(ctypes.pointer(definition), owner, "fastbp")


def native(function, signature, name, parallel=False):
    """Return the address of `function`, compiled with the C calling convention."""
    compiled = _compile(function, signature, name, parallel=parallel, no_cpython_wrapper=True)
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


if hasattr(os, "register_at_fork"):
    # A fork waits while another thread compiles: the child would wait for ever on a lock that none of its threads can release.
    os.register_at_fork(before=global_compiler_lock.acquire, after_in_parent=global_compiler_lock.release,
                        after_in_child=global_compiler_lock.release)
