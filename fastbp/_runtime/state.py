"""The words of memory that compiled code reads while it runs.

Compiled code is kept on disk and reused by other processes, so nothing that belongs to one process (the number of
threads, the sizes of the caches, the addresses of workspaces) may be compiled into it. Such values live in one block
of 64-bit words. Python sees it as `words`, compiled code as the external symbol `fastbp_state`, resolved anew in each
process. One word is read or written at a time, so no lock is needed.

There is one block in a process, for ever, since compiled code that has found it may run as long as the process does. So a
second import of fastbp, after its modules were deleted or reloaded or from a copy elsewhere, shares the block with the first,
and the units that stand in it, if both come from the same source. If not, their words may differ, and it is refused.
"""
import ctypes

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._files.source import FILES, digest

THREADS = 0                     # how many threads a step may use; 1 until a safe threading layer runs
L1, L2, L3 = 1, 2, 3            # bytes of data cache: a core's own, a core's own, shared
PROFILE = 4                     # the address of the active profile's log (kernels/schedule/trace.py); 0: there is none
TEAM, TEAM_IS_TAKEN, TEAM_LEADER = 5, 6, 7           # kernels/schedule/team.py: its address, whether there is one, who leads it
SLOTS = 8                       # where kernels/schedule/arena.py keeps its table
SLOT_COUNT, SLOT_WORDS = 64, 3
FUNCTIONS = SLOTS + SLOT_COUNT * SLOT_WORDS             # _compile/link.py: addresses of compiled units
INSIDE = FUNCTIONS + 256        # kernels/schedule/tbb.py: how many threads use a threading layer just now
FORKING = INSIDE + 1            # 1 while the process forks, and no thread is to begin with that
TBB_OWNER, MAIN = INSIDE + 2, INSIDE + 3                # the thread that started TBB, and Python's main thread
TBB_ATTACH, TBB_FINALIZE = INSIDE + 4, INSIDE + 5       # addresses of tbb::attach and tbb::finalize, or 0
COUNT = INSIDE + 6

_SYMBOL = "fastbp_state"


def _block(symbol: str, source: str):
    """Return the words that are the process's for this source; raise ImportError if it has those of another."""
    own, words = f"{symbol}_{source}", (ctypes.c_int64 * COUNT)()
    address = llvm.address_of_symbol(symbol)
    if address is not None:
        if llvm.address_of_symbol(own) != address:
            raise ImportError("another fastbp was imported in this process before: another version or copy, or its source has "
                              "changed since. Compiled code of both cannot be in one process: start a new one; in a notebook, "
                              "restart the kernel")
        return type(words).from_address(address)
    words[THREADS], words[L1], words[L2], words[L3] = 1, 32 << 10, 1 << 20, 8 << 20
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(words))         # so it is never freed
    for name in (symbol, own):
        llvm.add_symbol(name, ctypes.addressof(words))
    return words


words = _block(_SYMBOL, digest(FILES))


def forget_threads() -> None:
    """In a forked child: give back what the parent's other threads were using, who are not there, and end its profile."""
    for word in (PROFILE, TEAM, TEAM_IS_TAKEN, TEAM_LEADER, INSIDE, FORKING):
        words[word] = 0
    for slot in range(SLOTS, SLOTS + SLOT_COUNT * SLOT_WORDS, SLOT_WORDS):
        busy, address, _ = words[slot:slot + SLOT_WORDS]
        if busy and not address:        # it was being enlarged
            words[slot + 2] = 0
        words[slot] = 0


def _pointer(builder, index):
    block = builder.module.globals.get(_SYMBOL) or ir.GlobalVariable(builder.module, ir.IntType(64), _SYMBOL)
    return builder.gep(block, [index])


def read(builder, index):
    """The LLVM value of word `index`, for other intrinsics."""
    return builder.load(_pointer(builder, index))


@intrinsic
def address(typing_context, index):
    """The address of word `index`."""
    def generate(context, builder, signature, args):
        return builder.ptrtoint(_pointer(builder, args[0]), ir.IntType(64))
    return types.intp(types.intp), generate


@intrinsic
def word(typing_context, index):
    """The value of word `index`."""
    def generate(context, builder, signature, args):
        return read(builder, args[0])
    return types.intp(types.intp), generate
