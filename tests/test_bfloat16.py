"""precision="bfloat16": factors that are rounded where that takes less time, summed in float32, within the promised bound."""
import warnings

import numba
import numpy as np
import pytest

import fastbp
import oracle
from fastbp._arrays import operands as _operands
from fastbp._runtime import cpu
from fastbp.kernels import blocking
from fastbp.kernels.dense import select
from fastbp.kernels.simd import tile

NAN, INF = np.float32(np.nan), np.float32(np.inf)
WIDE = blocking.tiles(tile.BFLOAT16).full
COLUMNS = WIDE.vecs * WIDE.lanes
SHAPES = [(1, 1, 1), (1, 2, 3), (2, 1, 5), (3, 7, COLUMNS + 1), (WIDE.rows + 1, COLUMNS, 2 * COLUMNS - 1), (64, 33, 17),
          (101, 333, 77), (5, 2 * blocking.KC + 3, 20), (blocking.TASK_ROWS + 1, 20, 30), (2001, 9, 65),
          (0, 3, 4), (3, 0, 4), (3, 4, 0)]
# Sizes whose factors are rounded: not a multiple of anything, more K than a KC block, and more rows than a block of dz.
ROUNDED = [(256, 256, 256), (203, 211, 255), (257, 161, 399), (175, 2 * blocking.KC + 131, 250),
           (190, 250, 2 * blocking.KC + 65), (4 * blocking.KC + 77, 130, 197)]

pytestmark = pytest.mark.filterwarnings("ignore:precision 'bfloat16' is not faster here:RuntimeWarning")


def rounded(x):
    """The nearest bfloat16 numbers, the even one of two, as float64. By arithmetic on numbers, where the kernels use bits."""
    x = np.asarray(x, np.float64)
    mantissa, exponent = np.frexp(x)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(x), np.ldexp(np.rint(mantissa * 256), exponent - 8), x)


def is_rounded(shape):
    return cpu.multiplies_bfloat16() and select.is_rounded(blocking.rounded_limit(), *shape)


def factor_of(shape):
    """The conversion of the factors of a layer's products."""
    return rounded if is_rounded(shape) else lambda x: np.asarray(x, np.float64)


def small(rng, *shape):
    """Numbers of 10 bits: half of them need rounding, and products and sums are exact in float32, whether rounded or not."""
    return (rng.integers(-300, 301, shape) / 4).astype(np.float32)


def operands(rng, shape):
    batch, n_inputs, n_neurons = shape
    return small(rng, batch, n_inputs), small(rng, n_inputs, n_neurons), small(rng, 1, n_neurons), small(rng, batch, n_neurons)


def expected_backward(dvalues, y, x, w):
    dz, factor = np.where(y <= 0, 0, dvalues).astype(np.float64), factor_of((len(x), *w.shape))
    return factor(dz) @ factor(w).T, factor(x).T @ factor(dz), dz.sum(axis=0, keepdims=True)


def test_which_factors_are_rounded():
    assert not any(map(is_rounded, SHAPES[:6] + SHAPES[7:]))
    if cpu.multiplies_bfloat16():
        assert all(map(is_rounded, [*ROUNDED, (10**9, 10**9, 10**9)]))
        assert not any(map(is_rounded, [(10**9, 10**9, 1), (10**9, 1, 10**9), (1, 10**9, 10**9)]))


@pytest.mark.parametrize("shape", [(1, 1024, 1024), (300, 2, 64), (32, 64, 64), (4000, 16, 16), (5000, 300, 1)], ids=str)
def test_float32_where_rounding_takes_longer(rng, shape):
    """The same bits as without the precision, also of strided operands."""
    x, w, b, dvalues = (rng.standard_normal(s).astype(np.float32) for s in (shape[:2], shape[1:], (1, shape[2]), shape[::2]))
    for inputs in (x, np.repeat(x, 2, axis=1)[:, ::2]):
        results = [[fastbp.dense_relu_forward(inputs, w, b, precision=precision)] for precision in (None, "bfloat16")]
        for found, precision in zip(results, (None, "bfloat16"), strict=True):
            found += fastbp.dense_relu_backward(dvalues, found[0], inputs, w, precision=precision)
        for values, expected in zip(*results, strict=True):
            assert values.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", SHAPES + ROUNDED, ids=str)
def test_factors_are_rounded_and_sums_are_not(rng, shape):
    x, w, b, dvalues = operands(rng, shape)
    factor = factor_of(shape)
    z = factor(x) @ factor(w) + b
    np.testing.assert_array_equal(fastbp.dense_forward(x, w, b, precision="bfloat16"), z)
    y = fastbp.dense_relu_forward(x, w, b, precision="bfloat16")
    np.testing.assert_array_equal(y, np.maximum(z, 0))
    gradients = fastbp.dense_relu_backward(dvalues, y, x, w, precision="bfloat16")
    for gradient, values in zip(gradients, expected_backward(dvalues, y, x, w), strict=True):
        assert gradient.dtype == np.float32
        np.testing.assert_array_equal(gradient, values)


@pytest.mark.parametrize("shape", [(3, 784, 130), (300, 170, 190), (5000, 20, 30), (250, 2000, 200)], ids=str)
def test_the_promised_bound(rng, shape):
    batch, n_inputs, n_neurons = shape
    x, w, dvalues = (rng.standard_normal(shape).astype(np.float32) for shape in
                     ((batch, n_inputs), (n_inputs, n_neurons), (batch, n_neurons)))
    results = (fastbp.dense_forward(x, w, precision="bfloat16"), *fastbp.dense_backward(dvalues, x, w, precision="bfloat16"))
    for result, (a, b) in zip(results, [(x, w), (dvalues, w.T), (x.T, dvalues)], strict=False):
        a, b = a.astype(np.float64), b.astype(np.float64)
        bound = (2.0 ** -7 + (a.shape[1] + 2) * 2.0 ** -23) * (np.abs(a) @ np.abs(b))
        assert np.all(np.abs(result - a @ b) <= bound)
        is_float32 = np.all(np.abs(result - a @ b) <= 2.0 ** -12 * (np.abs(a) @ np.abs(b)).max() / 100)
        assert is_float32 != is_rounded(shape)
    oracle.assert_rounded(results[3], np.ones((1, batch)), dvalues)


@pytest.mark.parametrize("value, nearest", [
    (1 + 2 ** -8, 1), (1 + 3 * 2 ** -8, 1 + 2 ** -6), (1 + 2 ** -8 + 2 ** -20, 1 + 2 ** -7), (-1 - 2 ** -8, -1),
    (3.4e38, INF), (-3.4e38, -INF), (INF, INF), (-INF, -INF), (NAN, NAN), (-0.0, 0.0)])
def test_rounding_of_one_number(value, nearest):
    factors = [np.zeros((256, 256), np.float32) for _ in range(2)]
    for k in range(2):
        factors[k][:], factors[1 - k][:] = 0, 0
        factors[k][0, 0], factors[1 - k][0, 0] = value, 1
        found = fastbp.dense_forward(*factors, precision="bfloat16")
        np.testing.assert_array_equal(found[:1, :1], np.float32([[nearest if is_rounded((256, 256, 256)) else value]]))


def test_every_nan_stays_one():
    """Also those whose payload is only in the half that is cut off, and those that rounding up would turn into -0."""
    bits = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F80FFFF], np.uint32)
    x = np.zeros((256, 256), np.float32)
    x[:5, 0] = bits.view(np.float32)
    y = fastbp.dense_forward(x, np.ones((256, 256), np.float32), precision="bfloat16")
    assert np.isnan(y[:5]).all() and not y[5:].any()


@pytest.mark.parametrize("shape", [(9, 21, 35), (203, 211, 255)], ids=str)
@pytest.mark.parametrize("order", ["F", "strided", "reversed", "list"])
def test_any_layout(rng, order, shape):
    x, w, b, dvalues = operands(rng, shape)
    change = {"F": np.asfortranarray, "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2], "list": np.ndarray.tolist,
              "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1]}[order]
    dtype = {"dtype": np.float32}
    arrays = [change(a) if order != "list" else np.array(change(a), **dtype) for a in (x, w, b, dvalues)]
    y = fastbp.dense_relu_forward(*arrays[:3], precision="bfloat16")
    factor = factor_of(shape)
    np.testing.assert_array_equal(y, np.maximum(factor(x) @ factor(w) + b, 0))
    out = tuple(np.full(shape, np.nan, np.float32, order="F") for shape in (x.shape, w.shape, b.shape))
    fastbp.dense_relu_backward(arrays[3], y, *arrays[:2], out=out, precision="bfloat16")
    for gradient, values in zip(out, expected_backward(dvalues, y, x, w), strict=True):
        np.testing.assert_array_equal(gradient, values)


def test_the_same_bits_on_any_number_of_threads(rng):
    x, w, b, dvalues = (rng.standard_normal(s).astype(np.float32) for s in ((3001, 265), (265, 330), (1, 330), (3001, 330)))
    layer = fastbp.DenseReLU(265, 330, precision="bfloat16")
    layer.weights, layer.biases = w, b
    results = []
    for threads in (1, 2, 7):
        fastbp.set_num_threads(threads)
        y = layer.forward(x)
        layer.backward(dvalues)
        results.append([a.tobytes() for a in (y, layer.dinputs, layer.dweights, layer.dbiases)])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("shape", [(9, 21, 35), (203, 211, 255), (9, 300, 500), (4000, 16, 16)], ids=str)
def test_layers_and_compiled_code_do_the_same(rng, shape):
    """Compiled code finds all units that a shape needs, also those of float32."""
    x, w, b, dvalues = operands(rng, shape)
    layer = fastbp.DenseReLU(*shape[1:], precision="bfloat16")
    layer.weights, layer.biases = w, b

    @numba.njit
    def step(x, w, b, dvalues):
        y = fastbp.dense_relu_forward(x, w, b, precision="bfloat16")
        return y, fastbp.dense_relu_backward(dvalues, y, x, w, precision="bfloat16")

    y, gradients = step(x, w, b, dvalues)
    np.testing.assert_array_equal(layer.forward(x), y)
    layer.backward(dvalues)
    for a, e in zip((layer.dinputs, layer.dweights, layer.dbiases), gradients, strict=True):
        np.testing.assert_array_equal(a, e)
    strided = np.repeat(w, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(step(x, strided, b, dvalues)[0], y)


@pytest.mark.parametrize("precision", ["bfloat17", "float64", "", 16])
def test_another_precision_is_refused(precision):
    x = np.ones((2, 2), np.float32)
    message = f"precision is {precision!r}, expected 'float32', 'bfloat16' or None"
    with pytest.raises(ValueError, match=message):
        fastbp.dense_forward(x, x, precision=precision)
    with pytest.raises(ValueError, match=message):
        fastbp.DenseReLU(2, 2, precision=precision)
    with pytest.raises(ValueError, match="precision is 'bfloat16', expected 'float64' or None"):
        fastbp.dense_forward(x.astype(float), x, precision="bfloat16")


def test_one_warning_where_it_is_not_faster():
    _operands._warn_if_not_faster.cache_clear()
    x = np.ones((2, 2), np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            fastbp.dense_forward(x, x, precision="bfloat16")
            fastbp.DenseReLU(2, 2, precision="bfloat16")
    assert len(caught) == (0 if cpu.has_bfloat16_dot() or cpu.has_amx() else 1)
    for warning in caught:
        assert warning.filename == __file__
