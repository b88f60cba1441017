"""The measured ceilings of this machine: floating-point operations and bytes a second.

Another process measures them, so that this one's memory and threads stay as they are. They are kept with the cache of compiled
code. A machine whose clock changes may later exceed them, or fall short of them.
"""
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from .. import functional
from .._arrays import operands
from .._compile import disk_cache
from .._runtime import cpu
from .._runtime import threads as process_threads
from ..kernels import blocking
from ..kernels.gemm import peak

SECONDS = 0.02                  # A turn takes this many seconds, so few that all cores are undisturbed in some turns.
TURNS = 50                      # A measurement has this many turns, of which the fastest counts.
LEAST_BYTES = 64 << 20          # The two arrays that measure bandwidth have at least this many bytes each, and twice L3.
SQUARES = 512, 768, 1024        # Square matrices of these sizes measure the peak of tile registers (AMX).

# The other process runs this code.
_CODE = "import sys; sys.path[:] = {path!r}; from fastbp.profiler import machine; machine.report({dtype!r}, {threads!r})"


class Ceilings(NamedTuple):
    """The most that all threads reach together.

    flops: operations a second of a dtype, on numbers in registers. bandwidth: bytes a second to and from memory.
    """

    flops: float
    bandwidth: float


def ceilings(dtype: str, threads: int, anew: bool = False) -> Ceilings:
    """Return the ceilings of products with factors of a dtype ("float32", "float64", "bfloat16") on a number of threads.

    anew: measure again, even if a result is kept. Raises RuntimeError if they cannot be measured.
    """
    name = f"ceilings-{dtype}-{threads}"
    kept = None if anew else disk_cache.kept(name)
    if kept is None:
        code = _CODE.format(path=sys.path, dtype=dtype, threads=threads)
        answer = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True)
        if answer.returncode:
            problem = answer.stderr.decode(errors="replace").strip().splitlines() or [f"status {answer.returncode}"]
            raise RuntimeError(f"peak and bandwidth could not be measured: {problem[-1]}")
        kept = answer.stdout
        disk_cache.keep(name, kept)
    return Ceilings(*json.loads(kept))


def report(dtype: str, threads: int) -> None:
    """Measure the Ceilings and print them as JSON, in the other process."""
    process_threads.set_num_threads(threads)
    kind = functional._NUMBA_TYPE[dtype if dtype == operands.BFLOAT16 else np.dtype(dtype)]
    print(json.dumps([_product_peak() if blocking.by_amx(kind) else _peak(kind, threads), _bandwidth(threads)]))


def _peak(dtype, threads):
    """Return the operations a second of all threads, each on its own registers."""
    run = peak.peak(dtype)
    memories = [np.zeros(peak.room(dtype), np.uint8) for _ in range(threads)]
    start = time.perf_counter()
    run(memories[0], 1000)
    repeats = int(1000 * SECONDS / (time.perf_counter() - start))
    return repeats * threads * peak.flops(dtype) / _fastest(lambda i: run(memories[i], repeats), threads)


def _product_peak():
    """Return the operations a second of the fastest product of square matrices that stay in the caches, with tile registers."""
    best = 0
    for n in SQUARES:
        x = np.ones((n, n), np.float32)
        out = np.empty_like(x)
        seconds = _fastest(lambda i, x=x, out=out: functional.dense_forward(x, x, out=out, precision=operands.BFLOAT16), 1)
        best = max(best, 2 * n ** 3 / seconds)
    return best


def _bandwidth(threads):
    """Return the bytes a second of copying or of reading, whichever is faster."""
    count = max(LEAST_BYTES, 2 * cpu.caches().l3) // 8
    source, target = np.ones(count, np.float64), np.ones(count, np.float64)
    parts = [slice(i * count // threads, (i + 1) * count // threads) for i in range(threads)]
    copying = _fastest(lambda i: np.copyto(target[parts[i]], source[parts[i]]), threads)
    reading = _fastest(lambda i: source[parts[i]].max(), threads)
    return max(2 * source.nbytes / copying, source.nbytes / reading)


def _fastest(work, threads):
    """Return the seconds of the fastest turn in which all threads did work(0), work(1) … at once."""
    with ThreadPoolExecutor(threads) as pool:
        seconds = []
        for _ in range(TURNS):
            start = time.perf_counter()
            list(pool.map(work, range(threads)))
            seconds.append(time.perf_counter() - start)
    return min(seconds)
