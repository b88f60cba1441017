"""The client's side of a training: it submits stretches of steps to the workers, and copes with the loss of a worker.

An epoch is cut in stretches of some seconds. For each stretch there is one task a worker, which takes the worker's chunks and
the state of the training, and makes all steps of the stretch together with the other workers (work.py). If one of them is
lost, the stretch starts again where it began, on the workers that are left; Dask computes lost chunks again.
"""
import asyncio
import contextlib
import copy
import time
import uuid

from distributed import CancelledError, Lock, wait

from .. import functional
from .._runtime.sigint import defer_sigint
from . import worker as work
from .allreduce import Lost, exchange
from .chunks import raise_failed
from .cluster import run_one_first
from .worker import State, Stretch

# Seconds of a stretch. About 0.05 of them are lost at its ends.
_STRETCH = 3.0

# Seconds between two looks at whether all workers are still there, or whether Ctrl-C came while another training has its turn.
_POLL = 0.5

# Stretches after which the client fetches the state, so that at most so many are made again.
_KEEP = 20


class Training:
    """A training on the workers of a client, up to `step` of the epoch after the `results` of earlier ones.

    It knows the futures of the chunks and of the state on each worker, and keeps an older copy of the state in this process.
    """

    def __init__(self, client, problem, chunks):
        self._client, self._problem, self._chunks = client, problem, chunks
        self._name, self._attempt, self._length = uuid.uuid4().hex, 0, 1
        self._running, self._workers = {}, set()

    def start(self, state, results, step):
        """Go on from a state, at a step of the epoch after those of these results."""
        self.results, self.step, self._kept = results, step, (state, results.copy(), step)
        self._states, self._age = {None: self._scatter(state)}, 0

    @property
    def epoch(self):
        """The number of this epoch, from 0 on."""
        return len(self.results)

    @property
    def rows(self):
        """The number of rows of an epoch."""
        return self._problem.plan.rows

    def end_epoch(self):
        """Note the results of this epoch and begin the next one."""
        self.results.append(self._epoch_results)
        self.step = 0

    def compile(self):
        """Have one worker of each machine compile the kernels, before the others look for them."""
        run_one_first(self._client, _compile, self._problem, self._states[None])

    def advance(self, end):
        """Make some steps, up to the step `end` at most; none if a worker is lost meanwhile.

        Return what is not finite in the next step, so that it cannot be made, or "".
        """
        start, before = time.perf_counter(), self.step
        states = self._held_states()
        if not states:
            self._go_back()
            return ""
        with self._client.as_current(), _turn():
            steps = end - self.step
            stretches = -(-steps // self._length)       # of about the same length
            self._submit(self.step + -(-steps // stretches), states)
            if not self._are_done(self._running.values()):
                self.abandon()
                return ""
        self._states, self._running, self._age = self._running, {}, self._age + 1
        report = self._ask(_report)
        if report is None:
            self._go_back()
            return ""
        self._epoch_results, self.step, not_finite = report
        self._length = max(1, int((self.step - before) * _STRETCH / (time.perf_counter() - start)))
        if self._age >= _KEEP:
            self.state()
        return not_finite

    def state(self):
        """Return the state of the training, in this process. If it is lost on all workers, go back to the last copy here."""
        if self._age:
            state = self._ask(_state)
            if state is None:
                self._go_back()
            else:
                self.start(copy.deepcopy(state), self.results, self.step)
        state, _, _ = self._kept
        return state

    def abandon(self):
        """Cancel the stretch that is being made."""
        if self._running:
            with defer_sigint():
                self._client.cancel(list(self._running.values()), reason="another worker is lost, or the training was ended")
                self._client.run(_end, self._name, self._attempt, on_error="ignore")
                self._running = {}

    def _submit(self, end, states):
        self._attempt += 1
        owners = self._owners()
        stretch = Stretch(attempt=(self._name, self._attempt), owners=owners, epoch=self.epoch, first=self.step, end=end)
        spare = next(iter(states.values()))
        with defer_sigint():                            # A task that nobody knows of waits for the others and is never ended.
            for worker in dict.fromkeys(owners):
                self._running[worker] = self._client.submit(
                    _train, self._problem, stretch, worker, states.get(worker, spare), self._needed_chunks(stretch, worker),
                    workers=[worker], pure=False, retries=0)

    def _needed_chunks(self, stretch, worker):
        """Return {chunk: future} of the chunks that a worker takes rows of."""
        plan = self._problem.plan
        numbers = {chunk for share, owner in enumerate(stretch.owners) if owner == worker
                   for chunk, _ in plan.slices(share, stretch.epoch, *plan.span(share, stretch.first, stretch.end))}
        return {chunk: self._chunks[chunk] for chunk in sorted(numbers)}

    def _go_back(self):
        """Go back to the copy in this process, as all workers that had the state are lost."""
        self.start(*self._kept)

    def _scatter(self, state):
        """Return a future of a state, sent to a worker."""
        while True:
            self._client.wait_for_workers(1)
            with contextlib.suppress(OSError):          # The worker that it was sent to is lost.
                return self._client.scatter([state], hash=False)[0]

    def _ask(self, function):
        """Return the result of a function of the state, computed on a worker; None if all workers that have one are lost."""
        for worker, future in self._held_states().items():
            task, self._workers = self._client.submit(function, future, workers=[worker], pure=False), {worker}
            if self._are_done([task]):
                with contextlib.suppress(CancelledError):
                    return task.result()
        return None

    def _are_done(self, futures):
        """Wait for futures. Return whether all are done; False if a worker is lost, whose chunks others may wait for.

        Raises what a task has raised.
        """
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
            # In Python 3.10 asyncio's TimeoutError is not the built-in one. CancelledError is raised for tasks that need what
            # is lost and forgotten.
            with contextlib.suppress(asyncio.TimeoutError, CancelledError):
                wait([future for future in futures if future.status == "pending"], timeout=_POLL, return_when="FIRST_COMPLETED")

    def _held_states(self):
        """Return {worker: future} of the states that some worker still has."""
        states = {worker: future for worker, future in self._states.items() if not future.cancelled()}
        holders = self._client.who_has(list(states.values())) if states else {}
        return {worker: future for worker, future in states.items() if holders.get(future.key)}

    def _owners(self):
        """Return the worker of each share: all workers get as many shares, and a share goes to a worker that has its rows."""
        plan, client = self._problem.plan, self._client
        client.wait_for_workers(1)
        wait(self._chunks)      # Else a chunk could be left to a worker that waits for another one, which needs this chunk.
        raise_failed(self._chunks)
        workers, holders = sorted(client.nthreads()), client.who_has(self._chunks)
        self._workers = set(workers)
        rows = [[sum(plan.chunks[chunk] for chunk in chunks if worker in holders.get(self._chunks[chunk].key, ()))
                 for worker in workers] for chunks in plan.shares]
        most_rows_first = sorted((-rows[share][k], share, k) for share in range(len(plan.shares)) for k in range(len(workers)))
        most_shares, owners = -(-len(plan.shares) // len(workers)), {}
        for _, share, k in most_rows_first:
            if share not in owners and list(owners.values()).count(workers[k]) < most_shares:
                owners[share] = workers[k]
        return [owners[share] for share in range(len(plan.shares))]


@contextlib.contextmanager
def _turn():
    """Hold the cluster's lock of all trainings, as tasks of two of them could wait for each other for ever.

    Ctrl-C waits until this process knows whether it has the lock. distributed's own `with lock` would keep a lock that it was
    given in the moment of Ctrl-C, and every later training would wait for it.
    """
    lock, is_held = Lock("fastbp"), False
    try:
        while not is_held:
            with defer_sigint():
                is_held = lock.acquire(timeout=_POLL)
        yield
    finally:
        if is_held:
            with defer_sigint():
                lock.release()


# ---- the tasks


def _train(problem, stretch, own_address, before, chunks):
    return work.train(problem, stretch, own_address, _state(before), chunks)


def _compile(problem, state):
    run = work.run_of(problem, state)
    _ = functional.OPTIMIZE[run.dtype]


def _report(outcome):
    return outcome.state.results, outcome.step, outcome.not_finite


def _state(outcome):
    """Return the state of an Outcome; a training starts from a State itself."""
    return outcome if isinstance(outcome, State) else outcome.state


def _end(training, number, dask_worker):
    exchange(dask_worker).end(training, number)
