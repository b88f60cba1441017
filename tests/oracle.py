"""The formulas of kernels/reference.py for the functions that users call, in float64, and operands with exact results.

With small whole numbers as operands there is no rounding: every product and every sum is a whole number that float32 can hold.
So a right result is equal, not just close, in whatever order it was added up.
"""
import numpy as np
from checks import bounds

from fastbp.kernels import reference
from fastbp.kernels.elementwise.activations import IDENTITY, RELU

ARGUMENTS = {
    "dense_forward": ("inputs", "weights", "biases"),
    "dense_backward": ("dvalues", "inputs", "weights"),
    "relu_forward": ("z",),
    "relu_backward": ("dvalues", "z"),
    "dense_relu_forward": ("inputs", "weights", "biases"),
    "dense_relu_backward": ("dvalues", "output", "inputs", "weights"),
}


def integers(rng, shape, dtype):
    """Return an array of whole numbers from -3 to 3, with zeros for the ReLU."""
    return rng.integers(-3, 4, shape).astype(dtype)


def operands(rng, name, batch, n_inputs, n_neurons, dtype):
    """Return the arguments of the function `name`, by name, as small whole numbers."""
    shapes = {"inputs": (batch, n_inputs), "weights": (n_inputs, n_neurons), "biases": (1, n_neurons)}
    return {argument: integers(rng, shapes.get(argument, (batch, n_neurons)), dtype) for argument in ARGUMENTS[name]}


def results(value):
    """Return what a function returned, always as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def expected(name, arguments):
    """Return the exact results of the function `name`, a tuple in float64."""
    return results(globals()[name](**arguments))


def dense_forward(inputs, weights, biases=None, activation=IDENTITY):
    biases = None if biases is None else _matrix(biases)
    return reference.dense_forward(_matrix(inputs), _float64(weights), biases, activation)[0]


def dense_backward(dvalues, inputs, weights):
    return reference.dense_backward(_matrix(dvalues), None, _matrix(inputs), _float64(weights))


def relu_forward(z):
    return relu_backward(z, z)


def relu_backward(dvalues, z):
    return reference.relu(_float64(dvalues), _float64(z))


def dense_relu_forward(inputs, weights, biases=None):
    return dense_forward(inputs, weights, biases, RELU)


def dense_relu_backward(dvalues, output, inputs, weights):
    return reference.dense_backward(_matrix(dvalues), _matrix(output), _matrix(inputs), _float64(weights), RELU)


def assert_rounded(result, left, right, extra=None):
    """Raise AssertionError unless `result` is left @ right + extra, up to the rounding of its sums."""
    exact, bound = bounds.product(np.asarray(left), np.asarray(right), extra, result.dtype)
    wrong = bounds.differences(result, exact, bound)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} elements are beyond the bound"


def _float64(value):
    return np.asarray(value).astype(np.float64)


def _matrix(value):
    return np.atleast_2d(_float64(value))
