"""Sizes: one table of register tiles, and the cost model that cuts a product for the caches of this machine.

Tiles. A tile of rows x vecs needs rows * vecs accumulators, vecs registers for a row of B and one for an element of A:
29 of AVX-512's 32 registers, 15 of AVX2's 16. Without FMA a product needs a register of its own. Each FMA unit wants
eight independent sums (2 units, latency 4): the narrow tile, for what is left of the columns, has just these. The flat
tile is for one or two rows, of which a wide one would be empty for the most part: then only the speed of reading B counts.
"""
from functools import cache
from typing import NamedTuple

from numba import types

from .. import _cpu, _state
from .._jit import inlined
from . import tile

#            instruction set: (rows, vecs) wide, narrow, flat, and the bytes of a vector
TILES = {
    "avx512":   ((6, 4), (8, 1), (2, 8), 64),
    "avx2":     ((6, 2), (8, 1), (2, 4), 32),
    "baseline": ((4, 2), (8, 1), (2, 4), 16),
}

DEPTH = 512                     # of a panel: tiles amortise loading C, and 512 x 256 bytes stay in a quarter of an L2
ROWS = 384                      # of a task
PASS_ROWS = 96                  # of a block in the one-pass backward: x, dz and dinputs of a block stay in L2
PASS_PARTITIONS = 16            # of the batch, each with dweights of its own, and
PASS_PARTITION_ROWS = 1024      # the least rows of one, so that adding them up at the end costs under 2 %
PACK_ROWS = 384                 # up to these rows, reading B in place beats packing it
INNER_ROWS = 32                 # up to these rows, dinputs as inner products beats packing weights.T, and up to
INNER_PART = 4                  # a vector's lanes over INNER_PART columns, it beats a tile that is empty for the most part
SHALLOW_DEPTH = 32              # up to this depth a product goes over all of B for
SHALLOW_ROWS = 24               # so many rows of C (whole tiles of any kind), as writing C takes longer than reading B
CONFLICT_BYTES = 1024           # rows of x so far apart, or a multiple, are copied for dweights, for at least
COPY_COLUMNS = 128              # neurons, over which the copy pays
DZ_BYTES = 16 << 20             # of dz in memory at a time, where it is not a whole batch: it stays in L3
ELEMENT_WORK = 8                # multiply-adds that take as long as copying an element
THREAD_WORK = 1 << 19           # multiply-adds that are worth a thread: some 10 us, twice what waking one takes
TASKS_A_THREAD = 4              # tasks to aim at, so that a thread that was held up leaves its work to the others


class Tiles(NamedTuple):
    """The shapes of one dtype: three for products, one row of two for copying, a square one for transposing."""

    wide: tile.Shape
    narrow: tile.Shape
    flat: tile.Shape
    row: tile.Shape
    narrow_row: tile.Shape
    square: tile.Shape


@cache
def tiles(dtype):
    """The Tiles of a Numba float type on the instruction set that Numba compiles for."""
    wide, narrow, flat, vector = TILES[_cpu.instruction_set()]
    lanes = vector * 8 // dtype.bitwidth
    return Tiles(tile.Shape(dtype, *wide, lanes), tile.Shape(dtype, *narrow, lanes), tile.Shape(dtype, *flat, lanes),
                 tile.Shape(dtype, 1, wide[1], lanes), tile.Shape(dtype, 1, 1, lanes), tile.Shape(dtype, lanes, 1, lanes))


@inlined
def threads(multiply_adds):
    """How many threads a job of that size is worth."""
    return min(_state.word(_state.THREADS), max(1, multiply_adds // THREAD_WORK))


@inlined
def by_inner(shape, rows, weights):
    """Whether `rows` rows of dinputs = dz @ weights.T are better computed by inner products with the rows of weights."""
    worth_it = rows <= INNER_ROWS or weights.rows * INNER_PART <= tile.lanes(shape)
    return worth_it and weights.col_step == tile.itemsize(shape)


@inlined
def copies_columns(x, neurons, itemsize):
    """Whether dweights should copy blocks of x: its rows lie so that a column falls into few sets of the caches."""
    return x.col_step == itemsize and x.row_step % CONFLICT_BYTES == 0 and neurons >= COPY_COLUMNS and x.rows >= INNER_ROWS


@inlined
def partitions(rows):
    """(count, rows of each) of a one-pass backward over a batch: of its size alone, never of the threads."""
    count = min(PASS_PARTITIONS, rows // PASS_PARTITION_ROWS)
    rows_each = round_up(blocks(rows, count), PASS_ROWS)
    return blocks(rows, rows_each), rows_each


@inlined
def dz_rows(rows, row_bytes):
    """Rows of dz to keep: all, or as many whole depth blocks as DZ_BYTES hold."""
    return min(rows, max(1, DZ_BYTES // max(1, DEPTH * row_bytes)) * DEPTH)


@inlined
def depth_block(depth):
    """Equal blocks of at most DEPTH."""
    return max(1, blocks(depth, max(1, blocks(depth, DEPTH))))


@inlined
def grid(shape, rows, cols, threads):
    """(row_block, col_block) of the tasks of a product: few and large, but enough for every thread."""
    row_block, col_block = round_up(min(rows, ROWS), tile.height(shape)), round_up(cols, tile.width(shape))
    if threads > 1:
        wanted = threads * TASKS_A_THREAD
        have = blocks(rows, row_block)
        if have < wanted and cols > tile.width(shape):
            col_block = round_up(blocks(cols * have, wanted), tile.width(shape))
            have *= blocks(cols, col_block)
        if have < wanted:
            row_block = round_up(blocks(row_block * have, wanted), tile.height(shape))
    return max(row_block, tile.height(shape)), max(col_block, tile.width(shape))


@inlined
def blocks(n, block):
    """How many blocks cover n."""
    return (n + block - 1) // block


@inlined
def round_up(n, multiple):
    return blocks(n, multiple) * multiple


def describe():
    """What show_config prints of this file."""
    shapes = {str(t): tiles(t) for t in (types.float32, types.float64)}
    rows = {f"{name} tiles": ", ".join(f"{t.rows} x {t.vecs * t.lanes}" for t in (s.wide, s.narrow, s.flat))
            for name, s in shapes.items()}
    return rows | {"blocking": f"depth {DEPTH}, rows {ROWS}; one-pass backward {PASS_ROWS} rows"}
