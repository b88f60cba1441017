"""The way into a threading layer and out of it, for a kernel that calls other threads (_runtime/threads.py says why).

TBB knows a thread from the thread's first use of TBB until the thread ends. While it knows another thread than the one that
forks, TBB cannot end its own threads before the fork. tbb::finalize makes TBB forget the thread that calls it, unless that
thread is inside a TBB call; it does nothing else as long as Numba holds a handle of its own. Forgetting a thread and meeting it
again takes 1.6 us.

Two threads remain known. One is the thread that started TBB: Numba ends TBB's threads when that one forks. The other is the
main thread: when TBB meets it, it asks Linux for the size of its stack, which takes 600 us.
"""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..._compile.compiler import kernel
from ..._runtime import state
from . import trace
from .atomic import fetch_add, load

# LLVM's type of a state word.
_WORD = ir.IntType(64)

# The mode in which tbb::finalize returns false instead of raising: that of finalize(handle, std::nothrow).
_FINALIZE_NOTHROWING = 1


@kernel
def enter():
    """Return whether this thread may call other threads, which it may not while the process forks. If so, it must `leave`."""
    fetch_add(state.address(state.INSIDE), 1)
    if load(state.address(state.FORKING)) == 0:
        return True
    fetch_add(state.address(state.INSIDE), -1)
    return False


@kernel
def leave():
    """End the use of other threads that `enter` allowed, and make TBB forget this thread."""
    thread = trace.thread()
    if state.word(state.TBB_FINALIZE) != 0 and thread != state.word(state.TBB_OWNER) and thread != state.word(state.MAIN):
        _forget()
    fetch_add(state.address(state.INSIDE), -1)


@intrinsic
def _forget(typing_context):
    """Attach a TBB handle and finalize it."""
    def generate(context, builder, signature, args):
        def call(word, result, *arguments):
            function = ir.FunctionType(result, [argument.type for argument in arguments])
            address = state.read(builder, ir.Constant(_WORD, word))
            builder.call(builder.inttoptr(address, function.as_pointer()), arguments)

        handle = cgutils.alloca_once_value(builder, ir.Constant(_WORD, 0))
        call(state.TBB_ATTACH, ir.VoidType(), handle)
        call(state.TBB_FINALIZE, ir.IntType(8), handle, ir.Constant(_WORD, _FINALIZE_NOTHROWING))
        return context.get_dummy_value()
    return types.void(), generate
