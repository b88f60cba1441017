"""Operands that users' own compiled code refuses: each that is not as the network needs it, before anything is allocated."""
from functools import cache
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError
from numpy.testing import assert_allclose, assert_array_equal

import fastbp


@cache
def functions(loss, outputs):
    return network(loss, outputs).jitted()


def network(loss, outputs):
    layers = [fastbp.Dense(5, 8, activation="gelu", rng=0), fastbp.Dense(8, outputs, rng=1)]
    return fastbp.Sequential(layers, getattr(fastbp, loss)())


SOFTMAX, BINARY = ("SoftmaxCrossEntropy", 3), ("BinaryCrossEntropy", 1)
X, Y = np.random.default_rng(0).standard_normal((9, 5)), np.arange(9) % 3


def parameters(of=SOFTMAX):
    return tuple(network(*of).parameters())


def each(change):
    return tuple(change(array) for array in parameters())


@pytest.mark.parametrize("wrong, message", [
    (lambda: tuple(p - np.float64(0.1) * p for p in parameters()), r"parameters\[0\] has dtype float64, expected float32"),
    (lambda: (*parameters()[:3], parameters()[3].astype(np.float64)), r"parameters\[3\] has dtype float64, expected float32"),
    (lambda: each(lambda p: p.astype(np.int32)), r"parameters\[0\] has dtype int32, expected float32"),
    (lambda: each(lambda p: p + 1j), r"parameters\[0\] has dtype complex"),
    (lambda: each(lambda p: p[np.newaxis]), r"parameters\[0\] is array\(float32, 3d"),
    (lambda: parameters()[:3], "expected a tuple of 4 arrays"), (lambda: (*parameters(), X), "expected a tuple of 4 arrays"),
    (lambda: (), "expected a tuple of 4 arrays"),
    (lambda: (*parameters()[:3], None), "parameters.3. is none, expected an array"),
    (lambda: list(parameters()), "expected a tuple of"),
    (lambda: parameters()[0], "expected a tuple of")])
def test_parameters_of_another_type(wrong, message):
    with pytest.raises(TypingError, match=message):
        functions(*SOFTMAX).forward(wrong(), X)


@pytest.mark.parametrize("wrong", [
    lambda p: (p[0][:, :7], p[1][:, :7], *p[2:]), lambda p: (p[1], p[0], *p[2:]), lambda p: (p[2], p[1], p[0], p[3]),
    lambda p: (p[0], p[1][:, :7], *p[2:]), lambda p: (p[0].T, *p[1:]), lambda p: (*p[:3], np.zeros((2, 3), np.float32)),
    lambda p: (p[0], np.zeros((8, 1), np.float32), *p[2:])])
def test_parameters_of_another_shape(wrong):
    wrong = tuple(np.ascontiguousarray(array) for array in wrong(parameters()))
    for call in (lambda: functions(*SOFTMAX).forward(wrong, X), lambda: functions(*SOFTMAX).value_and_gradient(wrong, X, Y)):
        with pytest.raises(ValueError, match="parameters do not fit the network"):
            call()


def test_any_layout_gives_the_same_bits():
    """Strided in both dimensions, backwards, and read-only."""
    wide = each(lambda p: np.repeat(np.repeat(p, 2, axis=0), 3, axis=1)[::-1])
    strided = tuple(array[::-2, ::3] for array in wide)
    for array in strided:
        array.flags.writeable = False
    expected = functions(*SOFTMAX).value_and_gradient(parameters(), X, Y)
    loss, gradients = functions(*SOFTMAX).value_and_gradient(strided, X, Y)
    assert loss == expected[0]
    for gradient, other in zip(gradients, expected[1], strict=True):
        assert_array_equal(gradient, other)


def test_biases_of_one_dimension_get_gradients_of_one():
    p = parameters()
    expected = functions(*SOFTMAX).value_and_gradient(p, X, Y)[1]
    gradients = functions(*SOFTMAX).value_and_gradient((p[0], p[1][0], p[2], p[3][0]), X, Y)[1]
    for gradient, other in zip(gradients, (expected[0], expected[1][0], expected[2], expected[3][0]), strict=True):
        assert_allclose(gradient, other, strict=True)


@pytest.mark.parametrize("of, y, error, message", [
    (SOFTMAX, Y - 1, ValueError, "y has a class"), (SOFTMAX, Y + 1, ValueError, "y has a class"),
    (SOFTMAX, np.full(9, 2**64 - 1, np.uint64), ValueError, "y has a class"), (SOFTMAX, Y[:8], ValueError, "y does not fit"),
    (SOFTMAX, np.ones((3, 9)), ValueError, "y does not fit"), (SOFTMAX, Y[:, np.newaxis], ValueError, "y does not fit"),
    (SOFTMAX, np.ones((9, 3, 1)), TypingError, "y is array"), (SOFTMAX, np.ones(9), TypingError, "expected integers"),
    (SOFTMAX, np.ones((9, 3)) * 1j, TypingError, "y has dtype complex"), (SOFTMAX, -np.ones((9, 3)), ValueError, "below 0"),
    (BINARY, 2.0 * Y, ValueError, "no share"), (BINARY, -0.1 * np.ones(9), ValueError, "no share"),
    (BINARY, np.full(9, np.nan), ValueError, "no share"), (BINARY, np.ones((9, 2)), ValueError, "y does not fit"),
    (BINARY, np.ones((1, 9)), ValueError, "y does not fit")])
def test_targets(of, y, error, message):
    with pytest.raises(error, match=message):
        functions(*of).value_and_gradient(parameters(of), X, y)


@pytest.mark.parametrize("x, error, message", [
    (X[:, :4], ValueError, "x does not fit"), (X[0], TypingError, "expected an array of 2 dimensions"),
    (X * 1j, TypingError, "x has dtype complex"), (X[np.newaxis], TypingError, "expected an array of 2 dimensions")])
def test_inputs(x, error, message):
    with pytest.raises(error, match=message):
        functions(*SOFTMAX).forward(parameters(), x)


# ---- Numba frees nothing when an error is raised


@numba.njit
def forward(x, weights, out):
    return fastbp.dense_forward(x, weights, None, out)


@numba.njit
def backward(dvalues, x, weights):
    return fastbp.dense_backward(dvalues, x, weights)


def memory():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells in /proc how much memory a process has")
def test_refused_calls_leak_nothing():
    """Each of these would leave 2 MB behind: what was converted, or the results of the layers before the error."""
    rows, labels = np.zeros((50_000, 5)), np.zeros(50_000, np.int64)
    labels[-1] = 3
    many, weights = np.zeros((1000, 300), np.int64), np.zeros((300, 300))
    p = parameters()
    calls = [lambda: functions(*SOFTMAX).value_and_gradient(p, rows.copy(), labels),
             lambda: functions(*SOFTMAX).forward(p, np.zeros((60_000, 4))),
             lambda: functions(*SOFTMAX).forward((*p[:2], p[2][:7].copy(), p[3]), rows),
             lambda: forward(many, weights, np.zeros((1000, 299))),
             lambda: backward(np.zeros((1000, 299)), many, weights)]
    for call in calls:
        for count in (3, 50):
            before = memory()
            for _ in range(count):
                with pytest.raises(ValueError):
                    call()
        assert memory() - before < 20 << 20, call
