"""One product, C (+)= A B, over register tiles; forward, dinputs and dweights are all this product.

A is read one element at a time: in place where its rows are contiguous (x in the forward pass, dz for dinputs), from a copy
where its columns are (x.T for dweights). B is read in vectors: packed in panels (packing.py), or in place where its rows
are contiguous.

    LOOP 5  depth blocks   a panel of B stays in L2; C is kept in memory between two blocks
    LOOP 4  strips         rows of A and C that stay in L2 while all panels of B go over them; independent of each other
    LOOP 3  panels of B    `width` columns of B and C; independent of each other
    LOOP 2  row tiles      `height` rows of A and C; independent of each other
    LOOP 1  depth          one rank-1 update of a tile in registers a step

Tasks split C over rows and columns into a grid of row_block x col_block, never over the depth: an element of C is always
summed in the same order.
"""
from functools import partial
from typing import NamedTuple

from numba import types

from .. import _link
from .._jit import inlined, kernel
from . import blocking, tile
from .matrix import whole_rows
from .parallel import TASK
from .vector import CACHE_LINE
from .workspace import ALIGNMENT, read


class Right(NamedTuple):
    """B: its address, the distances of two columns and of two rows in bytes, and the packed last columns.

    row_step 0 stands for packed panels. Of a B in place flat tiles read whole rows: `edge` is the address of a panel of
    the last columns, those that do not fill one (packing.edge); 0 where it may be read beyond its rows.
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
    relu: int
    row_block: int
    col_block: int
    depth_block: int
    strip: int
    scratch: int                # scratch_bytes for each worker, for copies of A
    ahead: int                  # memory that is needed soon, from which each tile fetches its share into the caches; 0: none
    ahead_too: int              # another stretch of it
    share: int                  # bytes


@kernel
def scratch_bytes(tiles):
    """Room for a copied strip: the most that blocking.cut may choose, and what copy_columns writes beyond a tile."""
    return blocking.most_strip_bytes(tiles.wide) + blocking.blocks(blocking.ROWS, tile.height(tiles.flat)) * ALIGNMENT


@kernel
def product_job(tiles, a, b, c, accumulate, bias, relu, scratch, threads):
    """The Product of Matrix a, Right b and Matrix c, whose rows are contiguous."""
    cut = blocking.cut(tiles.wide, a, c.cols, b.row_step == 0)
    row_block, col_block = blocking.grid(tiles.wide, c.rows, c.cols, threads)
    if b.row_step != 0:
        col_block = blocking.round_up(col_block, tile.width(tiles.flat))
    tasks = blocking.blocks(c.rows, row_block) * blocking.blocks(c.cols, col_block)
    return Product(tasks, threads, c.rows, c.cols, a.cols, a.data, a.row_step, a.col_step,
                   b.data, b.col_step, b.row_step, b.edge, c.data, c.row_step, accumulate, bias, relu,
                   row_block, col_block, cut.depth, cut.strip, scratch, 0, 0, 0)


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


def _build_panels(which, dtype):
    shape = getattr(blocking.tiles(dtype), which)

    def panels(job_address, scratch, copied, i_start, i_end, j_start, j_end, p, p_end):
        """Rows i_start … i_end, from row `copied` on in scratch, of the panels from column j_start to j_end."""
        job = read(job_address, Product)
        height, width, size, depth = tile.height(shape), tile.width(shape), tile.itemsize(shape), p_end - p
        rows, copied_rows = tile.in_registers(tile.multiples(shape, job.a_row)), tile.multiples(shape, size)
        for j in range(j_start, j_end, width):                              # LOOP 3
            b, b_step = job.b + j * job.b_col, job.b_row
            is_packed = b_step == 0 or (job.edge != 0 and job.cols - j < width)
            if is_packed:
                b, b_step = job.edge if job.edge != 0 else b, width * size
            b += p * b_step
            a, c, copy = job.a + i_start * job.a_row + p * size, job.c + i_start * job.c_row + j * size, scratch
            for i in range(i_start, i_end, height):                         # LOOP 2
                if depth > blocking.SHALLOW_DEPTH:
                    tile.prefetch(shape, c, job.c_row)
                if job.share > 0:
                    fetch_share(job, (i // height * blocking.blocks(job.cols, width) + j // width) * job.share)
                acc = tile.zeros(shape)
                if i < copied:
                    acc = add_products(acc, depth, a, rows, size, b, width * size)
                    a += height * job.a_row
                else:
                    if is_packed:
                        acc = add_products(acc, depth, copy, copied_rows, height * size, b, width * size)
                    else:
                        acc = add_products(acc, depth, copy, copied_rows, height * size, b, b_step)
                    copy += copied_tile_bytes(shape, depth)
                finish(acc, job, c, i_end - i, j, p, p_end)
                c += height * job.c_row
        return _link.OK

    return panels


PANELS = types.intp(*[types.intp] * 9)
DTYPES = *_link.FLOATS, tile.BFLOAT16
_wide, _narrow = (_link.units(which, PANELS, partial(_build_panels, which), DTYPES) for which in ("wide", "narrow"))
flat = _link.units("flat", PANELS, partial(_build_panels, "flat"), DTYPES, rare=True)   # needed where B is in place


def _build(dtype):
    tiles = blocking.tiles(dtype)
    strip = _strip(dtype)

    def product(job_address, worker, task):
        job = read(job_address, Product)
        scratch = job.scratch + worker * scratch_bytes(tiles)
        i_start, i_end, j_start, j_end = block_of(job, task)
        for p in range(0, max(1, job.depth), job.depth_block):              # LOOP 5, once for a depth of 0 as well
            for i in range(i_start, i_end, job.strip):                      # LOOP 4
                p_end, end = min(p + job.depth_block, job.depth), min(i + job.strip, i_end)
                strip(job_address, scratch, i, end, j_start, j_end, p, p_end)
        return _link.OK

    return product


def _strip(dtype):
    tiles = blocking.tiles(dtype)
    wide, narrow, flat_panels = _wide[dtype].address, _narrow[dtype].address, flat[dtype].address

    @kernel
    def strip(job_address, scratch, i, i_end, j, j_end, p, p_end):
        """Rows i … i_end of C's block, in panels of the widest tiles that fit."""
        job = read(job_address, Product)
        if job.b_row != 0:
            copied = copy_rows(tiles.flat, tiles.column, job, scratch, i, i_end, p, p_end)
            _link.call(flat_panels(), (job_address, scratch, copied, i, i_end, j, j_end, p, p_end))
        else:
            end = blocking.first_narrow(tiles, j, j_end)
            copied = copy_rows(tiles.wide, tiles.column, job, scratch, i, i_end, p, p_end)
            _link.call(wide(), (job_address, scratch, copied, i, i_end, j, min(end, j_end), p, p_end))
            _link.call(narrow(), (job_address, scratch, copied, i, i_end, end, j_end, p, p_end))

    return strip


product = _link.units("product", TASK, _build, DTYPES)


@kernel
def copy_rows(shape, column, job, scratch, i_start, i_end, p, p_end):
    """Copy those rows of a strip that are not read in place, tile by tile; returns the first of them.

    All, if its columns are contiguous or rows of B are far apart, too, which takes all registers that addresses can have;
    else the last ones, where they are fewer than a tile has. A copied tile holds its rows' elements of one column of A,
    filled up with zeros, then those of the next.
    """
    height = tile.height(shape)
    if job.a_step != tile.itemsize(shape):
        copy_columns(shape, column, job, scratch, i_start, i_end, p, p_end)
        return i_start
    first = i_start if job.b_row != 0 else i_start + (i_end - i_start) // height * height
    copy_elements(shape, job, scratch, first, i_end, p, p_end)
    return first


@kernel
def copied_tile_bytes(shape, depth):
    return depth * tile.height(shape) * tile.itemsize(shape) + ALIGNMENT


@kernel
def copy_columns(shape, column, job, scratch, i_start, i_end, p, p_end):
    """Copy rows of A whose columns are contiguous; that is to say row by row of x, as x lies in memory.

    The elements of a column are no whole number of vectors; what is written beyond them is overwritten by the next
    column. The CPU would not foresee the next row of x: asking for it ahead halves the time.
    """
    height, size, width = tile.height(shape), tile.itemsize(shape), tile.width(column)
    last = i_start + (i_end - i_start - 1) // height * height
    whole = whole_rows(job.depth, job.rows - last, job.a_step, size, width)
    for k in range(p, p_end):
        source, target, more = job.a + k * job.a_step, scratch + (k - p) * height * size, k < whole
        for i in range(i_start, i_end, height):
            tile.prefetch(column, source + i * size + blocking.AHEAD * job.a_step, 0)
            values = tile.load(column, source + i * size, 0, 1, width if more else job.rows - i)
            tile.store(values, target, 0, 1, width)
            target += copied_tile_bytes(shape, p_end - p)


@kernel
def copy_elements(shape, job, scratch, first, i_end, p, p_end):
    """Copy rows of A whose elements are anywhere."""
    for i in range(first, i_end, tile.height(shape)):
        target = scratch + (i - first) // tile.height(shape) * copied_tile_bytes(shape, p_end - p)
        for k in range(p, p_end):
            for r in range(tile.height(shape)):
                value = tile.zero(shape)
                if i + r < i_end:
                    value = tile.load_scalar(shape, job.a + (i + r) * job.a_row + k * job.a_step)
                tile.store_scalar(shape, target, value)
                target += tile.itemsize(shape)


@inlined
def fetch_share(job, start):
    """Ask for the share of a tile in the memory that is needed soon, which would else be waited for."""
    for offset in range(start, start + job.share, CACHE_LINE):
        if job.ahead != 0:
            tile.fetch(job.ahead + offset)
        if job.ahead_too != 0:
            tile.fetch(job.ahead_too + offset)


@inlined
def add_products(acc, depth, a, rows, a_step, b, b_step):
    """tile += A B. Inlined, so that the steps that are constants where it is called are constants in the loop."""
    for _ in range(depth // blocking.UNROLL):                               # LOOP 1
        for _ in range(blocking.UNROLL):
            acc = tile.rank1(acc, a, rows, b)
            a += a_step
            b += b_step
    for _ in range(depth % blocking.UNROLL):
        acc = tile.rank1(acc, a, rows, b)
        a += a_step
        b += b_step
    return acc


@kernel
def fill_up(shape, a, a_row, a_step, rows, depth, target):
    """The last rows of A, fewer than a tile has, by columns and filled up with zeros, so that all can be read."""
    for p in range(depth):
        for i in range(tile.height(shape)):
            value = tile.zero(shape)
            if i < rows:
                value = tile.load_scalar(shape, a + i * a_row + p * a_step)
            tile.store_scalar(shape, target, value)
            target += tile.itemsize(shape)


@inlined
def finish(acc, job, c, rows, j, p, p_end):
    """Add what is in C already, and after the last block bias and ReLU, then store the tile."""
    cols = job.cols - j
    if p > 0 or job.accumulate != 0:
        acc = tile.add(acc, tile.load(acc, c, job.c_row, rows, cols))
    if p_end >= job.depth:
        if job.bias != 0:
            acc = tile.add_row(acc, job.bias + j * tile.itemsize(acc))
        if job.relu != 0:
            acc = tile.relu(acc)
    tile.store(acc, c, job.c_row, rows, cols)
