"""A network's functions for @njit code: they give the network's own numbers, and raise errors in place of wrong numbers."""
from functools import cache

import numba
import numpy as np
import pytest
from numba.core.errors import NumbaWarning, TypingError
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
from fastbp.inference import scores


def network(loss, activation="tanh", dtype="f4", outputs=3, **options):
    """5 inputs, 40 and 20 neurons, the second layer without biases."""
    layers = [fastbp.Dense(5, 40, activation=activation, dtype=dtype, rng=0, **options),
              fastbp.Dense(40, 20, activation=activation, dtype=dtype, rng=1, bias=False),
              fastbp.Dense(20, outputs, dtype=dtype, rng=2, **options)]
    return fastbp.Sequential(layers, loss)


@cache
def functions(loss, activation="tanh", dtype="f4", outputs=3):
    """What network(…).jitted() returns, and is compiled once: a loss by its name."""
    return network(getattr(fastbp, loss)(), activation, dtype, outputs).jitted()


def expected(net, x, y):
    loss, dvalues = net.loss.value_and_gradient(net.forward(x.astype(net.dtype)), y)
    net.backward(dvalues)
    return loss, net.gradients()


@pytest.mark.parametrize("activation, dtype", [("gelu", "f4"), ("relu", "f8")])
def test_same_bits_as_the_network(activation, dtype, rng):
    net = network(fastbp.SoftmaxCrossEntropy(), activation, dtype)
    forward, value_and_gradient = functions("SoftmaxCrossEntropy", activation, dtype)
    parameters, x, y = tuple(net.parameters()), rng.standard_normal((70, 5)).astype(dtype), rng.integers(0, 3, 70)
    assert_array_equal(forward(parameters, x), scores(net._specs(), x))
    loss, gradients = value_and_gradient(parameters, x, y)
    expected_loss, expected_gradients = expected(net, x, y)
    assert loss == expected_loss and len(gradients) == len(parameters) == 5
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == dtype
        assert_array_equal(gradient, other)


@pytest.mark.parametrize("loss, outputs, targets", [
    ("SoftmaxCrossEntropy", 3, lambda rng: np.eye(3)[rng.integers(0, 3, 9)]),
    ("BinaryCrossEntropy", 1, lambda rng: rng.integers(0, 2, (9, 2))[:, 1]),
    ("MeanSquaredError", 3, lambda rng: np.asfortranarray(rng.standard_normal((9, 3))))])
def test_losses_and_targets(loss, outputs, targets, rng):
    net, x, y = network(getattr(fastbp, loss)(), outputs=outputs), rng.integers(-3, 4, (9, 5)), targets(rng)
    value, gradients = functions(loss, outputs=outputs).value_and_gradient(tuple(net.parameters()), x, y)
    expected_value, expected_gradients = expected(net, x, y)
    assert_allclose(value, expected_value, rtol=1e-6)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert_allclose(gradient, other, rtol=1e-5, atol=1e-7)


def test_training_in_compiled_code_is_what_fit_does(rng):
    net, twin = (network(fastbp.SoftmaxCrossEntropy(), "relu", "f8") for _ in range(2))
    x, y = rng.standard_normal((60, 5)), rng.integers(0, 3, 60)
    _, value_and_gradient = functions("SoftmaxCrossEntropy", "relu", "f8")

    @numba.njit
    def descend(parameters, x, y, steps):
        for _ in range(steps):
            _, gradients = value_and_gradient(parameters, x, y)
            for k in range(len(parameters)):
                parameters[k][:] -= 0.1 * gradients[k]

    descend(tuple(net.parameters()), x, y, 12)
    twin.fit(x, y, epochs=12, batch_size=60, optimizer=fastbp.SGD(0.1), shuffle=False)
    for values, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert_allclose(values, other, rtol=1e-9, atol=1e-12)


def test_bfloat16(rng):
    with pytest.warns(RuntimeWarning) if not fastbp._arrays.operands.cpu.multiplies_bfloat16() else np.errstate():
        fastbp._arrays.operands._warn_if_not_faster.cache_clear()
        net = network(fastbp.SoftmaxCrossEntropy(), precision="bfloat16")
    net.dense[1].precision = "bfloat16"
    x = rng.standard_normal((30, 5)).astype("f4")
    assert_array_equal(net.jitted().forward(tuple(net.parameters()), x), scores(net._specs(), x))
    net.dense[1].precision = None
    with pytest.raises(ValueError, match="different precisions"):
        net.jitted()


def test_errors(rng):
    net = network(fastbp.SoftmaxCrossEntropy())
    forward, value_and_gradient = functions("SoftmaxCrossEntropy")
    parameters, x, y = tuple(net.parameters()), np.ones((4, 5), "f4"), np.zeros(4, int)
    with pytest.raises(ValueError, match="x does not fit"):
        forward(parameters, np.ones((4, 6), "f4"))
    with pytest.raises(ValueError, match="parameters do not fit"):
        forward((parameters[0][:, :39].copy(), *parameters[1:]), x)
    with pytest.raises(ValueError, match="parameters do not fit"):
        forward((parameters[0], parameters[1][:, :39].copy(), *parameters[2:]), x)
    with pytest.raises(ValueError, match="y does not fit"):
        value_and_gradient(parameters, x, y[:3])
    for wrong in (3, -1):
        with pytest.raises(ValueError, match="class"):
            value_and_gradient(parameters, x, np.array([0, 1, wrong, 2]))
    with pytest.raises(ValueError, match="y does not fit"):
        value_and_gradient(parameters, x, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="^y has a share below 0, expected 0 or more$"):
        value_and_gradient(parameters, x, np.full((4, 3), -0.1))
    with pytest.raises(TypingError, match="expected integers"):
        value_and_gradient(parameters, x, np.zeros(4))
    with pytest.raises(ValueError, match="loss is None, expected one for jitted"):
        fastbp.Sequential([fastbp.Dense(2, 2)]).jitted()


def test_numba_does_not_cache_a_network(tmp_path, monkeypatch):
    path = tmp_path / "module.py"
    path.write_text("import numba\n\n\nforward = None\n\n\n@numba.njit(cache=True)\n"
                    "def call(parameters, x):\n    return forward(parameters, x)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import module

    net = network(fastbp.SoftmaxCrossEntropy())
    module.forward = functions("SoftmaxCrossEntropy").forward
    with pytest.warns(NumbaWarning, match="dynamic globals"):
        module.call(tuple(net.parameters()), np.ones((2, 5), "f4"))
