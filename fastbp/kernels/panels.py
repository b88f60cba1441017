"""Panels of B over rows of A, tile by tile in vector registers: the inner loops of a product (gemm.py).

    LOOP 3  panels of B    `width` columns of B and C; independent of each other
    LOOP 2  row tiles      `height` rows of A and C, low ones for the last rows; independent of each other
    LOOP 1  depth          in chains, as long sums of one term after another round worse than OpenBLAS's; one rank-1 update
                           of a tile in registers a step
"""
from numba import types

from .. import _link
from .._jit import inlined, kernel
from . import blocking, tile
from .matrix import whole_rows
from .product import PACKED, Product, fetch_share, finish
from .records import read
from .workspace import ALIGNMENT

SIGNATURE = types.intp(*[types.intp] * 9)


def build(which, dtype):
    shape, is_flat = getattr(blocking.tiles(dtype), which), which == "flat"
    low, has_chains = blocking.low(shape), dtype in _link.FLOATS and not is_flat
    row_tiles, row_tiles_by_chains = _row_tiles(is_flat, False), _row_tiles(is_flat, True)

    def panels(job_address, scratch, copied, i_start, i_end, j_start, j_end, p, p_end):
        """Rows i_start … i_end, from row `copied` on in scratch, of the panels from column j_start to j_end.

        Only flat tiles have B in place, and their rows of A are always copied.
        """
        job = read(job_address, Product)
        width, size = tile.width(shape), tile.itemsize(shape)
        i_low = i_end - low_rows(shape, job, i_end - i_start)
        for j in range(j_start, j_end, width):                              # LOOP 3
            b, b_step = job.b + j * job.b_col, job.b_row
            is_packed = not is_flat or (job.edge != 0 and job.cols - j < width)
            if is_packed:
                b, b_step = job.edge if is_flat else b, width * size
            b += p * b_step
            if has_chains and p_end - p > blocking.CHAIN:
                row_tiles_by_chains(shape, job, scratch, copied, i_start, i_low, j, p, p_end, b, b_step, is_packed)
                if low != shape:
                    row_tiles_by_chains(low, job, scratch, copied, i_low, i_end, j, p, p_end, b, b_step, is_packed)
            else:
                row_tiles(shape, job, scratch, copied, i_start, i_low, j, p, p_end, b, b_step, is_packed)
                if low != shape:
                    row_tiles(low, job, scratch, copied, i_low, i_end, j, p, p_end, b, b_step, is_packed)
        return _link.OK

    return panels


def _row_tiles(is_flat, by_chains):
    @inlined
    def row_tiles(shape, job, scratch, copied, i_start, i_end, j, p, p_end, b, b_step, is_packed):
        """The tiles of rows i_start … i_end in one panel; by chains, the sums of each are added up in C, which stays in L1."""
        height, width, size, depth = tile.height(shape), tile.width(shape), tile.itemsize(shape), p_end - p
        rows = tile.in_registers(tile.multiples(shape, job.a_row))
        chain = blocking.even_block(depth, blocking.CHAIN, blocking.UNROLL) if by_chains else depth
        a, c, copy = job.a + i_start * job.a_row + p * size, job.c + i_start * job.c_row + j * size, scratch
        for i in range(i_start, i_end, height):                            # LOOP 2
            if depth > blocking.SHALLOW_DEPTH:
                tile.prefetch(shape, c, job.c_row)
            if job.share > 0:
                fetch_share(job, (i // height * blocking.blocks(job.cols, width) + j // width) * job.share)
            in_place = not is_flat and i < copied
            if by_chains:
                for q in range(p, p_end, chain):
                    steps, done = min(chain, p_end - q), q - p
                    acc = products(shape, steps, a + done * size, rows, copy + done * height * size, in_place,
                                   b + done * b_step, b_step, is_packed)
                    finish(acc, job, c, i_end - i, j, q, q + steps)
            else:
                acc = products(shape, depth, a, rows, copy, in_place, b, b_step, is_packed)
                finish(acc, job, c, i_end - i, j, p, p_end)
            if in_place:
                a += height * job.a_row
            else:
                copy += copied_tile_bytes(shape, depth)
            c += height * job.c_row

    @inlined
    def products(shape, steps, a, rows, copy, in_place, b, b_step, is_packed):
        """A tile of A B, of A in place or copied, and of B in a panel or in place."""
        height, width, size = tile.height(shape), tile.width(shape), tile.itemsize(shape)
        acc, copied_rows = tile.zeros(shape), tile.multiples(shape, size)
        if not is_flat and in_place:
            return add_products(acc, steps, a, rows, size, b, width * size)
        if not is_flat or is_packed:
            return add_products(acc, steps, copy, copied_rows, height * size, b, width * size)
        return add_products(acc, steps, copy, copied_rows, height * size, b, b_step)

    return row_tiles


@kernel
def low_rows(shape, job, rows):
    """How many of a strip's rows low tiles take: none where columns of A are copied, for tiles of one height."""
    return blocking.low_rows(tile.height(shape), rows) if job.a_step == tile.itemsize(shape) and job.b_row == PACKED else 0


@kernel
def copy_rows(tiles, shape, job, scratch, i_start, i_end, p, p_end):
    """Copy those rows of a strip that are not read in place, tile by tile; returns the first of them.

    All, if its columns are contiguous or rows of B are far apart, too, which takes all registers that addresses can have;
    else the last ones, where they are fewer than a tile has. A copied tile holds its rows' elements of one column of A,
    filled up with zeros, then those of the next.
    """
    height = tile.height(shape)
    if job.a_step != tile.itemsize(shape):
        copy_columns(shape, tiles.column, job, scratch, i_start, i_end, p, p_end)
        return i_start
    low = low_rows(shape, job, i_end - i_start)
    if low > 0:
        height, i_start = blocking.LOW, i_end - low
    first = i_start if job.b_row != PACKED else i_start + (i_end - i_start) // height * height
    copy_elements(shape, height, job, scratch, first, i_end, p, p_end)
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
def copy_elements(shape, height, job, scratch, first, i_end, p, p_end):
    """Copy rows of A whose elements are anywhere, for tiles of that height."""
    for i in range(first, i_end, height):
        target = scratch + (i - first) // height * copied_tile_bytes(shape, p_end - p)
        for k in range(p, p_end):
            for r in range(height):
                value = tile.zero(shape)
                if i + r < i_end:
                    value = tile.load_scalar(shape, job.a + (i + r) * job.a_row + k * job.a_step)
                tile.store_scalar(shape, target, value)
                target += tile.itemsize(shape)


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
