"""Scratch memory of the kernels: a small pool that is reused, so that the steady state allocates nothing.

The table of the pool lies in the process's state words: 64 slots of (busy, address, bytes). A call takes the first slot
that is free with one atomic exchange, enlarges its memory if it must, and gives it back at its end. So kernels may run in
any number of Python threads, in a user's prange, and in a forked child (where all slots are free again:
_state.forget_threads). Where all slots are taken the memory is allocated for the one call.
"""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..._compile.compiler import kernel
from ..._runtime import state

ALIGNMENT = 64                  # a cache line, and an AVX-512 vector
COUNTING = 0                    # An arena without memory: what is taken from it is only counted.
_FIRST, _WORDS = state.SLOTS, state.SLOT_WORDS

_allocate = types.ExternalFunction("NRT_Allocate", types.intp(types.uintp))
_free = types.ExternalFunction("NRT_Free", types.void(types.intp))


@intrinsic
def exchange(typing_context, address, value):
    """Atomically put `value` at `address` and return what was there."""
    def generate(c, b, sig, args):
        return b.atomic_rmw("xchg", b.inttoptr(args[0], ir.IntType(64).as_pointer()), args[1], "seq_cst")
    return types.intp(types.intp, types.intp), generate


@intrinsic
def fetch_add(typing_context, address, value):
    """Atomically add `value` to the word at `address` and return what was there."""
    def generate(c, b, sig, args):
        return b.atomic_rmw("add", b.inttoptr(args[0], ir.IntType(64).as_pointer()), args[1], "seq_cst")
    return types.intp(types.intp, types.intp), generate


@intrinsic
def load(typing_context, address):
    """The word at `address`, and whatever was written before it: for a counter that others add to."""
    def generate(c, b, sig, args):
        return b.load_atomic(b.inttoptr(args[0], ir.IntType(64).as_pointer()), "acquire", 8)
    return types.intp(types.intp), generate


@intrinsic
def copy(typing_context, target, source, count):
    """Copy bytes from one address to another; they do not overlap."""
    def generate(c, b, sig, args):
        target, source = (b.inttoptr(a, ir.IntType(8).as_pointer()) for a in args[:2])
        cgutils.raw_memcpy(b, target, source, args[2], 1)
        return c.get_dummy_value()
    return types.void(types.intp, types.intp, types.intp), generate


@kernel
def acquire(size):
    """(address, slot) of `size` bytes, aligned to a cache line; the address is 0 where there is no memory."""
    for slot in range(state.SLOT_COUNT):
        entry = state.address(_FIRST + slot * _WORDS)
        if exchange(entry, 1) == 0:
            if state.word(_FIRST + slot * _WORDS + 2) < size:
                _free(exchange(entry + 8, 0))
                memory = _allocate(size + ALIGNMENT)
                exchange(entry + 8, memory)
                exchange(entry + 16, size if memory != 0 else 0)
            memory = state.word(_FIRST + slot * _WORDS + 1)
            if memory == 0:
                exchange(entry, 0)
            return _aligned(memory), slot
    memory = _allocate(size + ALIGNMENT)
    return _aligned(memory), -memory


@kernel
def _aligned(address):
    return (address + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@kernel
def release(slot):
    """Give back what `acquire` gave."""
    if slot < 0:
        _free(-slot)
    else:
        exchange(state.address(_FIRST + slot * _WORDS), 0)


@kernel
def take(arena, size):
    """Return (where the next `size` bytes of an arena begin, the arena after them).

    An arena is the address of what is left of some memory, and begins at a cache line. A kernel takes all its memory in one
    function. Called with the arena COUNTING, that function tells in its last field, `end`, how many bytes `acquire` must give.
    """
    return arena, arena + (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
