"""The machine: the target that Numba compiles for, the caches and the cores. Importing this module looks nothing up."""
import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import llvmlite.binding as llvm
from numba.core import codegen, config

# A function that LLVM compiles to show which vectors it uses. The list of CPU features would not tell, because LLVM avoids the
# widest vectors of some CPUs.
_PROBE = """
declare <16 x float> @llvm.fmuladd.v16f32(<16 x float>, <16 x float>, <16 x float>)
define <16 x float> @probe(<16 x float> %a, <16 x float> %b, <16 x float> %c) {
  %d = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %c)
  ret <16 x float> %d
}
"""


class Caches(NamedTuple):
    """The sizes of the data caches, in bytes."""

    l1: int                     # a core's own
    l2: int                     # a core's own
    l3: int                     # shared by the cores


# The sizes, in bytes, that are assumed where the system does not tell.
DEFAULT_CACHES = Caches(l1=32 << 10, l2=1 << 20, l3=8 << 20)


def target() -> tuple[str, str]:
    """Return (CPU name, features) that Numba compiles for. Numba reads NUMBA_CPU_NAME and NUMBA_CPU_FEATURES."""
    name = llvm.get_host_cpu_name() if config.CPU_NAME is None else config.CPU_NAME
    features = codegen.get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return name, features


@cache
def instruction_set() -> str:
    """Return the vectors that LLVM uses for the target: "avx512", "avx2" (with FMA) or "baseline"."""
    codegen.initialize_llvm()
    name, features = target()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(cpu=name, features=features)
    assembly = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    if "vfmadd" not in assembly or "ymm" not in assembly and "zmm" not in assembly:
        return "baseline"
    return "avx512" if "zmm" in assembly else "avx2"


@cache
def has_amx() -> bool:
    """Return whether there are tile registers that multiply bfloat16 (AMX), and Linux lets this process use them."""
    return {"+amx-tile", "+amx-bf16"} <= set(target()[1].split(",")) and request_amx()


def request_amx() -> bool:
    """Ask Linux for the tile registers, for all threads of this process and its children. Return whether it grants them.

    Without that permission the first tile instruction kills the process. Linux asks for it because the registers enlarge the
    state that it saves for each thread.
    """
    if not sys.platform.startswith("linux"):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


@cache
def has_bfloat16_dot() -> bool:
    """Return whether the CPU has dot products of bfloat16 (AVX512-BF16)."""
    return instruction_set() == "avx512" and "+avx512bf16" in target()[1].split(",")


def multiplies_bfloat16() -> bool:
    """Return whether the CPU has instructions for products of bfloat16."""
    return has_amx() or has_bfloat16_dot()


def host() -> str:
    """Return LLVM's name of the CPU that this process runs on, such as "znver4", whatever Numba compiles for."""
    return llvm.get_host_cpu_name()


def caches(devices: str = "/sys/devices/system/cpu") -> Caches:
    """Return the data caches of a CPU that this process may use; DEFAULT_CACHES where the system does not tell."""
    levels = {}
    for index in Path(devices).glob(f"cpu{min(affinity())}/cache/index*"):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                levels[int(level)] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    l1, l2 = levels.get(1, DEFAULT_CACHES.l1), levels.get(2, DEFAULT_CACHES.l2)
    return Caches(l1=l1, l2=l2, l3=levels.get(3, l2 if levels else DEFAULT_CACHES.l3))


def cores() -> int:
    """Return how many CPUs this process may use at a time, by its affinity and the quota of its control group."""
    return min([len(affinity()), *quotas()])


def quotas(proc: str = "/proc/self/cgroup", mount: str = "/sys/fs/cgroup") -> Iterator[int]:
    """Yield the CPU quotas of this process's control groups (version 1 or 2) and of the groups above them, rounded up."""
    try:
        groups = Path(proc).read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = Path(mount, "cpu") if controllers else Path(mount)
        # In a container the path may be that of the host, and then only the root can be read.
        for folder in (PurePosixPath(path), *PurePosixPath(path).parents):
            try:
                yield _quota(root / folder.relative_to("/"), 1 if controllers else 2)
            except (OSError, ValueError):
                continue


def _quota(folder, version):
    """Return a group's quota in CPUs. Raises ValueError or OSError if it has none."""
    if version == 1:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    else:
        quota, period = map(int, (folder / "cpu.max").read_text().split())
    if quota <= 0 or period <= 0:
        raise ValueError(f"no quota: {quota}")
    return -(-quota // period)


def model() -> str:
    """Return the CPU's name as people know it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def affinity():
    """Return the numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)
