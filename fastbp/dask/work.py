"""What a worker does in a training: some steps on its shares of the data, with sums of the gradients of all workers."""
import copy
import math
from typing import NamedTuple

import numpy as np
from distributed import get_worker

from .._threads import thread_limit
from ..kernels.finite import LOSS, NOT_FINITE
from ..losses import Loss
from ..optimizers import Optimizer
from ..training import LayerSpec, TrainingSession
from .exchange import Sum
from .plan import Plan, parts

_GATHERED = 1 << 22             # bytes of batches that a share alone gathers at a time
PIECE = 1 << 21                 # of a gradient, at least, that are sent while the next ones are computed


class Chunk(NamedTuple):
    """A chunk of the data as training.TrainingSession takes it."""

    x: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None

    def each(self, function):
        """What a function makes of each array that there is."""
        return Chunk(*(None if array is None else function(array) for array in self))

    def __reduce__(self):
        return _received, tuple(self)


def _received(*arrays):
    """A Chunk of arrays that lie anywhere in a message: NumPy would copy all of them for each batch."""
    return Chunk(*arrays).each(lambda array: np.require(array, requirements="A"))


class Problem(NamedTuple):
    """What stays the same in a training."""

    plan: Plan
    inputs: int
    loss: Loss
    l2: float
    key: int                    # of the dropouts
    scale: float | None         # by which the chunks' weights are summed (kernels/losses.py); None: they have none
    check: bool                 # whether to stop at a loss, a gradient or a penalty that is not finite


class State(NamedTuple):
    """What a training has come to."""

    parts: list[LayerSpec]
    optimizer: Optimizer
    results: list[float]        # of the epoch so far: of the rows' losses, of weights, and of what is right


class Stretch(NamedTuple):
    """Some steps of an epoch, and the address of the worker that does each share of them, in an attempt at it."""

    attempt: tuple[str, int]
    owners: list[str]
    epoch: int
    first: int
    end: int


class _Rows:
    """A share's rows for a stretch, in their order."""

    def __init__(self, plan, share, stretch, chunks):
        self._first, end = plan.span(share, stretch.first, stretch.end)
        self._pieces = [(chunks[chunk], taken) for chunk, taken in plan.pieces(share, stretch.epoch, self._first, end)]
        self._sizes = [taken.stop - taken.start if isinstance(taken, slice) else len(taken) for _, taken in self._pieces]
        self._plan, self._share, self._rooms = plan, share, ()

    def of_steps(self, first, end):
        """A Chunk, until the next one is asked for; None if these steps take none of them."""
        found = self._found(first, end)
        if not found:
            return None
        chunk, which, where = found[0]
        if len(found) == 1 and isinstance(which, slice):
            return chunk.each(lambda array: array[which])
        return self._gathered(found, found[-1][2].stop)

    def weight_of(self, step, scale):
        """Return the weight of all rows of a step, times a scale."""
        weights = [chunk.weights[which] for chunk, which, _ in self._found(step, step + 1)]
        return _weight(np.concatenate(weights), scale) if weights else 0.0

    def _found(self, first, end):
        """[(chunk, which of its rows, where in the batch)]"""
        start, end = (n - self._first for n in self._plan.span(self._share, first, end))
        found, before = [], 0
        for piece, part in parts(self._sizes, start, end):
            chunk, taken = self._pieces[piece]
            which = slice(taken.start + part.start, taken.start + part.stop) if isinstance(taken, slice) else taken[part]
            rows = part.stop - part.start
            found.append((chunk, which, slice(before, before + rows)))
            before += rows
        return found

    def _gathered(self, found, rows):
        """In memory that stays: a worker's malloc, as Dask sets it, gets new pages for each large array."""
        if not self._rooms or len(self._rooms[0]) < rows:
            self._rooms = found[0][0].each(lambda array: np.empty((rows, *array.shape[1:]), array.dtype))
        for chunk, which, where in found:
            for array, room in zip(chunk, self._rooms, strict=True):
                if array is not None and isinstance(which, slice):
                    room[where] = array[which]
                elif array is not None:
                    np.take(array, which, axis=0, out=room[where], mode="clip")     # unlike "raise" without a copy
        return self._rooms.each(lambda room: room[:rows])


def train(problem: Problem, stretch: Stretch, here: str, state: State, chunks: dict[int, Chunk]) -> tuple[State, int, str]:
    """(the state after it, the step that is next, what of that one is not finite or ""): a task of Dask.

    The worker at the address `here` does its shares of each step, on as many cores as it has threads of Dask's. Raises
    exchange.Lost if another worker cannot be reached.
    """
    state = copy.deepcopy(state)                        # others may need it as it was
    if stretch.first == 0:
        state.results[:] = [0.0] * len(state.results)
    with thread_limit(get_worker().state.nthreads):
        if len(problem.plan.shares) == 1:
            return _alone(problem, stretch, state, chunks)
        with Sum(stretch.attempt, stretch.owners, here) as total:
            return _together(problem, stretch, here, state, chunks, total)


def _alone(problem, stretch, state, chunks):
    """What Sequential.fit does."""
    plan = problem.plan
    rows, run, results = _Rows(plan, 0, stretch, chunks), run_of(problem, state), state.results
    at_once = max(1, _GATHERED // (plan.batch * problem.inputs * run.dtype.itemsize))
    for first in range(stretch.first, stretch.end, at_once):
        end = min(first + at_once, stretch.end)
        run.use(*rows.of_steps(first, end))
        run.restart_dropout(stretch.epoch * plan.steps + first)
        run.start()
        run.go_on(results)
        try:
            run.advance(end - first)
        except FloatingPointError as error:
            return state._replace(results=run.results), first + run.rows_done // run.batch, str(error)
        results = run.results
    return state._replace(results=results), stretch.end, ""


def _together(problem, stretch, here, state, chunks, total):
    plan = problem.plan
    mine = [share for share, owner in enumerate(stretch.owners) if owner == here]
    rows = {share: _Rows(plan, share, stretch, chunks) for share in mine}
    run = run_of(problem, state)
    counts = [plan.rows_of(step) for step in range(stretch.first, stretch.end)]
    scale = problem.scale
    pieces, weights = run.pieces(PIECE), map(float, counts) if scale is None else _weights(stretch, rows, total, scale)
    batches = {share: rows[share].of_steps(stretch.first, stretch.first + 1) for share in mine}
    losses, weight_sum, right_sum = state.results
    for step, count, weight in zip(range(stretch.first, stretch.end), counts, weights, strict=True):
        after = (stretch.epoch * plan.steps + step) * len(plan.shares)
        for share, batch in batches.items():
            for number, leaf in enumerate(_leaves(run, pieces, batch, weight, scale, after + share)):
                total.put(step, number, share, *leaf)
                if share == mine[-1]:                   # the last one: it is sent while the next piece is computed
                    total.begin(step, number, run.summed[pieces[number][1]])
        if step + 1 < stretch.end:                      # while the messages are on their way
            batches = {share: rows[share].of_steps(step + 1, step + 2) for share in mine}
        loss, right = total.finish()
        try:
            if problem.check and not math.isfinite(losses + loss * count):
                raise FloatingPointError(NOT_FINITE[LOSS])
            loss += run.update()
        except FloatingPointError as error:             # in all workers, whose gradients and weights are the same
            return state._replace(results=[losses, weight_sum, right_sum]), step, str(error)
        losses, weight_sum, right_sum = losses + loss * count, weight_sum + weight / (scale or 1.0), right_sum + right
    return state._replace(results=[losses, weight_sum, right_sum]), stretch.end, ""


def run_of(problem, state):
    """Its steps are of a network alone if there is one share, else its gradients are parts of a sum."""
    apart = len(problem.plan.shares) > 1
    return TrainingSession(state.parts, problem.inputs, problem.loss, state.optimizer, problem.plan.most_rows, l2=problem.l2,
                           apart=apart,
               check=problem.check, key=problem.key)


def _weight(weights, scale):
    """Return the sum of weights times a scale."""
    return float((weights * scale).sum())


def _weights(stretch, rows, total, scale):
    """Return the weight of the rows of each step, of all shares, times a scale."""
    steps = range(stretch.first, stretch.end)
    sums = np.empty(len(steps), np.float64)
    for share, mine in rows.items():
        total.put(stretch.first - 1, 0, share, (), np.array([mine.weight_of(step, scale) for step in steps], np.float64))
    total.begin(stretch.first - 1, 0, sums)
    total.finish()
    return sums.tolist()


def _leaves(run, pieces, batch, weight, scale, after):
    """(numbers, gradient) of each piece of a share, parts of those of all shares: the last one's are (loss, what is right)."""
    if batch is None:
        zeros = run.no_gradient()
        yield from (((0.0, 0.0) if layer == 0 else (), zeros[piece]) for layer, piece in pieces)
        return
    part = (len(batch.x) if scale is None else _weight(batch.weights, scale)) / weight if weight else 0.0
    run.use(*batch)
    run.weigh(part)
    run.restart_dropout(after)
    run.start()
    for layer, piece in pieces:
        run.advance_to(layer)
        yield (run.batch_loss * part, run.results[2]) if layer == 0 else (), run.gradient()[piece]
