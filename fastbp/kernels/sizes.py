"""Sizes that depend on the family of the CPU: one row for each family that was measured.

These are the sizes that say only which of two ways is faster, or how much memory is in use at a time: whichever row is taken,
results have the same bits (tests/test_sizes.py). Sizes that order the terms of a sum are constants in blocking.py and in the
blocks.py of folders. Sizes that are a part of a cache are there as well: they follow the machine by themselves.

The row is chosen once in a process, by the CPU that it runs on. Compiled code reads it from words of _runtime/state.py when it
runs, so nothing is compiled for a row. scripts/tune measures a machine and prints a row for it.
"""
from typing import NamedTuple

from .._runtime import cpu, state


class Sizes(NamedTuple):
    """The sizes of a family, in the order of their words. few_rows is less than the rows of a fused pass, which packs B."""

    # Rows up to which a product is streamed or swapped. At 64 rows packing weights takes a third of the time of the product.
    few_rows: int

    # Inputs from which on products are streamed or swapped: packing fewer takes next to no time.
    streamed_inputs: int

    # Rows of B that are streamed at a time. With 32, products of 16 to 64 rows take 5 % longer, with 128 those of 16 rows.
    streamed_k: int

    # Rows from which on swapping dinputs beats streaming weights.T: 16 rows take three quarters of the time, 8 rows the same.
    swapped_rows: int

    # Rows up to which dinputs are swapped if dz.T is small enough: it stays in L2. 256 x 1024 -> 1024 takes 7 % less time.
    swapped_most: int

    # Multiply-adds that are worth a thread: some 10 us, twice what waking one takes.
    thread_work: int


class Row(NamedTuple):
    """A row of the table."""

    family: str                 # the family as people know it
    names: tuple[str, ...]      # LLVM's names of its CPUs
    sizes: Sizes


# The row of all other CPUs. Its values were found on the Zen 4 and on an AMX Xeon.
DEFAULT = Row("default", (), Sizes(few_rows=64, streamed_inputs=64, streamed_k=64, swapped_rows=13, swapped_most=512,
                                   thread_work=1 << 19))

# The rows of the families that were measured.
TABLE = (
    Row("Zen 3", ("znver3",), DEFAULT.sizes),
    Row("Zen 4", ("znver4",), DEFAULT.sizes),
    Row("AMX Xeon", ("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d"), DEFAULT.sizes),
)

# What stands for sizes in code that is kept on disk: blocking.with_caches puts those of the computer in their place.
UNKNOWN = Sizes(few_rows=0, streamed_inputs=0, streamed_k=0, swapped_rows=0, swapped_most=0, thread_work=0)


def row_of(name: str) -> Row:
    """Return the row for LLVM's name of a CPU."""
    return next((row for row in TABLE if name in row.names), DEFAULT)


def use(sizes: Sizes) -> None:
    """Let compiled code of this process take these sizes from now on. No kernel may run meanwhile."""
    state.words[state.SIZES:state.SIZES + state.SIZE_COUNT] = sizes


# The row of the CPU that this process runs on.
PRESENT = row_of(cpu.host())
use(PRESENT.sizes)
