"""Ctrl-C is never lost, never comes in the middle of what must be complete, and everything works afterwards."""
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from checks import signals
from numba import types
from numba.extending import intrinsic

import fastbp
from fastbp import functional
from fastbp._compile import compiler, disk_cache, link
from fastbp._runtime import sigint


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_waits_for_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), sigint.defer_sigint():
        with sigint.defer_sigint():
            interrupt()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_the_users_handler_is_called_after_the_block():
    done = []
    before = signal.signal(signal.SIGINT, lambda number, frame: done.append(number))
    try:
        with sigint.defer_sigint():
            interrupt()
            done.append("block")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["block", signal.SIGINT]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_where_nothing_would_be_raised_the_handler_stays(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with sigint.defer_sigint():
            assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_changes_no_handler():
    found = []

    def work():
        with sigint.defer_sigint():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_what_is_compiled_when_an_interrupt_comes_is_compiled_to_its_end():
    @intrinsic
    def interrupted(typing_context):
        interrupt()
        return types.intp(), lambda context, builder, signature, args: context.get_constant(types.intp, 7)

    signature, name = types.intp(), "test_interrupted"
    try:
        with pytest.raises(KeyboardInterrupt):
            compiler.native(lambda: interrupted(), signature, name)
        assert disk_cache.holds(name, signature)
    finally:
        disk_cache._DiskCache(name).path(signature).unlink(missing_ok=True)


@pytest.fixture
def bound(monkeypatch):
    """{word: address} of fake units, in the order in which they are bound; an interrupt comes with the first."""
    class Words(dict):
        def __setitem__(self, word, address):
            if not self:
                interrupt()
            super().__setitem__(word, address)

    monkeypatch.setattr(link, "state", SimpleNamespace(words=Words()))
    monkeypatch.setattr(link, "ahead", SimpleNamespace(is_expected=lambda name: False, start=lambda *unit: None,
                                                         wait=lambda name: None))
    return link.state.words


def test_units_are_bound_as_a_whole_and_rare_ones_after_what_they_call(bound):
    class Unit:
        def __init__(self, word, lazy):
            self.name, self._word, self.lazy = str(word), word, lazy

        def compile(self):
            return 10 * self._word

    with pytest.raises(KeyboardInterrupt):
        link._bind_all([Unit(1, lazy=True), Unit(2, lazy=False)])
    assert list(bound.items()) == [(2, 20), (1, 10)]


class Alarm(Exception):
    """What a program's own handler of a signal raises, to stop what takes too long."""


def test_another_signal_waits_for_the_end_of_the_block_as_well():
    def stop(number, frame):
        raise Alarm

    done = []
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(Alarm), sigint.defer_sigint():
            signal.raise_signal(signal.SIGALRM)
            done.append("block")
        assert done == ["block"] and signal.getsignal(signal.SIGALRM) is stop
    finally:
        signal.signal(signal.SIGALRM, before)


def stopped_after(name, monkeypatch, error, call, skip=0):
    """Call, of which a pass by functional.py is stopped by an error after its kernel; the first `skip` ones are not."""
    passes, run = [], getattr(functional, name)

    def stopping(*arguments):
        result = run(*arguments)
        passes.append(result)
        if len(passes) > skip:
            raise error
        return result

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(functional, name, stopping)
        call()


@pytest.mark.parametrize("error", [KeyboardInterrupt, Alarm, ValueError, SystemExit])
def test_a_pass_that_was_stopped_leaves_nothing_half_done(error, monkeypatch, rng):
    layer, x = fastbp.Dense(20, 30, activation="gelu", rng=0), rng.standard_normal((40, 20), np.float32)
    dvalues = np.ones((40, 30), np.float32)
    expected = fastbp.Dense(20, 30, activation="gelu", rng=0).forward(x).copy()
    layer.forward(x)
    layer.backward(dvalues)
    stopped_after("_backward", monkeypatch, error, lambda: layer.backward(-dvalues))
    assert layer.dinputs is layer.dweights is layer.dbiases is None
    layer.backward(dvalues)
    stopped_after("_forward", monkeypatch, error, lambda: layer.forward(-x))
    with pytest.raises(RuntimeError, match="expected forward first"):
        layer.backward(dvalues)
    np.testing.assert_array_equal(layer.forward(x), expected)


@pytest.mark.parametrize("skip", [0, 1])
def test_a_network_that_was_stopped_knows_no_two_batches_at_once(skip, monkeypatch, rng):
    network = fastbp.Sequential([fastbp.Dense(20, 30, rng=0), fastbp.Dense(30, 20, rng=1)], fastbp.MeanSquaredError())
    x = rng.standard_normal((40, 20), np.float32)
    network.forward(x)
    network.backward(x)
    stopped_after("_backward", monkeypatch, Alarm, lambda: network.backward(-x), skip)
    assert network.gradients() == [None] * 4
    stopped_after("_forward", monkeypatch, Alarm, lambda: network.forward(-x), skip)
    with pytest.raises(RuntimeError, match="expected forward first"):
        network.backward(x)
    network.forward(x)
    with pytest.raises(ValueError, match="x has shape|inputs has shape"):
        network.forward(x[:, :3])
    network.backward(x)                                 # what was refused changed nothing
    before = network.gradients()
    with pytest.raises(ValueError, match="dvalues has shape"):
        network.backward(x[:, :3])
    assert all(one is other for one, other in zip(network.gradients(), before, strict=True))


@pytest.mark.parametrize("scene", ["steps", "layer", "fit"])
def test_random_moments(scene):
    done, faults = signals.play(scene, seed=0, shots=5)
    assert done >= 5 and not faults
