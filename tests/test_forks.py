"""Child processes that are forked while other threads compute."""
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from checks import processes
from checks.threads import alone

import fastbp
from fastbp._runtime import state, threads

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(scope="module")
def expected():
    return alone(seed=0, different=10)


@pytest.mark.parametrize("scene", ["in fits", "generations", "profiled"])
def test_children_compute_what_their_parent_does(scene, expected):
    done, faults = processes.play(scene, 0, 4, expected)
    assert done and not faults


# Forks beside threads that have computed, and wait or go on.
BESIDE = """
import os, threading
import numpy as np
import fastbp

x, w = np.ones((2000, 300), "f4"), np.ones((300, 300), "f4")
network = fastbp.Sequential([fastbp.DenseReLU(300, 64, rng=0), fastbp.Dense(64, 10, rng=1)], fastbp.SoftmaxCrossEntropy())

def step():
    assert (fastbp.dense_forward(x, w) == 300).all()

def fit():
    network.fit(x, np.zeros(2000, int), epochs=3, batch_size=500, optimizer=fastbp.SGD())

def fork():
    child = os.fork()
    if not child:
        step()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def beside(works, forks):
    over, ready = threading.Event(), threading.Barrier(len(works) + 1)
    def repeat(work):
        work()
        ready.wait()
        while {again} and not over.is_set():
            work()
        over.wait()
    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    ready.wait()
    for _ in range(forks):
        fork()
    over.set()
    for thread in threads:
        thread.join()
    step()

step()
fit()
beside([step, fit], {forks})
print("done")
"""


@pytest.mark.parametrize(("again", "forks"), [(False, 2), (True, 10)], ids=["waiting", "computing"])
def test_a_fork_beside_threads_that_have_computed_says_nothing(again, forks):
    """Numba writes to standard output if TBB's threads cannot be ended, as long as another thread is known to TBB."""
    environment = os.environ | {"PYTHONPATH": str(Path(fastbp.__file__).parents[1]), "FASTBP_NUM_THREADS": "2"}
    answer = subprocess.run([sys.executable, "-W", "error", "-c", BESIDE.format(again=again, forks=forks)], env=environment,
                            capture_output=True, text=True, timeout=300)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "done\n", "")


def test_no_thread_calls_others_while_the_process_forks():
    """And the pass has the same result without."""
    x, w = np.ones((2000, 300), np.float32), np.ones((300, 300), np.float32)
    fastbp.set_num_threads(2)
    expected, found = fastbp.dense_forward(x, w), []
    threads._before_fork()
    try:
        def work():
            found.append(fastbp.dense_forward(x, w))
            found.append(state.words[state.INSIDE])
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threads._after_fork_in_parent()
    np.testing.assert_array_equal(found[0], expected)
    assert found[1] == 0 and state.words[state.FORKING] == 0


def test_a_fork_waits_for_threads_that_call_others_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(threads, "_FORK_WAITS", 0.05)
    state.words[state.INSIDE] += 1
    try:
        threads._before_fork()
        threads._after_fork_in_parent()
    finally:
        state.words[state.INSIDE] -= 1


def test_a_slot_that_was_being_enlarged_has_no_size(monkeypatch):
    """Else whoever takes it next would find no memory in it."""
    words = list(state.words)
    slot = state.SLOTS
    words[slot:slot + 9] = [1, 0, 100, 1, 4096, 100, 0, 8192, 200]
    monkeypatch.setattr(state, "words", words)
    state.forget_threads()
    assert words[slot:slot + 9] == [0, 0, 0, 0, 4096, 100, 0, 8192, 200]


def test_a_fit_without_a_terminal_takes_no_lock_and_starts_no_thread():
    """A thread that was forked away would hold the lock for ever, and one more thread makes every forked child serial."""
    from tqdm import tqdm
    network = fastbp.Sequential([fastbp.Dense(4, 3, rng=0)], fastbp.SoftmaxCrossEntropy())
    x, before = np.ones((20, 4), np.float32), threading.active_count()
    held, over = threading.Event(), threading.Event()

    def hold():
        with tqdm.get_lock():
            held.set()
            over.wait()

    def fit():
        network.fit(x, np.zeros(20, int), epochs=1, batch_size=10, optimizer=fastbp.SGD())

    holding, fitting = threading.Thread(target=hold), threading.Thread(target=fit)
    holding.start()
    held.wait()
    fitting.start()
    fitting.join(60)
    hangs = fitting.is_alive()
    over.set()
    fitting.join()
    holding.join()
    assert not hangs and threading.active_count() == before
