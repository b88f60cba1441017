"""A network's functions for the user's own code where Numba's JIT is disabled: what jitted.py compiles, in plain Python."""
import numpy as np
from numba import typeof
from numba.core.errors import TypingError

from . import functional
from ._operands import BFLOAT16
from .compiled import check_array
from .kernels.activations import IDENTITY
from .kernels.losses import SOFTMAX


def functions(plan, kind, loss):
    """Return (forward, value_and_gradient) of a network, with the arguments, results and errors that jitted.Jitted has."""
    layers = list(zip(plan.weights, plan.biased, plan.activations, plan.shapes, strict=True))
    (inputs, _), (_, outputs), count = plan.shapes[0], plan.shapes[-1], len(layers) + sum(plan.biased)
    precision = BFLOAT16 if plan.rounded else None

    def check(parameters, x):
        """Raise unless they fit the network."""
        if not isinstance(parameters, tuple) or len(parameters) != count:
            raise TypingError(f"parameters is {parameters!r}, expected a tuple of {count} arrays, as "
                              "tuple(network.parameters())")
        for i, array in enumerate(parameters):
            check_array(f"parameters[{i}]", typeof(array), (2,) if i in plan.weights else (1, 2))
            if array.dtype != kind:
                raise TypingError(f"parameters[{i}] has dtype {array.dtype}, expected {kind}, the network's")
        for k, is_biased, _, (rows, cols) in layers:
            if parameters[k].shape != (rows, cols) or (is_biased and parameters[k + 1].shape not in ((cols,), (1, cols))):
                raise ValueError("parameters do not fit the network, expected arrays like those of network.parameters()")
        check_array("x", typeof(x), (2,))
        if x.shape[1] != inputs:
            raise ValueError("x does not fit the network, expected (rows, n_inputs)")

    def check_targets(y, rows):
        """Raise unless y has the type and shape that the loss takes, which itself looks at the numbers."""
        check_array("y", typeof(y), (1, 2))
        are_classes = loss._kind == SOFTMAX and y.ndim == 1
        if are_classes and y.dtype.kind not in "biu":
            raise TypingError(f"y has dtype {y.dtype}, expected integers, or (rows, n_outputs)")
        if y.shape != ((rows,) if are_classes or (y.ndim == outputs == 1) else (rows, outputs)):
            raise ValueError("y does not fit x and the network, expected (rows, n_outputs)")

    def passes(parameters, x):
        """Return (output, s) of each layer, and before them of x."""
        found = [(np.array(x, kind, order="C"), None)]
        for k, is_biased, activation, _ in layers:
            biases = parameters[k + 1] if is_biased else None
            found.append(functional._forward(found[-1][0], parameters[k], biases, None, activation, precision=precision))
        return found

    def forward(parameters, x):
        check(parameters, x)
        return passes(parameters, x)[-1][0]

    def value_and_gradient(parameters, x, y):
        check(parameters, x)
        check_targets(y, len(x))
        found = passes(parameters, x)
        value, dvalues = loss.value_and_gradient(found[-1][0], y)
        gradients = list(parameters)
        for (k, is_biased, activation, _), (h, _), (_, s) in zip(reversed(layers), found[-2::-1], found[:0:-1], strict=True):
            dvalues, gradients[k], dbiases = functional._backward(dvalues, None if activation == IDENTITY else s, h,
                                                                  parameters[k], None, activation, k > 0, precision=precision)
            if is_biased:
                gradients[k + 1] = dbiases.reshape(parameters[k + 1].shape)
        return value, tuple(gradients)

    return forward, value_and_gradient
