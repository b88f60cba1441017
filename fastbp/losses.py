"""Losses. Each checks its targets and scales the mean; kernels/train/losses.py does the arithmetic.

Each takes scores, the output of the last layer, and applies its softmax or sigmoid to them itself.
"""
import numpy as np
from numpy.typing import ArrayLike

from . import functional
from ._arrays import operands
from ._arrays.memory import FLOAT, INTEGER, address
from ._compile import compiler
from .functional import FloatArray
from .kernels import reference
from .kernels.schedule.records import in_words
from .kernels.train import losses as kernels
from .kernels.train.losses import Factors, Sums
from .kernels.train.losses import Loss as Job


class Loss:
    """The base class of all losses: SoftmaxCrossEntropy, BinaryCrossEntropy and MeanSquaredError. It is no loss itself."""

    _kind: int
    _bounds: tuple[float, float] = 0.0, np.inf      # the least and the largest loss of an element

    def __call__(self, scores: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the mean loss of scores (rows, outputs), weighted by sample_weight (rows,)."""
        return self.value_and_gradient(scores, targets, sample_weight)[0]

    def value_and_gradient(self, scores: ArrayLike, targets: ArrayLike,
                           sample_weight: ArrayLike | None = None) -> tuple[float, FloatArray]:
        """Return the mean loss and its gradient (rows, outputs) with respect to the scores.

        Raises ValueError for targets or weights that do not fit the scores, TypeError for dtypes that are not real numbers.
        """
        value, _, gradient = self.evaluate(scores, targets, sample_weight)
        return value, gradient

    def evaluate(self, scores: ArrayLike, targets: ArrayLike,
                 sample_weight: ArrayLike | None = None) -> tuple[float, float, FloatArray]:
        """Return (mean loss, number of rows or elements that are right, gradient).

        For classes, the answer of a row is the first of its highest scores; for yes or no, a score above 0 is a yes. Without
        rows or outputs the loss is NaN, the mean of nothing.
        """
        scores = _as_scores(scores)
        rows, outputs = scores.shape
        targets, weights = self.as_targets(targets, rows, outputs, scores.dtype), as_weights(sample_weight, rows)
        if not scores.size:
            return float("nan"), 0.0, scores
        scale = 1.0 if weights is None else kernels.scale_of(weights.max())
        weight = float(rows if weights is None else (weights * scale).sum())
        gradient_factor, loss_factor = self.factors(outputs)
        sums = np.zeros((-(-rows // kernels.ROWS), len(Sums._fields)), FLOAT)
        least, most = self._bounds
        factors = Factors(factor=gradient_factor / weight, least=least, most=most, scale=scale)
        _run(self._kind, scores, targets, weights, factors, sums)
        total = Sums._make(np.add.accumulate(sums)[-1].tolist())                    # in the order of the tasks
        return total.loss * loss_factor / weight, total.right, scores

    def predictions(self, scores: ArrayLike) -> FloatArray:
        """Return what the scores (rows, outputs) predict: here, the scores themselves."""
        return _as_scores(scores)

    def factors(self, outputs: int) -> tuple[float, float]:
        """Return the factors of a row's gradient and of its loss, as the kernel computes them."""
        return 1.0, 1.0

    def as_targets(self, targets: ArrayLike, rows: int, outputs: int, dtype: np.dtype) -> np.ndarray:
        """Return targets as the kernel takes them: (rows, outputs) of that dtype, or labels (rows,) of int64.

        Raises ValueError for targets that do not fit.
        """
        targets = operands.as_array("targets", targets)
        if targets.shape not in ((rows, outputs), (rows,) if outputs == 1 else (rows, outputs)):
            raise ValueError(f"targets has shape {targets.shape}, expected ({rows}, {outputs}): that of the scores")
        return np.ascontiguousarray(targets.reshape(rows, outputs), dtype)

    def accuracy(self, right: float, rows: int, outputs: int) -> float | None:
        """Return the part of the rows or elements that is right; None for a loss that has no right and wrong."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class SoftmaxCrossEntropy(Loss):
    """The softmax of the scores and its cross-entropy, for classes: the mean of log(Σ exp(z)) - z[class] over the rows.

    (Kinsley and Kukieła, Neural Networks from Scratch in Python, ch. 5 and 9.) targets: (rows,), classes as integers from 0, or
    (rows, classes), one-hot or with any share for each class.
    """

    _kind = kernels.SOFTMAX

    def predictions(self, scores: ArrayLike) -> FloatArray:
        """Return the probabilities of the classes, the softmax."""
        return softmax(scores)

    def as_targets(self, targets: ArrayLike, rows: int, outputs: int, dtype: np.dtype) -> np.ndarray:
        targets = operands.as_array("targets", targets)
        if targets.ndim == 2 and targets.shape == (rows, outputs):
            if targets.size and targets.min() < 0:
                raise ValueError(f"targets has shares down to {targets.min()}, expected 0 or more")
            return np.ascontiguousarray(targets, dtype)
        if targets.shape != (rows,) or targets.dtype.kind not in "biu":
            raise ValueError(f"targets has shape {targets.shape} and dtype {targets.dtype}, expected integers ({rows},), or "
                             f"({rows}, {outputs}): that of the scores")
        if rows and not 0 <= targets.min() <= targets.max() < outputs:
            raise ValueError(f"targets has classes from {targets.min()} to {targets.max()}, expected 0 to {outputs - 1}: the "
                             f"scores have {outputs} columns")
        return np.ascontiguousarray(targets, np.int64)

    def accuracy(self, right: float, rows: int, outputs: int) -> float:
        return right / rows


class BinaryCrossEntropy(Loss):
    """The sigmoid of the scores and its cross-entropy, for answers that are yes or no, each independent of the others.

    It is the mean over all rows and outputs of log(1 + exp(z)) - t z (Kinsley and Kukieła, Neural Networks from Scratch in
    Python, ch. 16). targets: (rows, outputs), or (rows,) for one output, from 0 to 1.
    """

    _kind = kernels.BINARY

    def predictions(self, scores: ArrayLike) -> FloatArray:
        """Return the probabilities of yes, the sigmoid."""
        return _probabilities(kernels.BINARY, scores)

    def factors(self, outputs: int) -> tuple[float, float]:
        return 1 / outputs, 1 / outputs

    def as_targets(self, targets: ArrayLike, rows: int, outputs: int, dtype: np.dtype) -> np.ndarray:
        targets = super().as_targets(targets, rows, outputs, dtype)
        if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
            raise ValueError(f"targets has numbers from {targets.min()} to {targets.max()}, expected 0 to 1")
        return targets

    def accuracy(self, right: float, rows: int, outputs: int) -> float:
        return right / (rows * outputs)


class MeanSquaredError(Loss):
    """The mean of (z - t)² over all rows and outputs (Kinsley and Kukieła, Neural Networks from Scratch in Python, ch. 17).

    targets: (rows, outputs), or (rows,) for one output.
    """

    _kind = kernels.SQUARED

    def factors(self, outputs: int) -> tuple[float, float]:
        return 2 / outputs, 1 / outputs


# Every loss by the name of its class.
LOSSES: dict[str, type[Loss]] = {loss.__name__: loss for loss in (SoftmaxCrossEntropy, BinaryCrossEntropy, MeanSquaredError)}


def softmax(scores: ArrayLike) -> FloatArray:
    """Return exp(z) / Σ exp(z) of each row of scores (rows, classes), or of one row (classes,).

    The largest score of a row is subtracted first. float32 and float64 are kept; other real numbers become the dtype that a
    dense layer makes of them. Raises ValueError for more dimensions, TypeError for a dtype that is not real.
    """
    return _probabilities(kernels.SOFTMAX, scores).reshape(np.shape(scores))


def as_weights(sample_weight: ArrayLike | None, rows: int, are_all: bool = True) -> np.ndarray | None:
    """Return sample weights (rows,) of float64, or None for None. are_all: whether these are the weights of all rows.

    Raises ValueError for another shape, for weights that are negative or not finite and, with are_all, if all of them are 0.
    """
    if sample_weight is None:
        return None
    weights = operands.as_array("sample_weight", sample_weight).astype(np.float64, copy=False)
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight has shape {weights.shape}, expected ({rows},): a weight for each row")
    if rows and not (weights.min() >= 0 and weights.max() < np.inf and (weights.any() or not are_all)):
        raise ValueError("sample_weight has numbers that are negative or not finite, or only zeros, expected others")
    return np.ascontiguousarray(weights)


def _as_scores(scores):
    """Return a copy of scores (rows, outputs) in C order, of a float dtype."""
    scores = operands.as_rows("scores", operands.as_array("scores", scores))
    return np.array(scores, operands.float_dtype(scores), order="C")


def _probabilities(kind, scores):
    """Return the softmax or the sigmoid of scores, in a copy."""
    scores = _as_scores(scores)
    if scores.size:
        _run(kind, scores, None, None, Factors(factor=0.0, least=0.0, most=0.0, scale=1.0), None)
    return scores


def _run(kind, scores, targets, weights, factors, sums):
    """Run the kernel, which writes the gradient over the scores, or without targets the probabilities.

    sums: room (tasks, 2) for the Sums of each task, or None without targets.
    """
    if compiler.DISABLED:
        return reference.run_loss(kind, scores, targets, weights, factors, sums)
    (rows, cols), dtype = scores.shape, scores.dtype
    tasks = -(-rows // kernels.ROWS)
    targets_at = targets_row = 0
    if targets is not None and targets.ndim == 1:
        targets_at = address("targets", targets, INTEGER, rows)
    elif targets is not None:
        targets_at, targets_row = address("targets", targets, dtype, rows * cols), cols * dtype.itemsize
    job = Job(tasks=tasks, rows=rows, cols=cols,
              scores=address("scores", scores, dtype, rows * cols, written=True), scores_row=cols * dtype.itemsize,
              kind=kind, targets=targets_at, targets_row=targets_row,
              weights=0 if weights is None else address("sample_weight", weights, FLOAT, rows),
              factor=factors.factor, least=factors.least, most=factors.most, scale=factors.scale,
              sums=0 if sums is None else address("sums", sums, FLOAT, sums.size, written=True))
    words = in_words(Job, [job])
    functional.run(functional.LOSS[dtype], address("job", words, INTEGER, words.size))
