"""The activations of the book. `predictions` (chapter 18) turns the outputs of a model that ends in one into predictions.

A backward pass that needs a result of its forward pass raises RuntimeError if that has not run.
"""
import numpy as np
from numpy.typing import ArrayLike

from .. import functional
from . import _exact
from ._order import require


class Activation_ReLU:
    """The rectified linear unit as in chapter 9, for any shape."""

    def forward(self, inputs: ArrayLike, training: bool = True) -> None:
        """Set output = inputs where the inputs are above 0, else 0."""
        self.output = functional.relu_forward(inputs)
        self.inputs = inputs

    def backward(self, dvalues: ArrayLike) -> None:
        """Set dinputs = dvalues where the inputs were above 0, else 0."""
        require(self, "inputs", "backward", "forward")
        self.dinputs = functional.relu_backward(dvalues, self.inputs)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return the outputs."""
        return outputs


class Activation_Softmax:
    """The softmax: exp(inputs) divided by its sum in each row, as in chapters 4 and 9."""

    def forward(self, inputs: ArrayLike, training: bool = True) -> None:
        """Set output (batch, classes), the shape of the inputs. Each row holds probabilities whose sum is 1."""
        self.inputs = inputs
        self.output = np.exp(inputs - np.max(inputs, axis=1, keepdims=True))
        self.output /= self.output.sum(axis=1, keepdims=True)

    def backward(self, dvalues: ArrayLike) -> None:
        """Set dinputs = output * (dvalues - sum(dvalues * output)), with the sum over each row.

        This is the product of the book's Jacobian, diag(output) - outer(output, output), and dvalues.
        """
        require(self, "output", "backward", "forward")
        dvalues, output = np.asarray(dvalues), np.asarray(self.output)
        if _exact.wanted():
            self.dinputs = _by_jacobians(output, dvalues)
        else:
            self.dinputs = dvalues - np.vecdot(dvalues, output)[:, np.newaxis]
            self.dinputs *= output

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return the most probable class of each row, (batch,)."""
        return np.argmax(outputs, axis=1)


def _by_jacobians(output, dvalues):
    """Return the softmax's dinputs. Each row multiplies its whole Jacobian, so that roundings are those of the book's class."""
    dinputs = np.empty_like(dvalues, dtype=dvalues.dtype if dvalues.dtype.kind == "f" else output.dtype)
    for row, (probabilities, gradient) in enumerate(zip(output, dvalues, strict=True)):
        column = probabilities[:, np.newaxis]
        dinputs[row] = np.dot(np.diagflat(column) - np.dot(column, column.T), gradient)
    return dinputs


class Activation_Sigmoid:
    """The sigmoid, 1 / (1 + exp(-inputs)), as in chapter 16, for any shape."""

    def forward(self, inputs: ArrayLike, training: bool = True) -> None:
        """Set output, between 0 and 1."""
        self.inputs = inputs
        with np.errstate(over="ignore"):            # exp may be inf; its reciprocal, 0, is right
            self.output = 1 / (1 + np.exp(np.negative(inputs)))

    def backward(self, dvalues: np.ndarray) -> None:
        """Set dinputs = dvalues * (1 - output) * output."""
        require(self, "output", "backward", "forward")
        self.dinputs = dvalues * (1 - self.output)
        self.dinputs *= self.output

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return 1 where the outputs are above 0.5, else 0."""
        return (outputs > 0.5) * 1


class Activation_Linear:
    """The identity, as in chapter 17, for any shape."""

    def forward(self, inputs: np.ndarray, training: bool = True) -> None:
        """Set output = inputs."""
        self.inputs = self.output = inputs

    def backward(self, dvalues: np.ndarray) -> None:
        """Set dinputs = dvalues."""
        self.dinputs = dvalues

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return the outputs."""
        return outputs
