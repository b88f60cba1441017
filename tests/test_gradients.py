"""The gradients against central differences of the forward pass, in float64 and away from the kinks of the ReLU."""
import numpy as np
import pytest
from numpy.testing import assert_allclose

import fastbp

STEP = 1e-6                     # about the cube root of float64's rounding, where the two errors of a difference balance


def central_differences(loss, array):
    """The derivative of loss() with respect to every element of an array, by changing each in place."""
    gradient = np.empty_like(array)
    for index, value in np.ndenumerate(array):
        array[index] = value + STEP
        above = loss()
        array[index] = value - STEP
        gradient[index] = (above - loss()) / (2 * STEP)
        array[index] = value
    return gradient


@pytest.mark.parametrize("batch, n_inputs, n_neurons", [(1, 1, 1), (5, 4, 3), (1, 30, 20), (60, 7, 9), (9, 3, 70)])
def test_dense(rng, batch, n_inputs, n_neurons):
    x, w, b, dvalues = (rng.standard_normal(shape)
                        for shape in ((batch, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (batch, n_neurons)))
    gradients = fastbp.dense_backward(dvalues, x, w)
    for gradient, array in zip(gradients, (x, w, b), strict=True):
        numeric = central_differences(lambda: (dvalues * fastbp.dense_forward(x, w, b)).sum(), array)
        assert_allclose(gradient, numeric, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("batch, n_inputs, n_neurons", [(1, 1, 1), (5, 4, 3), (1, 30, 20), (60, 7, 9), (9, 3, 70)])
def test_dense_relu(rng, batch, n_inputs, n_neurons):
    x, w, b, dvalues = (rng.standard_normal(shape)
                        for shape in ((batch, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (batch, n_neurons)))
    z = fastbp.dense_forward(x, w, b)
    assert abs(z).min() > 100 * STEP, "too near a kink: choose another seed"
    gradients = fastbp.dense_relu_backward(dvalues, fastbp.dense_relu_forward(x, w, b), x, w)
    for gradient, array in zip(gradients, (x, w, b), strict=True):
        numeric = central_differences(lambda: (dvalues * fastbp.dense_relu_forward(x, w, b)).sum(), array)
        assert_allclose(gradient, numeric, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("layer_type", [fastbp.Dense, fastbp.DenseReLU])
def test_a_network_of_layers(rng, layer_type):
    """Through three layers and a mean squared error, with respect to every parameter."""
    first, relu, last = layer_type(6, 9, dtype="float64", rng=1), fastbp.ReLU(), fastbp.Dense(9, 2, dtype="float64", rng=2)
    x, target = rng.standard_normal((8, 6)), rng.standard_normal((8, 2))
    first.biases += 0.1

    def difference():
        return last.forward(relu.forward(first.forward(x))) - target

    relu.backward(last.backward(2 * difference() / target.size))
    first.backward(relu.dinputs)
    found = [array.copy() for layer in (first, last) for array in (layer.dweights, layer.dbiases)] + [first.dinputs.copy()]
    changed = [array for layer in (first, last) for array in (layer.weights, layer.biases)] + [x]
    for gradient, array in zip(found, changed, strict=True):
        numeric = central_differences(lambda: (difference() ** 2).mean(), array)
        assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)
