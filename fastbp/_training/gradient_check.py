"""A check of a network's gradients against central differences of its loss."""
import numpy as np
from numpy.typing import ArrayLike

from .. import functional
from .._arrays.memory import shuffled
from ..kernels.elementwise.activations import LEAKY_RELU, RELU
from .loop import Network
from .session import TrainingSession

_CHANGE = 1e-5                  # A weight is changed up and down by this much.


def check_gradients(network: Network, x: ArrayLike, y: ArrayLike, *, places: int = 100,
                    rng: np.random.Generator | int | None = 0) -> float:
    """Return the largest error of a network's gradients, relative to the largest gradient of each array, in float64.

    Up to `places` random places of each array of weights and biases are changed by ±1e-5, in a float64 copy of the network,
    for the samples of x (rows, n_inputs) and y. Its Dropout drops the same inputs each time. A sample weighs nothing if it is
    so near the kink of a ReLU, z = 0, that a change could take it across: differences over the kink agree with no gradient.
    The result is about 1e-7 or less where all is well. Raises ValueError where no sample is left.
    """
    specs = [spec._replace(precision=None, weights=_as_float64(spec.weights), biases=_as_float64(spec.biases))
             for spec in network._specs()]
    loss = network._require_loss("check_gradients")
    x = network._as_inputs("x", x).astype(np.float64, order="C")
    targets = loss.as_targets(y, len(x), network.n_outputs, np.dtype(np.float64))
    generator = np.random.default_rng(rng)
    weights = np.ones(len(x), np.float64)
    session = TrainingSession(specs, network.n_inputs, loss, None, len(x), check=False)
    session.use(x, targets, weights)

    def mean_loss():
        session.start()
        session.restart_dropout()
        session.advance(1)
        return session.mean_loss

    mean_loss()
    weights[:] = _far_from_kinks(session, x)
    if not weights.any():
        raise ValueError(f"x has {len(x)} rows that are all at the kink of a ReLU, expected others")
    mean_loss()
    session.gradient()                      # adds up the shards
    gradients = [gradient.copy() for gradient in session.gradients]
    arrays = [array for spec in specs for array in (spec.weights, spec.biases) if array is not None]
    return float(np.max([_error(values, gradient, mean_loss, shuffled(generator, values.size)[:places])
                         for values, gradient in zip(arrays, gradients, strict=True)]))     # np.max also keeps a NaN


def _as_float64(array):
    return None if array is None else array.astype(np.float64)


def _error(values, gradient, loss, places):
    """Return the largest error of a gradient at these places of an array, relative to the array's largest gradient."""
    differences = np.array([_central_difference(values, place, loss) for place in places], np.float64)
    largest = np.abs(gradient).max(initial=0)
    error = np.abs(differences - gradient.flat[places]).max(initial=0)
    return float(error / largest if largest else error)


def _central_difference(values, place, function):
    """Return (f(v + h) - f(v - h)) / 2h for the value at a place of an array, h being _CHANGE."""
    before = values.flat[place]
    values.flat[place] = before + _CHANGE
    above = function()
    values.flat[place] = before - _CHANGE
    below = function()
    values.flat[place] = before
    return (above - below) / (2 * _CHANGE)


def _far_from_kinks(session, x):
    """Return, for each sample of the session's last step, whether no z of a ReLU is near 0."""
    far, inputs = np.ones(len(x), np.bool_), x
    for spec, values in zip(session.specs, session.values, strict=True):
        if spec.activation in (RELU, LEAKY_RELU):
            z = functional.dense_forward(inputs, spec.weights, spec.biases)
            far &= (np.abs(z) > 10 * _CHANGE * max(1, np.abs(inputs).max(initial=0))).all(axis=1)
        if len(values) == len(x):
            inputs = values
        else:                               # transposed shards keep no outputs
            inputs, _ = functional._forward(inputs, spec.weights, spec.biases, None, spec.activation)
    return far
