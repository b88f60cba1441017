"""Fixtures and settings of all tests: seeded numbers, both dtypes, the number of threads, and a line on what is not tested."""
import signal

import hypothesis
import llvmlite.binding as llvm
import numpy as np
import pytest

import fastbp
from fastbp._runtime import cpu
from fastbp._training.session import TrainingSession

hypothesis.settings.register_profile("fastbp", derandomize=True, deadline=None, max_examples=100, database=None)
hypothesis.settings.load_profile("fastbp")

signal.signal(signal.SIGINT, signal.default_int_handler)        # a process in a shell's background ignores it


def pytest_report_header(config):
    host = llvm.get_host_cpu_features()
    needs = {"avx2": ("avx2", "fma"), "avx512": ("avx512f",)}
    missing = [f"{name}: not on this CPU" for name, features in needs.items() if not all(map(host.get, features))]
    return [f"fastbp {fastbp.__version__}, instruction set {cpu.instruction_set()}, {fastbp.get_num_threads()} threads",
            f"not tested: {', '.join(missing) or 'nothing left out'}"]


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(autouse=True)
def threads_as_before():
    """Put the number of threads back after each test."""
    before = fastbp.get_num_threads()
    yield
    fastbp.set_num_threads(before)


@pytest.fixture
def epochs(monkeypatch):
    """Return a list that grows with each epoch of fastbp.sklearn in compiled code."""
    done, start = [], TrainingSession.start

    def noted(self, *arguments):
        done.append(self)
        start(self, *arguments)

    monkeypatch.setattr(TrainingSession, "start", noted)
    return done
