"""Scores and predictions of a network that is given as its layers' arrays, for networks, frozen ones and tasks of Dask."""
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numba.np.numpy_support import from_dtype
from numpy import ndarray
from numpy.typing import ArrayLike

from . import functional
from ._arrays import operands
from ._arrays.memory import ALIGNED_BYTES, INTEGER, address, empty, has_contiguous_rows, marks
from ._compile import compiler, link
from ._training.session import LayerSpec
from .kernels import blocking
from .kernels.infer.network import DenseLayer, Mark, Marks, Network, copied_bytes, kept_algorithm
from .kernels.schedule.records import in_words
from .kernels.train import losses
from .losses import BinaryCrossEntropy, Loss, MeanSquaredError, SoftmaxCrossEntropy

# The losses that make probabilities of scores.
_OF_PROBABILITIES = SoftmaxCrossEntropy, BinaryCrossEntropy

# Rows that are converted to another dtype or layout at a time, or without compiled code go through all layers at a time. The
# last of several blocks has up to twice as many: a few rows would be added in another order.
_ROWS = 4096


class Predictor:
    """A network as compiled predictions take it: its records in memory, and the arrays that they point to.

    specs: Sequential._specs() of the network. loss: says what is predicted. are_kept: whether the arrays never change, so that
    copies of them can be made once. arrays: those that somebody may give another shape, dtype or memory in place: then `direct`
    has no result any more.
    """

    def __init__(self, specs: Sequence[LayerSpec], loss: Loss | None, are_kept: bool = False,
                 arrays: Iterable[np.ndarray] = ()):
        self._dense = [spec for spec in specs if spec.weights is not None]
        first: Any = self._dense[0].weights
        last: Any = self._dense[-1].weights
        self.dtype, self.n_inputs, self.n_outputs = np.dtype(first.dtype.type), len(first), last.shape[1]
        # The kernels know what these losses make of scores. A user's class may make something else of them.
        self._loss = None if loss is None or type(loss) in (*_OF_PROBABILITIES, MeanSquaredError) else loss
        self._kind = loss._kind if isinstance(loss, _OF_PROBABILITIES) and self._loss is None else None
        # `direct` takes x of this dtype; None: no x.
        self._direct_dtype = self.dtype if self._loss is None and not compiler.DISABLED else None
        self._few_rows = ALIGNED_BYTES // (self.n_outputs * self.dtype.itemsize)
        self.address = self._marks_address = 0
        if compiler.DISABLED:
            self._loss = loss
            return
        self._infer = functional.INFER[self.dtype]
        self._copies: list[np.ndarray] = []
        records = [self._record(spec, are_kept) for spec in self._dense]
        self._layers = in_words(DenseLayer, records)
        probabilities = losses.loss[from_dtype(self.dtype)].bound_address() if self._kind is not None else 0
        self._network = in_words(Network, [Network(
            layers=address("layers", self._layers, INTEGER, self._layers.size), count=len(records), kind=self._kind or 0,
            probabilities=probabilities)])
        self.address = address("network", self._network, INTEGER, self._network.size)
        self._arrays = list(arrays)
        if self._arrays:
            found = [Mark(address=place, word=word) for array in self._arrays for place, word in marks(array)]
            self._marks = np.concatenate([in_words(Marks, [Marks(count=len(found))]), in_words(Mark, found)])
            self._marks_address = address("marks", self._marks, INTEGER, self._marks.size)
            self._no_rows = empty((0, self.n_inputs), self.dtype), empty((0, self.n_outputs), self.dtype)

    def _record(self, spec, is_kept):
        """Return the DenseLayer of a spec."""
        kind, (inputs, neurons), size = operands.multiplied(self.dtype, spec.precision), spec.weights.shape, self.dtype.itemsize
        is_rounded = kind is operands.BFLOAT16
        record = DenseLayer(
            forward=functional.forward_address(kind), rounded=int(is_rounded), inputs=inputs, neurons=neurons,
            weights=address("weights", spec.weights, self.dtype, inputs * neurons), weights_row_step=neurons * size,
            weights_col_step=size,
            biases=0 if spec.biases is None else address("biases", spec.biases, self.dtype, neurons), biases_step=size,
            activation=spec.activation, kept=0)
        if is_rounded or not is_kept or not neurons:
            return record
        machine = blocking.machine(from_dtype(self.dtype))
        count = copied_bytes(machine, inputs, neurons, kept_algorithm(machine, inputs, neurons)) // size
        copies = empty((1, count), self.dtype)
        self._copies.append(copies)
        words = in_words(DenseLayer, [record])
        kept = address("copies", copies, self.dtype, count, written=True)
        functional.run(functional.KEEP[self.dtype], address("layer", words, INTEGER, words.size), kept)
        return record._replace(kept=kept)

    def is_current(self) -> bool:
        """Return whether nobody has given an array another shape, dtype or memory in place."""
        return not compiler.DISABLED and self._infer(self.address, self._marks_address, *self._no_rows) == link.OK

    def direct(self, x: np.ndarray) -> np.ndarray | None:
        """Return the predictions for an ndarray x by the shortest way, or None if x or a changed array needs another way."""
        dtype = x.dtype
        if dtype is not self._direct_dtype or x.ndim != 2:
            return None
        rows = len(x)
        y = ndarray((rows, self.n_outputs), dtype) if rows < self._few_rows else empty((rows, self.n_outputs), dtype)
        return None if self._infer(self.address, self._marks_address, x, y) else y          # OK is 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the predictions (rows, n_outputs) for x (rows, n_inputs): probabilities, as the loss has them, or scores."""
        predicted = self._scores(x)
        return predicted if self._loss is None else self._loss.predictions(predicted)

    def _scores(self, x):
        """Return what the kernels make of x: scores, or for the losses that they know probabilities."""
        rows = len(x)
        y = empty((rows, self.n_outputs), self.dtype)
        is_taken = x.dtype == self.dtype and (has_contiguous_rows(x) or x.strides[0] == x.itemsize) and not compiler.DISABLED
        count = 1 if is_taken else max(1, rows // _ROWS)
        for i in range(count):
            block = slice(i * _ROWS, (i + 1) * _ROWS if i < count - 1 else rows)
            part = x[block].astype(self.dtype, copy=False)
            if compiler.DISABLED:
                for spec in self._dense:
                    part, _ = functional._forward(part, spec.weights, spec.biases, None, spec.activation,
                                                  precision=spec.precision)
                y[block] = part
            else:
                functional.run(self._infer, self.address, 0, operands.with_contiguous_lines(part), y[block])
        return y


def predictions(specs: Sequence[LayerSpec], loss: Loss | None, x: np.ndarray) -> np.ndarray:
    """Return the predictions (rows, n_outputs) for x (rows, n_inputs): probabilities, as the loss has them, or else scores.

    specs: Sequential._specs() of the network.
    """
    return Predictor(specs, loss)(x)


def scores(specs: Sequence[LayerSpec], x: np.ndarray) -> np.ndarray:
    """Return the output of the last layer, (rows, n_outputs), for x (rows, n_inputs). Dropouts drop nothing."""
    return Predictor(specs, None)(x)


def as_inputs(name: str, x: ArrayLike, n_inputs: int) -> np.ndarray:
    """Return x as an array (rows, n_inputs); raise ValueError for another shape, TypeError for what holds no real numbers."""
    if type(x) is not ndarray or x.ndim != 2 or x.dtype not in operands.FLOATS:
        x = operands.as_rows(name, operands.as_array(name, x))
    if x.shape[1] != n_inputs:
        raise ValueError(f"{name} has shape {x.shape}, expected (rows, {n_inputs}): the first layer has {n_inputs} inputs")
    return x
