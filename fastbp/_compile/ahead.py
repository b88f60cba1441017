"""A second process that compiles some of the units that a step needs, while this process compiles the others.

Numba compiles under one lock, so on one core. If the disk cache is still empty, this process starts a helper process for the
units of KINDS. Before it uses one of these units, it waits until the helper has written it to the cache. If a unit does not
arrive, for whatever reason, this process compiles it itself. A user who asked for one thread gets no helper process.

Where everything is compiled beforehand, each dtype after the first has a process of its own.
"""
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from .._runtime import sigint, threads
from . import disk_cache

# The kinds of units that the helper compiles for a forward or backward pass, in the order in which a first gradient needs them.
# They are about half of the work of compiling it.
KINDS = "pack", "backward", "mask"

# The kinds of units that the helper compiles, by the kind of the unit that this process was asked for. They are about half of
# the work for a first training step, too, in the order in which that needs them.
_KINDS_OF = {"forward": KINDS, "backward": KINDS, "train": (*KINDS, "loss", "update"),
             "dinputs": ("pack", "mask", "loss", "update", "full"),
             "transposed_shard": ("update", "optimize", "steps", "norms")}

# The program of the helper process.
_CODE = "import sys; sys.path[:] = {path!r}; from fastbp._compile import link; link.compile_ahead({names!r})"

# The program of a process that compiles everything for a dtype.
_WARMUP = "import sys; sys.path[:] = {path!r}; import fastbp; fastbp.warmup({dtype!r})"

# The helper processes of this process, by the name of the type whose units they compile.
_helpers = {}


class _Helper:
    """A process that compiles the units of these names, and reports each finished one."""

    def __init__(self, names):
        self.names = set(names)
        self._process = _start(_CODE.format(path=sys.path, names=names), subprocess.PIPE)

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


def _start(code, output):
    """Start a process that runs Python code with the cache of this process, and no helper of its own, and return it."""
    environment = os.environ | {"FASTBP_NUM_THREADS": "1", "FASTBP_CACHE_DIR": str(disk_cache.folder().parent)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment,
                            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, text=True)


@contextmanager
def warming_up(dtypes, units):
    """Have other processes compile everything for these dtypes meanwhile, if they can; yield wait(dtype) for the end of one.

    dtypes: names of dtypes. units: all units that there are. What another process does not compile, the caller finds missing.
    """
    processes = {}
    try:
        for dtype in dtypes if _is_possible() else ():
            if not all(unit.is_compiled() for unit in units if str(unit.dtype) == dtype):
                with suppress(OSError), sigint.defer_sigint():
                    processes[dtype] = _start(_WARMUP.format(path=sys.path, dtype=dtype), subprocess.DEVNULL)
        yield lambda dtype: dtype in processes and processes[dtype].wait()
    finally:
        with sigint.defer_sigint():
            for process in processes.values():
                process.kill()
                process.wait()


def start(unit, units):
    """Start a helper for a pass or a training step whose own unit is not compiled yet.

    unit is the unit of that pass or step, and units are all that there are: the helper compiles those of its type that the pass
    or step needs. Each type gets one helper.
    """
    if unit.kind not in _KINDS_OF or unit.dtype in _helpers or unit.is_compiled() or not _is_possible():
        return
    names = [u.name for kind in _KINDS_OF[unit.kind] for u in units if (u.kind, u.dtype) == (kind, unit.dtype) and u is not unit
             and not u.is_compiled()]
    if names:
        with suppress(OSError), sigint.defer_sigint():
            _helpers[unit.dtype] = _Helper(names)


def _is_possible():
    """Return whether a helper can work: there is a second core, a writable cache, and a Python that can be started.

    In a program that embeds Python, sys.executable is that program.
    """
    return threads.wanted() > 1 and disk_cache.is_writable() and "python" in Path(sys.executable or "").name


def is_expected(name):
    """Return whether a helper process is still to deliver the unit."""
    return any(name in helper.names for helper in _helpers.values())


def wait(name):
    """Return when the unit is no longer expected."""
    for helper in _helpers.values():
        helper.wait(name)


def stop():
    """End the helper processes, because compiling was interrupted. They are started again when they are needed."""
    with sigint.defer_sigint():
        while _helpers:
            _helpers.popitem()[1].stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.clear)          # the parent's helpers report to the parent
