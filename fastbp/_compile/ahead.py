"""A second process, which compiles part of the units that a step needs while this one compiles the rest.

Numba compiles under one lock, on one core. So where nothing is in the disk cache yet, this process starts another one for
the units of KINDS, and waits for each of them before it takes it from the cache. What does not come from there, for whatever
reason, it compiles itself. A user who asked for one thread gets no second process.
"""
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from .._runtime import sigint, threads
from . import disk_cache

# About half of the work for a first gradient, and for a first training step, in the order in which these ask for them.
KINDS = "pack", "backward", "mask"
_KINDS_OF = {"forward": KINDS, "backward": KINDS, "train": (*KINDS, "loss", "update"),
             "dinputs": ("pack", "mask", "loss", "update", "full")}

_CODE = "import sys; sys.path[:] = {path!r}; from fastbp._compile import link; link.compile_ahead({names!r})"

_helpers = {}                   # by the name of the type


class _Helper:
    """A process that compiles the units of these names, and says so of each."""

    def __init__(self, names):
        self.names = set(names)
        code = _CODE.format(path=sys.path, names=names)
        environment = os.environ | {"FASTBP_NUM_THREADS": "1", "FASTBP_CACHE_DIR": str(disk_cache.folder().parent)}
        self._process = subprocess.Popen([sys.executable, "-c", code], env=environment,
                                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def wait(self, name):
        """Return when the unit is in the cache, or will not come."""
        while name in self.names:
            line = self._process.stdout.readline()
            self.names.discard(line.strip())
            if not line:
                self.names.clear()
        if not self.names:
            self._close()

    def stop(self):
        """End the process, if it is still at work."""
        self._process.kill()
        self._close()

    def _close(self):
        self._process.stdout.close()
        self._process.wait()


def start(unit, units):
    """Have those of the units compiled that a pass or a training step needs, if its own is not compiled yet: once a type."""
    if unit.kind not in _KINDS_OF or unit.dtype in _helpers or unit.is_compiled() or not _is_possible():
        return
    names = [u.name for kind in _KINDS_OF[unit.kind] for u in units if (u.kind, u.dtype) == (kind, unit.dtype) and u is not unit
             and not u.is_compiled()]
    if names:
        with suppress(OSError), sigint.defer_sigint():
            _helpers[unit.dtype] = _Helper(names)


def _is_possible():
    """Whether there is a core and a cache that it can write for it, and a Python: an embedded one is another program."""
    return threads.wanted() > 1 and disk_cache.is_writable() and "python" in Path(sys.executable or "").name


def is_expected(name):
    """Whether the unit is still to come from another process."""
    return any(name in helper.names for helper in _helpers.values())


def wait(name):
    """Return when the unit is no longer expected."""
    for helper in _helpers.values():
        helper.wait(name)


def stop():
    """End the other processes, as compiling was interrupted. They are started again when they are needed."""
    with sigint.defer_sigint():
        while _helpers:
            _helpers.popitem()[1].stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.clear)          # they write to the parent
