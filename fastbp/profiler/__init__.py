"""The profiler: which kernels ran, in which of the user's calls, on which thread and for how long."""
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from .._compile import compiler
from .._files import atomic
from . import log
from .passes import Pass, collect

CAPACITY = 1 << 20              # A log has room for this many events, of 192 bytes each, by default.


class Profile:
    """A record of all that fastbp did in the block `with fastbp.profile() as p:`.

    passes   a list of Pass in the order of their starts: one for each call of a layer's forward or backward pass or of a ReLU,
             from any thread, with its name, shape, dtype, start, duration and kernels
    dropped  the number of events that found no room
    threads  {number: name} of the Python threads that were alive at the end
    """

    def __init__(self, capacity: int):
        if capacity < 1:
            raise ValueError(f"capacity was {capacity}, expected at least 1")
        self.passes: list[Pass] = []
        self.dropped = 0
        self.threads: dict[Any, str] = {}
        self._log: Any = None
        self._capacity, self._start = capacity, 0

    def __enter__(self) -> "Profile":
        if self._log is not None:
            raise RuntimeError("this profile is active already, expected it to be entered once at a time")
        taken = log.take(self._capacity)
        taken.start()
        self._log, self._start = taken, log.now()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        used, self._log = self._log, None
        events, self.dropped = used.stop()
        log.give_back(used)
        self.passes = collect(events, self._start)
        self.threads = {thread.ident: thread.name for thread in threading.enumerate()}

    def table(self) -> str:
        """Return a table of the calls by shape, and of their kernels: calls, time, share of the time, GFLOP/s and GB/s.

        The text is in ASCII, and as wide as the terminal, but at most 100 columns. Columns that do not fit form another table
        below. Needs rich.
        """
        try:
            from .tables import calls
        except ImportError as error:
            raise ImportError("a table needs rich: pip install 'fastbp[profile]'") from error
        return calls(self.passes, self.dropped)

    def to_json(self, path: str | Path) -> None:
        """Write {"passes": [...], "dropped": n}, with times in seconds, to a file."""
        from .report import as_json
        _write(path, {"passes": as_json(self.passes), "dropped": self.dropped})

    def export_chrome_trace(self, path: str | Path) -> None:
        """Write a file for ui.perfetto.dev and chrome://tracing. They show calls and their tasks on a line for each thread."""
        from .trace import trace
        _write(path, trace(self.passes, self.threads))


def profile(*, capacity: int = CAPACITY) -> Profile:
    """Record every pass and kernel of all threads in a `with` block.

    capacity: the number of events that there is room for. An event takes 192 bytes of memory once it is recorded. A pass has
    one event for itself, and a few for each kernel and block of its rows. Events that find no room are only counted. A forked
    child is not recorded, and may have a profile of its own. Raises ValueError for a capacity below 1, and RuntimeError if
    another profile is active in this process.
    """
    compiler.check_enabled("profile")
    return Profile(capacity)


def _write(path, content):
    atomic.write(path, json.dumps(content).encode())
