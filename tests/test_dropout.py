"""Dropout: the layer, and the kernel in trainings, whose random draws are computed once more in NumPy."""
import copy
import pickle
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
from fastbp import SGD, Adam, Dense, DenseReLU, Dropout, MeanSquaredError, Sequential, SoftmaxCrossEntropy
from fastbp._training.session import LayerSpec, TrainingSession
from fastbp.kernels.elementwise.activations import GELU, IDENTITY, NAMES, RELU, TANH
from fastbp.kernels.elementwise.dropout import CHUNK
from fastbp.kernels.train import blocks


def stays(count, rate, key):
    """Which elements stay: those whose number of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) is large enough."""
    z = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(1)) >= np.uint64(int(rate * 2**63))


def dropped(x, rate, key):
    """What a run makes of x, in batches of one row, by the gradients of weights of 0 and one neuron: they are its inputs."""
    last = LayerSpec(np.zeros((x.shape[1], 1), x.dtype), np.zeros((1, 1), x.dtype))
    run = TrainingSession([LayerSpec(None, rate=rate), last], x.shape[1],
              MeanSquaredError(), None, 1, check=False, key=key)
    run.use(x, np.full((len(x), 1), -0.5, x.dtype), None)
    run.start()
    rows = []
    for _ in range(len(x)):
        run.advance(1)
        rows.append(run.gradients[0][:, 0].copy())
    return np.array(rows)


# ---- the kernel


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("count", [1, 3, 7, 8, 9, 31, 33, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_the_draws(rng, dtype, rate, count):
    x = rng.standard_normal((1, count)).astype(dtype)
    for key in (0, 1, 2**62 + 12345):
        expected = np.where(stays(count, rate, key), x[0] * dtype.type(1 / (1 - rate)), 0)
        assert_array_equal(dropped(x, rate, key)[0], expected)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_shares_and_expected_values(rate):
    """Within 5 standard deviations: of one step, of places in a row, and of a place over the steps."""
    rows, count = 40, 5000
    results = dropped(np.ones((rows, count)), rate, 7)
    assert_allclose(np.unique(results), [0, 1 / (1 - rate)])
    gone, deviation = results == 0, np.sqrt(rate * (1 - rate))
    assert abs(gone.mean() - rate) < 5 * deviation / np.sqrt(gone.size)
    assert (abs(gone.mean(axis=1) - rate) < 5 * deviation / np.sqrt(count)).all()
    assert (abs(gone.mean(axis=0) - rate) < 5.5 * deviation / np.sqrt(rows)).all()
    assert abs(results.mean() - 1) < 5 * deviation / (1 - rate) / np.sqrt(gone.size)
    twice = rate**2
    for both in (gone[:, 1:] & gone[:, :-1], gone[1:] & gone[:-1], gone[:, 8:] & gone[:, :-8]):
        assert abs(both.mean() - twice) < 8 * np.sqrt(twice * (1 - twice) / both.size)


def test_what_is_dropped_is_0(dtype):
    """Also an inf or NaN."""
    for value in (np.inf, -np.inf, np.nan):
        x = np.where(stays(100, 0.5, 3), 1, value)[np.newaxis].astype(dtype)
        assert_array_equal(dropped(x, 0.5, 3)[0], np.where(stays(100, 0.5, 3), 2, 0))


# ---- training runs


def reference_gradients(parts, x, target, key):
    """Gradients of the mean of (z - t)², in float64; those of weights and biases, layer by layer."""
    functions = {IDENTITY: (lambda z: z, lambda z, y: np.ones_like(z)), RELU: (lambda z: np.maximum(z, 0), lambda z, y: z > 0),
                 TANH: (np.tanh, lambda z, y: 1 - y**2)}
    y, steps = x.astype(np.float64), []
    for k, part in enumerate(parts):
        inputs = y
        if part.weights is None:
            factors = stays(y.size, part.rate, key + k).reshape(y.shape) / (1 - part.rate)
            y, steps = y * factors, [*steps, (part, inputs, factors)]
        else:
            function, slope = functions[part.activation]
            z = inputs @ part.weights.astype(np.float64) + part.biases
            y = function(z)
            steps.append((part, inputs, slope(z, y)))
    dvalues, gradients = 2 * (y - target) / y.size, []
    for part, inputs, slope in reversed(steps):
        dvalues = dvalues * slope
        if part.weights is not None:
            gradients = [inputs.T @ dvalues, dvalues.sum(axis=0, keepdims=True), *gradients]
            dvalues = dvalues @ part.weights.T.astype(np.float64)
    return gradients


def parts_of(rng, sizes, dtype, places):
    """A network with a dropout before the layers `places`, which may be more than one."""
    activations, parts = [TANH, RELU, IDENTITY], []
    for i, (inputs, neurons) in enumerate(zip(sizes, sizes[1:], strict=False)):
        parts += [LayerSpec(None, rate=0.3)] * places.count(i)
        weights = (rng.standard_normal((inputs, neurons)) / np.sqrt(inputs)).astype(dtype)
        parts.append(LayerSpec(weights, rng.standard_normal((1, neurons)).astype(dtype), activations[i]))
    return parts


@pytest.mark.parametrize("places", [(), (0,), (1,), (2,), (0, 1, 2), (1, 1, 2)], ids=str)
@pytest.mark.parametrize("rows, batch", [(1, 1), (50, 50), (130, 64), (700, 500)])
def test_gradients_of_a_run(rng, dtype, places, rows, batch):
    """Of batch after batch, each of which draws anew, in the order of the data or another, from rows with gaps."""
    parts = parts_of(rng, (7, 20, 33, 3), dtype, places)
    x, targets = rng.standard_normal((rows, 9)).astype(dtype)[:, 1:8], rng.standard_normal((rows, 3)).astype(dtype)
    run = TrainingSession(parts, 7, MeanSquaredError(), None, batch, check=False, key=11)
    run.use(x, targets, None)
    key = 11
    for order in (None, rng.permutation(rows)):
        run.start(order, order)
        taken = np.arange(rows) if order is None else order
        for start in range(0, rows, batch):
            run.advance(1)
            run.gradient()
            here = taken[start:start + batch]
            expected = reference_gradients(parts, x[here], targets[here], key)
            for gradient, exact in zip(run.gradients, expected, strict=True):
                assert_allclose(gradient, exact, atol=200 * np.finfo(dtype).eps)
            key += len(parts)
    run.restart_dropout()
    run.start()
    run.advance(1)
    run.gradient()
    for gradient, exact in zip(run.gradients, reference_gradients(parts, x[:batch], targets[:batch], 11), strict=True):
        assert_allclose(gradient, exact, atol=200 * np.finfo(dtype).eps)


def test_a_step_in_shards(rng, dtype):
    """Each shard of a batch draws what stands at its own rows."""
    parts = parts_of(rng, (7, 20, 33, 3), dtype, (0, 1, 2))
    x, targets = rng.standard_normal((130, 7)).astype(dtype), rng.standard_normal((130, 3)).astype(dtype)
    dense = [part for part in parts if part.weights is not None]
    assert blocks.shards(130, sum(part.weights.size for part in dense)) > 1
    before = [array.copy() for part in dense for array in (part.weights, part.biases)]
    run = TrainingSession(parts, 7, MeanSquaredError(), SGD(1.0), 130, key=11)
    run.use(x, targets, None)
    run.start()
    exact = reference_gradients(parts, x, targets, 11)
    run.advance(1)
    after = [array for part in dense for array in (part.weights, part.biases)]
    for old, new, gradient in zip(before, after, exact, strict=True):
        assert_allclose(old - new, gradient, atol=200 * np.finfo(dtype).eps)


def network_of(sizes, rate, dtype, activation="relu"):
    layers = [Dropout(rate / 2)]
    for i, (inputs, neurons) in enumerate(zip(sizes[:-1], sizes[1:-1], strict=False)):
        layers += [Dense(inputs, neurons, activation=activation, dtype=dtype, rng=i), Dropout(rate)]
    return Sequential([*layers, Dense(*sizes[-2:], dtype=dtype, rng=9)], SoftmaxCrossEntropy(), l2=1e-4)


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("rows, batch, sizes", [
    (130, 32, (7, 20, 3)), (300, 128, (9, 33, 20, 4)), (300, 128, (70, 400, 300, 5))], ids=["small", "shards", "large"])
def test_any_number_of_threads(dtype, activation, rows, batch, sizes):
    """Threads of a team, shards of a batch and queues within a pass: weights, losses and accuracies have the same bits."""
    rng, found = np.random.default_rng(0), set()
    x, y = rng.standard_normal((rows, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], rows)
    for threads in (1, 2, 3, 2):
        fastbp.set_num_threads(threads)
        network = network_of(sizes, 0.2, dtype, activation)
        history = network.fit(x, y, epochs=2, batch_size=batch, optimizer=Adam(), rng=5, progress=False)
        found.add((*history.loss, *history.accuracy, *(w.tobytes() for w in network.parameters())))
    assert len(found) == 1


def test_seeds(rng):
    x, y, found = rng.standard_normal((100, 7), np.float32), rng.integers(0, 3, 100), []
    for seed in (1, 1, 2, np.random.default_rng(1)):
        network = network_of((7, 20, 3), 0.5, np.float32)
        network.fit(x, y, epochs=2, batch_size=50, optimizer=SGD(), shuffle=False, rng=seed, progress=False)
        found.append(network.dense[0].weights.tobytes())
    assert found[0] == found[1] == found[3]
    assert found[0] != found[2]


@pytest.mark.parametrize("activation", NAMES)
def test_gradients_of_networks_against_central_differences(rng, activation):
    network = network_of((6, 9, 8, 3), 0.3, np.float64, activation)
    assert network.check_gradients(rng.standard_normal((20, 6)), rng.integers(0, 3, 20)) < 1e-6


def test_only_training_drops(rng):
    x, y = rng.standard_normal((60, 7), np.float32), rng.integers(0, 3, 60)
    network = network_of((7, 20, 3), 0.5, np.float32)
    plain = Sequential(network.dense, SoftmaxCrossEntropy(), l2=1e-4)
    assert_array_equal(network.predict(x), plain.predict(x))
    assert network.evaluate(x, y) == plain.evaluate(x, y)
    assert_allclose(network.forward(x), plain.forward(x))
    assert not np.allclose(network.forward(x, training=True), plain.forward(x))


def test_a_network_with_dropout_learns():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 10)).astype(np.float32)
    y = x[:, :3].argmax(axis=1)
    network = Sequential([DenseReLU(10, 64, rng=1), Dropout(0.2), Dense(64, 3, rng=2)], SoftmaxCrossEntropy())
    network.fit(x, y, epochs=30, batch_size=50, optimizer=Adam(0.01), rng=0, progress=False)
    assert network.evaluate(x, y)[1] > 0.95


# ---- the layer


@pytest.mark.parametrize("shape", [(1000, 30), (30_000,), (10, 30, 100)])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_a_layer(rng, dtype, rate, shape):
    x, dvalues, layer = rng.uniform(1, 2, shape).astype(dtype), rng.uniform(1, 2, shape).astype(dtype), Dropout(rate, rng=0)
    before = x.copy()
    y = layer.forward(x)
    assert y is layer.output
    assert y.dtype == dtype
    share = (y == 0).mean()
    assert abs(share - rate) <= 5 * np.sqrt(rate * (1 - rate) / x.size)
    assert_allclose(y[y != 0], x[y != 0] / (1 - rate), rtol=4 * np.finfo(dtype).eps)
    assert abs(y.mean() - x.mean()) <= 10 * np.sqrt(rate / (1 - rate) / x.size) + 1e-6
    assert layer.backward(dvalues) is layer.dinputs
    assert layer.dinputs.dtype == dtype
    assert_allclose(layer.dinputs, np.where(y == 0, 0, dvalues / (1 - rate)), rtol=4 * np.finfo(dtype).eps)
    assert_array_equal(x, before)
    if rate:
        assert not np.array_equal(layer.forward(x), y)
    assert layer.forward(x, training=False) is x
    assert_array_equal(layer.backward(dvalues), dvalues)


def test_a_layer_without_a_forward_or_of_another_shape():
    layer = Dropout(0.5)
    assert layer.output is layer.dinputs is None
    with pytest.raises(RuntimeError, match="backward of Dropout was called before forward, expected forward first"):
        layer.backward(np.ones((2, 3)))
    for training in (True, False):
        layer.forward(np.ones((2, 3)), training=training)
        for shape in ((3,), (1, 3), (2, 1), (4, 3)):
            with pytest.raises(ValueError, match=re.escape(f"dvalues has shape {shape}, expected (2, 3)")):
                layer.backward(np.ones(shape))
    with pytest.raises(TypeError, match="inputs has dtype complex128"):
        layer.forward([1j])
    with pytest.raises(TypeError, match="dvalues has dtype <U1"):
        layer.backward([["a"] * 3] * 2)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, np.nan, np.inf, "0.5", None, True, [0.5]])
def test_rates(rate):
    with pytest.raises(ValueError, match=re.escape(f"rate is {rate!r}, expected a number from 0 and below 1")):
        Dropout(rate)


def test_lists_integers_and_float16():
    layer = Dropout(0.5, rng=0)
    assert layer.forward([[1, 2], [3, 4]]).dtype == np.float64
    assert layer.forward(np.ones((2, 2), np.int8)).dtype == np.float64
    assert layer.forward(np.ones((2, 2), np.float16)).dtype == np.float32
    assert layer.forward(np.float32(3)).shape == ()
    assert layer.backward(1.0) in (0, 2)


def test_a_layer_drops_what_is_not_finite():
    """With no warning: the 0 is assigned."""
    for value in (np.inf, np.nan):
        layer = Dropout(0.5, rng=0)
        stayed = layer.forward(np.ones(100)) > 0
        assert_array_equal(layer.backward(np.full(100, value)), np.where(stayed, value, 0))
        assert set(Dropout(0.5, rng=0).forward(np.full(100, np.inf))) == {0, np.inf}


def test_a_layer_is_reproducible(rng):
    x = rng.standard_normal((50, 20))
    expected = Dropout(0.5, rng=3).forward(x)
    assert_array_equal(Dropout(0.5, rng=3).forward(x), expected)
    assert_array_equal(Dropout(0.5, rng=np.random.default_rng(3)).forward(x), expected)
    assert not np.array_equal(Dropout(0.5, rng=4).forward(x), expected)
    assert not np.array_equal(Dropout(0.5).forward(x), Dropout(0.5).forward(x))
    for duplicate in (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))):
        layer = Dropout(0.5, rng=3)
        layer.forward(x)
        twin = duplicate(layer)
        assert_array_equal(twin.backward(x), layer.backward(x))
        assert_array_equal(twin.forward(x), layer.forward(x))


def test_gelu_keeps_its_slopes_beside_a_dropout(rng):
    """The slopes of a run are those of the dense layer's own z, whatever is dropped after it."""
    w, v = (rng.standard_normal(shape) for shape in ((5, 8), (8, 2)))
    x, targets = rng.standard_normal((30, 5)), rng.standard_normal((30, 2))
    parts = [LayerSpec(w, np.zeros((1, 8)), GELU), LayerSpec(None, rate=0.4), LayerSpec(v, np.zeros((1, 2)))]
    run = TrainingSession(parts, 5, MeanSquaredError(), None, 30, check=False, key=2)
    run.use(x, targets, None)

    def loss():
        run.start()
        run.restart_dropout()
        run.advance(1)
        return run.mean_loss

    loss()
    gradient = run.gradients[0].copy()
    for place in ((0, 0), (2, 5), (4, 7)):
        before = w[place]
        w[place] = before + 1e-6
        above = loss()
        w[place] = before - 1e-6
        assert_allclose((above - loss()) / 2e-6, gradient[place], rtol=1e-6, atol=1e-8)
        w[place] = before
