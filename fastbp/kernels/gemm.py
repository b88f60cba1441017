"""One product, C (+)= A B, over register tiles; forward, dinputs and dweights are all this product.

A is read in place, one element at a time, so any strides will do: x by rows in the forward pass, x by columns (as x.T)
for dweights. B is read in vectors: either packed in panels (packing.py) or in place, when its rows are contiguous.

    LOOP 4  depth blocks   a panel of B stays in L2; C is kept in memory between two blocks
    LOOP 3  panels of B    `width` columns of B and C; independent of each other
    LOOP 2  row tiles      `height` rows of A and C; independent of each other
    LOOP 1  depth          one rank-1 update of a tile in registers a step

Tasks split C over LOOP 2 and 3 into a grid of row_block x col_block, never over the depth: an element of C is always
summed in the same order.
"""
from typing import NamedTuple

from .. import _link
from .._jit import inlined
from . import blocking, tile
from .parallel import TASK
from .workspace import ALIGNMENT, read


class Right(NamedTuple):
    """B: its address, the distances of two columns and of two rows in bytes, and the packed last columns.

    row_step 0 stands for packed panels. `edge` is the address of the last columns of a B in place, those that do not fill
    a vector, in a panel of their own; 0 where B is packed.
    """

    data: int
    col_step: int
    row_step: int
    edge: int


class Product(NamedTuple):
    """The job of C (+)= A B, C of rows x cols, with bias and ReLU on the way out. A task is a block of C."""

    tasks: int
    threads: int
    rows: int
    cols: int
    depth: int
    a: int
    a_row: int
    a_step: int
    b: int
    b_col: int
    b_row: int
    edge: int
    c: int
    c_row: int
    accumulate: int             # add to what is in C
    bias: int                   # the address of `cols` numbers, filled up to a whole tile; 0: none
    relu: int
    row_block: int
    col_block: int
    depth_block: int
    scratch: int                # scratch_bytes for each worker, to copy blocks of A to; 0: A is read in place


@inlined
def scratch_bytes(tiles):
    return blocking.DEPTH * copied_step(tiles)


@inlined
def copied_step(tiles):
    """The distance of two steps of the depth in a copied block of A: no power of two."""
    return blocking.ROWS * tile.itemsize(tiles.wide) + ALIGNMENT


@inlined
def product_job(tiles, a, b, c, accumulate, bias, relu, scratch, threads):
    """The Product of Matrix a, Right b and Matrix c, whose rows are contiguous; with `scratch`, the columns of a are."""
    row_block, col_block = blocking.grid(tiles.wide, c.rows, c.cols, threads)
    tasks = blocking.blocks(c.rows, row_block) * blocking.blocks(c.cols, col_block)
    return Product(tasks, threads, c.rows, c.cols, a.cols, a.data, a.row_step, a.col_step,
                   b.data, b.col_step, b.row_step, b.edge, c.data, c.row_step, accumulate, bias, relu,
                   row_block, col_block, blocking.depth_block(a.cols), scratch)


@inlined
def block_of(job, task):
    """(first row, end, first column, end) of a task's block of C."""
    row_tasks = blocking.blocks(job.rows, job.row_block)
    i, j = task % row_tasks * job.row_block, task // row_tasks * job.col_block
    return i, min(i + job.row_block, job.rows), j, min(j + job.col_block, job.cols)


def _build(dtype):
    tiles = blocking.tiles(dtype)

    def product(job_address, worker, task):
        job = read(job_address, Product)
        i, i_end, j_start, j_end = block_of(job, task)
        p = 0
        while True:                                                         # LOOP 4, once for a depth of 0 as well
            p_end = min(p + job.depth_block, job.depth)
            a, a_step = job.a + i * job.a_row + p * job.a_step, job.a_step
            if job.scratch != 0:
                a, a_step = copy_block(tiles, a, a_step, i_end - i, p_end - p, job.scratch + worker * scratch_bytes(tiles))
            rows = blocking.SHALLOW_ROWS if job.depth <= blocking.SHALLOW_DEPTH else i_end - i
            for start in range(i, i_end, max(1, rows)):
                multiply_rows(tiles, job, a + (start - i) * job.a_row, a_step, start, min(start + rows, i_end),
                              j_start, j_end, p, p_end)
            p = p_end
            if p >= job.depth:
                break
        return _link.OK

    return product


product = _link.units("product", TASK, _build)


@inlined
def copy_block(tiles, a, a_step, rows, depth, target):
    """(address, step) of a copy of a block of A whose columns are contiguous.

    For an x whose rows are a power of two apart: their elements of one column share a few sets of the caches.
    """
    row, size, step = tiles.row, tile.itemsize(tiles.row), copied_step(tiles)
    for p in range(depth):
        for i in range(0, rows, tile.width(row)):
            values = tile.load(row, a + p * a_step + i * size, 0, 1, rows - i)
            tile.store(values, target + p * step + i * size, 0, 1, rows - i)
    return target, step


@inlined
def multiply_rows(tiles, job, a, a_step, i, i_end, j_start, j_end, p, p_end):
    """Rows i … i_end of C's block, in panels of the widest tiles that fit."""
    wide, narrow, flat = tiles.wide, tiles.narrow, tiles.flat
    is_flat = i_end - i <= tile.height(flat) and job.b_row != 0             # packed panels have the width of wide tiles
    j = j_start
    while j < j_end:                                                        # LOOP 3
        left = j_end - j
        if is_flat and left >= tile.width(flat):
            multiply_panel(flat, job, a, a_step, i, i_end, j, left, p, p_end)
            j += tile.width(flat)
        elif left > tile.width(wide) - tile.width(narrow):
            multiply_panel(wide, job, a, a_step, i, i_end, j, left, p, p_end)
            j += tile.width(wide)
        else:
            multiply_panel(narrow, job, a, a_step, i, i_end, j, left, p, p_end)
            j += tile.width(narrow)


@inlined
def multiply_panel(shape, job, a, a_step, i_start, i_end, j, cols, p, p_end):
    """Rows i_start … i_end of one panel of C, from depth p to p_end; A's block is at the address a."""
    b, step = job.b + j * job.b_col, job.b_row
    if step == 0 or (job.edge != 0 and cols < tile.lanes(shape)):
        step = tile.width(shape) * tile.itemsize(shape)
        b = job.edge if job.edge != 0 else b
    for i in range(i_start, i_end, tile.height(shape)):                     # LOOP 2
        multiply_tile(shape, job, a + (i - i_start) * job.a_row, a_step, i, i_end - i, j, cols, p, p_end, b + p * step, step)


@inlined
def multiply_tile(shape, job, a, a_step, i, rows, j, cols, p, p_end, b, b_step):
    """One tile of C, in registers from its first product to bias and ReLU."""
    offsets = tile.row_offsets(shape, job.a_row, rows)
    c = job.c + i * job.c_row + j * tile.itemsize(shape)
    acc = tile.zeros(shape)
    if p > 0 or job.accumulate != 0:
        acc = tile.load(shape, c, job.c_row, rows, cols)
    for _ in range(p_end - p):                                              # LOOP 1
        acc = tile.rank1(acc, a, offsets, b)
        a += a_step
        b += b_step
    if p_end >= job.depth:
        if job.bias != 0:
            acc = tile.add_row(acc, job.bias + j * tile.itemsize(shape))
        if job.relu != 0:
            acc = tile.relu(acc)
    tile.store(acc, c, job.c_row, rows, cols)
