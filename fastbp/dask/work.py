"""What a worker does in a training: some steps on its shares of the data, with sums of the gradients of all workers."""
import copy
import math
from typing import NamedTuple

import numpy as np
from distributed import get_worker

from .._threads import at_most
from ..losses import Loss
from ..optimizers import Optimizer
from ..training import Part, Run
from .exchange import Sum, exchange
from .plan import Plan


class Chunk(NamedTuple):
    """A chunk of the data as training.Run takes it."""

    x: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None


class Problem(NamedTuple):
    """What stays the same in a training."""

    plan: Plan
    inputs: int
    loss: Loss
    l2: float
    key: int                    # of the dropouts
    is_weighted: bool           # whether chunks have weights
    check: bool                 # whether to stop at a loss that is not finite


class State(NamedTuple):
    """What a training has come to."""

    parts: list[Part]
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
        self._plan, self._share = plan, share

    def of_steps(self, first, end):
        """A Chunk; None if these steps take none of them."""
        start, end = (n - self._first for n in self._plan.span(self._share, first, end))
        found, before = [], 0
        for chunk, taken in self._pieces:
            rows = len(chunk.x[taken]) if isinstance(taken, slice) else len(taken)
            a, b = max(start - before, 0), min(end - before, rows)
            if a < b:
                which = slice(taken.start + a, taken.start + b) if isinstance(taken, slice) else taken[a:b]
                found.append([None if array is None else array[which] for array in chunk])
            before += rows
        return Chunk(*(_joined(arrays) for arrays in zip(*found, strict=True))) if found else None


def _joined(arrays):
    return arrays[0] if arrays[0] is None or len(arrays) == 1 else np.concatenate(arrays)


def train(problem: Problem, stretch: Stretch, here: str, state: State, chunks: dict[int, Chunk]) -> tuple[State, int, bool]:
    """(the state after it, the step that is next, whether the loss of that one is finite): a task of Dask.

    The worker at the address `here` does its shares of each step, on as many cores as it has threads of Dask's. Raises
    exchange.Lost if another worker cannot be reached.
    """
    state = copy.deepcopy(state)                        # others may need it as it was
    with at_most(get_worker().state.nthreads):
        if len(problem.plan.shares) == 1:
            return _alone(problem, stretch, state, chunks)
        try:
            return _together(problem, stretch, here, state, chunks)
        finally:
            exchange().end(*stretch.attempt)


def _alone(problem, stretch, state, chunks):
    """What Sequential.fit does."""
    plan = problem.plan
    run = run_of(problem, state, problem.check)
    run.use(*_Rows(plan, 0, stretch, chunks).of_steps(stretch.first, stretch.end))
    run.restart_dropout(stretch.epoch * plan.steps + stretch.first)
    run.start()
    run.go_on(state.results)
    try:
        for _ in run.finish():
            pass
    except FloatingPointError:
        return state._replace(results=run.results), stretch.first + run.rows_done // run.batch, False
    return state._replace(results=run.results), stretch.end, True


def _together(problem, stretch, here, state, chunks):
    plan = problem.plan
    mine = [share for share, owner in enumerate(stretch.owners) if owner == here]
    rows = {share: _Rows(plan, share, stretch, chunks) for share in mine}
    run, total = run_of(problem, state), Sum(stretch.attempt, stretch.owners, here)
    weights = _weights(problem, stretch, rows, total)
    batches = {share: rows[share].of_steps(stretch.first, stretch.first + 1) for share in mine}
    losses, weight_sum, right_sum = state.results
    for step, weight in enumerate(weights, stretch.first):
        after = (stretch.epoch * plan.steps + step) * len(plan.shares)
        leaves = {share: _leaf(run, batch, weight, after + share) for share, batch in batches.items()}
        total.begin(step, leaves)
        if step + 1 < stretch.end:                      # while the messages are on their way
            batches = {share: rows[share].of_steps(step + 1, step + 2) for share in mine}
        (loss, right), gradient = total.finish(step)
        if problem.check and not math.isfinite(loss):
            return state._replace(results=[losses, weight_sum, right_sum]), step, False
        loss += run.update(gradient)
        losses, weight_sum, right_sum = losses + loss * plan.rows_of(step), weight_sum + weight, right_sum + right
    return state._replace(results=[losses, weight_sum, right_sum]), stretch.end, True


def run_of(problem, state, check=False):
    """Its steps are of a network alone if there is one share, else its gradients are parts of a sum."""
    apart = len(problem.plan.shares) > 1
    return Run(state.parts, problem.inputs, problem.loss, state.optimizer, problem.plan.most_rows, l2=problem.l2, apart=apart,
               check=check, key=problem.key)


def _weights(problem, stretch, rows, total):
    """Of the rows of each step, of all shares."""
    steps = range(stretch.first, stretch.end)
    if not problem.is_weighted:
        return [float(problem.plan.rows_of(step)) for step in steps]
    total.begin(stretch.first - 1, {share: ((), np.array([_weight(mine.of_steps(step, step + 1)) for step in steps]))
                                    for share, mine in rows.items()})
    return total.finish(stretch.first - 1)[1].tolist()


def _weight(batch):
    if batch is None:
        return 0.0
    return float(len(batch.x) if batch.weights is None else batch.weights.sum())


def _leaf(run, batch, weight, after):
    """((loss, how many are right), gradient) of a share, which are parts of those of all shares of a step."""
    if batch is None:
        return (0.0, 0.0), run.no_gradient()
    part = _weight(batch) / weight if weight else 0.0
    run.use(*batch)
    run.weigh(part)
    run.restart_dropout(after)
    run.start()
    run.advance(1)
    return (run.batch_loss * part, run.results[2]), run.gradient().copy()
