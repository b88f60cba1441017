"""The kernels' tests once more, in a process that compiles for an older CPU and fails if it does not."""
import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

HERE = Path(__file__).parent
PATIENCE = 300                  # seconds until a process that hangs is given up
FILES = ("test_seed.py", "test_semantics.py", "test_shapes.py")

RUN = """
import sys
import pytest
from fastbp import _cpu
assert _cpu.instruction_set() == sys.argv[1], f"compiles for {_cpu.instruction_set()}, not for {sys.argv[1]}"
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("instruction_set, cpu, needs", [("avx2", "haswell", ("avx2", "fma")), ("baseline", "x86-64", ())])
def test_an_older_cpu(tmp_path, instruction_set, cpu, needs):
    host = llvm.get_host_cpu_features()
    missing = [feature for feature in needs if not host.get(feature)]
    if missing:
        pytest.skip(f"{instruction_set} cannot run here: this CPU has no {' and no '.join(missing)}")
    answer = subprocess.run(
        [sys.executable, "-c", RUN, instruction_set, *FILES], cwd=HERE, text=True, capture_output=True, timeout=PATIENCE,
        check=False, env=os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "FASTBP_CACHE_DIR": str(tmp_path),
                                       "PYTHONPATH": str(HERE.parent)})
    assert answer.returncode == 0, answer.stdout + answer.stderr
