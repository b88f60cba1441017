"""A dense layer as the textbook has it, for layers so small that tiles, packing and jobs take longer than the arithmetic.

Rows and columns may lie in memory in any way.
"""
from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..elementwise.activations import RELU
from ..simd import tile
from .operands import BACKWARD, FORWARD


def _build_forward(dtype):
    shape = blocking.tiles(dtype).full

    def forward(operands, threads):
        """Compute y, through a ReLU or nothing."""
        x, weights, biases, y = operands.x, operands.weights, operands.biases, operands.y
        for i in range(y.rows):                                             # x (M, K), weights (K, N), y (M, N)
            for j in range(y.cols):
                z = tile.zero(shape)
                for p in range(x.cols):
                    z += get(shape, x, i, p) * get(shape, weights, p, j)
                if biases.data != 0:
                    z += get(shape, biases, 0, j)
                put(shape, y, i, j, tile.zero(shape) if operands.activation == RELU and z <= 0 else z)
        return link.OK

    return forward


forward = link.units("naive_forward", FORWARD, _build_forward, lazy=True)


def _build_backward(dtype):
    shape = blocking.tiles(dtype).full

    def backward(operands, threads):
        """Compute dinputs, dweights and dbiases, of a ReLU or nothing."""
        dvalues, saved, x, weights = operands.dvalues, operands.saved, operands.x, operands.weights
        dinputs, dweights, dbiases = operands.dinputs, operands.dweights, operands.dbiases
        for j in range(dvalues.cols):                                       # dz (M, N), dbiases (1, N)
            total = tile.zero(shape)
            for i in range(dvalues.rows):
                total += get_dz(shape, dvalues, saved, i, j)
            put(shape, dbiases, 0, j, total)
            for p in range(x.cols):                                         # x (M, K), dweights (K, N)
                total = tile.zero(shape)
                for i in range(dvalues.rows):
                    total += get(shape, x, i, p) * get_dz(shape, dvalues, saved, i, j)
                put(shape, dweights, p, j, total)
        if dinputs.data != 0:
            for i in range(dinputs.rows):                                   # weights (K, N), dinputs (M, K)
                for p in range(dinputs.cols):
                    total = tile.zero(shape)
                    for j in range(dvalues.cols):
                        total += get_dz(shape, dvalues, saved, i, j) * get(shape, weights, p, j)
                    put(shape, dinputs, i, p, total)
        return link.OK

    return backward


backward = link.units("naive_backward", BACKWARD, _build_backward, lazy=True)


@kernel
def get(shape, matrix, i, j):
    """Return an element of a Matrix."""
    return tile.load_scalar(shape, matrix.data + i * matrix.row_step + j * matrix.col_step)


@kernel
def put(shape, matrix, i, j, value):
    """Write an element of a Matrix."""
    tile.store_scalar(shape, matrix.data + i * matrix.row_step + j * matrix.col_step, value)


@kernel
def get_dz(shape, dvalues, saved, i, j):
    """Return an element of dz: that of dvalues, or 0 where the ReLU stopped it."""
    value = get(shape, dvalues, i, j)
    return tile.zero(shape) if saved.data != 0 and get(shape, saved, i, j) <= 0 else value
