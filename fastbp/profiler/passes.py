"""The passes of layers, made from recorded events: their kernels, their threads and their times."""
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .._compile import link
from ..kernels.schedule.trace import BACKWARD, DINPUTS, FORWARD, QUEUE, RELU, UPDATE, Call, Event
from . import log, work
from .work import Work

# The name of each kind of pass.
NAMES = {FORWARD: "forward", BACKWARD: "backward", RELU: "relu", DINPUTS: "dinputs", UPDATE: "update"}
# The kind of pass of each name.
_KINDS = {name: kind for kind, name in NAMES.items()}
REST = "threads, copies"        # The rest of a pass has this name: it wakes and awaits threads, and makes small copies.
# A pass without tasks consists of this kernel: naive loops, or a layer of a transposed training step.
IN_PLACE = "loops in place"


class Kernel(NamedTuple):
    """The time and the work of all jobs of one kind within a pass. seconds: the sum over threads divided by their number."""

    name: str
    seconds: float
    work: Work


class Task(NamedTuple):
    """A task of a kernel on one thread. start: seconds since the profile's start."""

    name: str
    thread: int
    start: float
    seconds: float


class Pass(NamedTuple):
    """A call of a layer's forward or backward pass, of a ReLU or of an optimiser. start: seconds since the profile's start."""

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
        """Return the dtype of the factors of its products."""
        return f"bfloat{self.call.precision}" if self.call.precision == 16 else f"float{self.call.precision}"

    @property
    def work(self) -> Work:
        """Return the least work that any implementation has to do."""
        return work.of_pass(_KINDS[self.name], self.call)


class _Span:
    """An event with its place in the tree of events."""

    def __init__(self, index, event, words, units):
        self.index = index
        self.work, self.queue, self.thread, self.start, self.task, self.end = event
        self.words = words
        self.unit = units[self.work].kind if self.work in units else ""
        self.parent, self.inner_ticks = None, 0

    @property
    def own_ticks(self):
        """Return the duration without the events inside this one."""
        return self.end - self.start - self.inner_ticks


def collect(events: np.ndarray, start: int) -> list[Pass]:
    """Return the passes among events of log.EVENT, in the order of their starts. `start` is the time 0, in ticks.

    Passes that began before the events, or have not ended, are left out with their tasks.
    """
    units = link.bound()
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
    return [_pass(root, queues[root], tasks[root], start) for root in roots]


def _nest(spans):
    """Set the parent of each span: the innermost event of its thread around it.

    Of two events with equal times, the inner one was recorded first.
    """
    stacks = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start, -span.end, -span.index)):
        stack = stacks[span.thread]
        while stack and stack[-1].end < span.end:
            stack.pop()
        if stack:
            span.parent = stack[-1]
            span.parent.inner_ticks += span.end - span.start
        stack.append(span)


def _find_queues(spans):
    """Set the parent of each task to the queue that it stood in, which another thread may have run."""
    queues = defaultdict(list)
    for span in sorted((span for span in spans if span.work == QUEUE), key=lambda span: span.start):
        queues[span.queue].append(span)
    for span in spans:
        if span.queue and span.work != QUEUE:
            candidates = queues[span.queue]
            place = bisect_right(candidates, span.start, key=lambda queue: queue.start) - 1
            span.parent = candidates[place] if place >= 0 and span.end <= candidates[place].end else None


def _pass_of(span):
    """Return the pass around a span, or None."""
    while span is not None and span.work not in NAMES:
        span = span.parent
    return span


def _queue_of(span):
    """Return the queue around a task."""
    while span.work != QUEUE:
        span = span.parent
    return span


def _pass(root, queues, spans, start):
    """Return the Pass of the span `root`, with the spans of its queues and tasks."""
    call = Call(**dict(zip(Call._fields, root.words, strict=False)))
    ticks, works, tasks = defaultdict(float), defaultdict(lambda: Work(0.0, 0.0)), []
    for span in spans:
        inside = span.parent.unit if not span.queue else ""
        name, job_work = work.of_job(span.unit, span.words, root.work, call, inside)
        if name:
            ticks[name] += span.own_ticks / _queue_of(span).task
            parts = work.tasks_of(span.words) if span.queue else 1
            works[name] = work.add(works[name], Work(flops=job_work.flops / parts, bytes=job_work.bytes / parts))
            tasks.append(Task(name=name, thread=span.thread, start=log.seconds(span.start - start),
                              seconds=log.seconds(span.end - span.start)))
    kernels = [Kernel(name, log.seconds(ticks[name]), works[name]) for name in ticks]
    duration = root.end - root.start
    if queues:
        kernels.append(Kernel(REST, log.seconds(max(0, duration - sum(ticks.values()))), Work(0, 0)))
    else:
        name = NAMES[UPDATE] if root.work == UPDATE else IN_PLACE
        kernels.append(Kernel(name, log.seconds(duration), work.of_pass(root.work, call)))
    threads = max((queue.task for queue in queues), default=1)
    return Pass(name=NAMES[root.work], call=call, thread=root.thread, start=log.seconds(root.start - start),
                seconds=log.seconds(duration), threads=threads, kernels=kernels, tasks=tasks)


def total(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Return one kernel for each name, with the sums, in the order of first occurrence. REST comes last."""
    sums = {}
    for kernel in kernels:
        before = sums.get(kernel.name, Kernel(kernel.name, 0, Work(0, 0)))
        sums[kernel.name] = Kernel(kernel.name, before.seconds + kernel.seconds, work.add(before.work, kernel.work))
    return sorted(sums.values(), key=lambda kernel: kernel.name == REST)
