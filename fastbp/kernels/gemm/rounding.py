"""float32 matrices rounded to pairs of bfloat16: two numbers that follow one another along K, in the place of one.

    along rows       row i:  (a0 a1) (a2 a3) …        A of a product that reads it by rows, and B once it is transposed
    across rows      row q:  (a0 b0) (a1 b1) …        of the rows a = 2q and b = 2q + 1: B as it is, and A by columns

A target of more pairs gets zeros. Rounding is to the nearest, to even if there are two; inf and NaN stay what they are.
"""
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..schedule.queue import TASK
from ..schedule.records import read, replace
from ..simd import tile

# Rows of the target that a task writes.
ROWS = 64


class Round(NamedTuple):
    """The job of rounding a matrix. A task is ROWS rows of the target."""

    tasks: int                  # blocks of rows
    rows: int                   # rows of the source
    cols: int                   # columns of the source
    source: int                 # the address of the source
    source_row_step: int        # bytes from one row of the source to the next
    target: int                 # the address of the target
    target_row_step: int        # bytes from one row of the target to the next
    target_rows: int            # rows of the target
    target_cols: int            # columns of the target, each of pairs
    across: int                 # 1: across rows, 0: along rows


@kernel
def along_rows(source, target):
    """Return the Round of a Matrix whose rows are contiguous into one of half as many columns, or more."""
    return Round(tasks=blocking.blocks(target.rows, ROWS), rows=source.rows, cols=source.cols, source=source.data,
                 source_row_step=source.row_step, target=target.data, target_row_step=target.row_step, target_rows=target.rows,
                 target_cols=target.cols, across=0)


@kernel
def across_rows(source, target):
    """Return the Round of a Matrix whose rows are contiguous into one of half as many rows, or more."""
    return replace(along_rows(source, target), across=1)


def _build(dtype):
    """Return the task that writes ROWS rows of the target."""
    vector = blocking.tiles(types.float32).edge_row
    two_vectors = vector._replace(vecs=2)

    def round_rows(job_address, worker, task):
        job = read(job_address, Round)
        for i in range(task * ROWS, min((task + 1) * ROWS, job.target_rows)):
            if job.across != 0:
                round_two_rows(vector, job, i)
            else:
                round_row(two_vectors, job, i)
        return link.OK

    return round_rows


round_rows = link.units("round", TASK, _build, [tile.BFLOAT16])


@kernel
def round_row(two_vectors, job, i):
    """Write row i of the target: pairs along a row."""
    size, target = tile.itemsize(two_vectors), job.target + i * job.target_row_step
    for j in range(0, 2 * job.target_cols, tile.width(two_vectors)):
        numbers = tile.load(two_vectors, job.source + i * job.source_row_step + j * size, 0, 1, job.cols - j)
        tile.store(tile.pairs_along(numbers), target + j // 2 * size, 0, 1, job.target_cols - j // 2)


@kernel
def round_two_rows(vector, job, i):
    """Write row i of the target: pairs across two rows."""
    size, target = tile.itemsize(vector), job.target + i * job.target_row_step
    first, rows = job.source + 2 * i * job.source_row_step, job.rows - 2 * i
    for j in range(0, job.cols, tile.width(vector)):
        cols = job.cols - j
        numbers = tile.load(vector, first + j * size, 0, rows, cols)                        # zeros if there is no such row
        below = tile.load(vector, first + job.source_row_step + j * size, 0, rows - 1, cols)
        tile.store(tile.pairs_across(numbers, below), target + j * size, 0, 1, cols)
