"""The memory in which compiled code records events (kernels/schedule/trace.py), and the choice of the active profile."""
import os
import sys
import threading
import time

import numpy as np

from .._arrays.memory import address
from .._runtime import state
from ..kernels.schedule.records import fields_of, layout
from ..kernels.schedule.trace import EVENT_BYTES, LOG_BYTES, WORDS, Event, Header, bind
from ..kernels.simd.vector import CACHE_LINE

# The dtype of an event in a log. Its header fills a cache line.
EVENT = np.dtype([*layout(Event).descr, ("unused", np.uint8, CACHE_LINE - layout(Event).itemsize), ("words", np.int64, WORDS)])
assert EVENT.itemsize == EVENT_BYTES

# Logs that no profile uses. Their memory is never freed, because a kernel that began while a profile was active may record its
# end at any later time.
_logs = []

# The lock under which a log is taken, started or given back.
_lock = threading.Lock()


def _after_fork():
    """Renew the lock, which another thread may have held. A forked child has no active profile (state.forget_threads)."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Log:
    """Memory for `capacity` events. The system provides its pages when they are first used."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._memory = np.zeros(LOG_BYTES + capacity * EVENT_BYTES, np.uint8)
        self._header, self._events = self._memory[:LOG_BYTES].view(np.int64), self._memory[LOG_BYTES:].view(EVENT)

    def start(self) -> None:
        """Empty the log, and let compiled code record in it. Raises RuntimeError while another log is active."""
        bind()
        with _lock:
            if state.words[state.PROFILE]:
                raise RuntimeError("a profile is active already, expected one at a time in a process")
            header = fields_of(Header, self._header)
            self._events[:min(header["count"], self.capacity)] = np.zeros((), EVENT)
            header["count"], header["capacity"] = 0, self.capacity
            self._start = now()
            size = LOG_BYTES + self.capacity * EVENT_BYTES
            state.words[state.PROFILE] = address("log", self._memory, np.dtype(np.uint8), size, written=True)

    def stop(self) -> tuple[np.ndarray, int]:
        """Return the events that began and ended since the start, an array of EVENT, and how many events found no room."""
        state.words[state.PROFILE] = 0
        count = int(fields_of(Header, self._header)["count"])
        events = self._events[:min(count, self.capacity)].copy()
        return events[(events["end"] != 0) & (events["start"] >= self._start)], max(0, count - self.capacity)


def take(capacity: int) -> Log:
    """Return a log of this capacity that no profile is using."""
    with _lock:
        for number, kept in enumerate(_logs):
            if kept.capacity == capacity:
                return _logs.pop(number)
    return Log(capacity)


def give_back(used: Log) -> None:
    """Keep a log for the next profile."""
    with _lock:
        _logs.append(used)


def now() -> int:
    """Return the time as events have it, in ticks."""
    return time.monotonic_ns() if sys.platform != "win32" else round(time.perf_counter() / _TICK)


# The seconds of a tick: a nanosecond or, on Windows, the period of the performance counter.
_TICK = 1e-9 if sys.platform != "win32" else time.get_clock_info("perf_counter").resolution


def seconds(ticks: int) -> float:
    """Return the seconds of a number of ticks."""
    return ticks * _TICK
