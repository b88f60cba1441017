"""Sizes: one table of register tiles, and the cost model that cuts a product for the caches of this machine.

Tiles. A tile of rows x vecs needs rows * vecs accumulators, vecs registers for a row of B and one for an element of A:
29 of AVX-512's 32 registers, 15 of AVX2's 16. Without FMA a product needs a register of its own. The narrow tile is for
what is left of the columns. Its sums are fewer than two FMA units of latency 4 could add to at a time, but it has as many
rows as the wide one, so that both read the same copy of A. The flat tile is for one or two rows, of which a wide one would
be empty for the most part: then only the speed of reading B counts.
"""
from functools import cache, partial
from typing import NamedTuple

from numba import types

from .. import _cpu, _state
from .._jit import kernel
from . import team, tile
from .vector import CACHE_LINE

#            instruction set: (rows, vecs) wide, narrow, flat, and the bytes of a vector
TILES = {
    "avx512":   ((6, 4), (6, 1), (2, 8), 64),
    "avx2":     ((6, 2), (6, 1), (2, 4), 32),
    "baseline": ((4, 2), (4, 1), (2, 4), 16),
}

HIGH, LOW = 6, 4                # rows of a tile, and of those for the last rows that would leave one of these empty in part
DEPTH = 512                     # of a panel of B: tiles amortise loading C, and a panel stays in L2
CHAIN = 256                     # terms of a sum in a register: to round no worse than OpenBLAS takes 2 to 3 % of the time
STRIP_PART = 5                  # of L2 for a strip of A and C, the rows that all panels of B go over in turn
STRIP = 24                      # rows of one, or a multiple: whole tiles of any kind
COPIED_STRIP = 48               # the least where A is copied, so that a row of its source is read in one stretch,
AHEAD = 8                       # and which row, after the one being read, to ask for
SHALLOW_DEPTH = 32              # up to this depth C of a strip stays in L1, as writing C takes longer than reading B
LONG_ROW = 1536                 # bytes of a row of C from which on, at the depth of few neurons, tiles go along rows
BLOCK_PART = 16                 # of L3 for a block of B, that all strips of a task go over
UNROLL = 4                      # steps of the innermost loop: fewer leave 3 % of peak to counting, more gain nothing
ROWS = 384                      # of a task
IN_PLACE_ROWS = 12              # up to these rows, reading B in place beats packing it; up to
FAR_ROWS = 32                   # if B is so large that packing it takes the way to memory and back:
FAR_PART = 8                    # of L3 or more
FLAT_DEPTH = 8                  # of a block of B in place: rows of B are read along, whole pages at a time
PASS_ROWS = 192                 # of a block in the one-pass backward: deep enough to amortise going over all dweights, and
PASS_WEIGHTS = 2 << 20          # bytes of them at most: they and weights.T stay in L3
PASS_PARTITIONS = 16            # of the batch, each with dweights of its own, and
PASS_PARTITION_ROWS = 1024      # the least rows of one, so that adding them up at the end costs under 2 %
INNER_ROWS = 32                 # up to these rows, dinputs as inner products beats packing weights.T, and up to
INNER_BLOCK_PART = 4            # of L2 for the rows of B that all rows of A go over
FEW_NEURONS = 4                 # or fewer: dweights.T = dz.T @ x, with x in place, beats copying x, and for
FEW_INPUTS = 2                  # vectors of inputs or more, inner products with the columns of weights
TURNED_ROWS = 64                # rows or more of a layer with inputs and neurons that make up at most
TURNED = 3                      # vectors are better turned, so that vectors hold numbers of many rows
INNER_PART = 4                  # a vector's lanes over INNER_PART columns, it beats a tile that is empty for the most part,
INNER_DEPTH = 4                 # if the rows of weights are that many vectors long
DZ_BYTES = 16 << 20             # of dz in memory at a time, where it is not a whole batch: it stays in L3
ROUNDED_BYTES = 8 << 20         # of what is rounded to bfloat16 at a time
ELEMENT_WORK = 8                # multiply-adds that take as long as copying an element,
ROW_WORK = 128                  # and as what is left of a product for a row of a layer of a few inputs and neurons
PLAIN_WORK = 128                # multiply-adds up to which plain loops are faster than tiles
THREAD_WORK = 1 << 19           # multiply-adds that are worth a thread: some 10 us, twice what waking one takes,
TEAM_WORK = 1 << 15             # and that are worth one that is at hand
SHARDS = 2                      # of a training step's batch, 0.75 to 1 of the time of threads within each pass, with
SHARD_ROWS = 64                 # rows each or more, and for networks of up to
SHARD_PARAMETERS = 1024         # numbers for each row: each shard packs all weights, and has gradients of its own to add up
BLOCK_WORK = 1 << 18            # multiply-adds for a block of dweights: some 10 us, what a thread may wait for the last one,
UPDATE_WORK = 32                # of which the update of an element takes as long as so many,
COPY_COLS = 24                  # and copying x as so many columns of dz do;
BLOCK_TILES = 4                 # and rows of tiles of dweights that L2 has room for, or they are not computed in blocks
MOST_THREADS = 1 << 20         # where a caller sets no bound
TASKS_A_THREAD = 4              # tasks to aim at, so that a thread that was held up leaves its work to the others


# Of pairs of bfloat16, without an instruction for their dot product: the halves of A and B need registers of their own.
SPLIT_TILES = {
    "avx512":   ((4, 4), (4, 1), (2, 4), 64),
    "avx2":     ((3, 2), (3, 1), (2, 2), 32),
    "baseline": ((2, 2), (2, 1), (1, 2), 16),
}


# Of pairs of bfloat16 in AMX tile registers: rows, columns of a wide tile and of a narrow one, and pairs of the depth a step.
AMX_TILES = 32, 32, 16, 16


class Tiles(NamedTuple):
    """The shapes of one dtype: three for products, one row of two for copying, a square one for transposing.

    `column` is a row of vectors with room for as many elements as a wide tile has rows.
    """

    wide: tile.Shape
    narrow: tile.Shape
    flat: tile.Shape
    row: tile.Shape
    narrow_row: tile.Shape
    square: tile.Shape
    column: tile.Shape


@cache
def tiles(dtype):
    """The Tiles of a Numba float type, or of BFLOAT16, on the instruction set that Numba compiles for."""
    table = SPLIT_TILES if dtype is tile.BFLOAT16 and not _cpu.has_bfloat16_dot() else TILES
    wide, narrow, flat, vector = table[_cpu.instruction_set()]
    lanes, step = vector * 8 // dtype.bitwidth, 1
    if by_amx(dtype):
        rows, wide_cols, narrow_cols, step = AMX_TILES
        wide, narrow = (rows, wide_cols // lanes), (rows, narrow_cols // lanes)
    shape = partial(tile.Shape, dtype, lanes=lanes, step=step)
    return Tiles(shape(*wide), shape(*narrow), shape(*flat), shape(1, wide[1]), shape(1, narrow[1]), shape(lanes, 1),
                 shape(1, -(-wide[0] // lanes)))


def by_amx(dtype):
    """Whether products of that dtype are computed in AMX tile registers."""
    return dtype is tile.BFLOAT16 and _cpu.has_amx()


@kernel
def spread(row_bytes):
    """The distance of rows of so many bytes, where it is free: multiples of 1 KiB would share a few sets of the cache."""
    return row_bytes + CACHE_LINE if row_bytes % 1024 == 0 else row_bytes


@kernel
def threads(multiply_adds):
    """How many threads a job of that size is worth."""
    least = THREAD_WORK if team.own() == 0 else TEAM_WORK
    return min(_state.word(_state.THREADS), max(1, multiply_adds // least))


def shards(batch, parameters):
    """Into how many shards to cut a batch of a training step (training.py): of sizes alone, never of the threads."""
    return max(1, min(SHARDS, batch // SHARD_ROWS)) if parameters <= batch * SHARD_PARAMETERS else 1


def in_blocks(batch, row_bytes):
    """Whether dweights of a training step are better computed in blocks: a batch's dz, with rows of so many bytes, and a block
    stay in L2.
    """
    return max(batch, BLOCK_TILES * HIGH) * row_bytes <= _state.words[_state.L2]


def block_rows(dtype, batch, neurons):
    """Rows of dweights in a block: whole tiles."""
    height = tiles(dtype).wide.rows
    return max(1, round(BLOCK_WORK / (batch + UPDATE_WORK) / (neurons + COPY_COLS) / height)) * height


@kernel
def product_threads(products, x, weights):
    """How many threads so many of the products of a layer are worth."""
    return threads(products * x.rows * (weights.rows * weights.cols + ROW_WORK))


@kernel
def by_inner(shape, rows, weights):
    """Whether `rows` rows of dinputs = dz @ weights.T are better computed by inner products with the rows of weights."""
    few = rows <= INNER_ROWS or weights.rows * INNER_PART <= tile.lanes(shape)
    return few and weights.cols >= INNER_DEPTH * tile.lanes(shape) and weights.col_step == tile.itemsize(shape)


@kernel
def in_place(shape, rows, cols, far_bytes):
    """Whether B is better left in place, for a product of so many rows and columns in flat tiles of that shape.

    `far_bytes` are those of B that were not just written, but lie in memory.
    """
    most_rows = FAR_ROWS if far_bytes >= _state.word(_state.L3) // FAR_PART else IN_PLACE_ROWS
    return rows <= most_rows and cols >= tile.width(shape)


@kernel
def on_its_side(shape, x, weights):
    """Whether so few numbers make a row that vectors better hold those of many rows, in a backward pass."""
    few = x.cols + weights.cols <= TURNED * tile.lanes(shape)
    return few and x.rows >= TURNED_ROWS and x.col_step == tile.itemsize(shape) and weights.col_step == tile.itemsize(shape)


@kernel
def few_neurons(shape, x, neurons):
    """Whether x of a layer with so few neurons is better read in vectors than number by number."""
    return neurons <= FEW_NEURONS and x.cols >= FEW_INPUTS * tile.lanes(shape) and x.col_step == tile.itemsize(shape)


@kernel
def in_one_pass(rows, weights_bytes):
    """Whether a backward pass goes over the batch once."""
    return rows >= 4 * PASS_PARTITION_ROWS and weights_bytes <= PASS_WEIGHTS


@kernel
def partitions(rows):
    """(count, rows of each) of a one-pass backward over a batch: of its size alone, never of the threads."""
    count = max(1, min(PASS_PARTITIONS, rows // PASS_PARTITION_ROWS))
    rows_each = round_up(blocks(rows, count), PASS_ROWS)
    return blocks(rows, rows_each), rows_each


@kernel
def dz_rows(rows, row_bytes):
    """Rows of dz to keep: all, or as many whole depth blocks as DZ_BYTES hold."""
    return min(rows, max(1, DZ_BYTES // max(1, DEPTH * row_bytes)) * DEPTH)


@kernel
def rounded_rows(rows, cols):
    """Rows to round to bfloat16 at a time, an even number: all, or as many as ROUNDED_BYTES hold."""
    return max(2, min(rows + rows % 2, max(1, ROUNDED_BYTES // max(1, 2 * ROWS * cols)) * ROWS))


class Cut(NamedTuple):
    """How a product is cut: the depth of a block, and the rows of a strip of A and C."""

    depth: int
    strip: int


@kernel
def cut(shape, a, cols, packed):
    """The Cut for A, a Matrix, and B of `cols` columns, packed or not."""
    size, row_bytes = tile.itemsize(shape), max(1, cols * tile.itemsize(shape))
    depth = even_block(a.cols, DEPTH, max(UNROLL, tile.step(shape)))
    if not packed:
        return Cut(min(depth, max(FLAT_DEPTH, _state.word(_state.L1) // 2 // row_bytes)), STRIP)
    if a.cols <= FEW_NEURONS and row_bytes >= LONG_ROW:
        return Cut(depth, tile.height(shape))
    if a.cols <= SHALLOW_DEPTH:
        return Cut(depth, max(1, _state.word(_state.L1) // row_bytes // tile.height(shape)) * tile.height(shape))
    unit = max(STRIP, tile.height(shape))
    strip = min(ROWS, _state.word(_state.L2) // STRIP_PART // (depth * size + row_bytes) // unit * unit)
    return Cut(depth, max(unit if a.col_step == size else round_up(COPIED_STRIP, unit), strip))


@kernel
def most_strip_bytes(shape):
    """Of a strip of A."""
    return _state.word(_state.L2) // STRIP_PART + round_up(COPIED_STRIP, tile.height(shape)) * DEPTH * tile.itemsize(shape)


@kernel
def even_block(n, most, multiple):
    """The size of equal blocks of at most `most`, a multiple of `multiple`."""
    return max(1, round_up(blocks(n, max(1, blocks(n, most))), multiple))


@kernel
def grid(shape, rows, cols, threads, copied):
    """(row_block, col_block) of the tasks of a product: few and large, but enough for every thread.

    Where rows of A are copied, each task of the same rows would copy them again: then rows are split before columns.
    """
    most_cols = max(tile.width(shape), _state.word(_state.L3) // BLOCK_PART // (DEPTH * tile.itemsize(shape)))
    row_block, col_block = round_up(min(rows, ROWS), tile.height(shape)), round_up(min(cols, most_cols), tile.width(shape))
    if threads > 1:
        wanted = threads * TASKS_A_THREAD
        if copied:
            row_block = min(row_block, round_up(max(COPIED_STRIP, blocks(rows, wanted)), tile.height(shape)))
        have = blocks(rows, row_block)
        if have < wanted and cols > tile.width(shape):
            col_block = round_up(blocks(cols * have, wanted), tile.width(shape))
            have *= blocks(cols, col_block)
        if have < wanted:
            row_block = round_up(blocks(row_block * have, wanted), tile.height(shape))
    return max(row_block, tile.height(shape)), max(col_block, tile.width(shape))


@kernel
def inner_block(columns, row_bytes):
    """How many rows of B, of so many bytes each, to go over at a time by inner products: a multiple of `columns`."""
    return max(columns, _state.word(_state.L2) // INNER_BLOCK_PART // max(1, row_bytes) // columns * columns)


@kernel
def first_narrow(tiles, j, j_end):
    """The column from which on a narrow panel is wide enough for what is left of the columns j … j_end."""
    return j + (j_end - j + tile.width(tiles.narrow) - 1) // tile.width(tiles.wide) * tile.width(tiles.wide)


def low(shape):
    """The shape of low tiles beside those of that shape; the same where there are none."""
    return shape._replace(rows=LOW) if shape.rows == HIGH else shape


@kernel
def low_rows(height, rows):
    """How many of so many rows, the last ones, low tiles take, because they leave less of them empty: 8 for 4 + 4, or 4."""
    rest = rows % height
    if height != HIGH or rows < height or rest == 0:
        return 0
    if rest + height <= 2 * LOW:
        return rest + height
    return rest if rest <= LOW else 0


@kernel
def has_narrow(tiles, cols):
    """Whether the last of so many columns are in a narrow panel."""
    return first_narrow(tiles, 0, cols) < cols


@kernel
def blocks(n, block):
    """How many blocks cover n."""
    return (n + block - 1) // block


@kernel
def round_up(n, multiple):
    return blocks(n, multiple) * multiple


def describe():
    """What show_config prints of this file."""
    shapes = {str(t): tiles(t) for t in (types.float32, types.float64)}
    rows = {f"{name} tiles": ", ".join(f"{t.rows} x {t.vecs * t.lanes}" for t in (s.wide, s.narrow, s.flat))
            for name, s in shapes.items()}
    return rows | {"blocking": f"depth {DEPTH}, rows {ROWS}; one-pass backward {PASS_ROWS} rows"}
