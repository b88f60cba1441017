"""Jobs that go over matrices column by column of vectors: dz = dvalues * dy/dz with its column sums, and sums of matrices."""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import inlined, kernel
from .. import blocking
from ..elementwise.activations import passed_back
from ..matrix import whole_rows
from ..schedule.queue import TASK
from ..schedule.records import read
from ..simd import tile

# Bytes of the rows that are masked and summed before the next columns. With more, memory would not be read in its order.
BYTES = 1024


class Mask(NamedTuple):
    """The job of dz = dvalues * dy/dz (M, N), and of its column sums (1, N). A task is a stripe of columns.

    Addresses are 0 where there is nothing; steps are in bytes.
    """

    tasks: int                  # stripes
    rows: int                   # M
    cols: int                   # N
    dvalues: int                # dvalues (M, N)
    dvalues_row_step: int       # bytes from one row of dvalues to the next
    activation: int             # its derivative comes from `saved` (activations.py)
    saved: int                  # what the activation saved (M, N); 0: everything passes
    saved_row_step: int         # bytes from one row of saved to the next
    dz: int                     # dz (M, N)
    dz_row_step: int            # bytes from one row of dz to the next
    micropanels: int            # where dz is packed as B of a product
    sums: int                   # the column sums (1, N)
    accumulate: int             # 1: add to `sums`
    task_cols: int              # columns of a stripe


@kernel
def mask_job(machine, dvalues, activation, saved, dz, sums):
    """Return the Mask of Matrix dvalues, saved and dz, whose rows are contiguous, and the address of column sums."""
    threads = blocking.threads(dvalues.rows * dvalues.cols * blocking.ELEMENT_WORK)
    task_cols = blocking.grid(machine, 1, dvalues.cols, threads, False).cols
    return Mask(tasks=blocking.blocks(dvalues.cols, task_cols), rows=dvalues.rows, cols=dvalues.cols,
                dvalues=dvalues.data, dvalues_row_step=dvalues.row_step, activation=activation,
                saved=saved.data, saved_row_step=saved.row_step, dz=dz.data, dz_row_step=dz.row_step, micropanels=0, sums=sums,
                accumulate=0, task_cols=task_cols)


def _build_mask(dtype):
    """Return the task that masks and sums a stripe of columns."""
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)

    def mask(job_address, worker, task):
        job = read(job_address, Mask)
        start = task * job.task_cols
        end = min(start + job.task_cols, job.cols)
        for j in range(start, end, blocking.group(machine)):
            j_end = min(j + blocking.group(machine), end)
            edge = blocking.column_edge(machine, j, j_end)
            mask_columns(tiles.row, job, j, min(edge, j_end))
            mask_columns(tiles.edge_row, job, edge, j_end)
        return link.OK

    return mask


mask = link.units("mask", TASK, _build_mask)


@kernel
def mask_columns(row, job, j_start, j_end):
    """Mask columns j_start … j_end, a few rows at a time: they are read as they lie in memory and summed in registers."""
    size, width = tile.itemsize(row), tile.width(row)
    rows = BYTES // max(size, (j_end - j_start) * size)
    for i_start in range(0, max(1, job.rows), rows):                        # once for no rows as well: their sums are zeros
        i_end = min(i_start + rows, job.rows)
        for j in range(j_start, j_end, width):                              # dz (rows, width), sums (1, width)
            sums, cols = job.sums + j * size, job.cols - j
            whole = min(i_end, whole_rows(job.rows, cols, job.dvalues_row_step, size, width),
                        whole_rows(job.rows, cols, job.saved_row_step, size, width))
            total = tile.load(row, sums, 0, 1, cols if i_start > 0 or job.accumulate != 0 else 0)
            for i in range(i_start, whole):
                total = total + mask_row(row, job, i, j, width)
            for i in range(max(i_start, whole), i_end):
                total = total + mask_row(row, job, i, j, cols)
            tile.store(total, sums, 0, 1, cols)


@inlined
def mask_row(row, job, i, j, cols):
    """Return a tile of row i of dz, from column j on, of which `cols` may be read; what is beyond the last column is unused."""
    size = tile.itemsize(row)
    values = read_row(row, job.dvalues + i * job.dvalues_row_step + j * size, job.dvalues_row_step, cols)
    if job.saved != 0:
        saved = read_row(row, job.saved + i * job.saved_row_step + j * size, job.saved_row_step, cols)
        values = passed_back(job.activation, values, saved)
    if job.dz != 0:
        tile.store(values, job.dz + i * job.dz_row_step + j * size, 0, 1, job.dz_row_step // size - j)
    if job.micropanels != 0:
        tile.store(values, job.micropanels + (j * job.rows + i * tile.width(row)) * size, 0, 1, tile.width(row))
    return values


@inlined
def read_row(row, address, row_step, cols):
    """Return a tile of a row. Asking for later rows halves the time in memory."""
    tile.prefetch(row, address + blocking.AHEAD * row_step, 0)
    return tile.load(row, address, 0, 1, cols)


class Sum(NamedTuple):
    """The job of C = the sum of matrices like C, in their order. A task is a block of rows."""

    tasks: int                  # blocks of rows
    rows: int                   # rows of C
    cols: int                   # columns of C
    parts: int                  # the address of the first matrix
    parts_row_step: int         # bytes from one row of a matrix to the next
    count: int                  # matrices
    distance: int               # bytes from one matrix to the next
    c: int                      # the address of C
    c_row_step: int             # bytes from one row of C to the next
    task_rows: int              # rows of a block


@kernel
def sum_job(first, count, distance, c):
    """Return the Sum of `count` matrices like `first`, `distance` bytes apart, into the Matrix c; rows are contiguous."""
    threads = blocking.threads(c.rows * c.cols * count * blocking.ELEMENT_WORK)
    task_rows = max(1, blocking.blocks(c.rows, threads))
    return Sum(tasks=blocking.blocks(c.rows, task_rows), rows=c.rows, cols=c.cols, parts=first.data,
               parts_row_step=first.row_step, count=count, distance=distance, c=c.data, c_row_step=c.row_step,
               task_rows=task_rows)


def _build_sum(dtype):
    """Return the task that adds up a block of rows."""
    row = blocking.tiles(dtype).row

    def add_up(job_address, worker, task):
        job = read(job_address, Sum)
        for i in range(task * job.task_rows, min((task + 1) * job.task_rows, job.rows)):
            for j in range(0, job.cols, tile.width(row)):
                offset, cols = j * tile.itemsize(row), job.cols - j
                part, total = job.parts + i * job.parts_row_step + offset, tile.zeros(row)
                for _ in range(job.count):
                    total = total + tile.load(row, part, 0, 1, cols)
                    part += job.distance
                tile.store(total, job.c + i * job.c_row_step + offset, 0, 1, cols)
        return link.OK

    return add_up


add_up = link.units("sum", TASK, _build_sum)
