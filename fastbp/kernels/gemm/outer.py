"""C (+)= A.T B, with A and B in place: the product for dweights of a narrow layer, whose blocks of rows are in L1 or L2.

Tiles read B in vectors, and A number by number: rows of A are columns of C, as in a sum of outer products.
"""
from functools import cache
from typing import NamedTuple

from ..._compile.compiler import formula, kernel
from .. import blocking
from ..schedule.records import replace
from ..simd import products, tile
from .loops import microkernel


class Tiles(NamedTuple):
    """The shapes of tiles for a product of few rows."""

    full: tile.Shape            # as in blocking.Tiles
    short: tile.Shape           # as wide, with the rows of a row-edge tile
    pair: tile.Shape            # as wide, with PAIR rows
    tall: tile.Shape            # as wide as a column-edge tile, with TALL_EDGE rows
    low: tile.Shape             # as wide as that, with SHORT rows


@cache
def tiles(dtype):
    """Return the Tiles of a Numba float type."""
    full, edge = blocking.tiles(dtype).full, blocking.tiles(dtype).column_edge
    return Tiles(full=full, short=full._replace(rows=blocking.SHORT), pair=full._replace(rows=blocking.PAIR),
                 tall=edge._replace(rows=blocking.TALL_EDGE), low=edge._replace(rows=blocking.SHORT))


class OuterProduct(NamedTuple):
    """C (rows, cols) (+)= A.T B, with A (depth, rows) and B (depth, cols) in place. C has room for whole tiles."""

    rows: int                   # rows of C
    cols: int                   # columns of C
    depth: int                  # rows of A and B
    a: int                      # the address of A, whose rows are contiguous; TALL_EDGE columns more may be read
    a_row_step: int             # bytes from one row of A to the next
    b: int                      # the address of B, of which whole vectors may be read
    b_row_step: int             # bytes from one row of B to the next
    c: int                      # the address of C
    c_row_step: int             # bytes from one row of C to the next
    accumulate: int             # 1: add to what is in C


@kernel
def multiply(machine, shapes, product):
    """Compute an OuterProduct by tiles of as many rows as are left: 13 rows are 6 + 4 + 4."""
    edge = blocking.column_edge(machine, 0, product.cols)
    for j in range(0, edge, machine.width):
        i = 0
        while i < product.rows:
            left = product.rows - i
            if left <= 2:
                i = multiply_tile(shapes.pair, product, i, j)
            elif left > 2 * blocking.SHORT or blocking.SHORT < left <= blocking.TALL:
                i = multiply_tile(shapes.full, product, i, j)
            else:
                i = multiply_tile(shapes.short, product, i, j)
    for j in range(edge, product.cols, machine.edge_width):
        i = 0
        while i < product.rows:
            if product.rows - i <= blocking.SHORT:
                i = multiply_tile(shapes.low, product, i, j)
            else:
                i = multiply_tile(shapes.tall, product, i, j)


@kernel
def multiply_tile(shape, product, i, j):
    """Compute the tile of C at row i and column j, and return the row after it."""
    size, height, width = tile.itemsize(shape), tile.height(shape), tile.width(shape)
    a, b = products.in_registers((product.a + i * size, product.b + j * size))
    offsets = products.multiples(shape, size)
    acc = microkernel(tile.zeros(shape), product.depth, a, offsets, product.a_row_step, b, product.b_row_step)
    c = product.c + i * product.c_row_step + j * size
    if product.accumulate != 0:
        acc = acc + tile.load(acc, c, product.c_row_step, height, width)
    tile.store(acc, c, product.c_row_step, height, width)
    return i + height


@kernel
def multiply_vectors(machine, shapes, row, product, whole, room):
    """Compute an OuterProduct whose B is no scratch memory: whole vectors of its first `whole` rows may be read.

    If that is not all of them, the last columns are copied to memory at `room` before. row: the shape of a row of a full tile.
    """
    if product.depth <= whole:
        multiply(machine, shapes, product)
        return
    size, width, first = tile.itemsize(row), tile.width(row), last_panel(machine, product.cols)
    for p in range(product.depth):
        values = tile.load(row, product.b + p * product.b_row_step + first * size, 0, 1, product.cols - first)
        tile.store(values, room + p * width * size, 0, 1, width)
    multiply(machine, shapes, replace(product, cols=first))
    multiply(machine, shapes, replace(product, cols=product.cols - first, b=room, b_row_step=width * size,
                                      c=product.c + first * size))


@formula
def last_panel(machine, cols):
    """Return the first of the columns in the last tile of a row."""
    edge = blocking.column_edge(machine, 0, cols)
    return edge + (cols - 1 - edge) // machine.edge_width * machine.edge_width if edge < cols else edge - machine.width
