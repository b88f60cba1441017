"""The book's classes against plain NumPy twins of them: the same random stream, gradients and losses."""
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastbp import nnfs


class DenseTwin:
    """The book's dense layer in plain NumPy."""

    def __init__(self, n_inputs, n_neurons):
        self.weights = 0.01 * np.random.randn(n_inputs, n_neurons)
        self.biases = np.zeros((1, n_neurons))

    def forward(self, inputs):
        self.inputs, self.output = inputs, np.dot(inputs, self.weights) + self.biases

    def backward(self, dvalues):
        self.dweights = np.dot(self.inputs.T, dvalues)
        self.dbiases = np.sum(dvalues, axis=0, keepdims=True)
        self.dinputs = np.dot(dvalues, self.weights.T)


class ReLUTwin:
    """The book's ReLU in plain NumPy."""

    def forward(self, inputs):
        self.inputs, self.output = inputs, np.maximum(0, inputs)

    def backward(self, dvalues):
        self.dinputs = dvalues.copy()
        self.dinputs[self.inputs <= 0] = 0


def spiral_data(samples, classes):
    """Points on one arm of a spiral for each class, somewhat scattered: (points (n, 2), classes (n,))."""
    radius = np.linspace(0, 1, samples)
    points = []
    for arm in range(classes):
        angle = 4 * (arm + radius) + 0.2 * np.random.randn(samples)
        points.append(np.column_stack([radius * np.sin(2.5 * angle), radius * np.cos(2.5 * angle)]))
    return np.concatenate(points), np.repeat(np.arange(classes), samples)


def softmax_loss(scores, classes):
    """The mean cross-entropy of the softmax, and its gradient with respect to the scores."""
    rows = np.arange(len(scores))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    loss = -np.log(np.clip(probabilities[rows, classes], 1e-7, 1 - 1e-7)).mean()
    probabilities[rows, classes] -= 1
    return loss, probabilities / len(scores)


class Network:
    """2 inputs, 64 hidden neurons, 3 classes, of whichever classes of layers, and plain gradient descent."""

    def __init__(self, dense, relu, seed=0):
        np.random.seed(seed)
        self.points, self.classes = spiral_data(100, 3)
        self.first, self.activation, self.last = dense(2, 64), relu(), dense(64, 3)

    def step(self, learning_rate):
        self.first.forward(self.points)
        self.activation.forward(self.first.output)
        self.last.forward(self.activation.output)
        loss, dvalues = softmax_loss(self.last.output, self.classes)
        self.last.backward(dvalues)
        self.activation.backward(self.last.dinputs)
        self.first.backward(self.activation.dinputs)
        for layer in (self.first, self.last):
            layer.weights += -learning_rate * layer.dweights
            layer.biases += -learning_rate * layer.dbiases
        return loss


@pytest.fixture
def networks():
    return Network(nnfs.Layer_Dense, nnfs.Activation_ReLU), Network(DenseTwin, ReLUTwin)


def test_a_seeded_script_draws_the_same_stream(networks):
    ours, numpys = networks
    for name in ("first", "last"):
        for parameter in ("weights", "biases"):
            array = getattr(getattr(ours, name), parameter)
            assert array.dtype == np.float64
            assert_array_equal(array, getattr(getattr(numpys, name), parameter))
    assert_array_equal(ours.points, numpys.points)


def test_the_same_gradients(networks):
    ours, numpys = networks
    for network in networks:
        network.last.biases += 0.1
        network.step(0.5)
    for name in ("output", "inputs", "dinputs", "dweights", "dbiases"):
        for layer in ("first", "last"):
            a, b = (getattr(getattr(network, layer), name) for network in networks)
            assert a.dtype == np.float64
            assert a.shape == b.shape
            assert_allclose(a, b, rtol=1e-12, atol=1e-15, err_msg=f"{layer}.{name}")
    for name in ("output", "inputs", "dinputs"):
        assert_allclose(getattr(ours.activation, name), getattr(numpys.activation, name), rtol=1e-12, atol=1e-15)


def test_methods_return_nothing():
    """As in the book, whose scripts read attributes."""
    dense, relu = nnfs.Layer_Dense(2, 3), nnfs.Activation_ReLU()
    x = np.ones((4, 2))
    assert dense.forward(x) is None
    assert dense.inputs is x
    assert relu.forward(dense.output) is None
    assert relu.backward(relu.output) is None
    assert dense.backward(relu.dinputs) is None
    assert dense.output.shape == dense.dinputs[:, :1].repeat(3, axis=1).shape == (4, 3)
    assert dense.weights.shape == dense.dweights.shape == (2, 3)
    assert dense.biases.shape == dense.dbiases.shape == (1, 3)


def test_lists_as_in_the_first_chapters():
    dense = nnfs.Layer_Dense(3, 2)
    dense.weights, dense.biases = np.array([[1.0, -1.0], [2.0, 0.5], [0.0, 3.0]]), np.array([[0.5, -0.5]])
    dense.forward([[1, 2, 3], [4, 5, 6]])
    assert_array_equal(dense.output, [[5.5, 8.5], [14.5, 16.0]])


@pytest.mark.parametrize("learning_rate, epochs", [(1.0, 300), (0.05, 10_000)])
def test_the_same_losses(networks, learning_rate, epochs):
    """To 3 decimals in every epoch, at learning rates of which the run is not chaotic; and the networks do learn."""
    ours, numpys = (np.array([network.step(learning_rate) for _ in range(epochs)]) for network in networks)
    assert abs(ours - numpys).max() < 0.0005
    assert ours[-1] < ours[0] - 0.01
