"""The activations of the book. `predictions` (chapter 18) says what a model with that activation at its end predicts."""
import numpy as np
from numpy.typing import ArrayLike

from .. import functional


class Activation_ReLU:
    """The rectified linear unit as in chapter 9, for any shape."""

    def forward(self, inputs: ArrayLike, training: bool = True) -> None:
        """Sets output = inputs where they are above 0, else 0."""
        self.inputs = inputs
        self.output = functional.relu_forward(inputs)

    def backward(self, dvalues: ArrayLike) -> None:
        """Sets dinputs = dvalues where the inputs were above 0, else 0."""
        self.dinputs = functional.relu_backward(dvalues, self.inputs)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """The outputs."""
        return outputs


class Activation_Softmax:
    """exp(inputs) over its sum in each row, as in chapters 4 and 9."""

    def forward(self, inputs: ArrayLike, training: bool = True) -> None:
        """Sets output, (batch, classes) as the inputs: in each row probabilities whose sum is 1."""
        self.inputs = inputs
        self.output = np.exp(inputs - np.max(inputs, axis=1, keepdims=True))
        self.output /= self.output.sum(axis=1, keepdims=True)

    def backward(self, dvalues: np.ndarray) -> None:
        """Sets dinputs = output * (dvalues - sum(dvalues * output)), with the sum over each row.

        That is the product of the book's Jacobian, diag(output) - outer(output, output), with dvalues.
        """
        self.dinputs = dvalues - np.vecdot(dvalues, self.output)[:, np.newaxis]
        self.dinputs *= self.output

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """The most probable class of each row, (batch,)."""
        return np.argmax(outputs, axis=1)


class Activation_Sigmoid:
    """1 / (1 + exp(-inputs)) as in chapter 16, for any shape."""

    def forward(self, inputs: ArrayLike, training: bool = True) -> None:
        """Sets output, between 0 and 1."""
        self.inputs = inputs
        with np.errstate(over="ignore"):            # exp becomes inf, of which the reciprocal is 0, as it should be
            self.output = np.exp(np.negative(inputs))
        self.output += 1
        np.reciprocal(self.output, out=self.output)

    def backward(self, dvalues: np.ndarray) -> None:
        """Sets dinputs = dvalues * output * (1 - output)."""
        self.dinputs = 1 - self.output
        self.dinputs *= self.output
        self.dinputs *= dvalues

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """1 where the outputs are above 0.5, else 0."""
        return (outputs > 0.5) * 1


class Activation_Linear:
    """Its inputs, as in chapter 17, for any shape."""

    def forward(self, inputs: np.ndarray, training: bool = True) -> None:
        """Sets output = inputs."""
        self.inputs = self.output = inputs

    def backward(self, dvalues: np.ndarray) -> None:
        """Sets dinputs = dvalues."""
        self.dinputs = dvalues

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """The outputs."""
        return outputs
