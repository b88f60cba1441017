"""Ctrl-C: never lost, never in the middle of what must be whole, and everything works afterwards."""
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from checks import signals
from numba import types
from numba.extending import intrinsic

import fastbp
from fastbp import _cache, _jit, _link, _signals, functional


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_waits_for_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), _signals.whole():
        with _signals.whole():
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
        with _signals.whole():
            interrupt()
            done.append("block")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["block", signal.SIGINT]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_where_nothing_would_be_raised_the_handler_stays(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with _signals.whole():
            assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_changes_no_handler():
    found = []

    def work():
        with _signals.whole():
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
            _jit.native(lambda: interrupted(), signature, name)
        assert _cache.holds(name, signature)
    finally:
        _cache._DiskCache(name).path(signature).unlink(missing_ok=True)


@pytest.fixture
def bound(monkeypatch):
    """{word: address} of fake units, in the order in which they are bound; an interrupt comes with the first."""
    class Words(dict):
        def __setitem__(self, word, address):
            if not self:
                interrupt()
            super().__setitem__(word, address)

    monkeypatch.setattr(_link, "_state", SimpleNamespace(words=Words()))
    monkeypatch.setattr(_link, "_ahead", SimpleNamespace(is_expected=lambda name: False, start=lambda *unit: None,
                                                         wait=lambda name: None))
    return _link._state.words


def test_units_are_bound_as_a_whole_and_rare_ones_after_what_they_call(bound):
    class Unit:
        def __init__(self, word, rare):
            self.name, self._word, self.rare = str(word), word, rare

        def compile(self):
            return 10 * self._word

    with pytest.raises(KeyboardInterrupt):
        _link._bind_all([Unit(1, rare=True), Unit(2, rare=False)])
    assert list(bound.items()) == [(2, 20), (1, 10)]


def test_a_layer_whose_forward_was_interrupted_forgets_the_one_before(monkeypatch, rng):
    layer, first, second = fastbp.Dense(20, 30, rng=0), *rng.standard_normal((2, 40, 20), np.float32)
    expected = fastbp.Dense(20, 30, rng=0).forward(first)

    def forward(*arguments, run=functional._forward):
        run(*arguments)
        raise KeyboardInterrupt

    layer.forward(first)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(functional, "_forward", forward)
        layer.forward(second)
    with pytest.raises(RuntimeError, match="expected forward first"):
        layer.backward(np.ones((40, 30), np.float32))
    np.testing.assert_array_equal(layer.forward(first), expected)
    layer.backward(np.ones((40, 30), np.float32))


@pytest.mark.parametrize("scene", ["steps", "layer", "fit"])
def test_random_moments(scene):
    done, faults = signals.play(scene, seed=0, shots=5)
    assert done >= 5 and not faults
