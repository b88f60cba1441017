"""bfloat16 in AMX tile registers, on any CPU: a process emulates the instructions where the CPU has none."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import amx_emulator
import fastbp
from fastbp._runtime import cpu
from fastbp.kernels import blocking
from fastbp.kernels.dense import select
from fastbp.kernels.simd import tile

HERE = Path(__file__).parent
PATIENCE = 300                  # seconds until a process that hangs is given up


@pytest.mark.skipif(cpu.has_amx(), reason="this process has AMX: the tests below, and test_bfloat16.py, use it")
@pytest.mark.skipif(amx_emulator.missing() is not None, reason=str(amx_emulator.missing()))
def test_in_a_process_with_amx(tmp_path):
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": amx_emulator.FEATURES,
                   "FASTBP_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(HERE.parent)}
    answer = subprocess.run([sys.executable, "amx_emulator.py", tmp_path, "test_bfloat16.py", "test_amx.py"], cwd=HERE,
                            text=True, capture_output=True, timeout=PATIENCE, check=False, env=os.environ | environment)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_no_amx_without_the_permission(monkeypatch):
    monkeypatch.setattr(cpu, "target", lambda: ("sapphirerapids", "+amx-tile,+amx-bf16"))
    for granted in (True, False):
        monkeypatch.setattr(cpu, "request_amx", lambda granted=granted: granted)
        assert cpu.has_amx.__wrapped__() is granted


def test_no_amx_where_numba_compiles_for_a_cpu_without_it(monkeypatch):
    monkeypatch.setattr(cpu, "request_amx", lambda: pytest.fail("asked for AMX, expected no AMX to be wanted"))
    for features in ("", "+amx-tile", "-amx-tile,+amx-bf16"):
        monkeypatch.setattr(cpu, "target", lambda features=features: ("sapphirerapids", features))
        assert not cpu.has_amx.__wrapped__()


needs_amx = pytest.mark.skipif(not cpu.has_amx(), reason="no AMX in this process: test_in_a_process_with_amx has it")


@needs_amx
def test_the_tiles_are_those_of_amx():
    shape = blocking.tiles(tile.BFLOAT16).full
    assert (shape.rows, shape.vecs * shape.lanes, shape.step) == (32, 32, 16)


@needs_amx
@pytest.mark.parametrize("batch", [129, 143, 144, 145, 160, 161])
@pytest.mark.parametrize("n_neurons", [129, 144, 145, 160, 161, 176, 177])
def test_every_edge_of_a_tile(rng, batch, n_neurons):
    """What lies beyond a tile's rows, columns and depth is NaN in memory, and must not reach the result."""
    for n_inputs in (129, 159, 160, 161, 192):
        assert select.is_rounded(blocking.rounded_limit(), batch, n_inputs, n_neurons)
        frame = np.full((batch, n_inputs + 40), np.nan, np.float32)
        x, w = frame[:, :n_inputs], np.full((n_inputs, n_neurons + 40), np.nan, np.float32)[:, :n_neurons]
        x[...], w[...] = rng.integers(-3, 4, x.shape), rng.integers(-3, 4, w.shape)
        bias = rng.integers(-3, 4, (1, n_neurons)).astype(np.float32)
        np.testing.assert_array_equal(fastbp.dense_forward(x, w, precision="bfloat16"), x @ w)
        np.testing.assert_array_equal(fastbp.dense_relu_forward(x, w, bias, precision="bfloat16"), np.maximum(x @ w + bias, 0))
        dvalues = rng.integers(-3, 4, (batch, n_neurons)).astype(np.float32)
        dinputs, dweights, _ = fastbp.dense_backward(dvalues, x, w, precision="bfloat16")
        np.testing.assert_array_equal(dinputs, dvalues @ w.T)
        np.testing.assert_array_equal(dweights, x.T @ dvalues)


@needs_amx
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_may_use_it(rng):
    x, w = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((160, 164), (164, 180)))
    fastbp.dense_forward(x, w, precision="bfloat16")
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(fastbp.dense_forward(x, w, precision="bfloat16"), x @ w) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
