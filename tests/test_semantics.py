"""NaN, infinity and zero: what the ReLU and its mask do with them, and how far they spread."""
import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastbp
from fastbp.kernels import blocking

NAN, INF = np.nan, np.inf
SPECIAL = [NAN, -NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0]

Z = [*SPECIAL, 5e-324, -5e-324, 1e-45, -1e-45, 1e-8, -1e-8]
RELU = [NAN, NAN, INF, 0, 0, 0, 1, 0, 5e-324, 0, 1e-45, 0, 1e-8, 0]
PASSES = [True, True, True, False, False, False, True, False, True, False, True, False, True, False]


def columns(dtype):
    """Numbers of columns that leave every remainder of a vector, and fill the widest tile."""
    tile = blocking.tiles(numba.from_dtype(dtype)).full
    return [*range(1, tile.lanes + 2), tile.vecs * tile.lanes, tile.vecs * tile.lanes + 1]


def spread(values, n, dtype):
    """Rows of n values each, so that every value is at every place of a vector."""
    return np.array([[values[(i + j) % len(values)] for j in range(n)] for i in range(len(values))]).astype(dtype)


def test_relu_of_every_kind_of_number(dtype):
    z, relu = (np.array(values).astype(dtype) for values in (Z, RELU))
    for n in columns(dtype):
        layers = spread(z, n, dtype)
        assert_array_equal(fastbp.relu_forward(layers), spread(relu, n, dtype))
        assert_array_equal(fastbp.dense_relu_forward(np.ones((len(z), 0), dtype), np.ones((0, n), dtype), layers[0]),
                           np.tile(spread(relu, n, dtype)[0], (len(z), 1)))


@pytest.mark.parametrize("value, relu", list(zip(SPECIAL, RELU[:len(SPECIAL)], strict=True)))
def test_dense_relu_of_every_kind_of_number(dtype, value, relu):
    """The value as an input, as a weight, and as a bias; alone it is the weighted sum."""
    one, x = np.ones((1, 1), dtype), np.full((1, 1), value, dtype)
    for arguments in ((x, one), (one, x), (one * 0, one, x)):
        assert_array_equal(fastbp.dense_relu_forward(*arguments), [[relu]])


@pytest.mark.parametrize("dvalue", [7.0, -7.0, NAN, INF, -INF])
def test_the_mask_assigns_zero(dtype, dvalue):
    """What is stopped becomes 0, whatever it was: a product with 0 would keep NaN and turn inf into NaN."""
    z, expected = np.array(Z).astype(dtype), np.where(PASSES, dvalue, 0.0)
    if dtype == np.float32:                                 # below the least float32
        expected[Z.index(5e-324)] = 0.0
    for n in columns(dtype):
        gates = spread(z, n, dtype)
        dvalues = np.full(gates.shape, dvalue, dtype)
        assert_array_equal(fastbp.relu_backward(dvalues, gates), spread(expected, n, dtype))
        for i, gate in enumerate(gates):
            _, dweights, dbiases = fastbp.dense_relu_backward(
                dvalues[:1], gate[None], np.ones((1, 1), dtype), np.ones((1, n), dtype))
            assert_array_equal(dweights, spread(expected, n, dtype)[i:i + 1])
            assert_array_equal(dbiases, spread(expected, n, dtype)[i:i + 1])


@pytest.mark.parametrize("rows", [3, 100, 4200])
def test_a_stopped_gradient_reaches_no_result(rng, dtype, rows):
    """A NaN or an inf where the ReLU is shut leaves all three gradients as a 0 does."""
    output = rng.integers(0, 2, (rows, 70)).astype(dtype)
    x, weights = rng.standard_normal((rows, 5)).astype(dtype), rng.standard_normal((5, 70)).astype(dtype)
    dvalues = rng.standard_normal((rows, 70)).astype(dtype)
    clean = np.where(output > 0, dvalues, 0).astype(dtype)
    poison = np.where(output > 0, dvalues, rng.choice([NAN, INF, -INF], (rows, 70))).astype(dtype)
    for result, expected in zip(fastbp.dense_relu_backward(poison, output, x, weights),
                                fastbp.dense_relu_backward(clean, output, x, weights), strict=True):
        assert np.isfinite(result).all()
        assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_relu_and_mask_of_special_numbers_at_any_length(rng, dtype):
    for n in (*range(70), 1000, 100_000):
        z = rng.choice(SPECIAL, n).astype(dtype)
        dvalues = rng.choice(SPECIAL, n).astype(dtype)
        shut = z <= 0
        assert_array_equal(fastbp.relu_forward(z), np.where(shut, 0, z))
        assert_array_equal(fastbp.relu_backward(dvalues, z), np.where(shut, 0, dvalues))


SHAPES = [(1, 3, 5), (2, 20, 70), (13, 5, 67), (60, 70, 131), (400, 390, 3)]


@pytest.mark.parametrize("function", [fastbp.dense_forward, fastbp.dense_relu_forward])
@pytest.mark.parametrize("poison", [NAN, INF])
@pytest.mark.parametrize("batch, n_inputs, n_neurons", SHAPES)
def test_a_row_of_inputs_reaches_its_own_outputs_only(rng, dtype, function, poison, batch, n_inputs, n_neurons):
    x, w, b = (rng.standard_normal(shape).astype(dtype)
               for shape in ((batch, n_inputs), (n_inputs, n_neurons), (1, n_neurons)))
    clean = function(x, w, b)
    for row in {0, batch // 2, batch - 1}:
        bad = x.copy()
        bad[row, n_inputs // 2] = poison
        y = function(bad, w, b)
        assert not np.isfinite(y[row]).all()
        assert np.delete(y, row, axis=0).tobytes() == np.delete(clean, row, axis=0).tobytes()


@pytest.mark.parametrize("batch, n_inputs, n_neurons", [*SHAPES, (4200, 6, 66)])
def test_a_nan_in_the_gradient_reaches_its_own_row_and_column_only(rng, dtype, batch, n_inputs, n_neurons):
    x, w, dvalues = (rng.standard_normal(shape).astype(dtype)
                     for shape in ((batch, n_inputs), (n_inputs, n_neurons), (batch, n_neurons)))
    clean = fastbp.dense_backward(dvalues, x, w)
    for row, column in ((0, 0), (batch // 2, n_neurons // 2), (batch - 1, n_neurons - 1)):
        bad = dvalues.copy()
        bad[row, column] = NAN
        results = fastbp.dense_backward(bad, x, w)
        for result, values, index, axis in zip(results, clean, (row, column, column), (0, 1, 1), strict=True):
            assert np.isnan(np.take(result, index, axis)).all()
            assert_array_equal(np.delete(result, index, axis), np.delete(values, index, axis))


def test_a_nan_passes_through_a_step(dtype):
    """As in PyTorch and the book: a NaN output lets its gradient through instead of hiding what went wrong."""
    x, w = np.array([[NAN], [1.0]], dtype), np.ones((1, 1), dtype)
    y = fastbp.dense_relu_forward(x, w)
    assert_array_equal(y, [[NAN], [1.0]])
    dinputs, dweights, dbiases = fastbp.dense_relu_backward(np.full((2, 1), 3, dtype), y, x, w)
    assert_array_equal(dinputs, [[3.0], [3.0]])
    assert_array_equal(dweights, [[NAN]])
    assert_array_equal(dbiases, [[6.0]])


def test_a_depth_of_nothing_gives_the_biases(dtype):
    x, w, b = np.ones((3, 0), dtype), np.ones((0, 2), dtype), np.array([1.0, -2.0], dtype)
    assert_array_equal(fastbp.dense_forward(x, w, b), [[1, -2]] * 3)
    assert_array_equal(fastbp.dense_relu_forward(x, w, b), [[1, 0]] * 3)
    assert_array_equal(fastbp.dense_forward(x, w), np.zeros((3, 2)))


def test_an_empty_batch_gives_gradients_of_zero(dtype):
    x, w, dvalues = np.ones((0, 4), dtype), np.ones((4, 3), dtype), np.ones((0, 3), dtype)
    for dinputs, dweights, dbiases in (fastbp.dense_backward(dvalues, x, w),
                                       fastbp.dense_relu_backward(dvalues, dvalues, x, w)):
        assert dinputs.shape == (0, 4)
        assert_array_equal(dweights, np.zeros((4, 3)))
        assert_array_equal(dbiases, np.zeros((1, 3)))


def test_large_sums_overflow_to_infinity(dtype):
    """Not to NaN, and not by way of a wider type."""
    big = np.full((1, 2), np.finfo(dtype).max, dtype)
    assert_array_equal(fastbp.dense_forward(big, np.ones((2, 1), dtype)), [[INF]])
    assert_array_equal(fastbp.dense_relu_forward(big, -np.ones((2, 1), dtype)), [[0]])
