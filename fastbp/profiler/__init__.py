"""Which kernels ran, in which of the user's calls, on which thread and for how long."""
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import _files, _jit
from . import log
from .passes import Pass, collect

CAPACITY = 1 << 20              # events, of 192 bytes


class Profile:
    """What fastbp did between `with fastbp.profile() as p:` and its end.

    passes   a list of Pass, one for each call of a layer's forward or backward pass or of a ReLU, from any thread, in the
             order of their starts: its name, shape, dtype, start and duration, and its kernels
    dropped  how many events found no room
    threads  {number: name} of the Python threads that were alive at the end
    """

    def __init__(self, capacity: int):
        if capacity < 1:
            raise ValueError(f"capacity was {capacity}, expected at least 1")
        self.passes: list[Pass] = []
        self.dropped = 0
        self.threads: dict[Any, str] = {}
        self._log: Any = None
        self._capacity, self._since = capacity, 0

    def __enter__(self) -> "Profile":
        if self._log is not None:
            raise RuntimeError("this profile is active already, expected it to be entered once at a time")
        found = log.log(self._capacity)
        found.start()
        self._log, self._since = found, log.now()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        used, self._log = self._log, None
        events, self.dropped = used.stop()
        log.give_back(used)
        self.passes = collect(events, self._since)
        self.threads = {thread.ident: thread.name for thread in threading.enumerate()}

    def table(self) -> str:
        """Return a table of the calls by shape, and of their kernels: calls, time, share, GFLOP/s and GB/s. Needs rich.

        It is in ASCII, and as wide as the terminal, up to 100 columns: columns that do not fit come in another table below.
        """
        try:
            from .tables import calls
        except ImportError as error:
            raise ImportError("a table needs rich: pip install 'fastbp[profile]'") from error
        return calls(self.passes, self.dropped)

    def to_json(self, path: str | Path) -> None:
        """Write {"passes": [...], "dropped": n}, with times in seconds, to a file."""
        from .report import plain
        _write(path, {"passes": plain(self.passes), "dropped": self.dropped})

    def export_chrome_trace(self, path: str | Path) -> None:
        """Write a file that ui.perfetto.dev and chrome://tracing show: the calls and their tasks, on a line for each thread."""
        from .trace import trace
        _write(path, trace(self.passes, self.threads))


def profile(*, capacity: int = CAPACITY) -> Profile:
    """Record every pass and kernel in a `with` block, of all threads.

    capacity: how many events there is room for, 192 bytes each as they come; a pass has one for itself and a few for each
    kernel and block of its rows. Those that find no room are counted. There is one active profile in a process at a time:
    RuntimeError if there is another. A forked child is not recorded, and may have a profile of its own. Raises ValueError for
    a capacity below 1.
    """
    _jit.check_enabled("profile")
    return Profile(capacity)


def _write(path, content):
    _files.write(path, json.dumps(content).encode())
