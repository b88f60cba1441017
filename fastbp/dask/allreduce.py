"""All-reduce between the workers of a training: every worker gets the sum of what all have computed, by messages between them.

The shares of a batch are the leaves of a binary tree, as if their number were a power of two: a node at level k is the sum of
2**k shares, the sum of its left half plus that of its right half. At each level each share gets the other half of its next node
from a share that has it, and adds the two halves. So all have the whole sum after log2 n messages each (recursive doubling:
Thakur, Rabenseifner and Gropp, IJHPCA 19, 2005). Which numbers are added to which follows from the shares' numbers alone, not
from the workers that have the shares, nor from the order in which the workers finish.

The event loop of each worker sends, receives and adds while the worker's threads compute.
"""
import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from distributed import Worker, WorkerPlugin, get_worker
from distributed.comm import Comm, connect
from distributed.protocol import to_serialize

# The name of the plugin on a worker.
NAME = "fastbp"


class Lost(Exception):
    """Another worker of the training cannot be reached, or the client has given the attempt up."""


class Place(NamedTuple):
    """The place of a message: which node of the tree it holds, for which step and piece of the array."""

    step: int
    piece: int
    level: int
    node: int


class Message(NamedTuple):
    """A message of a level of the tree: which worker sends which node to which other worker."""

    sender: str
    node: int
    receiver: str


# A node of the tree: sums of numbers, and the sum of arrays.
Node = tuple[tuple[float, ...], np.ndarray]


@dataclass
class _Mailbox:
    """The messages of one attempt that have come or are waited for, by place, with the connections and tasks behind them."""

    step: int = -1
    messages: dict[Place, asyncio.Future] = field(default_factory=dict)
    tasks: set[asyncio.Task] = field(default_factory=set)
    sources: list[Comm] = field(default_factory=list)
    targets: dict[str, Comm] = field(default_factory=dict)


class Exchange(WorkerPlugin):
    """The messages of a worker, by attempt. An attempt is (training, number); only the last one of a training is of use.

    During an attempt each worker has one connection to each worker that it sends messages to. Messages are not confirmed, but
    a reader is told when its connection breaks. All methods must be called on the event loop.
    """

    name = NAME
    idempotent = True               # Dask keeps the one that is there, which another training may be using.

    def setup(self, worker: Worker) -> None:
        self.worker, self._mailboxes, self._ended = worker, {}, {}
        worker.handlers["fastbp_receive"] = self.receive

    def teardown(self, worker: Worker) -> None:
        worker.handlers.pop("fastbp_receive", None)
        for attempt in list(self._mailboxes):
            self.end(*attempt)

    async def receive(self, comm, attempt):
        """Take messages until one that is None. End the attempt if the other worker is lost before that.

        A message of a step that is over also ends it: a worker that was restarted sends such ones, and all have to start again.
        """
        attempt = tuple(attempt)
        try:
            self._mailbox(attempt).sources.append(comm)
            while (message := await comm.read()) is not None:
                place = Place._make(message["place"])
                future = self.message(attempt, place)
                if place.step < self._mailbox(attempt).step or future.done():
                    raise Lost
                future.set_result((message["numbers"], message["value"]))
        except (Lost, OSError):
            comm.abort()
            self.end(*attempt)

    async def run(self, attempt, function, *arguments):
        """Await function(*arguments); cancel it if the attempt ends. Raises Lost if another worker cannot be reached."""
        tasks = self._mailbox(attempt).tasks
        tasks.add(task := asyncio.current_task())
        try:
            return await function(*arguments)
        except OSError as error:
            self.end(*attempt)
            raise Lost from error
        finally:
            tasks.discard(task)

    async def connect(self, attempt, addresses):
        """Connect to workers, before the first message to them."""
        for address in addresses:
            comm = await connect(address, **self.worker.connection_args)
            self._mailbox(attempt).targets[address] = comm
            await comm.write({"op": "fastbp_receive", "attempt": attempt, "reply": False})

    async def disconnect(self, attempt):
        """Close the connections to other workers, after the last message."""
        for comm in self._mailbox(attempt).targets.values():
            with contextlib.suppress(OSError):          # A worker that has got all messages may be gone.
                await comm.write(None)
                await comm.close()

    def begin(self, attempt, step):
        """Begin a step: forget the messages of earlier ones."""
        mailbox = self._mailbox(attempt)
        mailbox.step = step
        mailbox.messages = {place: message for place, message in mailbox.messages.items() if place.step >= step}

    async def send(self, attempt, address, place, numbers, value):
        """Send a node of the tree to a worker."""
        message = {"place": tuple(place), "numbers": numbers, "value": to_serialize(value)}
        await self._mailbox(attempt).targets[address].write(message)

    def message(self, attempt, place):
        """Return a future of the message at a place, which is cancelled if the attempt ends."""
        return self._mailbox(attempt).messages.setdefault(place, asyncio.get_running_loop().create_future())

    def end(self, training, number):
        """Forget a training's attempts up to that number, with what may still come for them, and wake whoever waits for it."""
        self._ended[training] = max(number, self._ended.get(training, number))
        for attempt in [attempt for attempt in self._mailboxes if self._is_over(attempt)]:
            mailbox = self._mailboxes.pop(attempt)
            for waiting in (*mailbox.messages.values(), *mailbox.tasks):
                waiting.cancel()
            for comm in (*mailbox.sources, *mailbox.targets.values()):
                comm.abort()

    def _mailbox(self, attempt):
        if self._is_over(attempt):
            raise Lost
        return self._mailboxes.setdefault(attempt, _Mailbox())

    def _is_over(self, attempt):
        training, number = attempt
        return number <= self._ended.get(training, -1)


def exchange(worker: Worker | None = None) -> Exchange:
    """Return the Exchange of a worker; for None, of the worker that runs this task."""
    return (worker or get_worker()).plugins[NAME]


def sending_share(share: int, level: int, shares: int) -> int | None:
    """Return the share that sends a share the other half of its node of the next level; None if that half has no shares."""
    first = (share >> level ^ 1) << level
    return min(share ^ 1 << level, shares - 1) if first < shares else None


def messages(owners: list[str], level: int) -> list[Message]:
    """Return the messages of a level. owners: the address of the worker that has each share.

    A worker with several shares gets each node once, and none that it has already.
    """
    nodes = {}
    for share, owner in enumerate(owners):
        nodes.setdefault((owner, share >> level), share)
    senders = {(owner, node ^ 1): sending_share(share, level, len(owners)) for (owner, node), share in nodes.items()
               if (owner, node ^ 1) not in nodes}
    return [Message(owners[share], node, owner) for (owner, node), share in senders.items() if share is not None]


def levels(owners: list[str]) -> list[list[Message]]:
    """Return the messages of each level."""
    return [messages(owners, level) for level in range((len(owners) - 1).bit_length())]


class AllReduce:
    """Sums over all shares, for the worker at own_address, in the steps of an attempt. Its context connects the workers.

    For each step a worker puts the leaves of its shares, begins to sum them, and waits until that is finished. A leaf is a few
    numbers and an array, which may be put, summed and sent in pieces, one after another.
    """

    def __init__(self, attempt: tuple[str, int], owners: list[str], own_address: str):
        self._exchange, self._attempt, self._own_address = exchange(), attempt, own_address
        self._levels = levels(owners)
        self._leaves, self._buffers, self._running = {}, {}, []

    def __enter__(self):
        targets = {message.receiver for level in self._levels for message in level if message.sender == self._own_address}
        try:
            self._start(self._exchange.connect, self._attempt, sorted(targets))
            self.finish()
        except Lost:
            self._end()
            raise
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                self._start(self._exchange.disconnect, self._attempt)
                self.finish()
        finally:
            self._end()

    def put(self, step: int, piece: int, share: int, numbers: tuple[float, ...], array: np.ndarray) -> None:
        """Take a share's leaf. The array is copied."""
        buffer = self._buffer(array, step, piece, "leaf", share)
        np.copyto(buffer, array)
        self._leaves.setdefault(piece, {})[share] = numbers, buffer

    def begin(self, step: int, piece: int, out: np.ndarray) -> None:
        """Begin to sum a piece into `out`, after the leaves of all shares of this worker were put."""
        self._start(self._sum, step, piece, self._leaves.pop(piece), out)

    def finish(self) -> tuple[float, ...]:
        """Wait for all sums that were begun and return the numbers of the last one. Raises Lost if a worker is lost."""
        try:
            results = [running.result() for running in self._running]
        except concurrent.futures.CancelledError:
            raise Lost from None
        self._running.clear()
        return results[-1]

    @property
    def _loop(self):
        return self._exchange.worker.loop.asyncio_loop

    def _start(self, function, *arguments):
        task = self._exchange.run(self._attempt, function, *arguments)
        self._running.append(asyncio.run_coroutine_threadsafe(task, self._loop))

    def _end(self):
        self._loop.call_soon_threadsafe(self._exchange.end, *self._attempt)

    async def _sum(self, step, piece, nodes, out):
        self._exchange.begin(self._attempt, step)
        for level, level_messages in enumerate(self._levels):
            for message in level_messages:
                if message.sender == self._own_address:
                    numbers, array = nodes[message.node]
                    place = Place(step=step, piece=piece, level=level, node=message.node)
                    await self._exchange.send(self._attempt, message.receiver, place, numbers, array)
            for message in level_messages:
                if message.receiver == self._own_address:
                    place = Place(step=step, piece=piece, level=level, node=message.node)
                    nodes[message.node] = await self._exchange.message(self._attempt, place)

            def add(array, other, node, level=level):
                is_root = level + 1 == len(self._levels)
                return np.add(array, other, out=out if is_root else self._buffer(array, step, piece, level, node))

            nodes = next_level(nodes, add)
        numbers, _ = nodes[0]
        return numbers

    def _buffer(self, array, step, *what):
        """Return memory of the array's shape and dtype, which the step after the next one uses again.

        Two sets of buffers are enough: a worker that has the sum of a step has all leaves of it, so the other workers are done
        with the step before.
        """
        buffer = self._buffers.get(key := (step & 1, *what))
        if buffer is None or buffer.shape != array.shape:
            buffer = self._buffers[key] = np.empty_like(array)
        return buffer


def next_level(nodes: dict[int, Node], add: Callable[[np.ndarray, np.ndarray, int], np.ndarray]) -> dict[int, Node]:
    """Return the nodes of the next level of the tree: each is the sum of its two halves, or the one half that there is.

    add: a function of two arrays and the number of the node that returns their sum.
    """
    parents = {}
    for node in sorted(nodes):
        parent = node >> 1
        if parent in parents:
            (numbers, array), (other_numbers, other) = parents[parent], nodes[node]
            parents[parent] = tuple(a + b for a, b in zip(numbers, other_numbers, strict=True)), add(array, other, parent)
        else:
            parents[parent] = nodes[node]
    return parents
