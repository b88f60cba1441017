"""Valgrind's memcheck finds no access outside an allocation, and no use of memory that was never written, in compiled code.

The kernels are compiled beforehand for an instruction set that valgrind knows: AVX2, or the baseline with --cpu x86-64. Errors
in the interpreter and in other libraries do not count: only frames of compiled code belong to no file.
"""
import itertools
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from . import child, report, walls

FEATURES = {"haswell": "+avx2,+fma", "x86-64": ""}      # LLVM's features for each value of --cpu.
# Small shapes (batch, inputs, neurons) around the sizes of tiles.
SMALL = tuple(itertools.product((0, 1, 2, 5, 6, 7, 13), (1, 7, 8, 9, 33), (1, 3, 16, 17, 34)))

# The code of the process that valgrind watches.
_WORK = "import sys; from checks import memcheck; memcheck.work(*sys.argv[1:])"


def work(dtype, small):
    """Call everything with operands in allocations of their own, for valgrind to watch."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(0)
    checker = walls.Calls(dtype)
    for shape in (*walls.SOME, *(SMALL if small == "1" else ())):
        checker.check(shape, rng)
        print(*shape, flush=True)


def errors_of_compiled_code(log):
    """Return the errors in valgrind's log, a line each, that were made by compiled code: by a frame that is in no file."""
    found = []
    for error in ElementTree.parse(log).getroot().iter("error"):
        frame = error.find("stack/frame")
        if frame is not None and frame.find("obj") is None:
            what = error.findtext("what") or error.findtext("xwhat/text")
            found.append(f"{what} at {frame.findtext('ip')}")
    return found


def run(dtype, cpu="haswell", small=True):
    """Check one dtype under valgrind; return (faults, number of shapes)."""
    environment = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": FEATURES[cpu], "FASTBP_NUM_THREADS": "1",
                   "PYTHONMALLOC": "malloc"}
    with tempfile.TemporaryDirectory() as folder:
        environment["FASTBP_CACHE_DIR"] = folder
        status, _, errors = child.run(_WORK, dtype, int(small), **environment)      # compiles the kernels
        if status != 0:
            return [f"without valgrind: status {status}: {errors[-1500:]}"], 0
        log = Path(folder, "log.xml")
        prefix = ["valgrind", "--tool=memcheck", "--xml=yes", f"--xml-file={log}", "--error-limit=no"]
        status, output, errors = child.finish(child.start(_WORK, dtype, int(small), prefix=prefix, **environment), 1 << 20)
        faults = errors_of_compiled_code(log)
        return faults + ([f"status {status}: {errors[-1500:]}"] if status else []), len(output.splitlines())


def main(arguments):
    parser = report.options(sys.modules[__name__])
    parser.add_argument("--cpu", choices=FEATURES, default="haswell")
    chosen = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        print("skipped: there is no valgrind here. On Debian and Ubuntu: apt install valgrind")
        return 0
    faults, shapes = [], 0
    for dtype in ("float32", "float64"):
        found, count = run(dtype, chosen.cpu)
        faults, shapes = faults + found, shapes + count
    return report.close(faults, shapes=shapes)
