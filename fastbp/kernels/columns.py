"""What goes over a matrix column by column of vectors: the ReLU's mask with the sums of its columns, and sums of matrices."""
from typing import NamedTuple

from .. import _link
from .._jit import inlined
from . import blocking, tile
from .parallel import TASK
from .workspace import read


class Mask(NamedTuple):
    """The job of dz = dvalues where z lets the gradient pass, else 0, and of its column sums. A task is a stripe of columns."""

    tasks: int
    threads: int
    rows: int
    cols: int
    dvalues: int
    dvalues_row: int
    z: int                      # 0: everything passes
    z_row: int
    dz: int
    dz_row: int
    sums: int
    accumulate: int             # add to `sums`
    col_block: int


@inlined
def mask_job(tiles, dvalues, z, dz, sums, accumulate):
    """The Mask of Matrix dvalues, z and dz, whose rows are contiguous, and the address of the column sums."""
    threads = blocking.threads(dvalues.rows * dvalues.cols * blocking.ELEMENT_WORK)
    col_block = blocking.grid(tiles.wide, 1, dvalues.cols, threads)[1]
    return Mask(blocking.blocks(dvalues.cols, col_block), threads, dvalues.rows, dvalues.cols, dvalues.data,
                dvalues.row_step, z.data, z.row_step, dz.data, dz.row_step, sums, accumulate, col_block)


def _build_mask(dtype):
    row, narrow_row = blocking.tiles(dtype).row, blocking.tiles(dtype).narrow_row

    def mask(job_address, worker, task):
        job = read(job_address, Mask)
        j = task * job.col_block
        j_end = min(j + job.col_block, job.cols)
        while j < j_end:
            if j_end - j > tile.width(row) - tile.width(narrow_row):
                mask_panel(row, job, j, j_end - j)
                j += tile.width(row)
            else:
                mask_panel(narrow_row, job, j, j_end - j)
                j += tile.width(narrow_row)
        return _link.OK

    return mask


mask = _link.units("mask", TASK, _build_mask)


@inlined
def mask_panel(row, job, j, cols):
    offset = j * tile.itemsize(row)
    total = tile.zeros(row)
    for i in range(job.rows):
        dz = tile.load(row, job.dvalues + i * job.dvalues_row + offset, 0, 1, cols)
        if job.z != 0:
            dz = tile.mask(dz, tile.load(row, job.z + i * job.z_row + offset, 0, 1, cols))
        tile.store(dz, job.dz + i * job.dz_row + offset, 0, 1, cols)
        total = tile.add(total, dz)
    if job.accumulate != 0:
        total = tile.add(total, tile.load(row, job.sums + offset, 0, 1, cols))
    tile.store(total, job.sums + offset, 0, 1, cols)


class Sum(NamedTuple):
    """The job of C = the sum of `count` matrices, `distance` bytes apart, in their order. A task is a block of rows."""

    tasks: int
    threads: int
    rows: int
    cols: int
    parts: int
    parts_row: int
    count: int
    distance: int
    c: int
    c_row: int
    row_block: int


@inlined
def sum_job(first, count, distance, c):
    """The Sum of matrices like the Matrix `first` into the Matrix c; rows are contiguous."""
    threads = blocking.threads(c.rows * c.cols * count * blocking.ELEMENT_WORK)
    row_block = max(1, blocking.blocks(c.rows, threads))
    return Sum(blocking.blocks(c.rows, row_block), threads, c.rows, c.cols, first.data, first.row_step, count, distance,
               c.data, c.row_step, row_block)


def _build_sum(dtype):
    row = blocking.tiles(dtype).row

    def add_up(job_address, worker, task):
        job = read(job_address, Sum)
        for i in range(task * job.row_block, min((task + 1) * job.row_block, job.rows)):
            for j in range(0, job.cols, tile.width(row)):
                offset, cols = j * tile.itemsize(row), job.cols - j
                part, total = job.parts + i * job.parts_row + offset, tile.zeros(row)
                for _ in range(job.count):
                    total = tile.add(total, tile.load(row, part, 0, 1, cols))
                    part += job.distance
                tile.store(total, job.c + i * job.c_row + offset, 0, 1, cols)
        return _link.OK

    return add_up


add_up = _link.units("sum", TASK, _build_sum)
