"""Scratch memory of the kernels: a pool that calls acquire memory from, and arenas that cut it into pieces.

A kernel needs memory for packed operands and partial results. It calls `acquire` once, cuts the memory into pieces with
`take`, and calls `release` at its end. The memory is kept for the next call, so the steady state allocates nothing.

The table of the pool lies in the process's state words: 64 slots of (taken, address, bytes). A call takes the first free slot
by one atomic exchange, enlarges its memory if that is too small, and frees the slot at its end. So kernels may run in any
number of Python threads, in a user's prange, and in a forked child, where all slots are free again (state.forget_threads). If
all slots are taken, the memory is allocated for that one call.
"""
from numba import types

from ..._compile.compiler import kernel
from ..._runtime import state
from ..simd.vector import CACHE_LINE
from .atomic import exchange

# Bytes that the addresses of acquired memory and of its pieces are multiples of: a cache line, and an AVX-512 vector.
ALIGNMENT = CACHE_LINE

# The arena without memory. What is taken from it is only counted.
COUNTING = 0

# The words of a slot: 1 if it is taken, else 0; the address of its memory, or 0; the bytes of that memory.
_IS_TAKEN, _MEMORY, _SIZE = range(state.SLOT_WORDS)

# Numba's functions that allocate and free memory.
_allocate = types.ExternalFunction("NRT_Allocate", types.intp(types.uintp))
_free = types.ExternalFunction("NRT_Free", types.void(types.intp))


@kernel
def acquire(size):
    """Return (address, slot) of `size` bytes of memory, at a multiple of ALIGNMENT.

    The address is 0 if there is no memory; then there is nothing to release.
    """
    for slot in range(state.SLOT_COUNT):
        is_taken, memory_word, size_word = _slot_word(slot, _IS_TAKEN), _slot_word(slot, _MEMORY), _slot_word(slot, _SIZE)
        if exchange(state.address(is_taken), 1) == 0:
            if state.word(size_word) < size:
                _free(exchange(state.address(memory_word), 0))
                memory = _allocate(size + ALIGNMENT)
                exchange(state.address(memory_word), memory)
                exchange(state.address(size_word), size if memory != 0 else 0)
            memory = state.word(memory_word)
            if memory == 0:
                exchange(state.address(is_taken), 0)
            return _aligned(memory), slot
    memory = _allocate(size + ALIGNMENT)
    return _aligned(memory), -memory


@kernel
def release(slot):
    """Release the memory of a slot that `acquire` returned."""
    if slot < 0:
        _free(-slot)
    else:
        exchange(state.address(_slot_word(slot, _IS_TAKEN)), 0)


@kernel
def take(arena, size):
    """Return (where the next `size` bytes of an arena begin, the arena after them).

    An arena is the address of what is left of some memory, and begins at a cache line. A kernel takes all its memory in one
    function. Called with the arena COUNTING, that function tells in its last field, `end`, how many bytes `acquire` must give.
    """
    return arena, arena + _aligned(size)


@kernel
def _slot_word(slot, word):
    """Return the number of the state word that is a word of a slot."""
    return state.SLOTS + slot * state.SLOT_WORDS + word


@kernel
def _aligned(count):
    """Return an address, or a number of bytes, rounded up to a multiple of ALIGNMENT."""
    return (count + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
