"""Layers without neurons or inputs: the results of the layers behind them follow from the biases alone."""
import itertools

import numpy as np
import pytest

import fastbp

ROWS = 700


def make(sizes, activation, dtype, loss, **settings):
    last = len(sizes) - 2
    layers = [fastbp.Dense(*pair, activation=activation if i < last else "identity", dtype=dtype, rng=i, **settings)
              for i, pair in enumerate(itertools.pairwise(sizes))]
    return fastbp.Sequential(layers, loss, l2=0.1)


@pytest.mark.parametrize("sizes", [(3, 0, 2), (3, 5, 0, 2), (3, 0, 0, 2), (3, 0, 4, 2), (0, 3, 2)])
@pytest.mark.parametrize("activation, batch", [("tanh", 256), ("relu", 256), ("tanh", 3)])
def test_a_training(sizes, activation, batch, dtype, rng, tmp_path):
    x, y = rng.standard_normal((ROWS, sizes[0])).astype(dtype), rng.integers(0, 2, ROWS)
    runs = []
    for threads in (1, 2):
        fastbp.set_num_threads(threads)
        network = make(sizes, activation, dtype, fastbp.SoftmaxCrossEntropy())
        history = network.fit(x, y, epochs=3, batch_size=batch, optimizer=fastbp.Adam(0.1), rng=0)
        runs.append((history, [a.tobytes() for a in network.parameters()]))
    assert runs[0] == runs[1]
    if activation == "tanh":                    # a ReLU of zeros is at its kink, which check_gradients refuses
        assert network.check_gradients(x[:50], y[:50]) < 1e-6
    scores = network.forward(x)
    assert (scores == scores[0]).all()
    dinputs = network.backward(np.ones_like(scores))
    assert dinputs.shape == x.shape and not dinputs.any()
    np.testing.assert_allclose(network.layers[-1].dbiases, [[ROWS] * 2])
    assert all(layer.dweights.shape == layer.weights.shape for layer in network.layers)
    for suffix in ("npz", "safetensors"):
        network.save(tmp_path / f"it.{suffix}")
        again = fastbp.load(tmp_path / f"it.{suffix}")
        assert [a.tobytes() for a in again.parameters()] == runs[0][1]
        assert (again.predict(x) == network.predict(x)).all()
    assert repr(network).startswith(f"<Sequential {'-'.join(map(str, sizes))} ") and "(rows, 2)" in network.summary()


@pytest.mark.parametrize("batch", [1, 8, 100, 5000])
def test_the_biases_learn_the_mean(batch, dtype, rng):
    x, y = rng.standard_normal((batch, 3)).astype(dtype), rng.standard_normal((batch, 2)).astype(dtype)
    network = make((3, 0, 2), "relu", dtype, fastbp.MeanSquaredError())
    network.fit(x, y, epochs=200, batch_size=batch, optimizer=fastbp.SGD(0.5))
    np.testing.assert_allclose(network.layers[-1].biases[0], y.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_without_biases_nothing_is_left(dtype, rng):
    network = make((3, 0, 2), "relu", dtype, fastbp.MeanSquaredError(), bias=False)
    x = rng.standard_normal((5, 3)).astype(dtype)
    network.fit(x, np.ones((5, 2)), epochs=2, batch_size=2, optimizer=fastbp.SGD())
    assert not network.predict(x).any() and not network.parameters()[0].size
