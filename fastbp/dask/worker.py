"""The worker's side of a training: the steps of a stretch on its shares of the data, with sums of all workers' gradients."""
import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from distributed import get_worker

from .._runtime.threads import thread_limit
from .._training.session import LayerSpec, TrainingSession
from ..kernels.train.finite import LOSS, NOT_FINITE
from ..losses import Loss
from ..optimizers import Optimizer
from .allreduce import AllReduce
from .plan import Plan, split

# Bytes of the inputs that the only share of a training copies at a time, for as many steps as they last.
_GATHERED = 1 << 22

# Bytes, at least, of a piece of the gradient: a piece is sent while the next one is computed.
PIECE = 1 << 21


class Chunk(NamedTuple):
    """A chunk of the data, or some of its rows, as arrays that TrainingSession takes."""

    x: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Chunk":
        """Return a Chunk of what a function returns for each array that there is."""
        return Chunk(*(None if array is None else function(array) for array in self))

    def __reduce__(self):
        return _received, tuple(self)


def _received(*arrays):
    """Return a Chunk of aligned arrays. In a message arrays lie anywhere, and NumPy would copy all of them for each batch."""
    return Chunk(*arrays).map(lambda array: np.require(array, requirements="A"))


class Problem(NamedTuple):
    """The part of a training that stays the same.

    n_inputs: the columns of x.
    l2: the factor of the penalty l2 / 2 * Σ w² of all weights.
    key: the seed of the dropouts.
    scale: the factor of the rows' weights when they are summed (kernels/train/losses.py); None if the rows have no weights.
    check: whether to stop at a loss, a gradient or a penalty that is not finite.
    """

    plan: Plan
    n_inputs: int
    loss: Loss
    l2: float
    key: int
    scale: float | None
    check: bool


class State(NamedTuple):
    """The part of a training that its steps change.

    results: the sums over the steps of this epoch so far of the rows' losses, of their weights, and of what is right.
    """

    parts: list[LayerSpec]
    optimizer: Optimizer
    results: list[float]


class Stretch(NamedTuple):
    """The steps of an epoch from `first` up to `end`, in one attempt to make them.

    attempt: the training's name and the attempt's number.
    owners: the address of the worker of each share.
    """

    attempt: tuple[str, int]
    owners: list[str]
    epoch: int
    first: int
    end: int


class Outcome(NamedTuple):
    """The end of a stretch: the state, the next step, and what is not finite in that step, or ""."""

    state: State
    step: int
    not_finite: str


class _ShareRows:
    """The rows that a stretch takes from one share, in the share's order."""

    def __init__(self, plan, share, stretch, chunks):
        self._first, end = plan.span(share, stretch.first, stretch.end)
        self._selections = [(chunks[chunk], rows) for chunk, rows in plan.selections(share, stretch.epoch, self._first, end)]
        self._sizes = [rows.stop - rows.start if isinstance(rows, slice) else len(rows) for _, rows in self._selections]
        self._plan, self._share, self._buffers = plan, share, None

    def of_steps(self, first, end):
        """Return a Chunk of the rows of some steps, or None if they have none. The next call may overwrite its arrays."""
        selections = self._selections_of(first, end)
        if not selections:
            return None
        chunk, rows = selections[0]
        if len(selections) == 1 and isinstance(rows, slice):
            return chunk.map(lambda array: array[rows])
        return self._gather(selections)

    def weight_of(self, step, scale):
        """Return the sum of the weights of a step's rows, times a scale."""
        weights = [chunk.weights[rows] for chunk, rows in self._selections_of(step, step + 1)]
        return _weight(np.concatenate(weights), scale) if weights else 0.0

    def _selections_of(self, first, end):
        """Return [(chunk, rows)] of some steps, where rows are a slice or an array of indices."""
        start, end = (position - self._first for position in self._plan.span(self._share, first, end))
        selections = []
        for number, piece in split(self._sizes, start, end):
            chunk, rows = self._selections[number]
            is_slice = isinstance(rows, slice)
            selections.append((chunk, slice(rows.start + piece.start, rows.start + piece.stop) if is_slice else rows[piece]))
        return selections

    def _gather(self, selections):
        """Copy rows into buffers, which are kept: a worker's malloc, as Dask sets it, gets new pages for each large array."""
        sizes = [rows.stop - rows.start if isinstance(rows, slice) else len(rows) for _, rows in selections]
        count = sum(sizes)
        if self._buffers is None or len(self._buffers.x) < count:
            chunk, _ = selections[0]
            self._buffers = chunk.map(lambda array: np.empty((count, *array.shape[1:]), array.dtype))
        start = 0
        for (chunk, rows), size in zip(selections, sizes, strict=True):
            for array, buffer in zip(chunk, self._buffers, strict=True):
                if array is not None and isinstance(rows, slice):
                    buffer[start:start + size] = array[rows]
                elif array is not None:                 # mode="raise" would make a copy
                    np.take(array, rows, axis=0, out=buffer[start:start + size], mode="clip")
            start += size
        return self._buffers.map(lambda buffer: buffer[:count])


def train(problem: Problem, stretch: Stretch, own_address: str, state: State, chunks: dict[int, Chunk]) -> Outcome:
    """Make the steps of a stretch, or those before the first step in which something is not finite. This is a task of Dask.

    The worker at own_address computes its shares of each step, on as many cores as Dask gave it threads. chunks: those that its
    shares' rows lie in, by their numbers. Raises exchange.Lost if another worker cannot be reached.
    """
    state = copy.deepcopy(state)                        # Other tasks may need it as it was.
    if stretch.first == 0:
        state.results[:] = [0.0] * len(state.results)
    with thread_limit(get_worker().state.nthreads):
        if len(problem.plan.shares) == 1:
            return _train_alone(problem, stretch, state, chunks)
        with AllReduce(stretch.attempt, stretch.owners, own_address) as all_reduce:
            return _train_together(problem, stretch, own_address, state, chunks, all_reduce)


def _train_alone(problem, stretch, state, chunks):
    """Train as Sequential.fit does, where all data are one share."""
    plan = problem.plan
    rows, run, results = _ShareRows(plan, 0, stretch, chunks), run_of(problem, state), state.results
    steps_at_once = max(1, _GATHERED // (plan.batch_size * problem.n_inputs * run.dtype.itemsize))
    for first in range(stretch.first, stretch.end, steps_at_once):
        end = min(first + steps_at_once, stretch.end)
        batches = rows.of_steps(first, end)
        run.use(batches.x, batches.targets, batches.weights)
        run.restart_dropout(stretch.epoch * plan.steps + first)
        run.start()
        run.go_on(results)
        try:
            run.advance(end - first)
        except FloatingPointError as error:
            return Outcome(state._replace(results=run.results), first + run.rows_done // run.batch, str(error))
        results = run.results
    return Outcome(state._replace(results=results), stretch.end, "")


def _train_together(problem, stretch, own_address, state, chunks, all_reduce):
    """Train with other workers: in each step sum the gradients of all shares, then make the optimiser's step, as all do."""
    plan, scale, steps = problem.plan, problem.scale, range(stretch.first, stretch.end)
    own_shares = [share for share, owner in enumerate(stretch.owners) if owner == own_address]
    rows = {share: _ShareRows(plan, share, stretch, chunks) for share in own_shares}
    run = run_of(problem, state)
    pieces = run.pieces(PIECE)
    counts = [plan.rows_of(step) for step in steps]
    weights = map(float, counts) if scale is None else _step_weights(steps, rows, all_reduce, scale)
    batches = {share: rows[share].of_steps(stretch.first, stretch.first + 1) for share in own_shares}
    loss_sum, weight_sum, right_sum = state.results
    for step, count, weight in zip(steps, counts, weights, strict=True):
        dropout_step = (stretch.epoch * plan.steps + step) * len(plan.shares)
        for share, batch in batches.items():
            leaves = _leaves(run, pieces, batch, weight, scale, dropout_step + share)
            for number, ((_, where), (numbers, gradient)) in enumerate(zip(pieces, leaves, strict=True)):
                all_reduce.put(step, number, share, numbers, gradient)
                if share == own_shares[-1]:             # All leaves of this piece are put: send it while the next is computed.
                    all_reduce.begin(step, number, run.summed[where])
        if step + 1 < stretch.end:                      # Get the next rows while messages are on their way.
            batches = {share: rows[share].of_steps(step + 1, step + 2) for share in own_shares}
        loss, right = all_reduce.finish()
        try:
            if problem.check and not math.isfinite(loss_sum + loss * count):
                raise FloatingPointError(NOT_FINITE[LOSS])
            loss += run.update()
        except FloatingPointError as error:             # All workers get here, as their gradients and weights are the same.
            return Outcome(state._replace(results=[loss_sum, weight_sum, right_sum]), step, str(error))
        loss_sum, weight_sum, right_sum = loss_sum + loss * count, weight_sum + weight / (scale or 1.0), right_sum + right
    return Outcome(state._replace(results=[loss_sum, weight_sum, right_sum]), stretch.end, "")


def run_of(problem: Problem, state: State) -> TrainingSession:
    """Return the TrainingSession of a worker.

    With one share its steps are those of a network alone. With more its gradients are parts of a sum, and update() makes a
    step.
    """
    return TrainingSession(state.parts, problem.n_inputs, problem.loss, state.optimizer, problem.plan.max_rows, l2=problem.l2,
               apart=len(problem.plan.shares) > 1, check=problem.check, key=problem.key)


def _weight(weights, scale):
    """Return the sum of weights times a scale."""
    return float((weights * scale).sum())


def _step_weights(steps, rows, all_reduce, scale):
    """Return the sum of the weights of each step's rows, of all shares, times a scale. rows: own shares' _ShareRows."""
    sums, before = np.empty(len(steps), np.float64), steps.start - 1
    for share, own_rows in rows.items():
        weights = np.array([own_rows.weight_of(step, scale) for step in steps], np.float64)
        all_reduce.put(before, 0, share, (), weights)
    all_reduce.begin(before, 0, sums)
    all_reduce.finish()
    return sums.tolist()


def _leaves(run, pieces, batch, weight, scale, dropout_step):
    """Yield (numbers, gradient) of each piece of a share's gradient, as a fraction of the whole batch's.

    numbers are (loss, what is right) for the last piece, which is that of layer 0, and () for others. weight is that of all
    rows of the step, times the scale.
    """
    if batch is None:
        zeros = run.no_gradient()
        yield from (((0.0, 0.0) if layer == 0 else (), zeros[where]) for layer, where in pieces)
        return
    fraction = (len(batch.x) if scale is None else _weight(batch.weights, scale)) / weight if weight else 0.0
    run.use(batch.x, batch.targets, batch.weights)
    run.weigh(fraction)
    run.restart_dropout(dropout_step)
    run.start()
    for layer, where in pieces:
        run.advance_to(layer)
        numbers = ()
        if layer == 0:
            _, _, right = run.results
            numbers = run.batch_loss * fraction, right
        yield numbers, run.gradient()[where]
