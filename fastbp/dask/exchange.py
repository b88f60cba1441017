"""Sums of what the workers of a training have computed, which all of them get: messages from worker to worker, by Dask's means.

The shares of a batch are the leaves of a binary tree, as if there were a power of two of them: a node at level k is the sum of
those of 2**k shares, its left half plus its right one. At each level a share gets the other half from a share of it and adds
the two, so that all have the whole sum after log2 n messages each (recursive doubling: Thakur, Rabenseifner and Gropp, IJHPCA
19, 2005). What is added to what follows from the shares' numbers alone, not from where they are or who is first.
"""
import asyncio
import concurrent.futures
import threading

import numpy as np
from distributed import Worker, WorkerPlugin, get_worker
from distributed.protocol import to_serialize

NAME = "fastbp"
_LOOK = 0.5                     # seconds between two looks at whether a message has failed


class Lost(Exception):
    """Another worker of the training cannot be reached, or the client has given the attempt up."""


class Exchange(WorkerPlugin):
    """What a worker has been sent, by training, attempt and place: (step, level, node).

    The attempts of a training have numbers, of which only the last one's messages are of use.
    """

    name = NAME
    idempotent = True               # another training may be at work

    def setup(self, worker: Worker) -> None:
        self._worker, self._changed = worker, threading.Condition()
        self._boxes, self._steps, self._ended = {}, {}, {}
        worker.handlers["fastbp_put"] = self.put

    def teardown(self, worker: Worker) -> None:
        worker.handlers.pop("fastbp_put", None)

    def put(self, attempt, place, numbers, value):
        """Take a message. One of a step that is over comes from a worker that was started anew: all start again then."""
        with self._changed:
            if place[0] < self._steps.get(tuple(attempt), place[0]):
                self.end(*attempt)
            elif not self.is_over(tuple(attempt)):
                self._boxes[(*attempt, *place)] = numbers, value
                self._changed.notify_all()

    def begin(self, attempt, step):
        """Now messages of that step are due."""
        with self._changed:
            self._steps[attempt] = step

    def take(self, attempt, place, has_failed):
        """The message, when it is there; Lost if it never will be."""
        with self._changed:
            while (*attempt, *place) not in self._boxes:
                if self.is_over(attempt) or has_failed():
                    raise Lost
                self._changed.wait(_LOOK)
            return self._boxes.pop((*attempt, *place))

    def send(self, address, attempt, place, numbers, value):
        """A Future of the message having arrived."""
        async def call():
            await self._worker.rpc(address).fastbp_put(attempt=attempt, place=place, numbers=numbers, value=to_serialize(value))

        return asyncio.run_coroutine_threadsafe(call(), self._worker.loop.asyncio_loop)

    def end(self, training, number):
        """Forget the attempts up to that number, also what is still to come of them, and wake who waits for it."""
        with self._changed:
            self._ended[training] = max(number, self._ended.get(training, number))
            self._boxes = {key: message for key, message in self._boxes.items() if not self.is_over(key[:2])}
            self._steps = {attempt: step for attempt, step in self._steps.items() if not self.is_over(attempt)}
            self._changed.notify_all()

    def is_over(self, attempt):
        training, number = attempt
        return number <= self._ended.get(training, -1)


def exchange(worker: Worker | None = None) -> Exchange:
    """That of a worker; of the one that runs this task, if none is named."""
    return (worker or get_worker()).plugins[NAME]


def source(share: int, level: int, shares: int) -> int | None:
    """The share that sends a share the other half of its node of the level above; None if there are no shares in that half."""
    first = (share >> level ^ 1) << level
    return min(share ^ 1 << level, shares - 1) if first < shares else None


def messages(owners: list[str], level: int) -> list[tuple[str, int, str]]:
    """(from, node, to): what is sent at a level, where owners holds the address of the worker that has each share.

    A worker with several shares gets a node once, and none that it has itself.
    """
    nodes = {}
    for share, owner in enumerate(owners):
        nodes.setdefault((owner, share >> level), share)
    sources = {(owner, node ^ 1): source(share, level, len(owners)) for (owner, node), share in nodes.items()
               if (owner, node ^ 1) not in nodes}
    return [(owners[share], node, owner) for (owner, node), share in sources.items() if share is not None]


class Sum:
    """The sums of an attempt at some steps, for the worker at the address `here`.

    What is summed are numbers, a few floats, and an array.
    """

    def __init__(self, attempt: tuple[str, int], owners: list[str], here: str):
        self._exchange, self._attempt, self._sent = exchange(), attempt, []
        self._levels = [messages(owners, level) for level in range((len(owners) - 1).bit_length())]
        self._here = here

    def begin(self, step: int, leaves: dict[int, tuple[tuple[float, ...], np.ndarray]]) -> None:
        """Send what can be sent at once. The arrays of the leaves are not to be changed before finish."""
        self._exchange.begin(self._attempt, step)
        self._nodes = leaves
        self._send(step, 0)

    def finish(self, step: int) -> tuple[tuple[float, ...], np.ndarray]:
        """The whole sum; Lost if a worker is."""
        for level in range(len(self._levels)):
            if level:
                self._send(step, level)
            self._receive(step, level)
            self._nodes = _joined(self._nodes)
        for sent in self._sent:
            self._wait(sent)
        self._sent.clear()
        return self._nodes[0]

    def _send(self, step, level):
        for sender, node, receiver in self._levels[level] if self._levels else ():
            if sender == self._here:
                self._sent.append(self._exchange.send(receiver, self._attempt, (step, level, node), *self._nodes[node]))

    def _receive(self, step, level):
        for _, node, receiver in self._levels[level]:
            if receiver == self._here:
                self._nodes[node] = self._exchange.take(self._attempt, (step, level, node), self._has_failed)

    def _has_failed(self):
        return any(sent.done() and sent.exception() for sent in self._sent)

    def _wait(self, sent):
        while not sent.done():
            concurrent.futures.wait([sent], _LOOK)
            if self._exchange.is_over(self._attempt):
                raise Lost
        if sent.exception():
            raise Lost from sent.exception()


def _joined(nodes):
    """The nodes of the next level, each the sum of its two halves, or the one that there is."""
    joined = {}
    for node in sorted(nodes):
        if node >> 1 in joined:
            (numbers, array), (more, other) = joined[node >> 1], nodes[node]
            joined[node >> 1] = tuple(a + b for a, b in zip(numbers, more, strict=True)), array + other
        else:
            joined[node >> 1] = nodes[node]
    return joined
