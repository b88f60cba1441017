"""What goes over a matrix column by column of vectors: dvalues times an activation's derivative, with sums of columns, and sums
of matrices.
"""
from typing import NamedTuple

from .. import _link
from .._jit import inlined, kernel
from . import blocking, packing, tile
from .activations import passed_back
from .matrix import whole_rows
from .parallel import TASK
from .records import read

BYTES = 1024                    # of rows to mask and sum before the next columns: more are not read in the order of memory


class Mask(NamedTuple):
    """The job of dz = dvalues * dy/dz, and of its column sums. A task is a stripe of columns."""

    tasks: int
    rows: int
    cols: int
    dvalues: int
    dvalues_row: int
    activation: int             # of which s tells the derivative (activations.py)
    s: int                      # 0: everything passes
    s_row: int
    dz: int                     # 0: not wanted
    dz_row: int
    panels: int                 # dz once more, packed as B of a product; 0: not wanted
    sums: int
    accumulate: int             # add to `sums`
    col_block: int


@kernel
def mask_job(tiles, dvalues, activation, s, dz, panels, sums, accumulate):
    """The Mask of Matrix dvalues, s and dz, whose rows are contiguous, and the addresses of panels and column sums."""
    threads = blocking.threads(dvalues.rows * dvalues.cols * blocking.ELEMENT_WORK)
    col_block = blocking.grid(tiles.wide, 1, dvalues.cols, threads, False)[1]
    return Mask(blocking.blocks(dvalues.cols, col_block), dvalues.rows, dvalues.cols, dvalues.data,
                dvalues.row_step, activation, s.data, s.row_step, dz.data, dz.row_step, panels, sums, accumulate, col_block)


def _build_mask(dtype):
    tiles = blocking.tiles(dtype)

    def mask(job_address, worker, task):
        job = read(job_address, Mask)
        start = task * job.col_block
        end = min(start + job.col_block, job.cols)
        for j in range(start, end, packing.group(tiles)):
            j_end = min(j + packing.group(tiles), end)
            narrow = blocking.first_narrow(tiles, j, j_end)
            mask_columns(tiles.row, job, j, min(narrow, j_end))
            mask_columns(tiles.narrow_row, job, narrow, j_end)
        return _link.OK

    return mask


mask = _link.units("mask", TASK, _build_mask)


@kernel
def mask_columns(row, job, j_start, j_end):
    """Columns j_start … j_end, a few rows at a time, so that they are read as they lie in memory and summed in registers."""
    size, width = tile.itemsize(row), tile.width(row)
    rows = BYTES // max(size, (j_end - j_start) * size)
    for i_start in range(0, max(1, job.rows), rows):                        # once for no rows as well: their sums are zeros
        i_end = min(i_start + rows, job.rows)
        for j in range(j_start, j_end, width):
            sums, cols = job.sums + j * size, job.cols - j
            whole = min(i_end, whole_rows(job.rows, cols, job.dvalues_row, size, width),
                        whole_rows(job.rows, cols, job.s_row, size, width))
            total = tile.load(row, sums, 0, 1, cols if i_start > 0 or job.accumulate != 0 else 0)
            for i in range(i_start, whole):
                total = total + mask_row(row, job, i, j, width)
            for i in range(max(i_start, whole), i_end):
                total = total + mask_row(row, job, i, j, cols)
            tile.store(total, sums, 0, 1, cols)


@inlined
def mask_row(row, job, i, j, cols):
    """A tile of row i of dz, from column j on, of which `cols` may be read; those beyond the last column are of no use."""
    size = tile.itemsize(row)
    values = read_row(row, job.dvalues + i * job.dvalues_row + j * size, job.dvalues_row, cols)
    if job.s != 0:
        values = passed_back(job.activation, values, read_row(row, job.s + i * job.s_row + j * size, job.s_row, cols))
    if job.dz != 0:
        tile.store(values, job.dz + i * job.dz_row + j * size, 0, 1, job.dz_row // size - j)
    if job.panels != 0:
        tile.store(values, job.panels + (j * job.rows + i * tile.width(row)) * size, 0, 1, tile.width(row))
    return values


@inlined
def read_row(row, address, row_step, cols):
    """Of a row of tiles; asking for later rows halves the time in memory."""
    tile.prefetch(row, address + blocking.AHEAD * row_step, 0)
    return tile.load(row, address, 0, 1, cols)


class Sum(NamedTuple):
    """The job of C = the sum of `count` matrices, `distance` bytes apart, in their order. A task is a block of rows."""

    tasks: int
    rows: int
    cols: int
    parts: int
    parts_row: int
    count: int
    distance: int
    c: int
    c_row: int
    row_block: int


@kernel
def sum_job(first, count, distance, c):
    """The Sum of matrices like the Matrix `first` into the Matrix c; rows are contiguous."""
    threads = blocking.threads(c.rows * c.cols * count * blocking.ELEMENT_WORK)
    row_block = max(1, blocking.blocks(c.rows, threads))
    return Sum(blocking.blocks(c.rows, row_block), c.rows, c.cols, first.data, first.row_step, count, distance,
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
                    total = total + tile.load(row, part, 0, 1, cols)
                    part += job.distance
                tile.store(total, job.c + i * job.c_row + offset, 0, 1, cols)
        return _link.OK

    return add_up


add_up = _link.units("sum", TASK, _build_sum)
