"""The accuracies of chapter 18: the share of predictions that are right."""
from collections.abc import Callable

import numpy as np

from .._operands import check_shape
from ._mean import Accumulated


class Accuracy(Accumulated):
    """What both share. A subclass has compare(predictions, y), booleans, and init(y, reinit), called before training."""

    compare: Callable[..., np.ndarray]
    init: Callable[..., None]

    def calculate(self, predictions: np.ndarray, y: np.ndarray) -> float:
        """Return the share of right predictions."""
        return self._mean(self.compare(predictions, y))

    def calculate_accumulated(self) -> float:
        """Return the share since new_pass. Raises RuntimeError if there were no predictions."""
        return self._accumulated_mean()


class Accuracy_Categorical(Accuracy):
    """Of classes. y is (batch,), or (batch, classes), one-hot; with binary=True it is of the shape of the predictions."""

    def __init__(self, *, binary: bool = False):
        self.binary = binary

    def init(self, y: np.ndarray, reinit: bool = False) -> None:
        """Do nothing: classes need no measure."""

    def compare(self, predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return where the predictions are y. Raises ValueError for another shape."""
        if not self.binary and np.ndim(y) == 2:
            y = np.argmax(y, axis=1)
        return predictions == _of_shape(y, predictions)


class Accuracy_Regression(Accuracy):
    """Of numbers: right is what is less than `precision` off, that is a 250th of the standard deviation of y, None before."""

    def __init__(self) -> None:
        self.precision = None

    def init(self, y: np.ndarray, reinit: bool = False) -> None:
        """Set precision, once unless `reinit`."""
        if self.precision is None or reinit:
            self.precision = np.std(y) / 250

    def compare(self, predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return where the predictions are near y. Raises ValueError for another shape, RuntimeError before init."""
        if self.precision is None:
            raise RuntimeError("compare of Accuracy_Regression was called before init, expected init first")
        return np.abs(predictions - _of_shape(y, predictions)) < self.precision


def _of_shape(y, predictions):
    """Return y as an array. NumPy would broadcast (n,) against (n, 1) to (n, n) without a word."""
    y = np.asarray(y)
    check_shape("y", y, np.shape(predictions), "that is the shape of the predictions")
    return y
