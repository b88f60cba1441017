"""The way into a threading layer and out of it, for a kernel that calls its threads (_runtime/threads.py says why).

A thread is known to TBB from its first use of it until its own end, and as long as it is, TBB's threads cannot be ended before
a fork. tbb::finalize makes TBB forget the thread that calls it, unless that is in the middle of something of TBB's, and does
nothing else while Numba has a handle of its own. To be forgotten and known again takes 1.6 us. The thread that started TBB
remains known, as Numba ends TBB's threads where that one forks. So does the main thread, of which Linux tells TBB the stack's
size only after 600 us.
"""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..._compile.compiler import kernel
from ..._runtime import state
from . import trace
from .arena import fetch_add, load

_WORD = ir.IntType(64)
_FINALIZE_NOTHROWING = 1        # the mode of tbb::finalize(handle, std::nothrow)


@kernel
def enter():
    """Return whether this thread may call others, and must `leave` then: not while the process forks."""
    fetch_add(state.address(state.INSIDE), 1)
    if load(state.address(state.FORKING)) == 0:
        return True
    fetch_add(state.address(state.INSIDE), -1)
    return False


@kernel
def leave():
    """Be done with other threads, and make TBB forget this one."""
    thread = trace.thread()
    if state.word(state.TBB_FINALIZE) != 0 and thread != state.word(state.TBB_OWNER) and thread != state.word(state.MAIN):
        _forget()
    fetch_add(state.address(state.INSIDE), -1)


@intrinsic
def _forget(typing_context):
    """Attach a handle of TBB's and finalize it."""
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
