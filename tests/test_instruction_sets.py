"""Tests that run again in a process that compiles for another CPU, and fail if it does not.

For an older CPU the results of the kernels are tested. Code for a newer CPU cannot run here: only its assembly is tested.
"""
import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from fastbp._runtime import cpu as _cpu

HERE = Path(__file__).parent
PATIENCE = 300                  # seconds until a process that hangs is given up
# float64 has the same code with half the lanes; NUMBA_CPU_NAME=x86-64 NUMBA_CPU_FEATURES= scripts/test runs all tests there.
RESULTS = "test_semantics.py", "test_shapes.py", "test_bfloat16.py"
AVX512 = ",".join(f"+{name}" for name in ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"))

RUN = """
import sys
import pytest
from fastbp._runtime import cpu as _cpu
_cpu.request_amx = lambda: True         # as it would be on a CPU that has it: where there is none, that code is only read
assert _cpu.instruction_set() == sys.argv[1], f"compiles for {_cpu.instruction_set()}, not for {sys.argv[1]}"
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("instruction_set, cpu, needs, which", [
    ("avx2", "haswell", ("avx2", "fma"), "not float64"), ("baseline", "x86-64", (), "not float64 and not every_small_shape")])
def test_an_older_cpu(instruction_set, cpu, needs, which):
    if _cpu.instruction_set() == instruction_set:
        pytest.skip(f"all tests run on {instruction_set} here: it is what this process compiles for")
    host = llvm.get_host_cpu_features()
    missing = [feature for feature in needs if not host.get(feature)]
    if missing:
        pytest.skip(f"{instruction_set} cannot run here: this CPU has no {' and no '.join(missing)}")
    run(instruction_set, cpu, "", [*RESULTS, "-k", which])


@pytest.mark.parametrize("cpu, features, which", [
    ("skylake-avx512", f"{AVX512},-prefer-256-bit", "wide or peak"), ("znver4", f"{AVX512},+avx512bf16", "bfloat16"),
    ("sapphirerapids", f"{AVX512},+avx512bf16,+amx-tile,+amx-bf16,-prefer-256-bit", "bfloat16 or amx")])
def test_the_code_for_a_newer_cpu(cpu, features, which):
    """Most of it is in the wide tiles; the later two have instructions for bfloat16, and differ in nothing else."""
    run("avx512", cpu, features, ["test_assembly.py", "-k", which])


def run(instruction_set, cpu, features, tests):
    """Run these tests in such a process. It has the cache of this process, where each target has a folder of its own."""
    answer = subprocess.run(
        [sys.executable, "-c", RUN, instruction_set, *tests], cwd=HERE, text=True, capture_output=True, timeout=PATIENCE,
        check=False, env=os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "PYTHONPATH": str(HERE.parent)})
    assert answer.returncode == 0, answer.stdout + answer.stderr
