"""Children that are forked in the middle of what other threads do."""
import os
import threading

import numpy as np
import pytest
from checks import processes
from checks.threads import alone

import fastbp
from fastbp import _state

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(scope="module")
def expected():
    return alone(seed=0, different=10)


@pytest.mark.parametrize("scene", ["in fits", "generations", "profiled"])
def test_children_compute_what_their_parent_does(scene, expected):
    done, faults = processes.play(scene, 0, 4, expected)
    assert done and not faults


def test_a_slot_that_was_being_enlarged_has_no_size(monkeypatch):
    """Else whoever takes it next would find no memory in it."""
    words = list(_state.words)
    slot = _state.SLOTS
    words[slot:slot + 9] = [1, 0, 100, 1, 4096, 100, 0, 8192, 200]
    monkeypatch.setattr(_state, "words", words)
    _state.forget_threads()
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
