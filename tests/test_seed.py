"""The numbers in the notes with which this project began, computed with functions and with layers."""
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
from fastbp import nnfs

WEIGHTS = np.array([[0.2, 0.8, -0.5, 1], [0.5, -0.91, 0.26, -0.5], [-0.26, -0.27, 0.17, 0.87]]).T
STEP = 0.001


def assert_prints(result, expected):
    """The same numbers to every digit that was printed."""
    assert result.dtype == np.float64
    assert_allclose(result, expected, rtol=0, atol=1e-9)


def one_neuron():
    return np.array([1.0, -2.0, 3.0]), np.array([[-3.0], [-1.0], [2.0]]), np.array([[1.0]])


def test_one_neuron_by_functions():
    x, w, b = one_neuron()
    z = fastbp.dense_forward(x, w, b)
    relu = fastbp.relu_forward(z)
    assert_prints(z, [[6.0]])
    assert_prints(relu, [[6.0]])
    assert_prints(fastbp.dense_relu_forward(x, w, b), [[6.0]])

    drelu_dz = fastbp.relu_backward(np.array([[1.0]]), z)
    assert_prints(drelu_dz, [[1.0]])
    separate = fastbp.dense_backward(drelu_dz, x, w)
    fused = fastbp.dense_relu_backward(np.array([[1.0]]), relu, x, w)
    for dx, dw, db in (separate, fused):
        assert_prints(dx, [[-3, -1, 2]])
        assert_prints(dw, [[1], [-2], [3]])
        assert_prints(db, [[1]])

    w -= STEP * separate[1]
    b -= STEP * separate[2]
    assert_prints(w, [[-3.001], [-0.998], [1.997]])
    assert_prints(b, [[0.999]])
    assert_prints(fastbp.dense_relu_forward(x, w, b), [[5.985]])


def test_one_neuron_by_layers():
    x, w, b = one_neuron()
    layer = fastbp.DenseReLU(3, 1, dtype=np.float64)
    layer.weights, layer.biases = w, b
    assert_prints(layer.forward(x), [[6.0]])
    assert_prints(layer.backward(np.array([[1.0]])), [[-3, -1, 2]])
    layer.weights -= STEP * layer.dweights
    layer.biases -= STEP * layer.dbiases
    assert_prints(layer.weights, [[-3.001], [-0.998], [1.997]])
    assert_prints(layer.biases, [[0.999]])
    assert_prints(layer.forward(x), [[5.985]])


def test_gradient_of_a_layer_with_respect_to_its_inputs():
    dinputs, _, _ = fastbp.dense_backward(np.ones((1, 3)), np.zeros((1, 4)), WEIGHTS)
    assert_prints(dinputs, [[0.44, -0.38, -0.07, 1.37]])


def test_gradients_with_respect_to_weights_and_biases():
    inputs = np.array([[1, 2, 3, 3.5], [2, 5, -1, 2], [-1.5, 2.7, 3.3, -0.8]])
    dvalues = np.array([[1.0] * 3, [2.0] * 3, [3.0] * 3])
    _, dweights, dbiases = fastbp.dense_backward(dvalues, inputs, WEIGHTS)
    assert_prints(dweights, inputs.T @ dvalues)
    assert_prints(dweights, [[0.5] * 3, [20.1] * 3, [10.9] * 3, [5.1] * 3])
    assert_prints(dbiases, [[6, 6, 6]])


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "float32", "float64"])
def test_mask_keeps_the_dtype(dtype):
    z = np.array([[1, 2, -3, -4], [2, -7, -1, 3], [-1, 2, 5, -1]])
    dvalues = np.arange(1, 13, dtype=dtype).reshape(3, 4)
    layer = fastbp.ReLU()
    layer.forward(z)
    for result in (fastbp.relu_backward(dvalues, z), layer.backward(dvalues)):
        assert result.dtype == dtype
        assert_array_equal(result, [[1, 2, 0, 0], [5, 0, 0, 8], [0, 10, 11, 0]])


def by_functions(inputs, weights, biases):
    z = fastbp.dense_forward(inputs, weights, biases)
    relu = fastbp.relu_forward(z)
    _, dweights, dbiases = fastbp.dense_backward(fastbp.relu_backward(relu, z), inputs, weights)
    return dweights, dbiases


def by_fused_functions(inputs, weights, biases):
    relu = fastbp.dense_relu_forward(inputs, weights, biases)
    _, dweights, dbiases = fastbp.dense_relu_backward(relu, relu, inputs, weights)
    return dweights, dbiases


def by_layers(inputs, weights, biases):
    dense, relu = fastbp.Dense(4, 3, dtype=np.float64), fastbp.ReLU()
    dense.weights, dense.biases = weights, biases
    dense.backward(relu.backward(relu.forward(dense.forward(inputs))))
    return dense.dweights, dense.dbiases


def by_fused_layer(inputs, weights, biases):
    layer = fastbp.DenseReLU(4, 3, dtype=np.float64)
    layer.weights, layer.biases = weights, biases
    layer.backward(layer.forward(inputs))
    return layer.dweights, layer.dbiases


def by_the_book(inputs, weights, biases):
    dense, relu = nnfs.Layer_Dense(4, 3), nnfs.Activation_ReLU()
    dense.weights, dense.biases = weights, biases
    dense.forward(inputs)
    relu.forward(dense.output)
    relu.backward(relu.output)
    dense.backward(relu.dinputs)
    return dense.dweights, dense.dbiases


@pytest.mark.parametrize("gradients", [by_functions, by_fused_functions, by_layers, by_fused_layer, by_the_book])
def test_forward_and_backward_of_a_whole_layer(gradients):
    inputs = np.array([[1, 2, 3, 2.5], [2, 5, -1, 2], [-1.5, 2.7, 3.3, -0.8]])
    biases = np.array([[2, 3, 0.5]])
    dweights, dbiases = gradients(inputs, WEIGHTS, biases)
    assert_prints(WEIGHTS - STEP * dweights, [
        [0.179515, 0.5003665, -0.262746],
        [0.742093, -0.9152577, -0.2758402],
        [-0.510153, 0.2529017, 0.1629592],
        [0.971328, -0.5021842, 0.8636583]])
    assert_prints(biases - STEP * dbiases, [[1.98489, 2.997739, 0.497389]])
