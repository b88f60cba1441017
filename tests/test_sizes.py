"""The table of sizes by family of CPU: which row is taken, that compiled code reads it, and that no row changes a bit."""
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest

import fastbp
from fastbp.__main__ import main
from fastbp._compile import compiler
from fastbp._runtime import cpu, state, threads
from fastbp.cli import config, plan
from fastbp.kernels import blocking, sizes
from fastbp.kernels.dense import blocks, select
from fastbp.kernels.elementwise.activations import RELU
from fastbp.kernels.matrix import Matrix
from fastbp.kernels.sizes import DEFAULT, PRESENT, TABLE, Row, Sizes

# The rows of the table, and rows that differ from the default in one size or in all of them, so that other algorithms run.
ROWS = list(dict.fromkeys(row.sizes for row in (*TABLE, DEFAULT)))
OTHERS = [*(DEFAULT.sizes._replace(**{field: value})
            for field in Sizes._fields for value in (getattr(DEFAULT.sizes, field) // 8, 8 * getattr(DEFAULT.sizes, field))),
          Sizes(few_rows=0, streamed_inputs=1, streamed_k=7, swapped_rows=1, swapped_most=1, thread_work=1 << 10),
          Sizes(few_rows=700, streamed_inputs=1, streamed_k=1000, swapped_rows=1000, swapped_most=5000,
                thread_work=1 << 40)]


@pytest.fixture(autouse=True)
def sizes_as_before():
    yield
    sizes.use(PRESENT.sizes)


@pytest.mark.parametrize("name, family", [
    ("znver3", "Zen 3"), ("znver4", "Zen 4"), ("sapphirerapids", "AMX Xeon"), ("emeraldrapids", "AMX Xeon"),
    ("graniterapids", "AMX Xeon"), ("znver2", "default"), ("haswell", "default"), ("apple-m1", "default"), ("", "default")])
def test_the_row_of_a_cpu(name, family):
    assert sizes.row_of(name).family == family


def test_no_cpu_has_two_rows_and_every_size_is_one_that_kernels_can_take():
    names = [name for row in TABLE for name in row.names]
    assert len(set(names)) == len(names) and not DEFAULT.names
    assert min(min(row) for row in ROWS) >= 1
    assert all(row.few_rows < 4 * blocks.FUSED_PARTITION_ROWS for row in (*ROWS, *OTHERS))


def test_the_row_follows_what_the_cpu_says_of_itself_and_not_what_numba_compiles_for():
    assert sizes.row_of(llvm.get_host_cpu_name()) == PRESENT
    code = ("import llvmlite.binding as llvm; llvm.get_host_cpu_name = lambda: 'znver3'; "
            "from fastbp._runtime import state; from fastbp.kernels import sizes; "
            "print(sizes.PRESENT.family, state.words[state.SIZES:state.SIZES + state.SIZE_COUNT] == [*sizes.PRESENT.sizes])")
    environment = os.environ | {"PYTHONPATH": str(Path(fastbp.__file__).parents[1]), "NUMBA_CPU_NAME": "haswell",
                                "NUMBA_CPU_FEATURES": ""}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout == "Zen 3 True\n"


def test_every_size_has_a_word():
    assert len(Sizes._fields) == state.SIZE_COUNT
    assert state.words[state.SIZES:state.SIZES + state.SIZE_COUNT] == [*PRESENT.sizes]


@pytest.mark.skipif(compiler.DISABLED, reason="NUMBA_DISABLE_JIT is 1")
def test_compiled_code_reads_the_sizes_when_it_runs():
    machine = blocking.machine(numba.float32)

    @numba.njit
    def found():
        return blocking.with_caches(machine).sizes, blocking.threads(1 << 20)

    threads.prepare()
    fastbp.set_num_threads(2)
    for row in (*ROWS, *OTHERS):
        sizes.use(row)
        assert found() == (row, min(state.words[state.THREADS], max(1, (1 << 20) // row.thread_work)))


# Shapes (batch, inputs, neurons) on both sides of the sizes.
SHAPES = [(3, 70, 130), (12, 300, 600), (20, 40, 200), (40, 530, 130), (64, 100, 600), (90, 260, 140), (200, 70, 70),
          (300, 16, 100), (520, 1100, 1000)]


def results(rng):
    """Return digests of passes, predictions and a training, on two threads."""
    found = []
    for dtype in ("float32", "float64"):
        for batch, inputs, neurons in SHAPES:
            x, weights, biases, dvalues = (rng.standard_normal(shape).astype(dtype) for shape in
                                           ((batch, inputs), (inputs, neurons), (1, neurons), (batch, neurons)))
            y = fastbp.dense_relu_forward(x, weights, biases)
            found += [y, *fastbp.dense_relu_backward(dvalues, y, x, weights)]
    network = fastbp.Sequential([fastbp.DenseReLU(70, 150, rng=1), fastbp.Dense(150, 80, rng=2)], fastbp.MeanSquaredError())
    x, targets = rng.standard_normal((120, 70)).astype("float32"), rng.standard_normal((120, 80)).astype("float32")
    found += [network.predict(x), network.predict(x[:5])]
    if not compiler.DISABLED:
        network.fit(x, targets, epochs=2, batch_size=40, optimizer=fastbp.Adam(), rng=0)
        found += [network.predict(x)]
    return [hashlib.sha256(array).hexdigest() for array in found]


def test_no_row_changes_a_bit():
    fastbp.set_num_threads(2)
    sizes.use(DEFAULT.sizes)
    expected = results(np.random.default_rng(1))
    for row in (*ROWS, *OTHERS):
        sizes.use(row)
        assert results(np.random.default_rng(1)) == expected, row


def test_the_rows_above_choose_other_algorithms():
    """So that the test of their bits compares something."""
    machine = blocking.machine(numba.float32)._replace(l1=32 << 10, l2=1 << 20, l3=32 << 20)

    def chosen(row):
        here, found = machine._replace(sizes=row), []
        for batch, inputs, neurons in SHAPES:
            x, weights = (Matrix(data=64, rows=rows, cols=cols, row_step=cols * 4, col_step=4)
                          for rows, cols in ((batch, inputs), (inputs, neurons)))
            found += [select.forward(here, x, weights, RELU), select.backward(here, x, weights, RELU)]
        return found

    for row in OTHERS:
        if (row.streamed_k, row.thread_work) == (DEFAULT.sizes.streamed_k, DEFAULT.sizes.thread_work):
            assert chosen(row) != chosen(DEFAULT.sizes), row


def test_plan_and_config_say_which_row_is_taken(monkeypatch, capsys):
    row = Row(family="Zen 9", names=(), sizes=DEFAULT.sizes._replace(few_rows=5, thread_work=1 << 50))
    assert config.describe()["sizes"].startswith(f"{PRESENT.family}: few_rows {PRESENT.sizes.few_rows}, ")
    monkeypatch.setattr(config, "PRESENT", row)
    monkeypatch.setattr(plan.sizes, "PRESENT", row)
    assert config.describe()["sizes"].startswith("Zen 9: few_rows 5, ")
    parts = {part.name: part for part in plan.plan(20, 784, 128, "float32", threads=2)}
    assert parts["forward"].algorithm == select.PACKED and parts["forward"].text.endswith("; 1 thread")
    assert main(["plan", "20", "784", "128"]) == 0
    assert "sizes: Zen 9" in " ".join(capsys.readouterr().out.split())
    assert cpu.host() == llvm.get_host_cpu_name()
