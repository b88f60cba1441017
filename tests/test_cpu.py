"""The facts about the machine that fastbp finds out."""
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import config
from numba.core.registry import cpu_target

from fastbp._runtime import cpu

x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names CPUs of x86-64")


@pytest.fixture
def compile_for(monkeypatch):
    """Let Numba's configuration name a CPU and features, as its environment variables would have."""
    def choose(name, features):
        monkeypatch.setattr(config, "CPU_NAME", name)
        monkeypatch.setattr(config, "CPU_FEATURES", features)
        cpu.instruction_set.cache_clear()
    yield choose
    monkeypatch.undo()
    cpu.instruction_set.cache_clear()


def test_target_is_the_one_that_numba_compiles_for():
    assert cpu.target() == cpu_target.target_context.codegen().magic_tuple()[1:]


def test_target_follows_numbas_environment_variables():
    code = "from fastbp._runtime import cpu; print(cpu.target())"
    environment = os.environ | {"PYTHONPATH": str(Path(cpu.__file__).parents[2]),
                                "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,-avx512f"}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "('haswell', '+avx2,-avx512f')"


@x86
@pytest.mark.parametrize("name, features, expected", [
    ("x86-64", "", "baseline"),
    ("sandybridge", "", "baseline"),                # AVX, but no FMA
    ("haswell", "", "avx2"),
    ("haswell", "-fma", "baseline"),
    ("znver2", "", "avx2"),
    ("skylake-avx512", "", "avx512"),
    ("skylake-avx512", "-avx512f", "avx2"),
    ("x86-64", "+avx512f,+fma", "avx512"),
])
def test_instruction_set_is_what_llvm_uses(compile_for, name, features, expected):
    compile_for(name, features)
    assert cpu.instruction_set() == expected


def sysfs(folder, *entries):
    for number, (level, kind, size) in enumerate(entries):
        index = folder / f"cpu{min(cpu.affinity())}" / "cache" / f"index{number}"
        index.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (index / name).write_text(f"{value}\n")
    return str(folder)


def test_caches_are_the_data_caches(tmp_path):
    devices = sysfs(tmp_path, (1, "Data", "48K"), (1, "Instruction", "64K"), (2, "Unified", "2048K"),
                    (3, "Unified", "107520K"))
    assert cpu.caches(devices) == cpu.Caches(l1=48 * 1024, l2=2 * 1024**2, l3=105 * 1024**2)


def test_without_a_third_level_the_second_is_the_last(tmp_path):
    devices = sysfs(tmp_path, (1, "Data", "32K"), (2, "Unified", "512K"))
    assert cpu.caches(devices) == cpu.Caches(32 * 1024, 512 * 1024, 512 * 1024)


@pytest.mark.parametrize("entry", [(1, "Data", ""), (1, "Data", "many"), ("?", "Data", "48K")])
def test_caches_that_cannot_be_read_have_defaults(tmp_path, entry):
    assert cpu.caches(sysfs(tmp_path, entry)) == cpu.DEFAULT_CACHES
    assert cpu.caches(str(tmp_path / "absent")) == cpu.DEFAULT_CACHES


def test_caches_of_this_machine_grow_with_the_level():
    l1, l2, l3 = cpu.caches()
    assert 4096 <= l1 <= l2 <= l3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_are_those_of_the_affinity():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        assert cpu.cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= cpu.cores() <= len(before)


@pytest.fixture
def quotas(tmp_path):
    """quotas(lines of /proc/self/cgroup, files below /sys/fs/cgroup) -> what cpu.quotas says."""
    def read(groups, files):
        proc, mount = tmp_path / "cgroup", tmp_path / "fs"
        proc.write_text("".join(f"{line}\n" for line in groups))
        for name, content in files.items():
            (mount / name).parent.mkdir(parents=True, exist_ok=True)
            (mount / name).write_text(f"{content}\n")
        return list(cpu.quotas(str(proc), str(mount)))
    return read


def test_quota_of_a_control_group_is_rounded_up(quotas):
    assert quotas(["0::/"], {"cpu.max": "150000 100000"}) == [2]


def test_quotas_of_the_groups_above_count(quotas):
    files = {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "10000 100000"}
    assert quotas(["0::/a/b"], files) == [3, 1]


def test_quota_of_version_1(quotas):
    files = {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000",
             "cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}
    assert quotas(["5:memory:/a", "4:cpu,cpuacct:/a", "1:name=systemd:/"], files) == [3]


def test_no_quota(quotas):
    assert quotas(["0::/a"], {"a/cpu.max": "max 100000"}) == []
    assert list(cpu.quotas("/does/not/exist")) == []


def test_the_least_quota_limits_the_cores(monkeypatch):
    monkeypatch.setattr(cpu, "quotas", lambda: iter([3, 1, 2]))
    assert cpu.cores() == 1


def test_model_has_a_name():
    assert cpu.model().strip()
