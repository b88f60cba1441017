"""Small products of operands that are in L1 or L2 already: nothing is packed, and there are no tasks.

They are loops 2 and 1 of loops.py on a B in place. `multiply` computes C (M, N) (+)= A B with rows of B along vectors of C, for
an A of any strides. `multiply_rows` computes C (+)= A B.T of few columns by dot products of rows.
"""
from functools import cache
from typing import NamedTuple

from ..._compile.compiler import inlined, kernel
from .. import blocking
from ..simd import products, tile
from ..simd.arithmetic import relu
from .loops import microkernel


class Product(NamedTuple):
    """A product C (M, N) (+)= A (M, K) B. Steps are in bytes; C's columns, and B's, follow one another."""

    a: int                      # the address of A (M, K)
    a_row_step: int             # from one row of A to the next
    a_col_step: int             # from one column of A to the next; for `multiply_rows` an element
    b: int                      # the address of B (K, N), whose rows can be read up to whole vectors; or of B (N, K), likewise
    b_row_step: int             # from one row of B to the next
    c: int                      # the address of C (M, N)
    c_row_step: int             # from one row of C to the next
    rows: int                   # M
    cols: int                   # N
    depth: int                  # K
    accumulate: int             # 1: add to C; 0: overwrite it


class Epilogue(NamedTuple):
    """The end of a layer's product, transposed: a row of C is a neuron."""

    biases: int                 # the address of the biases (M,); 0: there are none
    ones: int                   # the address of ones, as many as a full tile has columns
    relu: bool                  # whether to apply the ReLU


# The Epilogue of a product with nothing to add.
NO_EPILOGUE = Epilogue(biases=0, ones=0, relu=False)


@kernel
def row_edge_rows(height, rows):
    """Return how many of so many rows row-edge tiles take: also all of a few rows, which `blocking` gives to a full tile."""
    return rows if height == blocking.TALL and rows <= blocking.SHORT else blocking.row_edge_rows(height, rows)


@inlined
def compute_tile(shape, job, end, i, j):
    """Compute the tile of C that begins at row i and column j."""
    size, rows, cols = tile.itemsize(shape), job.rows - i, job.cols - j
    offsets = products.in_registers(products.row_offsets(shape, job.a_row_step, rows))
    a, c = job.a + i * job.a_row_step, job.c + i * job.c_row_step + j * size
    acc = microkernel(tile.zeros(shape), job.depth, a, offsets, job.a_col_step, job.b + j * size, job.b_row_step)
    if end.biases != 0:                                 # C (M, N) += biases (M, 1) ones (1, N)
        acc = products.rank1(acc, end.biases + i * size, products.row_offsets(shape, size, rows), end.ones)
    if end.relu:
        acc = relu(acc)
    if job.accumulate != 0:
        acc = acc + tile.load(shape, c, job.c_row_step, rows, cols)
    tile.store(acc, c, job.c_row_step, rows, cols)


@cache
def functions(dtype):
    """Return (multiply, multiply_rows) for kernels of a Numba float type: (Product, Epilogue) and (Product)."""
    tiles = blocking.tiles(dtype)
    full, half, edge = tiles.full, tiles.full._replace(vecs=tiles.full.vecs // 2), tiles.column_edge
    full_short, half_short, edge_short = (blocking.row_edge(shape) for shape in (full, half, edge))
    sums, few_sums = (dots._replace(vecs=1, lanes=dots.vecs) for dots in (tiles.dots, tiles.few_dots))
    dots, few_dots, few = tiles.dots, tiles.few_dots, tiles.few_dots.vecs

    @inlined
    def strip(shape, short, job, end, j):
        """Compute the tiles of the columns from j on."""
        height = tile.height(shape)
        i_edge = job.rows - row_edge_rows(height, job.rows)
        for i in range(0, i_edge, height):                                      # LOOP 1: A (MR, K), C (MR, NR)
            compute_tile(shape, job, end, i, j)
        for i in range(i_edge, job.rows, tile.height(short)):
            compute_tile(short, job, end, i, j)

    @kernel
    def multiply(job, end):
        """Compute a Product, with an Epilogue."""
        cols, width, half_width, edge_width = job.cols, tile.width(full), tile.width(half), tile.width(edge)
        j, whole_vectors = 0, blocking.round_up(cols, edge_width)
        while j + width <= whole_vectors:                                       # LOOP 2: B (K, NR), C (M, NR)
            strip(full, full_short, job, end, j)
            j += width
        while j + half_width <= whole_vectors:
            strip(half, half_short, job, end, j)
            j += half_width
        while j < cols:
            strip(edge, edge_short, job, end, j)
            j += edge_width

    @inlined
    def dot_products(shape, results, job):
        """Compute a Product in tiles of partial sums, each of which becomes a tile of `results`."""
        size, lanes, height = tile.itemsize(shape), tile.lanes(shape), tile.height(shape)
        columns = tile.width(shape) // lanes
        whole = job.depth // lanes * lanes
        for i in range(0, job.rows, height):                                    # A (MR, K)
            rows, a = job.rows - i, job.a + i * job.a_row_step
            a_offsets = products.row_offsets(shape, job.a_row_step, rows)
            for j in range(0, job.cols, columns):                               # B (columns, K), C (MR, columns)
                cols, b = job.cols - j, job.b + j * job.b_row_step
                b_offsets = products.column_offsets(shape, job.b_row_step, cols)
                acc = tile.zeros(shape)
                for p in range(0, whole, lanes):
                    acc = products.dot(acc, a + p * size, a_offsets, b + p * size, b_offsets, lanes)
                if whole < job.depth:
                    acc = products.dot(acc, a + whole * size, a_offsets, b + whole * size, b_offsets, job.depth - whole)
                result, c = products.sums(acc), job.c + i * job.c_row_step + j * size
                if job.accumulate != 0:
                    result = result + tile.load(results, c, job.c_row_step, rows, cols)
                tile.store(result, c, job.c_row_step, rows, cols)

    @kernel
    def multiply_rows(job):
        """Compute a Product whose B (N, K) is read by rows. The last vector of a row is read in part."""
        if job.cols <= few:
            dot_products(few_dots, few_sums, job)
        else:
            dot_products(dots, sums, job)

    return multiply, multiply_rows
