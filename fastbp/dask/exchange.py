"""Sums of what the workers of a training have computed, which all of them get: messages from worker to worker, by Dask's means.

The shares of a batch are the leaves of a binary tree, as if there were a power of two of them: a node at level k is the sum of
those of 2**k shares, its left half plus its right one. At each level a share gets the other half from a share of it and adds
the two, so that all have the whole sum after log2 n messages each (recursive doubling: Thakur, Rabenseifner and Gropp, IJHPCA
19, 2005). What is added to what follows from the shares' numbers alone, not from where they are or who is first.

The worker's event loop does that, while its threads compute.
"""
import asyncio
import concurrent.futures
import contextlib
from dataclasses import dataclass, field

import numpy as np
from distributed import Worker, WorkerPlugin, get_worker
from distributed.comm import Comm, connect
from distributed.protocol import to_serialize

NAME = "fastbp"


class Lost(Exception):
    """Another worker of the training cannot be reached, or the client has given the attempt up."""


@dataclass
class _Box:
    """What has come for an attempt or is waited for, by place, (step, piece, level, node), and how it comes and goes."""

    step: int = -1
    messages: dict[tuple[int, int, int, int], asyncio.Future] = field(default_factory=dict)
    tasks: set[asyncio.Task] = field(default_factory=set)
    sources: list[Comm] = field(default_factory=list)
    targets: dict[str, Comm] = field(default_factory=dict)


class Exchange(WorkerPlugin):
    """The messages of a worker, by attempt: (training, number), of which a training's last one is of use.

    From each worker to each one that it has messages for there is a connection, for as long as an attempt lasts: messages are
    not confirmed, but who reads is told when a connection breaks. All methods are for the event loop.
    """

    name = NAME
    idempotent = True               # another training may be at work

    def setup(self, worker: Worker) -> None:
        self.worker, self._boxes, self._ended = worker, {}, {}
        worker.handlers["fastbp_receive"] = self.receive

    def teardown(self, worker: Worker) -> None:
        worker.handlers.pop("fastbp_receive", None)
        for attempt in list(self._boxes):
            self.end(*attempt)

    async def receive(self, comm, attempt):
        """Take messages until the one that is None. The attempt ends if the other worker is lost before that.

        It also ends at a message of a step that is over, of a worker that was started anew: all start again then.
        """
        attempt = tuple(attempt)
        try:
            self._box(attempt).sources.append(comm)
            while (message := await comm.read()) is not None:
                slot = self.message(attempt, message["place"])
                if message["place"][0] < self._box(attempt).step or slot.done():
                    raise Lost
                slot.set_result((message["numbers"], message["value"]))
        except (Lost, OSError):
            comm.abort()
            self.end(*attempt)

    async def run(self, attempt, function, *arguments):
        """Await what it does, unless the attempt ends; Lost if another worker cannot be reached."""
        tasks = self._box(attempt).tasks
        tasks.add(task := asyncio.current_task())
        try:
            return await function(*arguments)
        except OSError as error:
            self.end(*attempt)
            raise Lost from error
        finally:
            tasks.discard(task)

    async def connect(self, attempt, addresses):
        """Before the first message to them."""
        for address in addresses:
            comm = await connect(address, **self.worker.connection_args)
            self._box(attempt).targets[address] = comm
            await comm.write({"op": "fastbp_receive", "attempt": attempt, "reply": False})

    async def disconnect(self, attempt):
        """After the last message."""
        for comm in self._box(attempt).targets.values():
            with contextlib.suppress(OSError):          # who has all messages may be gone
                await comm.write(None)
                await comm.close()

    def begin(self, attempt, step):
        """Now messages of that step are due."""
        box = self._box(attempt)
        box.step = step
        box.messages = {place: message for place, message in box.messages.items() if place[0] >= step}

    async def send(self, attempt, address, place, numbers, value):
        await self._box(attempt).targets[address].write({"place": place, "numbers": numbers, "value": to_serialize(value)})

    def message(self, attempt, place):
        """A future of it, which is cancelled if the attempt ends."""
        return self._box(attempt).messages.setdefault(place, asyncio.get_running_loop().create_future())

    def end(self, training, number):
        """Forget the attempts up to that number, also what is still to come of them, and wake who waits for it."""
        self._ended[training] = max(number, self._ended.get(training, number))
        for attempt in [attempt for attempt in self._boxes if self._is_over(attempt)]:
            box = self._boxes.pop(attempt)
            for waiting in (*box.messages.values(), *box.tasks):
                waiting.cancel()
            for comm in (*box.sources, *box.targets.values()):
                comm.abort()

    def _box(self, attempt):
        if self._is_over(attempt):
            raise Lost
        return self._boxes.setdefault(attempt, _Box())

    def _is_over(self, attempt):
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


def levels(owners: list[str]) -> list[list[tuple[str, int, str]]]:
    """The messages of each level."""
    return [messages(owners, level) for level in range((len(owners) - 1).bit_length())]


class Sum:
    """The sums of an attempt at some steps, for the worker at the address `here`; in its context it is connected to the others.

    What is summed are numbers, a few floats, and an array, in pieces that are sent one after another.
    """

    def __init__(self, attempt: tuple[str, int], owners: list[str], here: str):
        self._exchange, self._attempt, self._here = exchange(), attempt, here
        self._levels = levels(owners)
        self._leaves, self._rooms, self._running = {}, {}, []

    def __enter__(self):
        targets = sorted({target for level in self._levels for source, _, target in level if source == self._here})
        try:
            self._start(self._exchange.connect, self._attempt, targets)
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
        """Take a leaf, of which a copy is made."""
        room = self._room(array, step, piece, "leaf", share)
        np.copyto(room, array)
        self._leaves.setdefault(piece, {})[share] = numbers, room

    def begin(self, step: int, piece: int, out: np.ndarray) -> None:
        """Start to sum into an array, as all leaves of this worker are there."""
        self._start(self._sum, step, piece, self._leaves.pop(piece), out)

    def finish(self) -> tuple[float, ...]:
        """The sums of the last piece's numbers, as all of what was begun is there; Lost if a worker is."""
        try:
            results = [running.result() for running in self._running]
        except concurrent.futures.CancelledError:
            raise Lost from None
        self._running.clear()
        return results[-1]

    @property
    def _loop(self):
        return self._exchange.worker.loop.asyncio_loop

    def _start(self, *what):
        self._running.append(asyncio.run_coroutine_threadsafe(self._exchange.run(self._attempt, *what), self._loop))

    def _end(self):
        self._loop.call_soon_threadsafe(self._exchange.end, *self._attempt)

    async def _sum(self, step, piece, nodes, out):
        self._exchange.begin(self._attempt, step)
        for level, pairs in enumerate(self._levels):
            for sender, node, receiver in pairs:
                if sender == self._here:
                    await self._exchange.send(self._attempt, receiver, (step, piece, level, node), *nodes[node])
            for _, node, receiver in pairs:
                if receiver == self._here:
                    nodes[node] = await self._exchange.message(self._attempt, (step, piece, level, node))

            def add(array, other, node, level=level):
                is_all = level + 1 == len(self._levels)
                return np.add(array, other, out=out if is_all else self._room(array, step, piece, level, node))

            nodes = joined(nodes, add)
        return nodes[0][0]

    def _room(self, array, step, *what):
        """Memory like the array. Who has the sum of a step has all leaves of it: the others are done with the step before."""
        room = self._rooms.get(key := (step & 1, *what))
        if room is None or room.shape != array.shape:
            room = self._rooms[key] = np.empty_like(array)
        return room


def joined(nodes, add):
    """The nodes of the next level, each the sum of its two halves, or the one that there is; add(array, array, node) adds."""
    above = {}
    for node in sorted(nodes):
        if node >> 1 in above:
            (numbers, array), (more, other) = above[node >> 1], nodes[node]
            above[node >> 1] = tuple(a + b for a, b in zip(numbers, more, strict=True)), add(array, other, node >> 1)
        else:
            above[node >> 1] = nodes[node]
    return above
