"""Notices to the user during compilation: a line on standard error if it takes long, and a short traceback after Ctrl-C.

A helper thread for this would make a forked child compute on one thread (_runtime/threads.py). So the compiling thread itself
looks at the clock, before each unit and each kernel.
"""
import os
import sys
import threading
import time
from contextlib import suppress

from .._runtime import stderr
from . import ahead, disk_cache

# The seconds of compiling after which the user is told.
_SECONDS = 1.0

# The state of each thread. `session` is the outermost compiling() that the thread is in, or None.
_local = threading.local()


class compiling:
    """A context around the compilation of something. A nested one is part of the outer one."""

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
        if kind is KeyboardInterrupt:                                   # goes on, without the compiler's frames
            ahead.stop()                                               # the terminal sent Ctrl-C to the helper processes, too
            error.args = f"compiling {self.what} was interrupted; the next call goes on with it",
            error.__cause__ = error.__context__ = error.__traceback__ = None


def look(is_sure: bool = False) -> None:
    """Tell the user once what is being compiled, if it has taken long already or surely will."""
    session = getattr(_local, "session", None)
    if session is not None and not session.is_said and (is_sure or time.monotonic() - session.start > _SECONDS):
        session.is_said = True
        _say(session.what)


def _say(what):
    """Print the line, unless FASTBP_QUIET is set or nobody watches standard error."""
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
        else:                                               # above a progress bar; its lock may be lost after a fork
            tqdm.tqdm.write(line, file=sys.stderr, nolock=True)
