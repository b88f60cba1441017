"""State words: a block of memory that compiled code reads while it runs.

Compiled code is kept on disk and reused by other processes. So nothing that belongs to one process may be compiled into it,
such as the number of threads, the sizes for its CPU or the addresses of workspaces. These values are in one block of 64-bit
words. Python sees the block as `words`; compiled code sees it as the external symbol `fastbp_state`, which each process
resolves anew. One word is read or written at a time, so no lock is needed.

A process has one block, which is never freed, because compiled code that has found it may run as long as the process does.
fastbp may be imported a second time, after its modules were deleted or reloaded, or from a copy elsewhere. If both imports come
from the same source, they share the block and the units in it. If not, their words may differ, and the second import is
refused.
"""
import ctypes

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._files.source import FILES, digest

# Each of these constants is the number of a word, unless its comment says something else.
THREADS = 0                     # How many threads a step may use. It is 1 until a safe threading layer runs.
L1 = 1                          # The bytes of a core's own first-level data cache.
L2 = 2                          # The bytes of a core's own second-level cache.
L3 = 3                          # The bytes of the shared last-level cache.
PROFILE = 4                     # The address of the active profile's log (kernels/schedule/trace.py), or 0 if there is none.
TEAM = 5                        # The address of the team of threads (kernels/schedule/team.py), or 0.
TEAM_IS_TAKEN = 6               # 1 while there is a team, else 0.
TEAM_LEADER = 7                 # The thread that leads the team.
SLOTS = 8                       # The first word of the table of workspaces (kernels/schedule/arena.py).
SLOT_COUNT = 64                 # The number of slots in that table.
SLOT_WORDS = 3                  # The number of words in a slot: whether it is busy, its address, its bytes.
FUNCTIONS = SLOTS + SLOT_COUNT * SLOT_WORDS     # The first word of the addresses of compiled units (_compile/link.py).
FUNCTION_COUNT = 256            # The number of words for these addresses.
INSIDE = FUNCTIONS + FUNCTION_COUNT             # How many threads are using a threading layer (kernels/schedule/tbb.py).
FORKING = INSIDE + 1            # 1 while the process forks; then no thread may start to use a threading layer.
TBB_OWNER = INSIDE + 2          # The thread that started TBB.
MAIN = INSIDE + 3               # Python's main thread.
TBB_ATTACH = INSIDE + 4         # The address of tbb::attach, or 0.
TBB_FINALIZE = INSIDE + 5       # The address of tbb::finalize, or 0.
NEW_ARRAY = INSIDE + 6          # The address of NumPy's PyArray_NewFromDescr.
SIZES = INSIDE + 7              # The first word of the sizes of the CPU's family (kernels/sizes.py).
SIZE_COUNT = 6                  # The number of words for these sizes.
COUNT = SIZES + SIZE_COUNT      # The number of all words.

# The symbol by which compiled code finds the block.
_SYMBOL = "fastbp_state"


def _block(symbol: str, source: str):
    """Return the process's block for this source, or make it. Raises ImportError if there is one for another source."""
    own, words = f"{symbol}_{source}", (ctypes.c_int64 * COUNT)()
    address = llvm.address_of_symbol(symbol)
    if address is not None:
        if llvm.address_of_symbol(own) != address:
            raise ImportError("another fastbp was imported in this process before: another version or copy, or its source has "
                              "changed since. Compiled code of both cannot be in one process: start a new one; in a notebook, "
                              "restart the kernel")
        return type(words).from_address(address)
    words[THREADS], words[L1], words[L2], words[L3] = 1, 32 << 10, 1 << 20, 8 << 20
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(words))         # so that it is never freed
    for name in (symbol, own):
        llvm.add_symbol(name, ctypes.addressof(words))
    return words


# The block of this process.
words = _block(_SYMBOL, digest(FILES))


def forget_threads() -> None:
    """Free what the parent's other threads were using, and end its profile. A forked child, without these threads, calls it."""
    for word in (PROFILE, TEAM, TEAM_IS_TAKEN, TEAM_LEADER, INSIDE, FORKING):
        words[word] = 0
    for slot in range(SLOTS, SLOTS + SLOT_COUNT * SLOT_WORDS, SLOT_WORDS):
        busy, address, _ = words[slot:slot + SLOT_WORDS]
        if busy and not address:        # a thread was enlarging it
            words[slot + 2] = 0
        words[slot] = 0


def _pointer(builder, index):
    """Return the LLVM pointer to word `index`."""
    block = builder.module.globals.get(_SYMBOL) or ir.GlobalVariable(builder.module, ir.IntType(64), _SYMBOL)
    return builder.gep(block, [index])


def read(builder, index):
    """Return the LLVM value of word `index`, for other intrinsics."""
    return builder.load(_pointer(builder, index))


@intrinsic
def address(typing_context, index):
    """Return the address of word `index`."""
    def generate(context, builder, signature, args):
        return builder.ptrtoint(_pointer(builder, args[0]), ir.IntType(64))
    return types.intp(types.intp), generate


@intrinsic
def word(typing_context, index):
    """Return the value of word `index`."""
    def generate(context, builder, signature, args):
        return read(builder, args[0])
    return types.intp(types.intp), generate
