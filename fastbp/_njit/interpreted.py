"""A network's functions in plain Python, for where Numba's JIT is disabled. network.py compiles the same functions."""
import numpy as np
from numba import typeof
from numba.core.errors import TypingError

from .. import functional
from .._arrays.operands import BFLOAT16
from ..kernels.elementwise.activations import IDENTITY
from ..kernels.train.losses import BINARY, SOFTMAX
from .functions import check_array

# The messages of ValueError, which network.py raises too.
PARAMETERS = "parameters do not fit the network, expected arrays like those of network.parameters()"
INPUTS = "x does not fit the network, expected (rows, n_inputs)"
TARGETS = "y does not fit x and the network, expected (rows, n_outputs)"
LABELS = "y does not fit x, expected (rows,)"
CLASSES = "y has a class that the network has not, expected 0 to n_outputs - 1"
SHARES = "y has a number that is no share, expected 0 to 1"
NEGATIVE = "y has a share below 0, expected 0 or more"


def functions(plan, kind, loss):
    """Return (forward, value_and_gradient) of a network, with the arguments, results and errors of jitted.Jitted."""
    layers = list(zip(plan.weights, plan.biased, plan.activations, plan.shapes, strict=True))
    (inputs, _), (_, outputs), count = plan.shapes[0], plan.shapes[-1], len(layers) + sum(plan.biased)
    precision = BFLOAT16 if plan.rounded else None

    def check(parameters, x):
        """Raise TypingError or ValueError unless parameters and x fit the network."""
        if not isinstance(parameters, tuple) or len(parameters) != count:
            raise TypingError(f"parameters is {parameters!r}, expected a tuple of {count} arrays, as "
                              "tuple(network.parameters())")
        for i, array in enumerate(parameters):
            check_array(f"parameters[{i}]", typeof(array), (2,) if i in plan.weights else (1, 2))
            if array.dtype != kind:
                raise TypingError(f"parameters[{i}] has dtype {array.dtype}, expected {kind}, the network's")
        for k, is_biased, _, (rows, cols) in layers:
            if parameters[k].shape != (rows, cols) or (is_biased and parameters[k + 1].shape not in ((cols,), (1, cols))):
                raise ValueError(PARAMETERS)
        check_array("x", typeof(x), (2,))
        if x.shape[1] != inputs:
            raise ValueError(INPUTS)

    def check_targets(y, rows):
        """Raise TypingError or ValueError unless y has the type, the shape and the numbers that the loss takes."""
        check_array("y", typeof(y), (1, 2))
        if loss._kind == SOFTMAX and y.ndim == 1:
            if y.dtype.kind not in "biu":
                raise TypingError(f"y has dtype {y.dtype}, expected integers, or (rows, n_outputs)")
            if len(y) != rows:
                raise ValueError(LABELS)
            if ((y < 0) | (y >= outputs)).any():
                raise ValueError(CLASSES)
            return
        if y.shape != ((rows,) if y.ndim == outputs == 1 else (rows, outputs)):
            raise ValueError(TARGETS)
        if loss._kind == BINARY and not ((y >= 0) & (y <= 1)).all():
            raise ValueError(SHARES)
        if loss._kind == SOFTMAX and (y < 0).any():
            raise ValueError(NEGATIVE)

    def forward_passes(parameters, x):
        """Return x and None, and then of each layer (output, what backward needs of the activation)."""
        results = [(np.array(x, kind, order="C"), None)]
        for k, is_biased, activation, _ in layers:
            biases = parameters[k + 1] if is_biased else None
            results.append(functional._forward(results[-1][0], parameters[k], biases, None, activation, precision=precision))
        return results

    def forward(parameters, x):
        """Return the scores (rows, n_outputs) for x (rows, n_inputs)."""
        check(parameters, x)
        scores, _ = forward_passes(parameters, x)[-1]
        return scores

    def value_and_gradient(parameters, x, y):
        """Return the mean loss, and the gradients with respect to the parameters, as a tuple."""
        check(parameters, x)
        check_targets(y, len(x))
        results = forward_passes(parameters, x)
        scores, _ = results[-1]
        value, dvalues = loss.value_and_gradient(scores, y)
        gradients = list(parameters)
        for i in range(len(layers) - 1, -1, -1):
            (k, is_biased, activation, _), (h, _), (_, saved) = layers[i], results[i], results[i + 1]
            dvalues, gradients[k], dbiases = functional._backward(dvalues, None if activation == IDENTITY else saved, h,
                                                                  parameters[k], None, activation, k > 0, precision=precision)
            if is_biased:
                gradients[k + 1] = dbiases.reshape(parameters[k + 1].shape)
        return value, tuple(gradients)

    return forward, value_and_gradient
