"""The asv suite: its base class keeps its promises for every benchmark, and no benchmark can bypass it."""
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parents[1] / "asv_benchmarks"


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(SUITE))
    yield
    sys.path.remove(str(SUITE))


@pytest.fixture(scope="module")
def base():
    return importlib.import_module("benchmarks.base")


@pytest.fixture(scope="module")
def modules():
    pytest.importorskip("threadpoolctl", reason="threadpoolctl, which limits NumPy's threads, is in the extra 'bench'")
    package = importlib.import_module("benchmarks")
    return [importlib.import_module(f"benchmarks.{module.name}") for module in pkgutil.iter_modules(package.__path__)]


def is_benchmark(name):
    return name.startswith(("time_", "timeraw_", "peakmem_", "mem_", "track_"))


def test_every_benchmark_is_of_a_class_that_warms_up(modules, base):
    found = []
    for module in modules:
        for name, value in vars(module).items():
            assert not (is_benchmark(name) and inspect.isfunction(value)), f"{module.__name__}.{name} is in no class"
            if inspect.isclass(value) and any(map(is_benchmark, dir(value))):
                assert issubclass(value, base.Benchmark), value
                assert value.setup is base.Benchmark.setup, value
                assert value.__module__ == module.__name__, f"{module.__name__} imports {value}, so asv lists it twice"
                found.append(value)
    assert {value.__module__.rpartition(".")[2] for value in found} == \
        {"against_numpy", "batches", "kernels", "memory", "networks", "profiling", "start", "training"}


def test_a_setup_of_its_own_is_refused(base):
    with pytest.raises(TypeError, match="Mine defines setup, .*expected prepare"):
        class Mine(base.Benchmark):
            def setup(self):
                pass


@pytest.mark.parametrize("names", [[], ["rows"], ["rows", "threads", "precision"]])
def test_a_parameter_without_a_name_is_refused(base, names):
    with pytest.raises(TypeError, match="Mine has the param_names .*expected 2"):
        class Mine(base.Benchmark):
            params = [[1, 2], [3]]
            param_names = names


def test_what_is_measured_was_called_twice_before(base):
    calls = []

    class Mine(base.Benchmark):
        params = [[1, 2]]
        param_names = ["rows"]

        def prepare(self, rows):
            return [lambda: calls.append(("first", rows)), lambda: calls.append(("second", rows))]

    Mine().setup(2)
    assert calls == 2 * [("first", 2), ("second", 2)]


def test_without_prepare_there_is_no_benchmark(base):
    class Mine(base.Benchmark):
        def time_it(self):
            pass

    assert inspect.isabstract(Mine)
    with pytest.raises(TypeError, match="prepare"):
        Mine()


def test_what_a_commit_lacks_is_skipped_there(base):
    """asv takes NotImplementedError for a benchmark to skip."""
    with pytest.raises(NotImplementedError, match="no fastbp.dense_sideways()"):
        base.function("dense_sideways")
    with pytest.raises(NotImplementedError, match=r"no fastbp.dense_forward\(speed\)"):
        base.function("dense_forward", speed=2)
    assert base.function("dense_forward", precision="bfloat16").keywords == {"precision": "bfloat16"}


def test_numbers_are_seeded(base):
    assert (base.normal(3, 4) == base.normal(3, 4)).all()
    assert base.normal(3, 4, dtype="float64").dtype == "float64"
