"""A description of what fastbp found and chose on this machine, for people and for bug reports."""
import platform
from collections.abc import Iterable
from importlib import metadata

import llvmlite
import numba
import numpy
from numba import types

from .._compile import compiler, disk_cache
from .._runtime import cpu, terminal, threads
from .._version import __version__
from ..kernels import blocking
from ..kernels.dense import blocks
from ..kernels.sizes import PRESENT


def describe() -> dict[str, str]:
    """Return versions, machine, tiles and blocking, threads and cache, by name. Compiles nothing and starts no threads."""
    caches = ", ".join(f"{name.upper()} {size >> 10} KiB" for name, size in cpu.caches()._asdict().items())
    return {
        "fastbp": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "jit": "disabled: NUMBA_DISABLE_JIT is 1, NumPy computes" if compiler.DISABLED else "enabled",
        "cpu": f"{cpu.model()}, compiled for {cpu.target()[0]}",
        "instruction set": cpu.instruction_set(),
        "bfloat16 by": bfloat16_by(),
        "caches": caches,
        **_sizes(),
        "sizes": f"{PRESENT.family}: " + ", ".join(f"{name} {size}" for name, size in PRESENT.sizes._asdict().items()),
        "threads": str(threads.get_num_threads()),
        "threading layer": threads.describe(),
        "cache folder": str(disk_cache.folder() or f"none: {disk_cache.problem()}"),
    }


def bfloat16_by() -> str:
    """Return what multiplies bfloat16 here: AMX, AVX512-BF16 or float32 arithmetic."""
    return "AMX" if cpu.has_amx() else "AVX512-BF16" if cpu.has_bfloat16_dot() else "float32 arithmetic"


def _sizes():
    """Return the tiles and blocks that kernels use on this machine, by name."""
    rows = {}
    for dtype in (types.float32, types.float64):
        shapes = blocking.tiles(dtype)
        sizes = [f"{t.rows} x {t.vecs * t.lanes}" for t in (shapes.full, shapes.column_edge, shapes.unpacked)]
        rows[f"{dtype} tiles"] = ", ".join(sizes)
    return rows | {"blocking": f"depth {blocking.KC}, rows {blocking.TASK_ROWS}; "
                               f"one-pass backward {blocks.FUSED_ROWS} rows"}


def machine(packages: Iterable[str]) -> str:
    """Return one line with the CPU and the versions of Python and of these packages."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return f"{cpu.model()} ({cpu.instruction_set()}, {cpu.cores()} cores), Python {platform.python_version()}, {versions}"


def show_config() -> None:
    """Print the versions, the machine, and what fastbp chose for it. Compiles nothing and starts no threads."""
    facts = describe()
    width = max(map(len, facts))
    for name, value in facts.items():
        terminal.say(terminal.fill(f"{name:{width}}  {value}", " " * (width + 2)))
