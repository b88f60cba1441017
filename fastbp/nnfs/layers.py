"""The layers of the book, without its activations."""
import numpy as np
from numpy.typing import ArrayLike

from .. import functional
from . import _exact, _regularization
from ._order import require


class Layer_Dense:
    """A dense layer as in chapter 9.

    weights (n_inputs, n_neurons) are weight_scale * np.random.randn, from NumPy's global generator. biases are zeros
    (1, n_neurons).
    The factors of the L1 and L2 penalties (chapter 14) are attributes of the same names. backward and Loss.regularization_loss
    use them. `Layer_Dense.weight_scale = 0.1` in a script changes all layers that are made after it. Chapter 17 needs this,
    because its regression does not learn from weights of 0.01.
    """

    weight_scale = 0.01         # This is the standard deviation of new weights.

    def __init__(self, n_inputs: int, n_neurons: int, weight_regularizer_l1: float = 0, weight_regularizer_l2: float = 0,
                 bias_regularizer_l1: float = 0, bias_regularizer_l2: float = 0):
        self.weights = self.weight_scale * np.random.randn(n_inputs, n_neurons)
        self.biases = np.zeros((1, n_neurons))      # without a dtype: float32 after nnfs.init(), as the book's own
        self.weight_regularizer_l1, self.weight_regularizer_l2 = weight_regularizer_l1, weight_regularizer_l2
        self.bias_regularizer_l1, self.bias_regularizer_l2 = bias_regularizer_l1, bias_regularizer_l2

    def forward(self, inputs: ArrayLike, training: bool = True) -> None:
        """Set output = inputs @ weights + biases, (batch, n_neurons), for inputs (batch, n_inputs). Ignores `training`."""
        if _exact.wanted():
            rows, weights, biases, _ = functional.check_forward(inputs, self.weights, self.biases)
            output = np.dot(rows, weights) + biases
        else:
            output = functional.dense_forward(inputs, self.weights, self.biases)
        self.inputs, self.output = inputs, output

    def backward(self, dvalues: ArrayLike) -> None:
        """Set dweights, dbiases and dinputs from dvalues, the gradient with respect to the output.

        The gradients of the penalties are added. Raises RuntimeError before the first forward.
        """
        require(self, "inputs", "backward", "forward")
        if _exact.wanted():
            dvalues, _, inputs, weights, dtype = functional.check_backward(dvalues, None, self.inputs, self.weights)
            if dvalues.dtype.kind != "f":
                dvalues = dvalues.astype(dtype)
            dinputs, dweights = np.dot(dvalues, weights.T), np.dot(inputs.T, dvalues)
            dbiases = np.sum(dvalues, axis=0, keepdims=True)
        else:
            dinputs, dweights, dbiases = functional.dense_backward(dvalues, self.inputs, self.weights)
        self.dinputs, self.dweights, self.dbiases = dinputs, dweights, dbiases.reshape(np.shape(self.biases))
        _regularization.add_gradients(self)

    def get_parameters(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (weights, biases), the arrays themselves (chapter 20)."""
        return self.weights, self.biases

    def set_parameters(self, weights: np.ndarray, biases: np.ndarray) -> None:
        """Use these arrays as weights and biases, without a copy (chapter 20)."""
        self.weights, self.biases = weights, biases


class Layer_Dropout:
    """Dropout, as in chapter 15: a random fraction `rate` of the inputs becomes 0. The others grow: sums keep their mean.

    As in the book, the attribute `rate` is the fraction that stays, 1 - rate. Raises ValueError unless 0 <= rate < 1.
    """

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise ValueError(f"rate is {rate!r}, expected the part of the inputs to drop, from 0 to below 1")
        self.rate = 1 - rate

    def forward(self, inputs: np.ndarray, training: bool = True) -> None:
        """Set output = inputs * binary_mask, a new mask of 0 and 1 / rate; without training, output = inputs. Any shape."""
        self.inputs = self.output = inputs
        if training:
            self.binary_mask = np.random.binomial(1, self.rate, size=np.shape(inputs)) / self.rate
            self.output = inputs * self.binary_mask

    def backward(self, dvalues: np.ndarray) -> None:
        """Set dinputs = dvalues * binary_mask. Raises RuntimeError before the first forward in training."""
        require(self, "binary_mask", "backward", "forward in training")
        self.dinputs = dvalues * self.binary_mask


class Layer_Input:
    """The input of a model's first layer, as in chapter 18."""

    def forward(self, inputs: np.ndarray, training: bool = True) -> None:
        """Set output = inputs."""
        self.output = inputs
