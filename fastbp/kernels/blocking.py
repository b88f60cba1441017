"""Sizes: the table of register tiles, blocks and thresholds, and the formulas that cut a product for this machine's caches.

A full tile of rows x vecs needs rows * vecs registers for its sums, vecs for a row of B and one for an element of A: 29 of
AVX-512's 32, 15 of AVX2's 16. Without FMA a product needs one more. What is left of the columns goes into column-edge tiles,
which have as many rows, so that both read the same copy of A. Unpacked-B tiles read B in place, and A by columns from a copy.
Formulas are plain functions of integers and of a Machine: compiled code and Python call the same. Sizes that depend on the
family of the CPU are in sizes.py, those of one folder in its blocks.py.
"""
from functools import cache, partial
from typing import NamedTuple

from .._compile.compiler import formula, kernel
from .._runtime import cpu, state
from .schedule import team
from .schedule.records import read, replace
from .simd import tile
from .simd.vector import CACHE_LINE
from .sizes import UNKNOWN, Sizes

# The tiles of an instruction set: (rows, vecs) of a full, a column-edge and an unpacked-B tile, and the bytes of a vector.
TILES = {
    "avx512":   ((6, 4), (6, 1), (2, 8), 64),
    "avx2":     ((6, 2), (6, 1), (2, 4), 32),
    "baseline": ((4, 2), (4, 1), (2, 4), 16),
}

# The tiles of dot products whose lanes are added up by groups of tiles: (rows, vecs) for any number of columns, and for few.
DOT_TILES = {
    "avx512":   ((4, 4), (8, 2)),
    "avx2":     ((4, 2), (4, 2)),
    "baseline": ((4, 2), (4, 2)),
}

# The blocks of pairs of bfloat16 in AMX tile registers: rows, columns of a full and of a column-edge tile, pairs of K a step.
AMX_TILES = 32, 32, 16, 16

# ---- blocks of a product

# Rows of the tiles that have row-edge tiles beside them, and rows of a row-edge tile.
TALL, SHORT = 6, 4

# Steps of the innermost loop in one iteration. Fewer leave 3 % of the peak to counting, more gain nothing.
UNROLL = 4

# K of a KC block: tiles amortise loading C, and a micropanel of B stays in L2.
KC = 512

# Pairs of K of a KC block in AMX tile registers: a micropanel of B stays in L1, as they take a cache line in two cycles.
AMX_KC = 256

# Terms of a sum in a register. Rounding no worse than OpenBLAS takes 2 to 3 % of the time.
CHAIN = 256

# Rows of a task. Up to so many rows of A, tasks pack the micropanels of B themselves: then few are packed twice.
TASK_ROWS = 384

# The part of L2, one in so many, for an MC block of A and C, over which all micropanels of B go in turn: for each of them, B is
# read from L3 once. With a fifth of L2, 2048 x 2048 x 2048 takes 1.15 to 1.25 of the time on an AMX Xeon, whose L3 is slow. It
# is for A alone where B is packed for each MC block, and for AMX tile registers, which wait for B if it is read more often.
MC_L2_PART = 2

# Rows of an MC block, or a multiple: whole tiles of any kind.
MC = 24

# Least rows of an MC block where A is copied, so that a row of its source is read in one stretch.
COPIED_MC = 48

# Rows that a copy of A asks for ahead of the one it reads.
AHEAD = 8

# Bytes of each row that is packed before the next. Reading a row in one stretch is 3 times as fast as by micropanels.
GROUP_BYTES = 256

# Largest K at which C of an MC block stays in L1, as writing C takes longer than reading B.
SHALLOW_K = 32

# Bytes of a row of C from which on, up to a K of SKINNY_NEURONS, an MC block is one tile high: tiles go along rows.
LONG_ROW = 1536

# The part of L3, one in so many, for an NC block of B, over which all MC blocks of a task go.
NC_L3_PART = 16

# K of a KC block of B in place: rows of B are read along, whole pages at a time.
UNPACKED_KC = 8

# The part of L2, one in so many, for the rows of B that all rows of A go over by dot products.
DOT_L2_PART = 4

# Tasks to aim at for each thread, so that a thread that was held up leaves its work to the others.
TASKS_A_THREAD = 4

# ---- choices (dense/select.py)

# Multiply-adds up to which naive loops are faster than tiles.
NAIVE_WORK = 128

# Neurons up to which a layer is skinny: dweights.T = dz.T @ x with x in place beats copying x.
SKINNY_NEURONS = 4

# Vectors of inputs from which on dot products with the columns of weights pay for a skinny layer.
SKINNY_INPUTS = 2

# Rows of dweights up to which reading dz in place beats packing it.
UNPACKED_ROWS = 12

# The part of L2, one in so many, for the sums of a streamed product.
STREAMED_L2_PART = 5

# Bytes between rows, or a multiple: a dozen rows that column-edge tiles read at a time push each other out of L1.
ALIASED_BYTES = 2048

# Lanes of a vector for each input up to which dot products beat a tile that is empty for the most part, at any number of rows.
DOT_LANES = 4

# Vectors that the rows of weights are long at least for dot products.
DOT_VECTORS = 4

# ---- tiles of a narrow layer (gemm/outer.py)

# Rows of a tall column-edge tile, and of a tile for one or two neurons or inputs: so many sums keep two FMA units busy.
TALL_EDGE, PAIR = 8, 2

# ---- memory

# Bytes of dz in memory at a time, where that is not a whole batch: it stays in L3.
DZ_BYTES = 16 << 20

# Bytes of the dz of a block of rows in a backward pass that multiplies bfloat16, if that is a KC block or more.
ROUNDED_BYTES = 1 << 20

# ---- bfloat16

# A whole in 1/rows + 1/inputs + 1/neurons, which select.is_rounded adds up in integers.
ROUNDED_PARTS = 1 << 20

# The largest such sum at which rounding to bfloat16 pays, by AMX: 1/28. Steps of 32 x 1024 -> 1024, a sum of 1/30, take 0.7 of
# the time of float32, those of 50000 x 32 -> 128, a sum of 1/26, 1.15 of it.
AMX_LIMIT = ROUNDED_PARTS // 28

# The same by AVX512-BF16, which saves half of the time of a product, where AMX saves four fifths.
DOT_LIMIT = ROUNDED_PARTS // 50

# ---- work, in multiply-adds

# Multiply-adds that take as long as copying an element.
ELEMENT_WORK = 8

# Multiply-adds that take as long as the rest of a product for a row of a layer of a few inputs and neurons.
ROW_WORK = 128

# Multiply-adds that are worth a thread of a team, which is at hand.
TEAM_WORK = 1 << 15

# Threads where a caller sets no bound.
MOST_THREADS = 1 << 20


class Tiles(NamedTuple):
    """The shapes of a dtype's tiles."""

    full: tile.Shape            # C of a product: MR x NR
    column_edge: tile.Shape     # C of the last columns of a product, narrower than full
    unpacked: tile.Shape        # C of a product whose B is read in place
    row: tile.Shape             # one row as wide as full, for copying
    edge_row: tile.Shape        # one row as wide as column_edge, for copying
    square: tile.Shape          # as many rows as elements of a vector, for transposing
    column: tile.Shape          # one row with room for as many elements as full has rows
    vector: tile.Shape          # one vector
    two_vectors: tile.Shape     # one row of two vectors, which make a vector of pairs of bfloat16
    two_squares: tile.Shape     # `square` with twice as many columns, which make a square of pairs
    dots: tile.Shape            # a vector of partial sums for each element of a block of C
    few_dots: tile.Shape        # the same for few columns of C


class Machine(NamedTuple):
    """The facts that sizes and choices depend on beside the operands: a dtype's tiles, the caches, and the family's sizes."""

    itemsize: int               # bytes of an element
    lanes: int                  # elements of a vector
    step: int                   # elements of K that are multiplied at a time
    height: int                 # rows of a full tile
    width: int                  # columns of a full tile
    edge_width: int             # columns of a column-edge tile
    unpacked_height: int        # rows of an unpacked-B tile
    unpacked_width: int         # columns of an unpacked-B tile
    l1: int                     # bytes of a core's first data cache
    l2: int                     # bytes of a core's second cache
    l3: int                     # bytes of the shared cache
    sizes: Sizes                # the sizes of the CPU's family


@cache
def tiles(dtype):
    """Return the Tiles of a Numba float type, or of BFLOAT16, on the instruction set that Numba compiles for."""
    full, edge, unpacked, vector = TILES[cpu.instruction_set()]
    lanes, step, (dots, few_dots) = vector * 8 // dtype.bitwidth, 1, DOT_TILES[cpu.instruction_set()]
    if by_amx(dtype):
        rows, full_cols, edge_cols, step = AMX_TILES
        full, edge = (rows, full_cols // lanes), (rows, edge_cols // lanes)
    shape = partial(tile.Shape, dtype, lanes=lanes, step=step)
    return Tiles(full=shape(*full), column_edge=shape(*edge), unpacked=shape(*unpacked), row=shape(1, full[1]),
                 edge_row=shape(1, edge[1]), square=shape(lanes, 1), column=shape(1, -(-full[0] // lanes)), vector=shape(1, 1),
                 two_vectors=shape(1, 2), two_squares=shape(lanes, 2),
                 dots=shape(*dots), few_dots=shape(*few_dots))


@cache
def machine(dtype):
    """Return the Machine of a dtype as `tiles` takes it. Caches and sizes are 0: compiled code asks `with_caches`."""
    shapes = tiles(dtype)
    full, edge, unpacked = shapes.full, shapes.column_edge, shapes.unpacked
    return Machine(itemsize=dtype.bitwidth // 8, lanes=full.lanes, step=full.step, height=full.rows,
                   width=full.vecs * full.lanes, edge_width=edge.vecs * edge.lanes, unpacked_height=unpacked.rows,
                   unpacked_width=unpacked.vecs * unpacked.lanes, l1=0, l2=0, l3=0, sizes=UNKNOWN)


@kernel
def with_caches(machine):
    """Return the Machine with the caches and the sizes of the computer that it runs on."""
    return replace(machine, l1=state.word(state.L1), l2=state.word(state.L2), l3=state.word(state.L3),
                   sizes=read(state.address(state.SIZES), Sizes))


def by_amx(dtype):
    """Return whether products of a dtype are computed in AMX tile registers."""
    return dtype is tile.BFLOAT16 and cpu.has_amx()


def rounded_limit():
    """Return the limit of `select.is_rounded`."""
    return AMX_LIMIT if by_amx(tile.BFLOAT16) else DOT_LIMIT


def row_edge(shape):
    """Return the shape of row-edge tiles beside tiles of that shape; the shape itself where there are none."""
    return shape._replace(rows=SHORT) if shape.rows == TALL else shape


# ---- integers


@formula
def blocks(n, block):
    """Return how many blocks cover n."""
    return (n + block - 1) // block


@formula
def round_up(n, multiple):
    """Return the least multiple that is not below n."""
    return blocks(n, multiple) * multiple


@formula
def even_block(n, most, multiple):
    """Return the size of equal blocks that cover n: at most `most`, rounded up to a multiple."""
    return max(1, round_up(blocks(n, max(1, blocks(n, most))), multiple))


# ---- threads


@formula
def worth(multiply_adds, least):
    """Return how many threads a job is worth, if each is to have `least` multiply-adds or more."""
    return max(1, multiply_adds // least)


@kernel
def threads(multiply_adds):
    """Return on how many threads a job of that size runs."""
    least = read(state.address(state.SIZES), Sizes).thread_work if team.own() == 0 else TEAM_WORK
    return min(state.word(state.THREADS), worth(multiply_adds, least))


@formula
def layer_work(products, rows, inputs, neurons):
    """Return the time of so many of a layer's products, counted in multiply-adds."""
    return products * rows * (inputs * neurons + ROW_WORK)


# ---- one product


class Cut(NamedTuple):
    """The sizes of a product's blocks."""

    kc: int                     # K of a KC block
    mc: int                     # rows of an MC block


@formula
def cut(machine, a, cols, is_packed, to_pack):
    """Return the Cut of a product of Matrix a (M, K) and B (K, cols): is_packed now, to_pack by its tasks, or in place."""
    row_bytes = max(1, cols * machine.itemsize)
    is_amx = machine.step > 1
    kc = even_block(a.cols, AMX_KC if is_amx else KC, max(UNROLL, machine.step))
    if not is_packed and not to_pack:
        return Cut(kc=min(kc, max(UNPACKED_KC, machine.l1 // 2 // row_bytes)), mc=MC)
    if a.cols <= SKINNY_NEURONS and row_bytes >= LONG_ROW:
        return Cut(kc=kc, mc=machine.height)
    if a.cols <= SHALLOW_K:
        return Cut(kc=kc, mc=max(1, machine.l1 // row_bytes // machine.height) * machine.height)
    unit = max(MC, machine.height)
    c_row_bytes = 0 if is_amx or to_pack else row_bytes
    mc = min(TASK_ROWS, machine.l2 // MC_L2_PART // (kc * machine.itemsize + c_row_bytes) // unit * unit)
    return Cut(kc=kc, mc=max(unit if a.col_step == machine.itemsize else round_up(COPIED_MC, unit), mc))


@formula
def most_mc_bytes(machine):
    """Return the bytes of the largest MC block of A that `cut` chooses."""
    return machine.l2 // MC_L2_PART + round_up(COPIED_MC, machine.height) * KC * machine.itemsize


class Grid(NamedTuple):
    """The block of C that a task computes."""

    rows: int                   # rows of the block
    cols: int                   # columns of the block


@formula
def grid(machine, rows, cols, threads, is_copied):
    """Return the Grid of a product: its tasks are few and large, but enough for every thread.

    Where rows of A are copied, each task of the same rows would copy them again: then rows are split before columns.
    """
    most_cols = max(machine.width, machine.l3 // NC_L3_PART // (KC * machine.itemsize))
    task_rows = round_up(min(rows, TASK_ROWS), machine.height)
    task_cols = round_up(min(cols, most_cols), machine.width)
    if threads > 1:
        wanted = threads * TASKS_A_THREAD
        if is_copied:
            task_rows = min(task_rows, round_up(max(COPIED_MC, blocks(rows, wanted)), machine.height))
        have = blocks(rows, task_rows)
        if have < wanted and cols > machine.width:
            task_cols = round_up(blocks(cols * have, wanted), machine.width)
            have *= blocks(cols, task_cols)
        if have < wanted:
            task_rows = round_up(blocks(task_rows * have, wanted), machine.height)
    return Grid(rows=max(task_rows, machine.height), cols=max(task_cols, machine.width))


@formula
def packs_in_tasks(rows):
    """Return whether the tasks of a product of so many rows pack the micropanels of B that they need.

    Then tiles find them in L2, no thread waits for others that pack, and B is never written to memory. The forward pass of
    128 x 784 -> 512 takes 0.93 of the time on an AMX Xeon, that of 1024 x 1024 -> 1024 would take 1.03 of it.
    """
    return rows <= TASK_ROWS


@formula
def group(machine):
    """Return the columns of a group of micropanels, which are packed at a time."""
    return round_up(GROUP_BYTES // machine.itemsize, machine.width)


@formula
def dot_block(machine, columns, row_bytes):
    """Return how many rows of B, of so many bytes each, dot products go over at a time: a multiple of `columns`."""
    return max(columns, machine.l2 // DOT_L2_PART // max(1, row_bytes) // columns * columns)


@formula
def column_edge(machine, j, j_end):
    """Return the column from which on a column-edge micropanel is wide enough for what is left of the columns j … j_end."""
    return j + (j_end - j + machine.edge_width - 1) // machine.width * machine.width


@formula
def has_column_edge(machine, cols):
    """Return whether the last of so many columns are in a column-edge micropanel."""
    return column_edge(machine, 0, cols) < cols


@formula
def row_edge_rows(height, rows):
    """Return how many of so many rows, the last ones, row-edge tiles take.

    They leave less of a tile empty than tiles of `height`: 8 rows are 4 + 4, and 4 are 4.
    """
    rest = rows % height
    if height != TALL or rows < height or rest == 0:
        return 0
    if rest + height <= 2 * SHORT:
        return rest + height
    return rest if rest <= SHORT else 0


@formula
def spread(row_bytes):
    """Return the distance of rows of so many bytes, where it is free: multiples of 1 KiB would share a few cache sets."""
    return row_bytes + CACHE_LINE if row_bytes % 1024 == 0 else row_bytes


@formula
def dz_rows(rows, row_bytes):
    """Return how many rows of dz to keep: all, or as many whole KC blocks as DZ_BYTES hold."""
    return min(rows, max(1, DZ_BYTES // max(1, KC * row_bytes)) * KC)


@formula
def rounded_rows(rows, row_bytes):
    """Return how many rows of a dz to round to bfloat16 at a time: all, or as many KC blocks of pairs as ROUNDED_BYTES hold."""
    return min(rows, max(1, ROUNDED_BYTES // max(1, 2 * KC * row_bytes)) * 2 * KC)
