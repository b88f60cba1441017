"""Checks a network's gradients against central differences of its loss."""
import numpy as np

from . import functional
from ._memory import shuffled
from .kernels.activations import LEAKY_RELU, RELU
from .training import Run

_CHANGE = 1e-5


def check_gradients(network, x, y, *, places=100, rng=0):
    """The largest error of a network's gradients, relative to the largest gradient of each array, in float64.

    Up to `places` random places of each array of weights and biases are changed by ±1e-5, in a float64 copy of the network,
    for the samples of x (rows, n_inputs) and y; its Dropout drops the same each time. Samples that are so near the kink of a
    ReLU, z = 0, that a change could take them across it, where the differences have no gradient to agree with, weigh nothing.
    The result is some 1e-7 or less where all is well. Raises ValueError where no sample is left.
    """
    parts = [part._replace(precision=None, **{name: None if array is None else array.astype(np.float64)
                                              for name, array in (("weights", part.weights), ("biases", part.biases))})
             for part in network.parts()]
    x = network.as_inputs("x", x).astype(np.float64, order="C")
    targets = network.loss.as_targets(y, len(x), network.n_outputs, np.dtype(np.float64))
    rng = np.random.default_rng(rng)
    weights = np.ones(len(x), np.float64)
    run = Run(parts, network.n_inputs, network.loss, None, len(x), check=False)
    run.use(x, targets, weights)

    def loss():
        run.start()
        run.restart_dropout()
        run.advance(1)
        return run.mean_loss

    loss()
    weights[:] = _far_from_kinks(run, x)
    if not weights.any():
        raise ValueError(f"x has {len(x)} rows that are all at the kink of a ReLU, expected others")
    loss()
    gradients = [gradient.copy() for gradient in run.gradients]
    arrays = [array for part in parts for array in (part.weights, part.biases) if array is not None]
    return float(np.max([_error(values, gradient, loss, shuffled(rng, values.size)[:places])
                         for values, gradient in zip(arrays, gradients, strict=True)]))     # of a NaN too


def _error(values, gradient, loss, places):
    differences = np.array([_central_difference(values, place, loss) for place in places], np.float64)
    largest = np.abs(gradient).max(initial=0)
    error = np.abs(differences - gradient.flat[places]).max(initial=0)
    return float(error / largest if largest else error)


def _central_difference(values, place, function):
    before = values.flat[place]
    values.flat[place] = before + _CHANGE
    above = function()
    values.flat[place] = before - _CHANGE
    below = function()
    values.flat[place] = before
    return (above - below) / (2 * _CHANGE)


def _far_from_kinks(run, x):
    """Whether no z of a ReLU is near 0, of each sample of the run's last step."""
    far = np.ones(len(x), np.bool_)
    for part, inputs in zip(run.parts, [x, *run.values], strict=False):
        if part.activation in (RELU, LEAKY_RELU):
            z = functional.dense_forward(inputs, part.weights, part.biases)
            far &= (np.abs(z) > 10 * _CHANGE * max(1, np.abs(inputs).max(initial=0))).all(axis=1)
    return far
