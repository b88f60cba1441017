"""A layer for a few rows: low tiles read weights in place, or micropanels if there are any.

The packed algorithm of gemm/ would copy the weights for these few rows, and fill a high tile with rows that nobody needs. The
rows of weights of one chain in NR columns come in once, with the first tile, and stay in L1 for the others.
"""
from ..._compile.compiler import inlined, kernel
from .. import blocking
from ..dense import select
from ..elementwise.activations import RELU
from ..gemm import packing
from ..gemm.loops import microkernel
from ..matrix import whole_rows
from ..simd import products, tile
from ..simd.arithmetic import add_row, relu, total
from . import blocks


def build(dtype):
    """Return the kernel of a layer for a few rows."""
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    full, edge = tiles.full._replace(rows=blocking.SHORT), tiles.column_edge._replace(rows=blocking.TALL_EDGE)

    @inlined
    def columns(shape, row, x, layer, step, y, start, end, tail):
        """Compute the columns `start` … `end` of y in tiles of a shape. row: the shape of one row of such a tile.

        Sums have the terms of loops.py in the same order. tail: memory for rows of weights beyond which nothing may be read.
        """
        height, width, size, depth = tile.height(shape), tile.width(shape), tile.itemsize(shape), layer.inputs
        kc = blocking.even_block(depth, blocking.KC, blocking.UNROLL)
        for j in range(start, end, width):                                      # x (M, K), weights (K, N), y (M, N)
            cols, whole = layer.neurons - j, depth
            b, b_step = step.weights + j * depth * size, width * size           # the micropanel
            if step.weights == 0:
                b, b_step = layer.weights + j * size, layer.weights_row_step
                whole = whole_rows(depth, cols, b_step, size, width)
                for p in range(whole, depth):
                    tile.store(tile.load(row, b + p * b_step, 0, 1, cols), tail + (p - whole) * width * size, 0, 1, width)
            biases = step.biases + j * size if step.biases != 0 else 0
            if biases != 0 and cols < width:
                at = tail + blocking.CHAIN * width * size
                tile.store(tile.load(row, biases, 0, 1, cols), at, 0, 1, width)
                biases = at
            for p in range(0, max(1, depth), kc):
                p_end = min(p + kc, depth)
                chain = p_end - p
                if chain > blocking.CHAIN:
                    chain = blocking.even_block(chain, blocking.CHAIN, blocking.UNROLL)
                for q in range(p, max(p + 1, p_end), max(1, chain)):            # weights (chain, NR), which stay in L1
                    q_end = min(q + chain, p_end)
                    middle = max(q, min(q_end, whole))
                    for i in range(0, x.rows, height):
                        a, c = x.data + i * x.row_step, y.data + i * y.row_step + j * size
                        offsets = products.row_offsets(shape, x.row_step, x.rows - i)
                        acc, now = tile.zeros(shape), b + q * b_step
                        if i == 0 and height > 1:
                            acc = fetching(row, acc, middle - q, a + q * x.col_step, offsets, x.col_step, now, b_step)
                        else:
                            acc = microkernel(acc, middle - q, a + q * x.col_step, offsets, x.col_step, now, b_step)
                        if middle < q_end:
                            acc = microkernel(acc, q_end - middle, a + middle * x.col_step, offsets, x.col_step,
                                              tail + (middle - whole) * width * size, width * size)
                        if q > 0:
                            acc = acc + tile.load(shape, c, y.row_step, x.rows - i, cols)
                        if q_end == depth:
                            if biases != 0:
                                acc = add_row(acc, biases)
                            if layer.activation == RELU:
                                acc = relu(acc)
                        tile.store(acc, c, y.row_step, x.rows - i, cols)

    @inlined
    def fetching(row, acc, depth, a, row_offsets, a_step, b, b_step):
        """Return what microkernel does, and ask for the rows of weights that come next. row: the shape of one of them.

        The CPU itself asks for too few of these rows, which may lie far apart. One row of x is so little work that it waits
        for memory in any case.
        """
        for _ in range(depth):
            tile.prefetch(row, b + blocks.WEIGHTS_AHEAD * b_step, 0)
            acc = products.rank1(acc, a, row_offsets, b)
            a += a_step
            b += b_step
        return acc

    @kernel
    def dot_products(x, layer, step, y):
        """Compute y of a skinny layer whose columns of weights were copied: sums have the terms of dot.py in the same order."""
        vector, size, lanes, depth = tiles.vector, machine.itemsize, machine.lanes, layer.inputs
        row_bytes, offsets = packing.row_bytes(machine, depth), products.multiples(vector, 0)
        for i in range(x.rows):                                                 # x (M, K), y (M, N)
            for j in range(layer.neurons):                                      # columns (N, K)
                acc, a, column = tile.zeros(vector), x.data + i * x.row_step, step.weights + j * row_bytes
                for p in range(0, depth, lanes):
                    acc = products.dot(acc, a + p * size, offsets, column + p * size, offsets, depth - p)
                z = total(acc)
                if step.biases != 0:
                    z += tile.load_scalar(vector, step.biases + j * size)
                z = tile.zero(vector) if layer.activation == RELU and z <= 0 else z
                tile.store_scalar(vector, y.data + i * y.row_step + j * size, z)

    @kernel
    def few_rows(x, layer, step, y, tail):
        """Compute y = x @ weights + biases of a layer, through a ReLU if that is its activation."""
        if select.is_skinny(machine, layer.inputs, layer.neurons):
            dot_products(x, layer, step, y)
            return
        at = min(blocking.column_edge(machine, 0, layer.neurons), layer.neurons)
        if x.rows == 1:
            columns(tiles.row, tiles.row, x, layer, step, y, 0, at, tail)
            columns(tiles.edge_row, tiles.edge_row, x, layer, step, y, at, layer.neurons, tail)
        else:
            columns(full, tiles.row, x, layer, step, y, 0, at, tail)
            columns(edge, tiles.edge_row, x, layer, step, y, at, layer.neurons, tail)

    return few_rows


@kernel
def tail_bytes(machine):
    """Return the bytes of the memory that few_rows copies the last rows of weights to, and the last biases behind them."""
    return (blocking.CHAIN + 1) * machine.width * machine.itemsize
