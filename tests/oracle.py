"""The slow and obvious reference: every formula of a dense layer in float64, and operands that make equality exact.

Small integers as operands leave no room for rounding: every product and every sum is a whole number that float32 can hold,
so a right result is equal, not close, in whatever order it was added up.
"""
import numpy as np
from checks import bounds

ARGUMENTS = {
    "dense_forward": ("inputs", "weights", "biases"),
    "dense_backward": ("dvalues", "inputs", "weights"),
    "relu_forward": ("z",),
    "relu_backward": ("dvalues", "z"),
    "dense_relu_forward": ("inputs", "weights", "biases"),
    "dense_relu_backward": ("dvalues", "output", "inputs", "weights"),
}


def integers(rng, shape, dtype):
    """An array of whole numbers from -3 to 3; zeros among them, for the ReLU."""
    return rng.integers(-3, 4, shape).astype(dtype)


def operands(rng, name, batch, n_inputs, n_neurons, dtype):
    """Arguments of the function `name`, by name, as small whole numbers."""
    shapes = {"inputs": (batch, n_inputs), "weights": (n_inputs, n_neurons), "biases": (1, n_neurons)}
    return {argument: integers(rng, shapes.get(argument, (batch, n_neurons)), dtype) for argument in ARGUMENTS[name]}


def results(value):
    """What a function returned, always as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def expected(name, arguments):
    """The tuple of exact results of the function `name`, in float64."""
    return results(globals()[name](**arguments))


def dense_forward(inputs, weights, biases=None):
    z = _matrix(inputs) @ _float64(weights)
    return z if biases is None else z + _matrix(biases)


def dense_backward(dvalues, inputs, weights):
    dvalues, inputs, weights = _matrix(dvalues), _matrix(inputs), _float64(weights)
    return dvalues @ weights.T, inputs.T @ dvalues, dvalues.sum(axis=0, keepdims=True)


def relu_forward(z):
    return relu_backward(z, z)


def relu_backward(dvalues, z):
    return np.where(_float64(z) <= 0, 0.0, _float64(dvalues))       # a NaN is not <= 0, so it passes


def dense_relu_forward(inputs, weights, biases=None):
    return relu_forward(dense_forward(inputs, weights, biases))


def dense_relu_backward(dvalues, output, inputs, weights):
    return dense_backward(relu_backward(_matrix(dvalues), _matrix(output)), inputs, weights)


def assert_rounded(result, left, right, extra=None):
    """`result` is left @ right + extra, up to the rounding of its sums."""
    exact, bound = bounds.product(np.asarray(left), np.asarray(right), extra, result.dtype)
    wrong = bounds.differences(result, exact, bound)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} elements are beyond the bound"


def _float64(value):
    return np.asarray(value).astype(np.float64)


def _matrix(value):
    return np.atleast_2d(_float64(value))
