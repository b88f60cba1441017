"""From events to passes: which kernels each pass of a layer ran, on how many threads, and for how long."""
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .. import _link
from ..kernels.record import BACKWARD, DINPUTS, FORWARD, QUEUE, RELU, UPDATE, Call, Event
from . import log, work
from .work import Work

NAMES = {FORWARD: "forward", BACKWARD: "backward", RELU: "relu", DINPUTS: "dinputs", UPDATE: "update"}
_KINDS = {name: kind for kind, name in NAMES.items()}
REST = "threads, copies"        # what is left of a pass: waking and waiting for threads, and small copies of its own
PLAIN = "plain loops"           # all of a pass without tasks


class Kernel(NamedTuple):
    """What a kind of job took within a pass.

    seconds: of the pass's time, that is the sum over its threads divided by their number
    """

    name: str
    seconds: float
    work: Work


class Task(NamedTuple):
    """A kernel's work on one thread; start in seconds since the profile's."""

    name: str
    thread: int
    start: float
    seconds: float


class Pass(NamedTuple):
    """One call of a layer's forward or backward pass, of a ReLU, or of an optimiser; start in seconds since the profile's."""

    name: str
    call: Call
    thread: int
    start: float
    seconds: float
    threads: int
    kernels: list[Kernel]
    tasks: list[Task]

    @property
    def dtype(self) -> str:
        """Of the factors of its products."""
        return f"bfloat{self.call.precision}" if self.call.precision == 16 else f"float{self.call.precision}"

    @property
    def work(self) -> Work:
        """The least that any implementation has to do."""
        return work.of_pass(_KINDS[self.name], self.call)


class _Span:
    """An event with its place in the tree of events."""

    def __init__(self, index, event, words, units):
        self.index = index
        self.work, self.queue, self.thread, self.start, self.task, self.end = event
        self.words = words
        self.tasks, *_ = words                          # of a task's job
        self.unit = units[self.work].kind if self.work in units else ""
        self.parent, self.inner = None, 0

    @property
    def ticks(self):
        """Its duration without that of the events inside it."""
        return self.end - self.start - self.inner


def collect(events: np.ndarray, since: int) -> list[Pass]:
    """The passes that began and ended among events of log.EVENT, in the order of their starts; `since` is the time 0.

    Tasks of a pass that began before them, or had not ended, are left out.
    """
    units = _link.bound()
    fields = events[[*Event._fields]].tolist()
    spans = [_Span(i, *event, units) for i, event in enumerate(zip(fields, events["words"].tolist(), strict=True))]
    _nest(spans)
    _find_queues(spans)
    tasks, queues = defaultdict(list), defaultdict(list)
    for span in spans:
        root = _pass_of(span)
        if root is not None and span is not root:
            (queues if span.work == QUEUE else tasks)[root].append(span)
    roots = sorted((span for span in spans if span.work in NAMES), key=lambda span: span.start)
    return [_pass(root, queues[root], tasks[root], since) for root in roots]


def _nest(spans):
    """Set each span's parent, the innermost event of the same thread that it is inside of: an inner one is recorded first."""
    stacks = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start, -span.end, -span.index)):
        stack = stacks[span.thread]
        while stack and stack[-1].end < span.end:
            stack.pop()
        if stack:
            span.parent = stack[-1]
            span.parent.inner += span.end - span.start
        stack.append(span)


def _find_queues(spans):
    """Set the parent of tasks to the queue that they stood in: other threads may have done them."""
    queues = defaultdict(list)
    for span in sorted((span for span in spans if span.work == QUEUE), key=lambda span: span.start):
        queues[span.queue].append(span)
    for span in spans:
        if span.queue and span.work != QUEUE:
            candidates = queues[span.queue]
            place = bisect_right(candidates, span.start, key=lambda queue: queue.start) - 1
            span.parent = candidates[place] if place >= 0 and span.end <= candidates[place].end else None


def _pass_of(span):
    while span is not None and span.work not in NAMES:
        span = span.parent
    return span


def _queue_of(span):
    while span.work != QUEUE:
        span = span.parent
    return span


def _pass(root, queues, spans, since):
    call = Call(**dict(zip(Call._fields, root.words, strict=False)))
    ticks, amounts, tasks = defaultdict(float), defaultdict(lambda: np.zeros(2, np.float64)), []
    for span in spans:
        inside = span.parent.unit if not span.queue else ""
        name, amount = work.of_job(span.unit, span.words, root.work, call, inside)
        if name:
            ticks[name] += span.ticks / _queue_of(span).task
            amounts[name] += np.array(amount, np.float64) / (span.tasks if span.queue else 1)
            tasks.append(Task(name, span.thread, log.seconds(span.start - since), log.seconds(span.end - span.start)))
    kernels = [Kernel(name, log.seconds(ticks[name]), Work(*amounts[name].tolist())) for name in ticks]
    duration = root.end - root.start
    if queues:
        kernels.append(Kernel(REST, log.seconds(max(0, duration - sum(ticks.values()))), Work(0, 0)))
    else:
        kernels.append(Kernel(PLAIN, log.seconds(duration), work.of_pass(root.work, call)))
    threads = max((queue.task for queue in queues), default=1)
    return Pass(NAMES[root.work], call, root.thread, log.seconds(root.start - since), log.seconds(duration), threads,
                kernels, tasks)


def total(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Kernels of one name added up, in the order of their first ones; the rest comes last."""
    sums = {}
    for kernel in kernels:
        seconds, flops, count = sums.get(kernel.name, (0, 0, 0))
        sums[kernel.name] = seconds + kernel.seconds, flops + kernel.work.flops, count + kernel.work.bytes
    names = sorted(sums, key=lambda name: name == REST)
    return [Kernel(name, sums[name][0], Work(*sums[name][1:])) for name in names]


