"""A dense layer as the textbook has it, for layers so small that tiles, packing and jobs take longer than the arithmetic.

Rows and columns may lie in memory in any way. y and dinputs are summed in the order of the algorithm that takes more rows of
the same layer, so that a row has the same bits in any batch: term after term as tiles do, or in as many sums as a vector has
lanes, as dot products do.
"""
from ..._compile import link
from ..._compile.compiler import inlined, kernel
from .. import blocking
from ..elementwise.activations import RELU
from ..matrix import NO_MATRIX, transpose_of
from ..simd import tile
from . import select
from .operands import BACKWARD, FORWARD


def _build_forward(dtype):
    shape, machine, dot = blocking.tiles(dtype).full, blocking.machine(dtype), _dot(dtype)

    def forward(operands, threads):
        """Compute y, through a ReLU or nothing."""
        x, weights, biases, y = operands.x, operands.weights, operands.biases, operands.y
        by_lanes = select.is_skinny(machine, x.cols, y.cols)
        for i in range(y.rows):                                             # x (M, K), weights (K, N), y (M, N)
            for j in range(y.cols):
                z = dot(x, NO_MATRIX, weights, i, j) if by_lanes else terms(shape, x, NO_MATRIX, weights, i, j, 0, 1)
                if biases.data != 0:
                    z += get(shape, biases, 0, j)
                put(shape, y, i, j, tile.zero(shape) if operands.activation == RELU and z <= 0 else z)
        return link.OK

    return forward


forward = link.units("naive_forward", FORWARD, _build_forward, lazy=True)


def _build_backward(dtype):
    shape, machine, dot = blocking.tiles(dtype).full, blocking.machine(dtype), _dot(dtype)

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
            weights_t, by_lanes = transpose_of(weights), select.is_dotted(machine, weights)
            for i in range(dinputs.rows):                                   # weights.T (N, K), dinputs (M, K)
                for p in range(dinputs.cols):
                    put(shape, dinputs, i, p, dot(dvalues, saved, weights_t, i, p) if by_lanes else
                        terms(shape, dvalues, saved, weights_t, i, p, 0, 1))
        return link.OK

    return backward


backward = link.units("naive_backward", BACKWARD, _build_backward, lazy=True)


def _dot(dtype):
    """Return the kernel of an element of a product, summed as dot products in vectors are (simd/vector.py, sum_of_lanes).

    (values, saved, factors, i, j) -> the sum of the products of row i of dz and column j of factors.
    """
    shape = blocking.tiles(dtype).full

    def halves(lanes):
        """Return the kernel of the sum of every lanes-th lane, from `lane` on."""
        if lanes == shape.lanes:
            @inlined
            def one_lane(values, saved, factors, i, j, lane):
                return terms(shape, values, saved, factors, i, j, lane, lanes)

            return one_lane
        half = halves(2 * lanes)

        @inlined
        def both(values, saved, factors, i, j, lane):
            return half(values, saved, factors, i, j, lane) + half(values, saved, factors, i, j, lane + lanes)

        return both

    all_lanes = halves(1)

    @kernel
    def dot(values, saved, factors, i, j):
        return all_lanes(values, saved, factors, i, j, 0)

    return dot


@inlined
def terms(shape, values, saved, factors, i, j, first, step):
    """Return the sum of every step-th product, from `first` on, of row i of dz and column j of factors, one after another."""
    total = tile.zero(shape)
    for p in range(first, values.cols, step):
        total += get_dz(shape, values, saved, i, p) * get(shape, factors, p, j)
    return total


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
