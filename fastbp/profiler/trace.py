"""Passes and tasks in Chrome's Trace Event Format (Duffy and Sinclair, Trace Event Format, 2016), in microseconds."""
import os
from collections.abc import Mapping, Sequence

from .passes import Pass
from .tables import title


def trace(passes: Sequence[Pass], threads: Mapping[int, str]) -> dict:
    """Return what chrome://tracing and ui.perfetto.dev read: a line for each thread with its passes, and tasks below them."""
    process, numbers, events = os.getpid(), {}, []
    for p in passes:
        work = {"flops": p.work.flops, "bytes": p.work.bytes, "threads": p.threads}
        events.append(_event(title(p), "pass", p, process, numbers, p.call._asdict() | work))
        events += [_event(task.name, "kernel", task, process, numbers, {}) for task in p.tasks]
    names = [{"name": "thread_name", "ph": "M", "pid": process, "tid": number,
              "args": {"name": threads.get(thread, f"worker {number}")}} for thread, number in numbers.items()]
    return {"traceEvents": names + events, "displayTimeUnit": "ms"}


def _event(name, category, span, process, numbers, arguments):
    number = numbers.setdefault(span.thread, len(numbers))
    return {"name": name, "cat": category, "ph": "X", "pid": process, "tid": number, "ts": span.start * 1e6,
            "dur": span.seconds * 1e6, "args": arguments}
