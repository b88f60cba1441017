"""The accuracies of chapter 18: the fraction of predictions that are right."""
from collections.abc import Callable

import numpy as np

from .._arrays.operands import check_shape
from ._mean import Accumulated


class Accuracy(Accumulated):
    """The base class. A subclass has compare(predictions, y) -> booleans, and init(y, reinit), called before training."""

    compare: Callable[..., np.ndarray]
    init: Callable[..., None]

    def calculate(self, predictions: np.ndarray, y: np.ndarray) -> float:
        """Return the fraction of predictions that are right."""
        return self._mean(self.compare(predictions, y))

    def calculate_accumulated(self) -> float:
        """Return the fraction of all predictions since new_pass. Raises RuntimeError if there were none."""
        return self._accumulated_mean()


class Accuracy_Categorical(Accuracy):
    """The accuracy of classes. y is (batch,), or one-hot (batch, classes). With binary=True it has the predictions' shape."""

    def __init__(self, *, binary: bool = False):
        self.binary = binary

    def init(self, y: np.ndarray, reinit: bool = False) -> None:
        """Do nothing: classes need no precision."""

    def compare(self, predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return where the predictions equal y. Raises ValueError if y has another shape."""
        if not self.binary and np.ndim(y) == 2:
            y = np.argmax(y, axis=1)
        return predictions == _of_shape(y, predictions)


class Accuracy_Regression(Accuracy):
    """The accuracy of numbers. A prediction is right if it is less than `precision` off.

    `precision` is None before init, which sets it to the standard deviation of y over 250.
    """

    def __init__(self) -> None:
        self.precision = None

    def init(self, y: np.ndarray, reinit: bool = False) -> None:
        """Set precision, unless it is set already and `reinit` is False."""
        if self.precision is None or reinit:
            self.precision = np.std(y) / 250

    def compare(self, predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return where the predictions are near y. Raises ValueError if y has another shape, RuntimeError before init."""
        if self.precision is None:
            raise RuntimeError("compare of Accuracy_Regression was called before init, expected init first")
        return np.abs(predictions - _of_shape(y, predictions)) < self.precision


def _of_shape(y, predictions):
    """Return y as an array. Raises ValueError for another shape: NumPy would silently broadcast (n,) and (n, 1) to (n, n)."""
    y = np.asarray(y)
    check_shape("y", y, np.shape(predictions), "that is the shape of the predictions")
    return y
