"""The activations beside the ReLU: exp and all that follows from it, to the last places, and layers of them on every path.

Weights and inputs of the layers have few bits, so that the sums before an activation are exact, whatever path adds them up.
"""
import copy
import hashlib
import pickle
import re
import tracemalloc

import numba
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
import oracle
from fastbp._arrays.memory import address
from fastbp._compile import compiler
from fastbp.kernels import blocking
from fastbp.kernels.elementwise.activations import NAMES, exponentials, functions
from fastbp.kernels.simd import tile
from test_gradients import central_differences

CURVED = ("sigmoid", "tanh", "gelu")

# what a shape is there for: (batch, n_inputs, n_neurons)
SHAPES = {
    "one number": (1, 1, 1),
    "naive": (3, 4, 3),
    "one sample": (1, 300, 270),
    "unpacked": (7, 100, 77),
    "dot products": (30, 400, 300),
    "skinny": (300, 200, 2),
    "skinny, fused": (4500, 70, 3),
    "transposed": (70, 5, 9),
    "transposed, several partitions": (4500, 5, 9),
    "fused": (4500, 33, 25),
    "rows of one task": (300, 200, 100),
    "several tasks and depth blocks": (500, 600, 70),
}
EMPTY = {"no rows": (0, 5, 9), "no inputs": (5, 0, 9), "no neurons": (5, 9, 0)}


def activation_of(name, z, dtype=np.longdouble):
    """(y, dy/dz) from the textbook's formulas."""
    z = np.asarray(z).astype(dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if name == "identity":
            return z, np.ones_like(z)
        if name == "relu":
            return np.where(z <= 0, 0, z), np.where(z <= 0, 0, np.ones_like(z))
        if name == "leaky_relu":
            return np.where(z > 0, z, z / 100), np.where(z > 0, 1, np.ones_like(z) / 100)
        if name == "sigmoid":
            return 1 / (1 + np.exp(-z)), 1 / (2 + np.exp(-z) + np.exp(z))
        if name == "tanh":
            return np.tanh(z), 1 / np.cosh(z) ** 2
        scale = np.sqrt(2 / dtype("3.14159265358979323846264338327950288"))
        u = scale * (z + dtype("0.044715") * z**3)
        share = 1 / (1 + np.exp(-2 * u))
        return z * share, share + z * 2 * scale * (1 + dtype("0.134145") * z**2) / (2 + np.exp(-2 * u) + np.exp(2 * u))


def rounded(exact, dtype):
    with np.errstate(over="ignore", under="ignore"):
        return exact.astype(dtype)


def assert_within(result, exact, units):
    """Off by at most so many units in the last place, and of those of the exact values if longdouble is no better."""
    near = rounded(exact, result.dtype)
    assert_array_equal(np.isnan(result), np.isnan(near))
    whole = np.isfinite(near)
    assert_array_equal(result[~whole], near[~whole])
    unit = np.spacing(abs(near[whole])).astype(np.longdouble)
    error = abs(result[whole].astype(np.longdouble) - exact[whole]) / unit
    units += float(np.finfo(np.longdouble).eps / np.finfo(result.dtype).eps)
    assert error.max(initial=0) <= units, f"{error.max():.3g} units at {exact[whole][error.argmax()]}"


def numbers(dtype, largest):
    """Numbers of all sizes up to `largest`: of either sign, dense, and down to the subnormal ones."""
    information = np.finfo(dtype)
    random = np.random.default_rng(0)
    sizes = np.exp(random.uniform(np.log(float(information.smallest_subnormal)), np.log(largest), 20_000))
    some = np.concatenate([np.linspace(0, largest, 50_001), random.uniform(0, 3, 50_000), sizes,
                           np.arange(1, 2 * largest) * (np.log(2) / 2),         # where exp changes its power of 2
                           [information.smallest_subnormal, information.tiny, information.eps]]).astype(dtype)
    return np.concatenate([some, -some])


def compiled(dtype):
    """(name -> function of an array): the kernels' functions of tiles, in one compiled loop."""
    kind = getattr(numba.types, dtype.name)
    row, (exp, expm1), (sigmoid, tanh) = blocking.tiles(kind).row, exponentials(kind), functions(kind)

    @numba.njit(**compiler.FLAGS)
    def apply(source, target, count, which):
        for j in range(0, count, tile.width(row)):
            x = tile.load(row, source + j * tile.itemsize(row), 0, 1, count - j)
            if which == 0:
                x = exp(x)
            elif which == 1:
                x = expm1(x)
            elif which == 2:
                x = sigmoid(x)
            else:
                x = tanh(x)
            tile.store(x, target + j * tile.itemsize(row), 0, 1, count - j)

    def of(which):
        def function(x):
            x = np.ascontiguousarray(x, dtype)
            y = np.empty_like(x)
            apply(address("x", x, x.dtype, x.size), address("y", y, y.dtype, y.size, written=True), x.size, which)
            return y
        return function

    return {name: of(which) for which, name in enumerate(("exp", "expm1", "sigmoid", "tanh"))}


@pytest.fixture(scope="module")
def of_tiles():
    return {dtype: compiled(dtype) for dtype in map(np.dtype, ("float32", "float64"))}


def longdouble(function, x):
    with np.errstate(over="ignore", under="ignore"):
        return function(x.astype(np.longdouble))


def test_exp(of_tiles, dtype):
    """Also where the result is subnormal, 0 or inf."""
    x = numbers(dtype, {"float32": 110, "float64": 760}[dtype.name])
    assert_within(of_tiles[dtype]["exp"](x), longdouble(np.exp, x), 2)


def test_expm1(of_tiles, dtype):
    x = numbers(dtype, {"float32": 110, "float64": 760}[dtype.name])
    x = x[x < np.log(np.finfo(dtype).max / 2)]
    assert_within(of_tiles[dtype]["expm1"](x), longdouble(np.expm1, x), 3)


@pytest.mark.parametrize("name", ["exp", "expm1"])
def test_exp_at_the_ends(of_tiles, dtype, name):
    function = of_tiles[dtype][name]
    with np.errstate(over="ignore"):
        assert_array_equal(function([0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).max, -np.finfo(dtype).max]),
                           getattr(np, name)([0.0, 0.0, np.inf, -np.inf, np.nan, np.inf, -np.inf]))


def test_tanh(of_tiles, dtype):
    """tanh(-x) is -tanh(x), to the bit, and so is the sign of 0."""
    tanh, x = of_tiles[dtype]["tanh"], numbers(dtype, 50)
    y = tanh(x)
    assert_within(y, longdouble(np.tanh, x), 4)
    assert abs(y).max() == 1
    assert tanh(-x).tobytes() == (-y).tobytes()
    ends = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).max, -np.finfo(dtype).max], dtype)
    assert_array_equal(tanh(ends), [0, 0, 1, -1, np.nan, 1, -1])
    assert_array_equal(np.signbit(tanh(ends[:2])), [False, True])


def test_sigmoid(of_tiles, dtype):
    """Below the normal numbers, where 1 + exp(-z) is inf, it is 0."""
    sigmoid, x = of_tiles[dtype]["sigmoid"], numbers(dtype, {"float32": 110, "float64": 760}[dtype.name])
    y, exact = sigmoid(x), activation_of("sigmoid", x)[0]
    normal = exact > np.finfo(dtype).tiny
    assert_within(y[normal], exact[normal], 4)
    assert (y[~normal] <= np.finfo(dtype).tiny).all()
    assert (y >= 0).all()
    ends = [0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).max, -np.finfo(dtype).max]
    assert_array_equal(sigmoid(ends), [0.5, 0.5, 1, 0, np.nan, 1, 0])


# ---- of layers


def slope_bound(name, y, dtype):
    """How far dy/dz may be off: it is computed from the rounded y, or, of gelu, has a difference from 1 that z³ magnifies."""
    eps = np.finfo(dtype).eps
    if name == "sigmoid":
        return 4 * eps * abs(y)
    return eps * {"tanh": 4, "gelu": 64, "leaky_relu": 1}.get(name, 0) * np.ones_like(y)


def assert_activated(y, name, z):
    """y is the activation of z, to a few units in the last place; more where gelu is small, as exp magnifies its argument's."""
    wide = np.longdouble if y.dtype == np.float64 else np.float64
    exact = activation_of(name, z, wide)[0]
    units = 1 if name == "leaky_relu" else 4
    if name == "gelu":
        units = 8 + 4 * abs(np.clip(z, -30, 0)) ** 3
    bound = units * np.maximum(np.finfo(y.dtype).eps * abs(exact), np.finfo(y.dtype).tiny)
    if name in ("identity", "relu"):
        bound = 0.0
    error = abs(y - exact)
    assert (error <= bound).all(), f"error up to {(error - bound).max():.3g} beyond the bound"


@pytest.mark.parametrize("name", NAMES)
def test_values_and_slopes_of_a_layer(dtype, name):
    """Of one input and one neuron, of which the weight is 1: all sizes of z."""
    x = numbers(dtype, 40)[:, np.newaxis]
    layer = fastbp.Dense(1, 1, activation=name, bias=False, dtype=dtype)
    layer.weights[:] = 1
    y = layer.forward(x)
    assert_activated(y, name, x)
    slope = layer.backward(np.ones_like(y))
    exact = activation_of(name, x)[1]
    bound = slope_bound(name, y, dtype) + np.finfo(dtype).tiny
    assert (abs(slope - exact) <= bound).all()


@pytest.mark.parametrize("n_neurons", [1, 3, 40])
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_at_the_ends(dtype, name, n_neurons):
    largest = float(np.finfo(dtype).max)
    x = np.array([[0.0], [-0.0], [np.inf], [-np.inf], [np.nan], [largest], [-largest]], dtype)
    layer = fastbp.Dense(1, n_neurons, activation=name, dtype=dtype)
    layer.weights[:] = 1
    y = layer.forward(x)
    low, high = {"identity": (-np.inf, np.inf), "leaky_relu": (-np.inf, np.inf), "sigmoid": (0, 1), "tanh": (-1, 1)}.get(
        name, (0, np.inf))
    below, above = {"identity": (-largest, largest), "leaky_relu": (-0.01 * largest, largest)}.get(
        name, (low, min(high, largest)))
    expected = [activation_of(name, 0.0)[0], activation_of(name, 0.0)[0], high, low, np.nan, above, below]
    assert_allclose(y, np.repeat(np.array(expected, np.float64)[:, np.newaxis], n_neurons, 1), rtol=1e-6)
    slope = layer.backward(np.full_like(y, 1 / n_neurons))
    ends = {"identity": (1, 1, 1), "relu": (0, 1, 0), "leaky_relu": (0.01, 1, 0.01), "gelu": (0.5, 1, 0)}.get(
        name, (float(activation_of(name, 0.0)[1]), 0, 0))
    passed = 0.01 if name == "leaky_relu" else 1.0 if name in ("identity", "relu") else np.nan
    assert_allclose(slope[:, 0], [ends[0], ends[0], *ends[1:], passed, *ends[1:]], rtol=1e-6)


def layer_and_data(rng, name, shape, dtype, **options):
    """(layer, x, dvalues): z of the layer is exact, a multiple of 1/64 and mostly below 4."""
    batch, n_inputs, n_neurons = shape
    layer = fastbp.Dense(n_inputs, n_neurons, activation=name, dtype=dtype, **options)
    fraction = 2.0 ** -min(5, round(np.log2(1 + 2 * np.sqrt(n_inputs))))
    layer.weights[:] = oracle.integers(rng, layer.weights.shape, dtype) * fraction
    if layer.biases is not None:
        layer.biases[:] = oracle.integers(rng, layer.biases.shape, dtype) / 64
    return layer, oracle.integers(rng, (batch, n_inputs), dtype), oracle.integers(rng, (batch, n_neurons), dtype)


def assert_gradients(layer, name, x, dvalues, rounding=0.0):
    """Those of the layer's last backward.

    The bound is that of sums whose rounding errors are independent, n of them, λ sqrt(n) u with λ = 8 (Higham and Mary, A new
    approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41, 2019): with n in its place a wrong row of
    thousands would not be seen. `rounding` is that of the factors.
    """
    x, dvalues, dtype = np.atleast_2d(x).astype(np.float64), np.atleast_2d(dvalues).astype(np.float64), layer.weights.dtype
    weights = layer.weights.astype(np.float64)
    z = oracle.dense_forward(x, weights, layer.biases)
    y, slope = activation_of(name, z, np.float64)
    eps, off = float(np.finfo(dtype).eps), abs(dvalues) * slope_bound(name, y, dtype)
    dz = dvalues * slope
    for result, left, right, errors, factors in (
            (layer.dinputs, dz, weights.T, off @ abs(weights.T), rounding),
            (layer.dweights, x.T, dz, abs(x.T) @ off, rounding),
            (layer.dbiases, np.ones((1, len(x))), dz, off.sum(axis=0), 0.0)):
        if result is None:                                  # a layer without biases, or one that needs no dinputs
            continue
        assert result.dtype == dtype
        sizes = abs(left) @ abs(right)
        bound = ((4 * np.sqrt(left.shape[1]) + 4) * eps + factors) * sizes + errors
        error = abs(result - left @ right)
        assert (error <= bound).all(), f"error up to {(error - bound).max():.3g} beyond the bound"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [*SHAPES.values(), *EMPTY.values()], ids=[*SHAPES, *EMPTY])
def test_a_step(rng, dtype, name, shape):
    layer, x, dvalues = layer_and_data(rng, name, shape, dtype)
    y = layer.forward(x)
    assert y.dtype == dtype
    assert y.shape == (shape[0], shape[2])
    assert_activated(y, name, oracle.dense_forward(x, layer.weights, layer.biases))
    assert layer.backward(dvalues).shape == x.shape
    assert_gradients(layer, name, x, dvalues)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(5, 9, 7), (70, 5, 9), (300, 70, 33), (4200, 33, 17), (0, 5, 9)])
@pytest.mark.parametrize("options", [{"bias": False}, {"need_dinputs": False}], ids=str)
def test_without_biases_or_dinputs(rng, dtype, name, shape, options):
    layer, x, dvalues = layer_and_data(rng, name, shape, dtype, **options)
    assert_activated(layer.forward(x), name, oracle.dense_forward(x, layer.weights, layer.biases))
    assert layer.backward(dvalues) is layer.dinputs
    assert (layer.dinputs is None) == ("need_dinputs" in options)
    assert (layer.dbiases is None) == ("bias" in options)
    assert_gradients(layer, name, x, dvalues)


def strided(a):
    """The same numbers, every third of a larger array."""
    larger = np.full((2 * a.shape[0], 3 * a.shape[1]), np.nan, a.dtype)
    larger[::2, ::3] = a
    return larger[::2, ::3]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(7, 5, 9), (70, 5, 9), (300, 70, 33), (300, 90, 2), (4200, 33, 17)])
@pytest.mark.parametrize("layout", [np.asfortranarray, strided, lambda a: a[::-1].copy()[::-1], read_only],
                         ids=["Fortran", "strided", "reversed", "read-only"])
def test_layouts(rng, name, shape, layout):
    layer, x, dvalues = layer_and_data(rng, name, shape, np.float32)
    layer.weights = layout(layer.weights)
    assert_activated(layer.forward(layout(x)), name, oracle.dense_forward(x, layer.weights, layer.biases))
    layer.backward(layout(dvalues))
    assert_gradients(layer, name, x, dvalues)


@pytest.mark.parametrize("name", NAMES)
def test_one_sample_lists_and_other_dtypes(rng, dtype, name):
    layer, x, dvalues = layer_and_data(rng, name, (1, 5, 9), dtype)
    z = oracle.dense_forward(x, layer.weights, layer.biases)
    for sample, gradient in ((x[0], dvalues[0]), (x.tolist(), dvalues.tolist()), (x.astype(int), dvalues.astype(np.float64))):
        y = layer.forward(sample)
        assert y.shape == (1, 9)
        assert_activated(y.astype(dtype), name, z)
        assert layer.backward(gradient).shape == (1, 5)
        layer.dinputs, layer.dweights, layer.dbiases = (a.astype(dtype) for a in (layer.dinputs, layer.dweights, layer.dbiases))
        assert_gradients(layer, name, x, dvalues)


@pytest.mark.filterwarnings("ignore:precision 'bfloat16' is not faster here:RuntimeWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [*SHAPES.values(), *EMPTY.values()], ids=[*SHAPES, *EMPTY])
def test_bfloat16(rng, name, shape):
    """Inputs and weights are numbers of bfloat16, so that only dz is rounded, by 2**-9 or, where instructions cut, 2**-8."""
    layer, x, dvalues = layer_and_data(rng, name, shape, np.float32, precision="bfloat16")
    assert_activated(layer.forward(x), name, oracle.dense_forward(x, layer.weights, layer.biases))
    layer.backward(dvalues)
    assert_gradients(layer, name, x, dvalues, rounding=2**-8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 3), (1, 30, 20), (70, 5, 9), (9, 3, 70)])
def test_central_differences(rng, name, shape):
    layer = fastbp.Dense(*shape[1:], activation=name, dtype=np.float64, rng=rng)
    x, dvalues = rng.standard_normal((shape[0], shape[1])), rng.standard_normal((shape[0], shape[2]))
    layer.biases[:] = rng.standard_normal(layer.biases.shape)
    assert abs(oracle.dense_forward(x, layer.weights, layer.biases)).min() > 1e-4, "too near a kink: choose another seed"
    layer.forward(x)
    layer.backward(dvalues)
    for gradient, array in zip((layer.dinputs.copy(), layer.dweights.copy(), layer.dbiases.copy()),
                               (x, layer.weights, layer.biases), strict=True):
        numeric = central_differences(lambda: (dvalues * layer.forward(x)).sum(), array)
        assert_allclose(gradient, numeric, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(7, 5, 9), (1500, 130, 70), (5000, 33, 65), (5000, 5, 9), (5000, 70, 3)])
def test_any_number_of_threads(dtype, name, shape):
    rng, digests = np.random.default_rng(0), set()
    x, dvalues = (rng.standard_normal((shape[0], n)).astype(dtype) for n in shape[1:])
    for threads in (1, 2, 3):
        fastbp.set_num_threads(threads)
        layer = fastbp.Dense(*shape[1:], activation=name, dtype=dtype, rng=1)
        layer.forward(x)
        layer.backward(dvalues)
        results = layer.output, layer.dinputs, layer.dweights, layer.dbiases
        digests.add(hashlib.sha256(b"".join(a.tobytes() for a in results)).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("shape", [(7, 5, 9), (300, 70, 33), (4200, 33, 17)])
def test_results_that_are_held_are_not_overwritten(rng, dtype, name, shape):
    layer, x, dvalues = layer_and_data(rng, name, shape, dtype)
    kept, bits = [], []
    for _ in range(3):
        kept.append((layer.forward(x), layer.backward(dvalues), layer.dweights, layer.dbiases))
        bits.append([a.tobytes() for a in kept[-1]])
        x, dvalues = x + 1, dvalues + 1
    assert [[a.tobytes() for a in results] for results in kept] == bits


@pytest.mark.parametrize("name", NAMES)
def test_results_that_nobody_holds_are_reused(rng, name):
    """A step allocates nothing, also none of what backward needs beside the output."""
    layer = fastbp.Dense(64, 96, activation=name)
    x, dvalues = np.ones((512, 64), np.float32), np.ones((512, 96), np.float32)
    for _ in range(3):
        layer.forward(x)
        layer.backward(dvalues)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(3):
        layer.forward(x)
        layer.backward(dvalues)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < layer.dweights.nbytes // 2


@pytest.mark.parametrize("name", NAMES)
def test_backward_is_that_of_the_last_forward(rng, dtype, name):
    """Whatever the batch before was, and after a forward that failed."""
    for batch in (7, 3, 7, 0, 300):
        layer, x, dvalues = layer_and_data(rng, name, (batch, 5, 9), dtype)
        layer.forward(x)
        layer.backward(dvalues)
        layer.forward(-x)
        with pytest.raises(ValueError, match="inputs has shape"):
            layer.forward(x[:, :4])
        layer.backward(dvalues)
        assert_gradients(layer, name, -x, dvalues)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [7, 300, 4200])
def test_out(rng, dtype, name, batch):
    """Of any layout, also one that the kernels do not write to, and backward reads it there."""
    layer, x, dvalues = layer_and_data(rng, name, (batch, 5, 9), dtype)
    z = oracle.dense_forward(x, layer.weights, layer.biases)
    for out in (np.full((batch, 9), np.nan, dtype), np.full((batch, 12), np.nan, dtype)[:, 2:11],
                strided(np.full((batch, 9), np.nan, dtype)), np.full((9, batch), np.nan, dtype).T):
        assert layer.forward(x, out=out) is out is layer.output
        assert_activated(out, name, z)
        layer.backward(dvalues)
        assert_gradients(layer, name, x, dvalues)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [5, 300])
def test_out_may_overlap_an_argument(rng, dtype, name, batch):
    layer, x, _ = layer_and_data(rng, name, (batch, 9, 9), dtype)
    z = oracle.dense_forward(x, layer.weights, layer.biases)
    assert_activated(layer.forward(x, out=x), name, z)
    x = oracle.integers(rng, (8, 9), dtype)
    z = oracle.dense_forward(x, layer.weights, layer.biases)
    assert_activated(layer.forward(x, out=layer.weights[1:]), name, z)


def test_names(dtype):
    assert [fastbp.Dense(2, 3, activation=name, dtype=dtype).activation for name in NAMES] == list(NAMES)
    assert fastbp.Dense(2, 3).activation == "identity"
    assert fastbp.DenseReLU(2, 3).activation == "relu"
    for wrong in ("swish", "ReLU", "", None, 1):
        with pytest.raises(ValueError, match=re.escape(f"activation is {wrong!r}, expected one of identity, relu, leaky_relu")):
            fastbp.Dense(2, 3, activation=wrong)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_go_on_where_the_layer_was(rng, name, duplicate):
    layer, x, dvalues = layer_and_data(rng, name, (70, 20, 9), np.dtype(np.float32))
    layer.forward(x)
    twin = duplicate(layer)
    layer.forward(-x)
    twin.backward(dvalues)
    assert twin.activation == name
    assert_gradients(twin, name, x, dvalues)
