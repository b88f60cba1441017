"""The number of threads, the threading layers, Python threads and forked children."""
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checks import threads as at_once

import fastbp
from fastbp._runtime import cpu, threading_layer
from fastbp._runtime import threads as _threads

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# A process with a parallel function, from the cache of compiled functions, and what a kernel is told.
PROCESS = """
import json, os, sys, threading, time, traceback
import numba
import numpy as np

def twice(x, y):
    for i in numba.prange(x.size):
        y[i] = 2 * x[i]

def compiled():
    from fastbp._compile import disk_cache
    dispatcher = numba.njit(parallel=True, nogil=True)(twice)
    disk_cache.attach(dispatcher, "twice")
    dispatcher.compile(numba.void(numba.float64[::1], numba.float64[::1]))
    return dispatcher

def is_right(function):
    x = np.arange(100_003.0)
    y = np.empty_like(x)
    function(x, y)
    return bool((y == 2 * x).all())

def in_child(work):
    "What work() returned in a forked child; None if it raised, was killed or took 10 s."
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        import signal
        signal.alarm(10)
        try:
            os.write(writer, json.dumps(work()).encode())
        except Exception:
            traceback.print_exc()
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None

def in_thread(work):
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]

def told():
    return [_threads.layer(), state.words[state.THREADS]]

def report(*values):
    print(json.dumps(values))

from fastbp._runtime import cpu, state, threading_layer, threads as _threads
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(cache):
    """run(code, **environment) -> what the code reported in a process of its own, with 3 threads wanted."""
    def run(code, **environment):
        package = Path(fastbp.__file__).parents[1]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "FASTBP_"))}
        environment = inherited | {"PYTHONPATH": str(package), "FASTBP_CACHE_DIR": str(cache),
                                   "FASTBP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "2"} | environment
        process = subprocess.run([sys.executable, "-c", PROCESS + code], cwd=package, env=environment, timeout=100,
                                 capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1])
    return run


def has_openmp():
    try:
        from numba.np.ufunc import omppool  # noqa: F401
    except ImportError:
        return False
    return True


def has_tbb():
    try:
        return bool(importlib.metadata.version("tbb"))
    except importlib.metadata.PackageNotFoundError:
        return False


tbb = pytest.mark.skipif(not has_tbb(), reason="PyPI's tbb is not installed: there is none for some platforms")
openmp = pytest.mark.skipif(not has_openmp(), reason="this build of Numba has no OpenMP layer")


@pytest.fixture
def threads(monkeypatch):
    """The module as a new process sees it, the number of threads not chosen yet."""
    monkeypatch.setattr(_threads, "_wanted", None)
    monkeypatch.setattr(_threads, "_prepared", False)
    monkeypatch.delenv("FASTBP_NUM_THREADS", raising=False)
    return _threads


@pytest.mark.parametrize("n", [1, 2, 7, 10**30, np.int8(5), np.uint64(2)])
def test_any_number_of_threads_from_1_is_taken(threads, n):
    threads.set_num_threads(n)
    assert threads.get_num_threads() == n and type(threads.get_num_threads()) is int


def test_numbas_number_of_threads_is_the_most_unless_told_otherwise(threads, monkeypatch):
    monkeypatch.setattr(_threads.numba.config, "NUMBA_NUM_THREADS", 1)
    assert threads.get_num_threads() == 1
    threads.set_num_threads(2)
    assert threads.get_num_threads() == 2


@pytest.mark.parametrize("n", [True, np.True_, 2.0, "2", None, [2], np.array([2])])
def test_the_number_of_threads_must_be_an_integer(threads, n):
    with pytest.raises(TypeError, match="^n was .*expected an integer of at least 1$"):
        threads.set_num_threads(n)
    assert threads.get_num_threads() == cpu.cores()


@pytest.mark.parametrize("n", [0, -1, -10**30, np.int64(0)])
def test_the_number_of_threads_must_be_positive(threads, n):
    with pytest.raises(ValueError, match=f"^n was {n}, expected an integer of at least 1$"):
        threads.set_num_threads(n)
    assert threads.get_num_threads() == cpu.cores()


def test_the_default_is_every_core_that_may_be_used(threads, monkeypatch):
    monkeypatch.setattr(cpu, "cores", lambda: 12)
    monkeypatch.setattr(_threads.numba.config, "NUMBA_NUM_THREADS", 16)
    assert threads.get_num_threads() == 12


def test_the_environment_sets_the_number_of_threads(threads, monkeypatch):
    monkeypatch.setenv("FASTBP_NUM_THREADS", " 5 ")
    assert threads.get_num_threads() == 5
    threads.set_num_threads(2)
    assert threads.get_num_threads() == 2


@pytest.mark.parametrize("text", ["0", "-2", "many", "2.5", " "])
def test_a_wrong_number_in_the_environment_is_named_once(threads, monkeypatch, text):
    monkeypatch.setenv("FASTBP_NUM_THREADS", text)
    with pytest.warns(RuntimeWarning, match=f"FASTBP_NUM_THREADS was {text!r}, expected") as caught:
        assert threads.get_num_threads() == cpu.cores()
        assert threads.get_num_threads() == cpu.cores()
    assert len(caught) == 1


@tbb
def test_kernels_are_told_the_threads_and_the_caches(run):
    before, prepared, one, many, caches, expected, priority = run("""
before = told()
_threads.set_num_threads(5)
before += told()
_threads.prepare()
_threads.prepare()
prepared = told()
_threads.set_num_threads(1)
one = told()
_threads.set_num_threads(10**30)
report(before, prepared, one, told(), state.words[state.L1:state.L3 + 1], cpu.caches(),
       [numba.config.THREADING_LAYER, numba.config.THREADING_LAYER_PRIORITY])
""")
    assert before == ["not started", 1, "not started", 1]
    assert prepared == ["tbb", 5] and one == ["tbb", 1] and many == ["tbb", _threads.MOST]
    assert caches == expected
    assert priority == ["default", ["tbb", "omp", "workqueue"]]


@tbb
def test_no_threads_are_started_for_one(run):
    code = """
_threads.prepare()
alone = told()
_threads.set_num_threads(2)
report(alone, told())
"""
    assert run(code, FASTBP_NUM_THREADS="1") == [["not started", 1], ["tbb", 2]]


# A first result, on one thread where there is no layer, what was warned of, and whether Numba's settings are as before.
FIRST = """
import warnings
import fastbp
before = fastbp.get_num_threads()
settings = numba.config.THREADING_LAYER, numba.config.THREADING_LAYER_PRIORITY
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for n in (300, 400):
        result = fastbp.dense_forward(np.ones((n, 200), "f4"), np.ones((200, 300), "f4"))
    fastbp.set_num_threads(3 if before == 1 else before)
assert (result == 200).all() and settings == (numba.config.THREADING_LAYER, numba.config.THREADING_LAYER_PRIORITY)
assert all(one.category is RuntimeWarning for one in caught)
report(_threads.layer(), [before, fastbp.get_num_threads()], [str(one.message) for one in caught], _threads.describe())
"""


USERS_CACHE = {"FASTBP_CACHE_DIR": os.environ.get("FASTBP_CACHE_DIR", "")}      # with kernels, which are not compiled again


def without(*names):
    """Code of a process in which these layers cannot be loaded."""
    return f"""
import importlib.metadata
for name in {names!r}:
    sys.modules[f"numba.np.ufunc.{{name}}pool"] = None
    if name == "tbb":
        def files(name, files=importlib.metadata.files):
            raise importlib.metadata.PackageNotFoundError(name)
        importlib.metadata.files = files
"""


SERIAL = "fastbp's kernels are serial, on one thread"
CHOSEN = "Numba's THREADING_LAYER is '{}', which cannot be loaded; fastbp uses {}"
PRIORITY = "THREADING_LAYER_PRIORITY is ['nonsense'], expected tbb, omp, workqueue in some order; fastbp uses TBB"


@pytest.mark.parametrize(("chosen", "missing", "layer", "said"), [
    pytest.param("tbb", (), "tbb", [], marks=tbb),
    pytest.param("omp", (), "omp", [], marks=openmp),
    pytest.param("safe", (), "tbb", [], marks=tbb),
    pytest.param("forksafe", (), "tbb", [], marks=tbb),
    pytest.param("ThreadSafe", ("tbb",), "omp", [], marks=openmp),
    pytest.param("default", ("tbb",), "omp", [], marks=openmp),
    pytest.param("omp", ("omp",), "tbb", [CHOSEN.format("omp", "TBB")], marks=tbb),
    pytest.param("tbb", ("tbb",), "omp", [CHOSEN.format("tbb", "OpenMP")], marks=openmp),
    pytest.param("foo", (), "tbb", ["is 'foo', expected default, tbb, omp, workqueue, safe, threadsafe, forksafe; fastbp u"],
                 marks=tbb),
    ("safe", ("tbb",), "serial", [f"TBB cannot be loaded; {SERIAL}; for more, "]),
    ("workqueue", (), "serial", [f"work queue was chosen, which two Python threads must not use at once; {SERIAL}"]),
    ("default", ("tbb", "omp"), "serial", [f"TBB and OpenMP cannot be loaded; {SERIAL}; for more, "]),
    ("tbb", ("tbb", "omp"), "serial", [f"is 'tbb', which cannot be loaded; {SERIAL}; for more, "]),
])
def test_a_layer_that_can_be_loaded_is_used_and_what_is_not_as_asked_is_said_once(run, chosen, missing, layer, said):
    found, threads, warned, described = run(without(*missing) + FIRST, NUMBA_THREADING_LAYER=chosen, **USERS_CACHE)
    assert (found, threads) == (layer, [1, 1] if layer == "serial" else [3, 3])
    assert len(warned) == len(said) and all(text in warning for text, warning in zip(said, warned, strict=True))
    assert described == layer + "".join(f" ({warning})" for warning in warned)


@pytest.mark.parametrize(("platform", "machine", "conda", "expected"), [
    ("linux", "x86_64", False, "-m pip install tbb`"), ("win32", "AMD64", False, "-m pip install tbb`"),
    ("linux", "aarch64", False, "libtbb12 of Debian"), ("darwin", "arm64", False, "`brew install libomp`"),
    ("darwin", "arm64", True, "`conda install -c conda-forge tbb`")])
@pytest.mark.parametrize("is_built", [True, False])
def test_what_to_install_where_there_is_no_layer(monkeypatch, tmp_path, platform, machine, conda, expected, is_built):
    if conda:
        (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(threading_layer.platform, "machine", lambda: machine)
    monkeypatch.setattr(threading_layer.importlib.util, "find_spec", lambda name: is_built or None)
    remedy = threading_layer._remedy()
    assert remedy.startswith("for more, ") and expected in remedy and ("a Numba that was built for it" in remedy) != is_built


@tbb
@pytest.mark.parametrize(("settings", "layer", "said"), [
    ("THREADING_LAYER_PRIORITY=nonsense", "tbb", PRIORITY),
    ("THREADING_LAYER_PRIORITY=workqueue tbb omp", "serial", "Numba's work queue was chosen")])
def test_a_priority_of_layers(run, settings, layer, said):
    name, _, value = settings.partition("=")
    found, _, warned, _ = run(FIRST, **{f"NUMBA_{name}": value}, **USERS_CACHE)
    assert found == layer and len(warned) == 1 and said in warned[0]


@pytest.mark.parametrize(("missing", "chosen"), [((), "foo"), ((), None), (("tbb", "omp"), "tbb")])
def test_nothing_is_said_to_whom_one_thread_is_enough(run, missing, chosen):
    """And numba.config counts as its environment variables do."""
    code = without(*missing) + f"numba.config.THREADING_LAYER = {chosen!r}" + FIRST.replace("3 if before == 1 else before", "1")
    found, threads, warned, _ = run(code, FASTBP_NUM_THREADS="1", **USERS_CACHE)
    assert (found == "serial") == bool(missing) and threads == [1, 1] and warned == []


def test_where_kernels_are_serial_the_users_own_parallel_loop_does_not_change(run):
    code = without("tbb", "omp") + FIRST + """
try:
    compiled()
except ValueError as error:
    report("No threading layer could be loaded" in str(error))
"""
    assert run(code, NUMBA_THREADING_LAYER="tbb", **USERS_CACHE) == [True]


@pytest.mark.parametrize(("layer", "expected"), [
    pytest.param("omp", ["omp", 3], marks=openmp), ("workqueue", ["serial", 1])])
def test_a_layer_that_runs_already_stands(run, layer, expected):
    code = f"""
numba.config.THREADING_LAYER = {layer!r}
numba.get_num_threads()
numba.config.THREADING_LAYER = "default"
_threads.prepare()
report(told(), _threads.get_num_threads())
"""
    assert run(code) == [expected, expected[1]]


@fork
@openmp
def test_a_forked_child_does_not_use_openmp(run):
    code = """
def child():
    first = told()
    _threads.set_num_threads(4)
    return [first, told()]

unused = in_child(lambda: (_threads.prepare(), told())[1])
_threads.prepare()
right = is_right(compiled())
report(unused, right, in_child(child), told())
"""
    expected = [["omp", 3], True, [["serial", 1], ["serial", 1]], ["omp", 3]]
    assert run(code, NUMBA_THREADING_LAYER="omp") == expected


@fork
@openmp
def test_a_forked_child_does_not_use_openmp_that_the_users_code_started(run):
    code = """
numba.get_num_threads()
report(in_child(lambda: (_threads.prepare(), told())[1]))
"""
    assert run(code, NUMBA_THREADING_LAYER="omp") == [["serial", 1]]


@fork
@tbb
def test_a_forked_child_computes_with_tbb(run):
    code = """
_threads.prepare()
function = compiled()

def child():
    return [is_right(function), *told()]

report(is_right(function), child(), in_child(child), in_child(lambda: in_child(child)), is_right(function))
"""
    here = [True, "tbb", 3]
    assert run(code) == [True, here, here, here, True]


@fork
@tbb
def test_a_child_that_another_thread_forked_is_serial(run):
    code = """
_threads.prepare()
right = is_right(compiled())
report(right, in_thread(lambda: in_child(told)), told(), in_child(told))
"""
    assert run(code) == [True, ["serial", 1], ["tbb", 3], ["tbb", 3]]


@fork
@tbb
def test_a_child_that_was_forked_beside_another_thread_is_serial(run):
    """That thread may have used TBB, which cannot be shut down then."""
    code = """
_threads.prepare()
over = threading.Event()
other = threading.Thread(target=over.wait)
other.start()
beside = in_child(lambda: [told(), in_child(told), _threads.get_num_threads()])
over.set()
other.join()
report(beside, in_child(told), told(), _threads.get_num_threads())
"""
    assert run(code) == [[["serial", 1], ["serial", 1], 1], ["tbb", 3], ["tbb", 3], 3]


@fork
def test_a_forked_child_holds_nothing_of_other_threads(run):
    code = """
words = [state.PROFILE, state.TEAM, state.TEAM_IS_TAKEN, state.TEAM_LEADER, state.INSIDE, state.SLOTS,
         state.SLOTS + 63 * 3]
for word in words:
    state.words[word] = 1
report(in_child(lambda: [state.words[word] for word in words]))
"""
    assert run(code) == [[0] * 7]


@pytest.mark.parametrize("layer", [pytest.param("tbb", marks=tbb), pytest.param("omp", marks=openmp), "workqueue"])
def test_sixteen_python_threads_compute_what_one_does(layer):
    done, faults = at_once.check(0, 200, 20, [layer])
    assert done >= 200 and not faults


@tbb
def test_eight_python_threads_compute_at_once(run):
    code = """
_threads.prepare()
function = compiled()
barrier = threading.Barrier(8)
results = []

def work():
    barrier.wait()
    results.extend(is_right(function) for _ in range(50))

workers = [threading.Thread(target=work) for _ in range(8)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
report(len(results), all(results))
"""
    assert run(code) == [400, True]


@fork
def test_a_fork_waits_until_the_layer_has_started(run):
    code = """
starting = threading.Event()

def load_tbb(load=threading_layer.load_tbb):
    starting.set()
    time.sleep(0.5)
    load()

threading_layer.load_tbb = load_tbb
starter = threading.Thread(target=_threads.prepare)
starter.start()
starting.wait()

def child():
    _threads.prepare()
    _threads.set_num_threads(1)
    return told()[1]

result = in_child(child)
starter.join()
report(result, _threads.get_num_threads())
"""
    assert run(code) == [1, 3]
