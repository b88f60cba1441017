"""Operands that are rounded on their way into a product, to pairs of bfloat16: two numbers that follow one another along K.

The operands are float32. In their Matrix of pairs a step along K leads from the first number of a pair to that of the next, so
the second number is half a step further:

    along rows       row i:  (a0 a1) (a2 a3) …        A that lies in memory by rows, and B by columns
    across rows      row q:  (a0 b0) (a1 b1) …        of the rows a = 2q and b = 2q + 1: B by rows, and A by columns

B is rounded while it is packed, A while a thread copies an MC block of it. So nothing that is rounded goes to memory. Pairs
beyond the last number are zeros. Rounding is to the nearest, to even if there are two; inf and NaN stay what they are.
"""
from functools import partial

from ..._compile import link
from ..._compile.compiler import formula, kernel
from .. import blocking
from ..matrix import Matrix
from ..schedule.queue import TASK
from ..schedule.records import replace
from ..simd import tile
from ..simd.vector import CACHE_LINE
from . import packing
from .packing import micropanel_at
from .problem import scratch_bytes as copied_bytes


@formula
def pairs_of(machine, numbers):
    """Return how many pairs hold so many numbers along K, with zeros where tiles take more at a time."""
    return blocking.round_up(blocking.blocks(numbers, 2), machine.step)


@formula
def along_rows(machine, matrix):
    """Return the Matrix (M, pairs of K) of the pairs along the rows of a Matrix (M, K)."""
    return Matrix(data=matrix.data, rows=matrix.rows, cols=pairs_of(machine, matrix.cols), row_step=matrix.row_step,
                  col_step=2 * matrix.col_step)


@formula
def across_rows(machine, matrix):
    """Return the Matrix (pairs of K, N) of the pairs across the rows of a Matrix (K, N)."""
    return Matrix(data=matrix.data, rows=pairs_of(machine, matrix.rows), cols=matrix.cols, row_step=2 * matrix.row_step,
                  col_step=matrix.col_step)


# ---- A


@formula
def scratch_bytes(machine):
    """Return the bytes of a rounded MC block, whose rows are spread, and of a copy of its last rows."""
    spread_rows = blocking.round_up(blocking.TASK_ROWS, machine.height) * CACHE_LINE
    return copied_bytes(machine) + spread_rows + machine.height * (blocking.KC * machine.itemsize + CACHE_LINE)


@formula
def rounded_bytes(machine, rows, depth):
    """Return the bytes of so many rounded rows of an MC block: whole tiles, as AMX reads all rows of a tile."""
    return blocking.round_up(rows, machine.height) * blocking.spread(depth * machine.itemsize)


@kernel
def round_a(tiles, problem, scratch, block):
    """Round an MC block of A to `scratch`, row by row, and return the GemmProblem that has these rows in the place of A."""
    size, depth = tile.itemsize(tiles.vector), block.p_end - block.p
    row_step = blocking.spread(depth * size)
    if problem.a_col_step == 2 * size:
        round_rows(tiles, problem, scratch, row_step, block)
    else:
        round_columns(tiles, problem, scratch, row_step, block)
    a = scratch - block.i * row_step - block.p * size
    return replace(problem, a=a, a_row_step=row_step, a_col_step=size)


@kernel
def round_rows(tiles, problem, scratch, row_step, block):
    """Round rows whose numbers are contiguous: two vectors become one of pairs."""
    size, lanes, depth = tile.itemsize(tiles.vector), tile.lanes(tiles.vector), block.p_end - block.p
    for i in range(block.i, block.i_end):
        source, target = problem.a + i * problem.a_row_step, scratch + (i - block.i) * row_step
        for k in range(0, depth, lanes):
            numbers = 2 * (block.p + k)
            two = tile.load(tiles.two_vectors, source + numbers * size, 0, 1, problem.numbers - numbers)
            tile.store(tile.pairs_along(two), target + k * size, 0, 1, depth - k)


@kernel
def round_columns(tiles, problem, scratch, row_step, block):
    """Round rows whose columns are contiguous: square blocks of pairs are transposed in registers."""
    size, lanes, depth, step = tile.itemsize(tiles.vector), tile.lanes(tiles.vector), block.p_end - block.p, problem.a_col_step
    for k in range(0, depth, lanes):
        left = problem.numbers - 2 * (block.p + k)
        for i in range(block.i, block.i_end, lanes):
            source, cols = problem.a + i * size + (block.p + k) * step, problem.rows - i
            first = tile.load(tiles.square, source, step, (left + 1) // 2, cols)
            second = tile.load(tiles.square, source + step // 2, step, left // 2, cols)
            pairs = tile.transpose(tile.pairs_across(first, second))
            tile.store(pairs, scratch + (i - block.i) * row_step + k * size, row_step, block.i_end - i, depth - k)


# ---- B


@kernel
def pack_job(machine, source, numbers, micropanels):
    """Return the Pack of a Matrix of pairs (pairs of K, N) into micropanels at an address; numbers: K."""
    return replace(packing.pack_job(machine, source, micropanels), numbers=numbers)


@kernel
def pack_micropanels(tiles, row, job, p, p_end, j, j_end):
    """Round and pack rows p … p_end of some micropanels, by how the matrix lies in memory."""
    if job.row_step == 2 * tile.itemsize(row):
        pack_along(tiles, row, job, p, p_end, j, j_end)
    else:
        pack_across(row, job, p, p_end, j, j_end)


@kernel
def pack_across(row, job, p, p_end, j_start, j_end):
    """Round two rows of the matrix, which are contiguous, to one row of pairs."""
    size, width = tile.itemsize(row), tile.width(row)
    for i in range(p, p_end):
        left = job.numbers - 2 * i
        for j in range(j_start, j_end, width):
            source, cols = job.source + i * job.row_step + j * size, job.cols - j
            first = tile.load(row, source, 0, left, cols)                                   # zeros if there is no such row
            second = tile.load(row, source + job.row_step // 2, 0, left - 1, cols)
            tile.store(tile.pairs_across(first, second), micropanel_at(row, job, j) + i * width * size, 0, 1, width)


@kernel
def pack_along(tiles, row, job, p, p_end, j_start, j_end):
    """Round columns of the matrix, which are contiguous, and transpose square blocks of pairs in registers."""
    size, width, lanes = tile.itemsize(row), tile.width(row), tile.lanes(row)
    for j in range(j_start, j_end, width):
        for k in range(0, min(width, job.cols - j), lanes):
            for i in range(p, p_end, lanes):
                source = job.source + 2 * i * size + (j + k) * job.col_step
                two = tile.load(tiles.two_squares, source, job.col_step, job.cols - j - k, job.numbers - 2 * i)
                pairs = tile.transpose(tile.pairs_along(two))
                tile.store(pairs, micropanel_at(row, job, j) + (i * width + k) * size, width * size, p_end - i, lanes)


pack = link.units("pack", TASK, partial(packing.build, pack_micropanels), [tile.BFLOAT16])
