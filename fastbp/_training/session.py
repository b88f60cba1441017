"""Training sessions: a network, its data and its optimiser as records for kernels/train/run.py, with the memory of a step."""
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numba.np.numpy_support import from_dtype

from .. import functional
from .._arrays.memory import CACHE_LINE, FLOAT, INTEGER, address, address_of_order, address_of_rows, empty
from .._arrays.operands import multiplied
from ..kernels.elementwise.activations import GELU, IDENTITY
from ..kernels.gemm.problem import GemmProblem
from ..kernels.schedule.records import fields_of, in_words
from ..kernels.train import blocks as block_sizes
from ..kernels.train import losses
from ..kernels.train.network import Layer, Progress, Results, Training
from ..losses import Loss
from ..optimizers import Blocks, Gradients, Optimizer, check_status

# A call of compiled code takes about this many seconds.
_CALL = 0.03

# This Layer has 0 in every field.
_NO_LAYER = Layer(**dict.fromkeys(Layer._fields, 0))


class LayerSpec(NamedTuple):
    """A layer as compiled steps take it: a dense layer with its arrays, in C order; without weights, a dropout or a ReLU.

    Sequential._specs() makes a ReLU the activation of the dense layer before it, so that a session meets none.
    """

    weights: np.ndarray | None          # (inputs, neurons); None: a dropout or a ReLU
    biases: np.ndarray | None = None    # (1, neurons), or None
    activation: int = IDENTITY          # its number in kernels/elementwise/activations.py
    precision: str | None = None        # "bfloat16", or None for that of the weights
    rate: float = 0.0                   # the rate of a dropout


class TrainingSession:
    """Training of a network in batches of up to `batch` rows.

    optimizer: None if only gradients are wanted. l2: the factor of a penalty l2 / 2 * Σ w² of all weights. shared: whether the
    penalty is divided by the weight of a batch's rows, as in scikit-learn. apart: whether update() makes the optimiser's step,
    after whatever the caller does to gradient(). check: whether to stop at a loss, a gradient or a penalty that is not finite;
    with `apart` only update() stops. key: the key of the dropouts' random stream.

    Attributes:
    gradients: those of weights and biases in the last step, once gradient() has added up its shards. dweights that are
    computed in blocks are empty (kernels/train/dweights.py).
    values: the outputs (batch, neurons) of each layer in the last step. A linear last layer holds the gradient of the loss in
    place of its output. They are empty where shards are transposed (kernels/train/transposed.py).
    """

    def __init__(self, specs: Sequence[LayerSpec], inputs: int, loss: Loss, optimizer: Optimizer | None, batch: int, *,
                 l2: float = 0.0, shared: bool = False, apart: bool = False, check: bool = True, key: int = 0):
        self.specs, self.loss, self.batch, self._l2, self._is_apart = specs, loss, batch, l2, apart
        dense = [spec for spec in specs if spec.weights is not None]
        self.dtype = dense[0].weights.dtype
        kinds = [multiplied(self.dtype, spec.precision) for spec in dense]
        self.outputs = dense[-1].weights.shape[1]
        self._kept, self._gathered, self._batches = [], None, 1
        self._is_trained = optimizer is not None
        parameters, widths = sum(p.weights.size for p in dense), [inputs, *(p.weights.shape[1] for p in dense)]
        can_transpose = (len(dense) == len(specs) and set(kinds) == {self.dtype}
                         and all(spec.activation != GELU for spec in specs))
        self._chunk_rows = block_sizes.chunk_rows(self.dtype.itemsize, batch, widths) if can_transpose else 0
        self._shards = block_sizes.shards(batch, parameters, self._chunk_rows > 0)
        self._in_blocks = (optimizer is not None and not apart and self._shards == 1 and set(kinds) == {self.dtype}
                           and self._chunk_rows == 0
                           and block_sizes.in_blocks(batch, max(widths[1:]) * self.dtype.itemsize))
        self._units = functional.training(self.dtype, [] if self._chunk_rows else kinds, self._in_blocks)
        self._all_gradients = self._make_gradients(dense)
        self.gradients = [g for p, pair in zip(dense, self._all_gradients, strict=True)
                          for g in (pair if p.biases is not None else pair[:1])]
        self._blocks = [self._make_blocks(spec) if self._in_blocks else None for spec in dense]
        self._step = self._bind(optimizer, dense, check)
        self._layers = in_words(Layer, self._records(inputs, 0 if self._chunk_rows else batch))
        gradient_factor, loss_factor = loss.factors(self.outputs)
        least, most = loss._bounds
        job, progress, results = (np.zeros(len(kind._fields), INTEGER) for kind in (Training, Progress, Results))
        self._address = address("job", job, INTEGER, job.size)
        self._job, self._progress, self._results = (
            fields_of(Training, job), fields_of(Progress, progress), fields_of(Results, results))
        self._key = self._progress["key"] = key
        blocks = -(-batch // losses.ROWS) + self._shards
        self._sums, self._statuses = np.zeros((blocks, len(losses.Sums._fields)), FLOAT), np.zeros(self._shards, INTEGER)
        first = next(i for i, spec in enumerate(specs) if spec.weights is not None)
        self._set(layers=address("layers", self._layers, INTEGER, len(specs) * len(Layer._fields)), count=len(specs),
                  first=first, upper=len(specs), inputs=inputs, work=parameters, batch=batch,
                  loss=loss._kind, least=least, most=most, gradient_factor=gradient_factor, loss_factor=loss_factor,
                  l2=l2, shared=shared, shard=self._units.shard, shards=self._shards, chunk_rows=self._chunk_rows,
                  distance=self._distance,
                  statuses=address("statuses", self._statuses, INTEGER, self._shards, written=True),
                  sums=address("sums", self._sums, FLOAT, self._sums.size, written=True),
                  update=self._step.address if self._step and not apart else 0,
                  results=address("results", results, INTEGER, results.size, written=True),
                  progress=address("progress", progress, INTEGER, progress.size, written=True),
                  check=check and not apart)

    def use(self, x: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> None:
        """Take data: x (rows, inputs) of the network's dtype with contiguous rows; targets and weights as losses.py makes them.

        Raises TypeError or ValueError for arrays that kernels cannot take.
        """
        rows, inputs = len(x), int(self._job["inputs"])
        kind, cols = (INTEGER, 1) if targets.ndim == 1 else (self.dtype, self.outputs)
        start, step = address_of_rows("x", x, self.dtype, (rows, inputs))
        self._set(rows=rows, x=start, x_row=step, targets=address("targets", targets, kind, rows * cols),
                  targets_row=0 if targets.ndim == 1 else cols * kind.itemsize, targets_bytes=cols * kind.itemsize,
                  weights=0 if weights is None else address("sample_weight", weights, FLOAT, rows))
        if self._gathered is None or self._gathered[1].dtype != kind:
            batch = 0 if self._chunk_rows else self.batch       # transposed shards gather in memory of their own
            self._gathered = (self._room((batch, inputs)), empty((batch, cols), kind), np.empty(self.batch, FLOAT))
            self._set(gathered=address("gathered", self._gathered[0], self.dtype, batch * inputs, written=True),
                      gathered_targets=address("gathered targets", self._gathered[1], kind, batch * cols, written=True),
                      gathered_weights=address("gathered weights", self._gathered[2], FLOAT, self.batch, written=True))
        self.data = x, targets, weights

    def start(self, order: np.ndarray | None = None, targets_order: np.ndarray | None = None) -> None:
        """Begin an epoch over the rows in an order (rows,) of int64; None: as they are.

        targets_order: the order for targets and weights; None: they are in order already.
        """
        if order is None and self.specs[0].weights is None:
            x, targets, weights = self.data             # a dropout goes over x as one stretch of memory without gaps
            self.use(np.ascontiguousarray(x), targets, weights)
        rows = len(self.data[0])
        self._set(order=0 if order is None else address_of_order("order", order, rows),
                  targets_order=0 if targets_order is None else address_of_order("targets_order", targets_order, rows))
        self._orders = order, targets_order
        self._progress["row"] = 0
        self.go_on((0.0, 0.0, 0.0))
        if self._step is not None and not self._is_apart:
            self._step.forget()

    def finish(self) -> Iterator[int]:
        """Do what is left of the epoch in calls of some 30 ms, and yield rows_done after each: Python looks for Ctrl-C there.

        Raises FloatingPointError for a loss, a gradient or a penalty that is not finite, before that batch's step. Its message
        is the name of what is not finite.
        """
        goes_on = True
        while goes_on:
            start = time.perf_counter()
            goes_on = self.advance(self._batches)
            took = time.perf_counter() - start
            if took > _CALL:
                self._batches = max(1, self._batches // 2)
            elif took < _CALL / 2 and goes_on:
                self._batches *= 2
            yield self.rows_done

    def advance(self, batches: int) -> bool:
        """Make up to `batches` steps; return whether rows of the epoch are left. Raises as `finish` does."""
        check_status(functional.run(self._units.train, self._address, batches))
        return self.rows_done < len(self.data[0])

    def pieces(self, least: int) -> list[tuple[int, slice]]:
        """Return (layer, its place in gradient()) of each piece that a step can be made in, the last layers first.

        least: the fewest bytes of a piece. advance_to(layer) computes the gradients of a piece.
        """
        layers = [i for i, spec in enumerate(self.specs) if spec.weights is not None]
        pieces, end = [], self._gradients.shape[1]
        is_cut = self._shards == 1 and self._chunk_rows == 0       # a transposed shard goes through all layers at once
        for layer, start in reversed([*zip(layers, self._starts, strict=True)][1:] if is_cut else []):
            if min(start, end - start) * self.dtype.itemsize >= least:
                pieces.append((layer, slice(start, end)))
                end = start
        return [*pieces, (0, slice(0, end))]

    def advance_to(self, layer: int) -> None:
        """Go on with a step from where the last call stopped, down to the gradients of a layer; 0 finishes the step."""
        self._set(lower=layer)
        self.advance(1)
        self._set(upper=layer or len(self.specs), lower=0)

    def gradient(self) -> np.ndarray:
        """Return the gradient (numbers,) of the last batch: all arrays one after another, each from a cache line on.

        Call this once a step: it adds up the shards in place.
        """
        rows = min(self.batch, len(self.data[0]))
        first, *others = self._gradients[:-(-rows // block_sizes.shard_rows(rows, self._shards, self._chunk_rows > 0))]
        for other in others:
            first += other
        return first

    def no_gradient(self) -> np.ndarray:
        """Return zeros, laid out like gradient()."""
        return np.zeros_like(self._gradients[0])

    @property
    def summed(self) -> np.ndarray:
        """The array from which update() takes the gradient, laid out like gradient()."""
        return self._gradients[0]

    def update(self) -> float:
        """Make the optimiser's step; return the penalty before it. Raises as `finish` does."""
        return self._step.make(self._l2)

    def weigh(self, share: float) -> None:
        """Let the next batches be parts of larger ones: multiply their gradients by `share`, their part of the larger batch."""
        gradient_factor, _ = self.loss.factors(self.outputs)
        self._set(gradient_factor=gradient_factor * share)

    def restart_dropout(self, after: int = 0) -> None:
        """Let dropouts go on as in a run that has made `after` steps."""
        self._progress["key"] = self._key + after * len(self.specs)

    def go_on(self, results: Sequence[float]) -> None:
        """Take the epoch's `results` so far from another run. Call it after start()."""
        for name, value in zip(Results._fields, results, strict=True):
            self._results[name] = value

    @property
    def results(self) -> list[float]:
        """The sums of the epoch so far: the rows' losses, penalty included; their weights; and what is right."""
        return [float(self._results[name]) for name in Results._fields]

    @property
    def rows_done(self) -> int:
        """The number of this epoch's rows that were trained on."""
        return int(self._progress["row"])

    @property
    def mean_loss(self) -> float:
        """The mean loss of the epoch so far, the penalty included; NaN before the first step."""
        return float(self._results["losses"] / self.rows_done) if self.rows_done else float("nan")

    @property
    def batch_loss(self) -> float:
        """The mean loss of the last batch, without the penalty."""
        return float(self._progress["batch_loss"])

    @property
    def accuracy(self) -> float | None:
        """The accuracy in the epoch so far, of each batch before its step; None before the first step or without any."""
        right = float(self._results["right"])
        return self.loss.accuracy(right, self.rows_done, self.outputs) if self.rows_done else None

    def _set(self, **fields):
        """Change some fields of the Training."""
        for name, value in fields.items():
            self._job[name] = value

    def _room(self, shape):
        """Return a new array of the network's dtype."""
        return empty(shape, self.dtype)

    def _bind(self, optimizer, dense, check):
        """Return the optimiser's Step for the session's gradients, or None without an optimiser."""
        if optimizer is None:
            return None
        arrays = [(a, a is p.weights) for p in dense for a in (p.weights, p.biases) if a is not None]
        blocks = iter(self._blocks)
        shards = 1 if self._is_apart else self._shards
        gradients = Gradients(arrays=self.gradients, shards=shards, distance=self._distance,
                              blocks=[next(blocks) if is_weights else None for _, is_weights in arrays],
                              multiply=self._units.multiply,
                              stored=None if self._in_blocks else self._gradients[:shards])
        return optimizer.bind([a for a, _ in arrays], gradients, [is_weights for _, is_weights in arrays], check)

    def _make_blocks(self, spec):
        """Return the Blocks of a layer's dweights, with room for their GemmProblem."""
        self._kept.append(problem := np.zeros(len(GemmProblem._fields), INTEGER))
        return Blocks(problem=address("problem", problem, INTEGER, problem.size, written=True),
                      rows=block_sizes.block_rows(from_dtype(self.dtype), self.batch, spec.weights.shape[1]))

    def _make_gradients(self, dense):
        """Return (dweights, dbiases) of each layer, those of the first shard.

        Those of the other shards lie at equal distances after them. dweights that are computed in blocks have no elements.
        """
        shapes = [shape for p in dense for shape in ((0, 0) if self._in_blocks else p.weights.shape, (1, p.weights.shape[1]))]
        line = CACHE_LINE // self.dtype.itemsize
        ends = np.cumsum([0] + [-(-rows * cols // line) * line for rows, cols in shapes])
        memory = self._gradients = self._room((self._shards, int(ends[-1])))
        memory[:] = 0                                   # also what lies between the arrays
        self._distance, self._starts = memory.strides[0], ends[:-1:2].tolist()
        gradients = [memory[0, start:start + rows * cols].reshape(rows, cols)
                     for start, (rows, cols) in zip(ends[:-1], shapes, strict=True)]
        return list(zip(gradients[::2], gradients[1::2], strict=True))

    def _records(self, inputs, batch):
        """Return the Layer of each spec, with memory for so many rows of a batch: none if shards are transposed."""
        records, gradients, all_blocks, self.values = [], iter(self._all_gradients), iter(self._blocks), []
        for spec in self.specs:
            neurons = inputs if spec.weights is None else spec.weights.shape[1]
            self.values.append(self._room((batch, neurons)))
            y = address("values", self.values[-1], self.dtype, batch * neurons, written=True)
            if spec.weights is None:
                records.append(_NO_LAYER._replace(inputs=inputs, neurons=neurons, y=y, least=int(spec.rate * 2**63),
                                                  factor=1 / (1 - spec.rate)))
            else:
                forward, backward = (0, 0) if self._chunk_rows else self._units.passes[multiplied(self.dtype, spec.precision)]
                (dweights, dbiases), blocks = next(gradients), next(all_blocks)
                layer = _NO_LAYER._replace(
                    inputs=inputs, neurons=neurons, activation=spec.activation, forward=forward, backward=backward,
                    weights=self._parameters("weights", spec.weights, inputs * neurons),
                    biases=0 if spec.biases is None else self._parameters("biases", spec.biases, neurons),
                    dweights=address("dweights", dweights, self.dtype, dweights.size, written=True),
                    dbiases=address("dbiases", dbiases, self.dtype, neurons, written=True),
                    y=y, saved=self._buffer((batch, neurons)) if spec.activation == GELU else 0, least=-1)
                if blocks is not None:
                    dz = self._buffer((batch, neurons + CACHE_LINE // self.dtype.itemsize))
                    layer = layer._replace(dz=dz, problem=blocks.problem, block_rows=blocks.rows)
                records.append(layer)
            inputs = neurons
        return self._with_dvalues(records, batch)

    def _with_dvalues(self, records, batch):
        """Return the Layer records with memory for their dvalues. A dropout and the layer before it share theirs."""
        dvalues = 0
        for k in reversed(range(len(records))):
            last, is_dropped = k == len(records) - 1, k + 1 < len(records) and records[k + 1].least >= 0
            if last and records[k].activation == IDENTITY:
                dvalues = records[k].y
            elif not is_dropped:
                dvalues = self._buffer((batch, records[k].neurons))
            records[k] = records[k]._replace(dvalues=dvalues)
        return records

    def _parameters(self, name, array, count):
        """Return the address of weights or biases, which an optimiser writes."""
        return address(name, array, self.dtype, count, written=self._is_trained)

    def _buffer(self, shape):
        """Return the address of memory of that shape, which is kept as long as the session."""
        self._kept.append(array := self._room(shape))
        return address("buffer", array, self.dtype, array.size, written=True)
