"""The losses of the book: forward returns a number for each sample, and backward sets the gradient of their mean."""
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from .._arrays.operands import check_shape
from . import _regularization
from ._mean import Accumulated
from .activations import Activation_Softmax

SMALLEST = 1e-7                 # Probabilities are clipped to the range from this to 1 - this before a logarithm (chapter 5).


class Loss(Accumulated):
    """The base class of losses, as in chapters 5, 14 and 19.

    A subclass has forward(y_pred, y_true), which returns a number for each sample. A model sets trainable_layers. Its passes
    change accumulated_sum and accumulated_count.
    """

    trainable_layers: Sequence[Any] = ()
    forward: Callable[..., np.ndarray]

    def remember_trainable_layers(self, trainable_layers: list[Any]) -> None:
        """Set the layers whose penalties regularization_loss() adds up, as in chapter 18."""
        self.trainable_layers = trainable_layers

    def regularization_loss(self, layer: Any = None) -> float:
        """Return the sum of the penalties of one layer (chapters 14 to 17), or of all trainable_layers (chapter 18)."""
        layers = self.trainable_layers if layer is None else [layer]
        return sum(penalty for each in layers for penalty in _regularization.penalties(each))

    @overload
    def calculate(self, output: ArrayLike, y: ArrayLike, *, include_regularization: Literal[False] = False) -> float: ...

    @overload
    def calculate(self, output: ArrayLike, y: ArrayLike, *, include_regularization: bool) -> Any: ...

    def calculate(self, output: ArrayLike, y: ArrayLike, *,
                  include_regularization: bool = False) -> float | tuple[float, float]:
        """Return the mean loss or, with include_regularization, (mean loss, regularization_loss())."""
        return self._beside_penalties(self._mean(self.forward(output, y)), include_regularization)

    @overload
    def calculate_accumulated(self, *, include_regularization: Literal[False] = False) -> float: ...

    @overload
    def calculate_accumulated(self, *, include_regularization: bool) -> Any: ...

    def calculate_accumulated(self, *, include_regularization: bool = False) -> float | tuple[float, float]:
        """Return the result of calculate for all samples since new_pass. Raises RuntimeError if there were none."""
        return self._beside_penalties(self._accumulated_mean(), include_regularization)

    def _beside_penalties(self, data_loss, include_regularization):
        return (data_loss, self.regularization_loss()) if include_regularization else data_loss


class Loss_CategoricalCrossentropy(Loss):
    """The categorical cross-entropy, -log(probability of the true class), as in chapters 5 and 9.

    y_true is (batch,), integers from 0 to classes - 1, or (batch, classes), one-hot or any probabilities. For probabilities p
    the loss is -sum(p * log(y_pred)). Raises ValueError for another shape or class, TypeError for classes of no integer type.
    """

    def forward(self, y_pred: ArrayLike, y_true: ArrayLike) -> np.ndarray:
        """Return the losses (batch,) for the probabilities y_pred (batch, classes)."""
        y_pred, y_true = _probabilities_and_classes(y_pred, y_true)
        if y_true.ndim == 1:
            return -np.log(_clipped(y_pred[_rows(y_true), y_true]))
        y_pred = _clipped(y_pred)
        return -np.vecdot(y_true, np.log(y_pred.astype(np.result_type(y_pred, y_true), copy=False)))

    def backward(self, dvalues: ArrayLike, y_true: ArrayLike) -> None:
        """Set dinputs = -y_true / dvalues / batch, with y_true one-hot. dvalues are the probabilities that forward took."""
        dvalues, y_true = _probabilities_and_classes(dvalues, y_true)
        if y_true.ndim == 1:
            y_true = np.equal.outer(y_true, np.arange(dvalues.shape[1]))
        self.dinputs = y_true / dvalues
        self.dinputs /= -len(dvalues)


class Activation_Softmax_Loss_CategoricalCrossentropy:
    """The softmax and its cross-entropy in one, as in chapter 9. The common gradient is simpler than the two separate ones.

    `activation` and `loss` are the two parts. y_true is as for Loss_CategoricalCrossentropy.
    """

    def __init__(self) -> None:
        self.activation = Activation_Softmax()
        self.loss = Loss_CategoricalCrossentropy()

    def forward(self, inputs: ArrayLike, y_true: ArrayLike) -> float:
        """Set output, the probabilities (batch, classes), and return their mean loss."""
        self.activation.forward(inputs)
        self.output = self.activation.output
        return self.loss.calculate(self.output, y_true)

    def backward(self, dvalues: ArrayLike, y_true: ArrayLike) -> None:
        """Set dinputs = (dvalues - y_true) / batch, with y_true one-hot. dvalues are the probabilities."""
        dvalues, y_true = _probabilities_and_classes(dvalues, y_true)
        self.dinputs = dvalues.copy()
        if y_true.ndim == 1:
            self.dinputs[_rows(y_true), y_true] -= 1
        else:
            self.dinputs -= y_true
        self.dinputs /= len(dvalues)


class Loss_BinaryCrossentropy(Loss):
    """The binary cross-entropy: -log(p) where y_true is 1, and -log(1 - p) where it is 0, as in chapter 16.

    A sample's loss is the mean over its outputs. y_true has the shape of the probabilities, (batch, outputs), or ValueError is
    raised.
    """

    def forward(self, y_pred: ArrayLike, y_true: ArrayLike) -> np.ndarray:
        """Return the losses (batch,) for the probabilities y_pred (batch, outputs)."""
        y_pred, y_true = _of_one_shape(y_pred, y_true)
        y_pred = _clipped(y_pred)
        return -np.mean(y_true * np.log(y_pred) + (1 - y_true) * np.log(1 - y_pred), axis=-1)

    def backward(self, dvalues: ArrayLike, y_true: ArrayLike) -> None:
        """Set dinputs = ((1 - y_true) / (1 - dvalues) - y_true / dvalues) / size. dvalues are the probabilities."""
        dvalues, y_true = _of_one_shape(dvalues, y_true)
        dvalues = _clipped(dvalues)
        self.dinputs = _over_size((1 - y_true) / (1 - dvalues) - y_true / dvalues)


class Loss_MeanSquaredError(Loss):
    """The mean of (y_pred - y_true)**2 over a sample's outputs, as in chapter 17. y_true has the shape of y_pred."""

    def forward(self, y_pred: ArrayLike, y_true: ArrayLike) -> np.ndarray:
        """Return the losses (batch,) for y_pred (batch, outputs)."""
        return np.square(_difference(y_pred, y_true)).mean(axis=-1)

    def backward(self, dvalues: ArrayLike, y_true: ArrayLike) -> None:
        """Set dinputs = -2 * (y_true - dvalues) / size. dvalues are the y_pred of forward."""
        dvalues, y_true = _of_one_shape(dvalues, y_true)
        self.dinputs = _over_size(-2 * (y_true - dvalues))         # in this form, zeros have the book's sign


class Loss_MeanAbsoluteError(Loss):
    """The mean of |y_pred - y_true| over a sample's outputs, as in chapter 17. y_true has the shape of y_pred."""

    def forward(self, y_pred: ArrayLike, y_true: ArrayLike) -> np.ndarray:
        """Return the losses (batch,) for y_pred (batch, outputs)."""
        return np.abs(_difference(y_pred, y_true)).mean(axis=-1)

    def backward(self, dvalues: ArrayLike, y_true: ArrayLike) -> None:
        """Set dinputs = sign(dvalues - y_true) / size. dvalues are the y_pred of forward.

        This is the derivative. The book's listing has the opposite sign, which increases the loss; none of its scripts uses it.
        """
        self.dinputs = _over_size(np.sign(_difference(dvalues, y_true)))


def _clipped(probabilities):
    return np.clip(probabilities, SMALLEST, 1 - SMALLEST)


def _over_size(gradients):
    """Return gradients / size, divided by the number of outputs and then of samples: the book rounds twice, too."""
    samples, *outputs = gradients.shape
    return gradients / math.prod(outputs) / samples


def _rows(y_true):
    """Return the index of each row. The dtype is given, because nnfs replaces np.arange by a function with a float default."""
    return np.arange(len(y_true), dtype=np.intp)


def _difference(y_pred, y_true):
    return np.subtract(*_of_one_shape(y_pred, y_true))


def _of_one_shape(y_pred, y_true):
    """Return both as arrays. Raises ValueError for two shapes: NumPy would silently broadcast (n,) and (n, 1) to (n, n)."""
    y_pred, y_true = np.asarray(y_pred), np.asarray(y_true)
    check_shape("y_true", y_true, y_pred.shape, "that is the shape of the output")
    return y_pred, y_true


def _probabilities_and_classes(y_pred, y_true):
    """Return both as arrays. Raises an error unless y_true holds classes (batch,) or has the shape of y_pred."""
    y_pred, y_true = np.asarray(y_pred), np.asarray(y_true)
    if y_true.shape not in (y_pred.shape, y_pred.shape[:1]):
        raise ValueError(f"y_true has shape {y_true.shape}, expected {y_pred.shape[:1]}, classes, or {y_pred.shape}, one-hot: "
                         f"the output has shape {y_pred.shape}")
    if y_true.ndim == 1:
        _check_classes(y_true, y_pred.shape[1])
    return y_pred, y_true


def _check_classes(y_true, count):
    if y_true.dtype.kind not in "iu":
        raise TypeError(f"y_true has dtype {y_true.dtype}, expected integers: it has one class for each sample")
    if len(y_true) and not 0 <= y_true.min() <= y_true.max() < count:
        raise ValueError(f"y_true has classes from {y_true.min()} to {y_true.max()}, expected 0 to {count - 1}: "
                         f"the output has {count} columns")
