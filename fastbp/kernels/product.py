"""The job of one product, C (+)= A B, with what happens to C on its way out; forward, dinputs and dweights all are one.

A is read one element at a time: in place where its rows are contiguous (x in the forward pass, dz for dinputs), from a copy
where its columns are (x.T for dweights). B is read in vectors: packed in panels (packing.py), or in place where its rows
are contiguous.
"""
from typing import NamedTuple

from .. import _link
from .._jit import inlined, kernel
from . import blocking, tile
from .activations import IDENTITY, RELU
from .matrix import Matrix
from .vector import CACHE_LINE
from .workspace import ALIGNMENT

PACKED = -1 << 63               # in place of the distance of two rows, which may be 0


class Right(NamedTuple):
    """B: its address, the distances of two columns and of two rows in bytes, and the packed last columns.

    row_step PACKED stands for packed panels. Of a B in place flat tiles read whole rows: `edge` is the address of a panel of
    the last columns, those that do not fill one (packing.edge); 0 where it may be read beyond its rows.
    """

    data: int
    col_step: int
    row_step: int
    edge: int


@inlined
def packed(panels, col_step):
    """B in panels at an address."""
    return Right(panels, col_step, PACKED, 0)


class Product(NamedTuple):
    """The job of C (+)= A B, C of rows x cols, with bias and activation on the way out. A task is a block of C."""

    tasks: int
    rows: int
    cols: int
    depth: int
    a: int
    a_row: int                  # the distance of two rows of A in bytes
    a_step: int                 # and of two columns, one of which is the size of an element
    b: int
    b_col: int
    b_row: int
    edge: int
    c: int
    c_row: int
    accumulate: int             # add to what is in C
    bias: int                   # the address of `cols` numbers, filled up to a whole tile; 0: none
    row_block: int
    col_block: int
    depth_block: int
    strip: int
    scratch: int                # scratch_bytes for each worker, for copies of A
    relu: int
    activation: int             # beyond the ReLU, of the rows that a task has finished
    slope: int                  # where its derivative goes; 0: nowhere
    slope_row: int
    ahead: int                  # memory that is needed soon, from which each tile fetches its share into the caches; 0: none
    ahead_too: int              # another stretch of it
    share: int                  # bytes


@kernel
def scratch_bytes(tiles):
    """Room for a copied strip: the most that blocking.cut may choose, and what copy_columns writes beyond a tile."""
    return blocking.most_strip_bytes(tiles.wide) + blocking.blocks(blocking.ROWS, tile.height(tiles.flat)) * ALIGNMENT


@kernel
def product_job(tiles, a, b, c, accumulate, bias, scratch, threads):
    """The Product of Matrix a, Right b and Matrix c, whose rows are contiguous."""
    cut = blocking.cut(tiles.wide, a, c.cols, b.row_step == PACKED)
    row_block, col_block = blocking.grid(tiles.wide, c.rows, c.cols, threads, a.col_step != tile.itemsize(tiles.wide))
    if b.row_step != PACKED:
        col_block = blocking.round_up(col_block, tile.width(tiles.flat))
    tasks = blocking.blocks(c.rows, row_block) * blocking.blocks(c.cols, col_block)
    return Product(tasks, c.rows, c.cols, a.cols, a.data, a.row_step, a.col_step,
                   b.data, b.col_step, b.row_step, b.edge, c.data, c.row_step, accumulate, bias,
                   row_block, col_block, cut.depth, cut.strip, scratch, 0, 0, 0, 0, 0, 0, 0)


@kernel
def activated(job, activation, slope):
    """The job, whose C is y of an activation, and the Matrix `slope`, which may be missing, its derivative."""
    relu, other = int(activation == RELU), activation if activation > RELU else IDENTITY
    return Product(*job[:-7], relu, other, slope.data, slope.row_step, *job[-3:])


@kernel
def with_ahead(tiles, job, ahead, ahead_too, size):
    """The job, that fetches `size` bytes at each of two addresses while it multiplies; 0 for none."""
    tiles_of_c = blocking.blocks(job.rows, tile.height(tiles.wide)) * blocking.blocks(job.cols, tile.width(tiles.wide))
    share = size // max(1, tiles_of_c)
    return Product(*job[:-3], ahead, ahead_too, share)


@kernel
def block_of(job, task):
    """(first row, end, first column, end) of a task's block of C."""
    row_tasks = blocking.blocks(job.rows, job.row_block)
    i, j = task % row_tasks * job.row_block, task // row_tasks * job.col_block
    return i, min(i + job.row_block, job.rows), j, min(j + job.col_block, job.cols)


@kernel
def activate_block(tiles, job, activate, i, i_end, j, j_end):
    """Apply the job's activation, beyond the ReLU, to a block of C that is complete, by the unit at an address."""
    if job.activation != IDENTITY:
        size = tile.itemsize(tiles.wide)
        y = Matrix(job.c + i * job.c_row + j * size, i_end - i, j_end - j, job.c_row, size)
        at = job.slope + i * job.slope_row + j * size if job.slope != 0 else 0
        _link.call(activate, (job.activation, y, Matrix(at, y.rows, y.cols, job.slope_row, size)))


@inlined
def fetch_share(job, start):
    """Ask for the share of a tile in the memory that is needed soon, which would else be waited for."""
    for offset in range(start, start + job.share, CACHE_LINE):
        if job.ahead != 0:
            tile.fetch(job.ahead + offset)
        if job.ahead_too != 0:
            tile.fetch(job.ahead_too + offset)


@inlined
def finish(acc, job, c, rows, j, p, p_end):
    """Add what is in C already, and after the last block bias and ReLU, then store the tile."""
    cols = job.cols - j
    if p > 0 or job.accumulate != 0:
        acc = acc + tile.load(acc, c, job.c_row, rows, cols)
    if p_end >= job.depth:
        if job.bias != 0:
            acc = tile.add_row(acc, job.bias + j * tile.itemsize(acc))
        if job.relu != 0:
            acc = tile.relu(acc)
    tile.store(acc, c, job.c_row, rows, cols)
