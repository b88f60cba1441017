"""Small pieces of work with exact results, done by processes that share a cache of compiled code."""
import json
import os
import signal
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastbp

from . import child, steps

# The folder of the package.
PACKAGE = Path(fastbp.__file__).parent

# The code of a process that does the pieces of work named in its arguments. It prints digests of the results, and what the
# cache did. It leads a process group, so that it can be killed with all the processes that it has started.
_WORK = """
import os, sys
os.setsid()
sys.path.insert(0, sys.argv[1])
import json, shutil, warnings
from fastbp._compile import disk_cache
from checks import _cache_work

written = []

def write(path, payload, write=disk_cache._write):
    written.append(path.name)
    write(path, payload)

disk_cache._write = write
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    results = {name: _cache_work.work(name) for name in sys.argv[2:]}
print(json.dumps({"results": results, "folder": disk_cache.folder() and str(disk_cache.folder()),
                  "problem": disk_cache.problem(), "written": [name for name in written if "-" in name],
                  "warnings": [str(w.message) for w in caught]}))
"""

# The code of a process that writes the files of one folder to another, again and again, until it is killed.
_REWRITE = """
import os
os.setsid()
import random, sys
from pathlib import Path
from fastbp._compile import disk_cache

source, target, seed = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
payloads = [(target / path.name, bytes(disk_cache._read(path))) for path in sorted(source.iterdir())]
shuffle = random.Random(seed).shuffle
print("ready", flush=True)
while True:
    shuffle(payloads)
    for path, payload in payloads:
        disk_cache._write(path, payload)
"""

# The operands of each function. They are whole numbers from -8 to 8, so that all results are exact.
_NUMBERS = np.random.default_rng(1)
_X, _WEIGHTS, _Z, _DVALUES = (_NUMBERS.integers(-8, 9, shape) for shape in ((37, 29), (29, 19), 1003, 1003))
_OPERANDS = {"relu_forward": (_Z,), "relu_backward": (_DVALUES, _Z), "dense_forward": (_X, _WEIGHTS)}
# The results of NumPy; "edited" is that of relu_backward after the edit below.
_EXACT = {"relu_forward": np.maximum(_Z, 0), "relu_backward": np.where(_Z > 0, _DVALUES, 0), "dense_forward": _X @ _WEIGHTS,
          "edited": np.where(_DVALUES > 0, _Z, 0)}

# The pieces of work: each the name of a function, and the dtype of its operands.
RELU, MASK, DENSE = "relu_forward-float32", "relu_backward-float32", "dense_forward-float32"

# The edit of a kernel replaces _BEFORE by _AFTER in the file _EDITED. It changes the result of MASK, but not the file's length.
_EDITED, _BEFORE, _AFTER = Path("kernels", "elementwise", "relu.py"), "mask(dvalues, z)", "mask(z, dvalues)"


class Report(NamedTuple):
    """A process at its end: its fault ("" if there is none), and what it said about the cache."""

    fault: str
    folder: Path | None = None      # the folder that it used
    problem: str | None = None      # why it used none
    written: list = []              # the names of the files that it wrote
    warnings: list = []             # the texts of its warnings


def work(name):
    """Do a piece of work in this process, and return the digest of its result. "edit" edits a kernel, and has no result."""
    if name == "edit":
        return edit(PACKAGE)
    function, dtype = name.split("-")
    return steps.digest(getattr(fastbp, function)(*(operand.astype(dtype) for operand in _OPERANDS[function])))


def _expected(name, edited):
    """Return the digest of the right result of a piece of work, with the kernel edited or not."""
    if name == "edit":
        return None
    function, dtype = name.split("-")
    return steps.digest(_EXACT["edited" if edited and name == MASK else function].astype(dtype))


def edit(package):
    """Edit a kernel, or take the edit back. Neither the length of the file nor its time changes."""
    path = package / _EDITED
    times, text = path.stat(), path.read_text()
    assert (text.count(_BEFORE), text.count(_AFTER)) in ((1, 0), (0, 1))
    path.write_text(text.replace(_BEFORE, _AFTER) if _BEFORE in text else text.replace(_AFTER, _BEFORE))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def start(root, *works, package=PACKAGE, **options):
    """Start a process that does these pieces of work, with its cache in `root` and the package in the folder `package`.

    options: options of child.start, and variables of the environment.
    """
    environment = {"FASTBP_CACHE_DIR": str(root), "FASTBP_NUM_THREADS": "2"}
    return child.start(_WORK, package.parent, *works, **environment | options)


def finish(process, edited=False):
    """Return the Report of a process that start() began; edited: whether it was to run the edited kernel."""
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
    """Do pieces of work in a process of its own, and return its Report. Arguments as for start() and finish()."""
    return finish(start(root, *works, **options), edited)


def rewrite(source, target, seed):
    """Return a process that writes the files of `source` to `target`, again and again; it has begun. seed: of their order."""
    process = child.start(_REWRITE, source, target, seed)
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def kill(process):
    """Kill a process of start() or rewrite() and all that it has started; return whether it was still running."""
    was_running = process.poll() is None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:              # it does not lead a group yet, or has ended
        process.kill()
    process.communicate()
    return was_running
