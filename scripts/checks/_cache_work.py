"""A small piece of work whose result NumPy knows to the bit, done with a cache of compiled code by a process of its own."""
import hashlib
import json
import os
import signal
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastbp

from . import child

PACKAGE = Path(fastbp.__file__).parent

# Does the pieces of work that its arguments name, and prints digests of the results and how it fared with the cache. It is
# a process group, to be killed with all that it has started.
_WORK = """
import os, sys
os.setsid()
sys.path.insert(0, sys.argv[1])
import json, shutil, warnings
from fastbp import _cache
from checks import _cache_work

written = []

def write(path, payload, write=_cache._write):
    written.append(path.name)
    write(path, payload)

_cache._write = write
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    results = {name: _cache_work.work(name) for name in sys.argv[2:]}
print(json.dumps({"results": results, "folder": _cache.folder() and str(_cache.folder()), "problem": _cache.problem(),
                  "written": [name for name in written if "-" in name], "warnings": [str(w.message) for w in caught]}))
"""

# Writes what is in one folder to another, over and over, until it is killed.
_REWRITE = """
import os
os.setsid()
import random, sys
from pathlib import Path
from fastbp import _cache

source, target, seed = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
payloads = [(target / path.name, bytes(_cache._read(path))) for path in sorted(source.iterdir())]
shuffle = random.Random(seed).shuffle
print("ready", flush=True)
while True:
    shuffle(payloads)
    for path, payload in payloads:
        _cache._write(path, payload)
"""

_NUMBERS = np.random.default_rng(1)
_X, _WEIGHTS, _Z, _DVALUES = (_NUMBERS.integers(-8, 9, shape) for shape in ((37, 29), (29, 19), 1003, 1003))
_OPERANDS = {"relu_forward": (_Z,), "relu_backward": (_DVALUES, _Z), "dense_forward": (_X, _WEIGHTS)}
_EXACT = {"relu_forward": np.maximum(_Z, 0), "relu_backward": np.where(_Z > 0, _DVALUES, 0), "dense_forward": _X @ _WEIGHTS,
          "edited": np.where(_DVALUES > 0, _Z, 0)}

RELU, MASK, DENSE = "relu_forward-float32", "relu_backward-float32", "dense_forward-float32"

# An edit of a kernel after which MASK has the result "edited", while the file has the length that it had.
_EDITED, _BEFORE, _AFTER = Path("kernels", "relu.py"), "tile.mask(dvalues, z)", "tile.mask(z, dvalues)"


class Report(NamedTuple):
    """What became of a process: what is wrong with it ("" if nothing is), and what it says of the cache."""

    fault: str
    folder: Path | None = None
    problem: str | None = None
    written: list = []
    warnings: list = []


def work(name):
    """Do a piece of work, in the process that is asked for it; returns the digest of its result."""
    if name == "edit":
        return edit(PACKAGE)
    function, dtype = name.split("-")
    return _digest(getattr(fastbp, function)(*(operand.astype(dtype) for operand in _OPERANDS[function])))


def _expected(name, edited):
    if name == "edit":
        return None
    function, dtype = name.split("-")
    return _digest(_EXACT["edited" if edited and name == MASK else function].astype(dtype))


def _digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def edit(package):
    """Edit a kernel, or take the edit back: neither the length nor the time of the file changes."""
    path = package / _EDITED
    times, text = path.stat(), path.read_text()
    assert (text.count(_BEFORE), text.count(_AFTER)) in ((1, 0), (0, 1))
    path.write_text(text.replace(_BEFORE, _AFTER) if _BEFORE in text else text.replace(_AFTER, _BEFORE))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def start(root, *works, package=PACKAGE, **options):
    environment = {"FASTBP_CACHE_DIR": str(root), "FASTBP_NUM_THREADS": "2"}
    return child.start(_WORK, package.parent, *works, **environment | options)


def finish(process, edited=False):
    """The Report of a process that start() began, which has run the kernels as they were or with the edit."""
    status, output, errors = child.finish(process)
    if status:
        return Report(f"it ended with status {status}: {errors[-1000:]}")
    if status is None:
        kill(process)
        return Report("it hung")
    told = json.loads(output)
    wrong = [name for name, result in told["results"].items() if result != _expected(name, edited)]
    return Report(f"wrong results: {', '.join(wrong)}" if wrong else "", told["folder"] and Path(told["folder"]),
                  told["problem"], told["written"], told["warnings"])


def run(root, *works, edited=False, **options):
    return finish(start(root, *works, **options), edited)


def rewrite(source, target, seed):
    """A process that writes to the folder `target` by now, and on and on."""
    process = child.start(_REWRITE, source, target, seed)
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def kill(process):
    """Kill a process of start() or rewrite() and what it has started; whether it was still running."""
    was_running = process.poll() is None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:              # it is no group yet, or no more
        process.kill()
    process.communicate()
    return was_running
