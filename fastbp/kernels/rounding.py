"""float32 matrices rounded to bfloat16, two numbers in the place of one: what follows one another along the depth of a product.

    along rows       row i:  (a0 a1) (a2 a3) …        A of a product that reads it by rows, and B once it is transposed
    across rows      row q:  (a0 b0) (a1 b1) …        of the rows a = 2q and b = 2q + 1: B as it is, and A by columns

A target of more pairs gets zeros. Rounding is to the nearest, to even if there are two; inf and NaN stay what they are.
"""
from typing import NamedTuple

from numba import types

from .. import _link
from .._jit import kernel
from . import blocking, tile
from .parallel import TASK
from .records import read

ROWS = 64                       # of the target, that a task writes


class Round(NamedTuple):
    """The job. A task is ROWS rows of the target."""

    tasks: int
    rows: int
    cols: int
    source: int
    source_row: int
    target: int
    target_row: int
    target_rows: int
    target_cols: int
    across: int


@kernel
def along_rows(source, target):
    """The Round of a Matrix whose rows are contiguous into one of half as many columns, or more."""
    return Round(blocking.blocks(target.rows, ROWS), source.rows, source.cols, source.data, source.row_step,
                 target.data, target.row_step, target.rows, target.cols, 0)


@kernel
def across_rows(source, target):
    """The Round of a Matrix whose rows are contiguous into one of half as many rows, or more."""
    return Round(blocking.blocks(target.rows, ROWS), source.rows, source.cols, source.data, source.row_step,
                 target.data, target.row_step, target.rows, target.cols, 1)


def _build(dtype):
    one = blocking.tiles(types.float32).narrow_row
    two = one._replace(vecs=2)

    def round_rows(job_address, worker, task):
        job = read(job_address, Round)
        for i in range(task * ROWS, min((task + 1) * ROWS, job.target_rows)):
            if job.across != 0:
                round_two_rows(one, job, i)
            else:
                round_row(two, job, i)
        return _link.OK

    return round_rows


round_rows = _link.units("round", TASK, _build, [tile.BFLOAT16])


@kernel
def round_row(two, job, i):
    size, target = tile.itemsize(two), job.target + i * job.target_row
    for j in range(0, 2 * job.target_cols, tile.width(two)):
        numbers = tile.load(two, job.source + i * job.source_row + j * size, 0, 1, job.cols - j)
        tile.store(tile.pairs_along(numbers), target + j // 2 * size, 0, 1, job.target_cols - j // 2)


@kernel
def round_two_rows(one, job, i):
    size, first, target = tile.itemsize(one), job.source + 2 * i * job.source_row, job.target + i * job.target_row
    rows = job.rows - 2 * i
    for j in range(0, job.cols, tile.width(one)):
        cols = job.cols - j
        numbers = tile.load(one, first + j * size, 0, rows, cols)                           # zeros if there is no such row
        below = tile.load(one, first + job.source_row + j * size, 0, rows - 1, cols)
        tile.store(tile.pairs_across(numbers, below), target + j * size, 0, 1, cols)
