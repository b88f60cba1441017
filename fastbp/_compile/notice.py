"""What a user sees while something is compiled: a line on standard error if it takes long, and a short traceback of Ctrl-C.

There is no helper thread for it, which would make a forked child compute on one thread (_runtime/threads.py). Instead the
clock is looked at from within: before each unit and each kernel.
"""
import os
import sys
import threading
import time
from contextlib import suppress

from .._runtime import stderr
from . import ahead, disk_cache

_SECONDS = 1.0                  # of compiling before it is said

_local = threading.local()      # .session: the compiling() that this thread is in, or None


class compiling:
    """The compilation of something, as a context. What is nested in it is part of it."""

    def __init__(self, what: str):
        self.what = what
        self._is_nested = getattr(_local, "session", None) is not None

    def __enter__(self):
        if not self._is_nested:
            self.start, self.is_said = time.monotonic(), False
            _local.session = self

    def __exit__(self, kind, error, traceback):
        if self._is_nested:
            return
        _local.session = None
        if kind is KeyboardInterrupt:                                   # the same one, without what happened within
            ahead.stop()                                               # in a terminal they got it, too
            error.args = f"compiling {self.what} was interrupted; the next call goes on with it",
            error.__cause__ = error.__context__ = error.__traceback__ = None


def look(is_sure: bool = False) -> None:
    """Say what is compiled, once, if that takes long already, or is sure to."""
    session = getattr(_local, "session", None)
    if session is not None and not session.is_said and (is_sure or time.monotonic() - session.start > _SECONDS):
        session.is_said = True
        _say(session.what)


def _say(what):
    if os.environ.get("FASTBP_QUIET", "0") not in ("", "0") or not stderr.is_watched():
        return
    if disk_cache.is_writable():
        kept = f"once: it is kept in {disk_cache.folder().parent}"
    else:
        kept = f"for this process alone: it cannot be kept ({disk_cache.problem() or f'{disk_cache.folder()} is read-only'})"
    line, tqdm = f"fastbp: compiling {what}, {kept} (FASTBP_QUIET=1 silences this)", sys.modules.get("tqdm")
    with suppress(OSError, ValueError):
        if tqdm is None:
            print(line, file=sys.stderr, flush=True)
        else:                                               # above a progress bar; without its lock, which a fork may have lost
            tqdm.tqdm.write(line, file=sys.stderr, nolock=True)
