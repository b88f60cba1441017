"""Stretches of a training on the workers, and what happens when one is lost.

An epoch is cut in stretches of some seconds. For each there is one task a worker, which takes the worker's chunks and what
the network has come to, and makes all steps of the stretch together with the other workers (work.py). If one of them is lost,
the stretch starts again where it began, on those that are there; Dask computes chunks that are gone anew.
"""
import asyncio
import contextlib
import copy
import time
import uuid

from distributed import CancelledError, Lock, wait

from .. import functional
from . import work
from .cluster import one_by_one
from .data import raise_failed
from .exchange import Lost, exchange
from .work import State, Stretch

_STRETCH = 3.0                  # seconds; some 0.05 are lost at the ends of one
_LOOK = 0.5                     # seconds between two looks at whether all workers are still there
_KEEP = 20                      # stretches after which the client gets the state: at most so many are done again


class Training:
    """What is where: the chunks, what the network has come to on the workers, and an older copy here.

    That is at `step` of the epoch after those of which `results` has what they were like.
    """

    def __init__(self, client, problem, chunks):
        self._client, self._problem, self._chunks = client, problem, chunks
        self._name, self._attempt, self._length = uuid.uuid4().hex, 0, 1
        self._running, self._workers = {}, set()

    def start(self, state, results, step):
        """Go on from there."""
        self.results, self.step, self._kept = results, step, (state, results.copy(), step)
        self._states, self._age = {None: self._sent(state)}, 0

    @property
    def epoch(self):
        """The number of this one, from 0 on."""
        return len(self.results)

    @property
    def rows(self):
        """Of an epoch."""
        return self._problem.plan.rows

    def end_epoch(self):
        """Go on with the next one."""
        self.results.append(self._results)
        self.step = 0

    def compile(self):
        """Have the kernels compiled by one worker of each machine, before the others look for them."""
        one_by_one(self._client, _compile, self._problem, self._states[None])

    def advance(self, end):
        """Some steps more, up to `end`, or none if a worker is lost on the way; what of the next one is not finite, or ""."""
        start, before = time.perf_counter(), self.step
        states = self._held()
        if not states:
            self._go_back()
            return ""
        with self._client.as_current(), Lock("fastbp"): # two trainings' tasks could each wait for the other's for ever
            steps = end - self.step
            stretches = -(-steps // self._length)       # of about the same length
            self._submit(self.step + -(-steps // stretches), states)
            if not self._are_done(self._running.values()):
                self.abandon()
                return ""
        self._states, self._running, self._age = self._running, {}, self._age + 1
        report = self._asked(_report)
        if report is None:
            self._go_back()
            return ""
        self._results, self.step, not_finite = report
        self._length = max(1, int((self.step - before) * _STRETCH / (time.perf_counter() - start)))
        if self._age >= _KEEP:
            self.state()
        return not_finite

    def state(self):
        """What the network has come to, which may be less after this; it is this process's own."""
        if self._age:
            state = self._asked(_state)
            if state is None:
                self._go_back()
            else:
                self.start(copy.deepcopy(state), self.results, self.step)
        return self._kept[0]

    def abandon(self):
        """Give up what is being done."""
        if self._running:
            self._client.cancel(list(self._running.values()), reason="another worker is lost, or the training was ended")
            self._client.run(_end, self._name, self._attempt, on_error="ignore")
            self._running = {}

    def _submit(self, end, states):
        self._attempt += 1
        owners = self._owners()
        stretch = Stretch((self._name, self._attempt), owners, self.epoch, self.step, end)
        spare = next(iter(states.values()))
        for worker in dict.fromkeys(owners):
            self._running[worker] = self._client.submit(
                _train, self._problem, stretch, worker, states.get(worker, spare), self._needed(stretch, worker),
                workers=[worker], pure=False, retries=0)

    def _needed(self, stretch, worker):
        """{chunk: future} of the chunks that a worker takes rows of."""
        plan = self._problem.plan
        numbers = {chunk for share, owner in enumerate(stretch.owners) if owner == worker
                   for chunk, _ in plan.slices(share, stretch.epoch, *plan.span(share, stretch.first, stretch.end))}
        return {chunk: self._chunks[chunk] for chunk in sorted(numbers)}

    def _go_back(self):
        """All workers that had the state are lost."""
        self.start(*self._kept)

    def _sent(self, state):
        """A future of it."""
        while True:
            self._client.wait_for_workers(1)
            with contextlib.suppress(OSError):          # the worker that it was sent to is lost
                return self._client.scatter([state], hash=False)[0]

    def _asked(self, function):
        """What it says of the states' tasks; None if all workers that have one are lost."""
        for worker, future in self._held().items():
            task, self._workers = self._client.submit(function, future, workers=[worker], pure=False), {worker}
            if self._are_done([task]):
                with contextlib.suppress(CancelledError):
                    return task.result()
        return None

    def _are_done(self, futures):
        """Whether they all are; not if a worker is lost, whose chunks others may wait for. Raises what a task has raised."""
        while True:
            for future in futures:
                if future.status == "error" and not isinstance(future.exception(), Lost):
                    raise_failed(self._chunks)
                    raise future.exception()
            if all(future.status == "finished" for future in futures):
                return True
            if any(future.status != "pending" for future in futures if future.status != "finished"):
                return False
            if not self._workers <= self._client.nthreads().keys():
                return False
            # the first is not the built-in one of Python 3.10, the other is of tasks that need what is lost and forgotten
            with contextlib.suppress(asyncio.TimeoutError, CancelledError):
                wait([future for future in futures if future.status == "pending"], timeout=_LOOK, return_when="FIRST_COMPLETED")

    def _held(self):
        """{worker: future} of the states that some worker has."""
        states = {worker: future for worker, future in self._states.items() if not future.cancelled()}
        held = self._client.who_has(list(states.values())) if states else {}
        return {worker: future for worker, future in states.items() if held.get(future.key)}

    def _owners(self):
        """The worker of each share: the same number for each, and those that have most of its rows."""
        plan, client = self._problem.plan, self._client
        client.wait_for_workers(1)
        wait(self._chunks)                              # else one could be left to a worker that waits for who needs it
        raise_failed(self._chunks)
        workers, held = sorted(client.nthreads()), client.who_has(self._chunks)
        self._workers = set(workers)
        rows = [[sum(plan.chunks[chunk] for chunk in chunks if worker in held.get(self._chunks[chunk].key, ()))
                 for worker in workers] for chunks in plan.shares]
        places = [(-rows[share][k], share, k) for share in range(len(plan.shares)) for k in range(len(workers))]
        most, owners = -(-len(plan.shares) // len(workers)), {}
        for _, share, k in sorted(places):
            if share not in owners and list(owners.values()).count(workers[k]) < most:
                owners[share] = workers[k]
        return [owners[share] for share in range(len(plan.shares))]


def _train(problem, stretch, here, before, chunks):
    return work.train(problem, stretch, here, _state(before), chunks)


def _compile(problem, state):
    run = work.run_of(problem, state)
    _ = functional.OPTIMIZE[run.dtype]


def _report(result):
    state, step, not_finite = result
    return state.results, step, not_finite


def _state(result):
    return result if isinstance(result, State) else result[0]


def _end(training, number, dask_worker):
    exchange(dask_worker).end(training, number)
