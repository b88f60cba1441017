"""The layers of the book: what stands between the data and an activation."""
import numpy as np
from numpy.typing import ArrayLike

from .. import functional
from . import _regularization


class Layer_Dense:
    """A dense layer as in chapter 9: weights of 0.01 * np.random.randn, from NumPy's global generator, and zero biases.

    weights (n_inputs, n_neurons), biases (1, n_neurons). The factors of the L1 and L2 penalties (chapter 14) are attributes
    of the same names; they count in backward and in Loss.regularization_loss.
    """

    def __init__(self, n_inputs: int, n_neurons: int, weight_regularizer_l1: float = 0, weight_regularizer_l2: float = 0,
                 bias_regularizer_l1: float = 0, bias_regularizer_l2: float = 0):
        self.weights = 0.01 * np.random.randn(n_inputs, n_neurons)
        self.biases = np.zeros((1, n_neurons))
        self.weight_regularizer_l1, self.weight_regularizer_l2 = weight_regularizer_l1, weight_regularizer_l2
        self.bias_regularizer_l1, self.bias_regularizer_l2 = bias_regularizer_l1, bias_regularizer_l2

    def forward(self, inputs: ArrayLike, training: bool = True) -> None:
        """Sets output = inputs @ weights + biases, (batch, n_neurons), for inputs (batch, n_inputs), in training or not."""
        self.inputs = inputs
        self.output = functional.dense_forward(inputs, self.weights, self.biases)

    def backward(self, dvalues: ArrayLike) -> None:
        """Sets dweights, dbiases and dinputs, from the gradient with respect to the output, and adds the penalties'."""
        self.dinputs, self.dweights, self.dbiases = functional.dense_backward(dvalues, self.inputs, self.weights)
        _regularization.add_gradients(self)

    def get_parameters(self) -> tuple[np.ndarray, np.ndarray]:
        """(weights, biases), the arrays themselves (chapter 20)."""
        return self.weights, self.biases

    def set_parameters(self, weights: np.ndarray, biases: np.ndarray) -> None:
        """Takes these arrays, which are not copied, for weights and biases (chapter 20)."""
        self.weights, self.biases = weights, biases


class Layer_Dropout:
    """Sets a random part `rate` of the inputs to 0 and scales the others up, so that sums keep their mean, as in chapter 15.

    As in the book, the attribute `rate` is the part that stays, 1 - rate. Raises ValueError unless 0 <= rate < 1.
    """

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise ValueError(f"rate is {rate!r}, expected the part of the inputs to drop, from 0 to below 1")
        self.rate = 1 - rate

    def forward(self, inputs: np.ndarray, training: bool = True) -> None:
        """Sets output = inputs * binary_mask, of any shape, for a new mask of 0 and 1 / rate; the inputs if not in training."""
        self.inputs = self.output = inputs
        if training:
            self.binary_mask = np.random.binomial(1, self.rate, size=np.shape(inputs)) / self.rate
            self.output = inputs * self.binary_mask

    def backward(self, dvalues: np.ndarray) -> None:
        """Sets dinputs = dvalues * binary_mask."""
        self.dinputs = dvalues * self.binary_mask


class Layer_Input:
    """What stands before a model's first layer, as in chapter 18."""

    def forward(self, inputs: np.ndarray, training: bool = True) -> None:
        """Sets output = inputs."""
        self.output = inputs
