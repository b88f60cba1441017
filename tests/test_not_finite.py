"""check_finite: a step is made only if loss, penalty, gradient and all its results are finite; else nothing changes."""
import re

import numpy as np
import pytest

import fastbp
from fastbp import SGD, Adam, AdamW
from fastbp._training.session import TrainingSession
from fastbp.kernels.elementwise.activations import NAMES

BATCHES = {"blocks": 32, "shards": 128, "apart": 32}        # rows: blocks of dweights; two shards; a step of its own, as Dask's
OPTIMIZERS = {"SGD": SGD, "momentum": lambda: SGD(momentum=0.9), "Nesterov": lambda: SGD(momentum=0.9, nesterov=True),
              "Adam": Adam, "AdamW": AdamW}
INPUTS, CLASSES = 40, 3


def make(activation="tanh", dtype=np.float32, l2=0.0, loss=None):
    return fastbp.Sequential([fastbp.Dense(INPUTS, 24, activation=activation, dtype=dtype, rng=0),
                              fastbp.Dense(24, CLASSES, dtype=dtype, rng=1)], loss or fastbp.SoftmaxCrossEntropy(), l2=l2)


def data(rows, dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, INPUTS)).astype(dtype), rng.integers(0, CLASSES, rows)


def train(mode, network, optimizer, x, y, check=True):
    """An epoch in that mode."""
    if mode != "apart":
        return network.fit(x, y, epochs=1, batch_size=BATCHES[mode], optimizer=optimizer, shuffle=False, check_finite=check)
    run = TrainingSession(network._specs(), INPUTS, network.loss, optimizer, BATCHES[mode], l2=network.l2, apart=True,
                          check=check)
    run.use(x, y, None)
    run.start()
    while run.rows_done < len(x):
        run.advance(1)
        run.gradient()
        run.update()


def state(network, optimizer):
    """Bit for bit."""
    states = [[a.tobytes() for a in arrays] for arrays in optimizer._states or ()]
    return [a.tobytes() for a in network.parameters()], states, optimizer.iterations


def are_finite(network, optimizer):
    arrays = [*network.parameters(), *(a for arrays in optimizer._states for a in arrays)]
    return all(np.isfinite(a).all() for a in arrays)


@pytest.mark.parametrize("mode", BATCHES)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("activation", NAMES[1:])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_an_activation_makes_finite_again(mode, kind, activation, bad, dtype):
    batch = BATCHES[mode]
    x, y = data(4 * batch, dtype)
    network, expected = make(activation, dtype), make(activation, dtype)
    optimizer, other = OPTIMIZERS[kind](), OPTIMIZERS[kind]()
    train(mode, expected, other, x[:2 * batch], y[:2 * batch])
    x[3 * batch - 1, 7] = bad                               # the third batch's last row
    with pytest.raises(FloatingPointError, match="^gradient" if mode == "apart" else "not finite in batch 3 of epoch 1, "):
        train(mode, network, optimizer, x, y)
    assert state(network, optimizer) == state(expected, other)
    assert optimizer.iterations == 2


@pytest.mark.parametrize("activation, what", [("relu", "loss"), ("tanh", "gradient, or the step along it,"),
                                              ("sigmoid", "gradient, or the step along it,")])
def test_the_error_says_what_is_not_finite(activation, what):
    x, y = data(64)
    x[40, 0] = np.inf
    with pytest.raises(FloatingPointError, match=f"^the {what} is not finite in batch 2 of epoch 1, expected a finite one"):
        train("blocks", make(activation), SGD(), x, y)


@pytest.mark.parametrize("mode", BATCHES)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("activation", NAMES[1:])
def test_numbers_of_any_size_are_learnt_from_or_refused(mode, kind, activation, dtype):
    """Numbers go from far below to far above where products overflow; without an error all bits are those without checks."""
    batch, most = BATCHES[mode], 38 if dtype == np.float32 else 307
    refused = 0
    for power in np.linspace(most / 3, most, 9):
        x, y = data(2 * batch, dtype)
        x[batch:] *= dtype.type(10**(power - 0.5))
        network, unchecked, expected = (make(activation, dtype) for _ in range(3))
        optimizers = [OPTIMIZERS[kind]() for _ in range(3)]
        train(mode, expected, optimizers[2], x[:batch], y[:batch])
        with np.errstate(all="ignore"):
            train(mode, unchecked, optimizers[1], x, y, check=False)
        try:
            train(mode, network, optimizers[0], x, y)
        except FloatingPointError:
            assert state(network, optimizers[0]) == state(expected, optimizers[2])
            assert optimizers[0].iterations == 1
            refused += 1
        else:
            assert state(network, optimizers[0]) == state(unchecked, optimizers[1])
            assert are_finite(network, optimizers[0])
    assert refused < 9


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("l2, weight, what", [
    (1e-3, 1e20, "penalty"), (1e300, 1.0, "gradient, or the step along it,"), (1e-38, 3e38, "penalty"),
    (10.0, 1e18, None), (1.0, 1e17, None)])
@pytest.mark.parametrize("mode", ["blocks", "shards"])
def test_penalties(mode, kind, l2, weight, what):
    x, y = data(2 * BATCHES[mode])
    network, optimizer = make(l2=l2), OPTIMIZERS[kind]()
    network.layers[0].weights[3, 5] = weight
    x[:, 3] = 0
    before = state(network, optimizer)
    if what is not None:
        with pytest.raises(FloatingPointError, match=f"^the {what} is not finite in batch 1 of epoch 1, expected"):
            train(mode, network, optimizer, x, y)
        assert (state(network, optimizer)[0], optimizer.iterations) == (before[0], 0)
    else:
        history = train(mode, network, optimizer, x, y)
        assert np.isfinite(history.loss[0]) and are_finite(network, optimizer)


@pytest.mark.parametrize("optimizer", [
    lambda: SGD(1e40), lambda: SGD(1e40, momentum=0.5), lambda: Adam(1e40), lambda: Adam(epsilon=1e-50),
    lambda: AdamW(weight_decay=1e42)], ids=["SGD", "momentum", "Adam", "epsilon", "AdamW"])
@pytest.mark.parametrize("mode", BATCHES)
def test_steps_that_overflow(mode, optimizer):
    """Of float32: a float32 epsilon of 1e-50 is 0, so that a gradient of 0 is divided by 0."""
    x, y = data(4 * BATCHES[mode])
    x[:, 0] = 0
    network, optimizer = make(), optimizer()
    before = state(network, optimizer)
    with pytest.raises(FloatingPointError, match="gradient, or the step along it,"):
        train(mode, network, optimizer, x, y)
    assert are_finite(network, optimizer)
    assert optimizer.iterations > 0 or state(network, optimizer)[0] == before[0]


@pytest.mark.parametrize("kind", ["momentum", "Adam"])
def test_what_an_optimizer_remembers_that_is_not_finite(kind):
    x, y = data(64)
    network, optimizer = make(), OPTIMIZERS[kind]()
    train("blocks", network, optimizer, x, y)
    optimizer._states[0][0][0, 5] = np.nan
    before = state(network, optimizer)
    with pytest.raises(FloatingPointError, match="batch 1 of epoch 1"):
        train("blocks", network, optimizer, x, y)
    assert state(network, optimizer) == before


@pytest.mark.parametrize("mode", BATCHES)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("scale", [1.0, 1e12, 1e17])
def test_checks_change_no_bit(mode, kind, scale, dtype):
    """On any number of threads, also where norms alone do not tell that all is finite."""
    x, y = data(3 * BATCHES[mode], dtype)
    found = set()
    for threads, check in ((1, False), (1, True), (2, True)):
        fastbp.set_num_threads(threads)
        network, optimizer = make(dtype=dtype, l2=1e-4), OPTIMIZERS[kind]()
        network.layers[0].weights *= dtype.type(scale)
        train(mode, network, optimizer, x, y, check)
        found.add(repr(state(network, optimizer)))
        assert are_finite(network, optimizer)
    assert len(found) == 1


def test_a_callback_that_changes_weights_is_seen():
    """Their norm is known from the step before, but not to the next epoch."""
    x, y = data(64)
    x[:, 0] = 0
    network, optimizer = make(l2=1.0), SGD()

    def enlarge(network, history):
        network.layers[0].weights[0, 0] = 3e38
        enlarge.before = state(network, optimizer)

    with pytest.raises(FloatingPointError, match="^the penalty is not finite in batch 1 of epoch 2, expected"):
        network.fit(x, y, epochs=2, batch_size=32, optimizer=optimizer, callbacks=enlarge)
    assert state(network, optimizer) == enlarge.before


@pytest.mark.parametrize("label", [-1, CLASSES, 10**9, -10**9, 2**62, -2**63])
@pytest.mark.parametrize("shuffle", [False, True])
def test_labels_that_a_callback_puts_out_of_range(label, shuffle, dtype):
    x, y = data(128, dtype)
    network, optimizer = make(dtype=dtype), Adam()

    def spoil(network, history):
        y[70] = label
        spoil.before = state(network, optimizer)

    batch = "." if shuffle else "3"
    with pytest.raises(FloatingPointError, match=f"^the loss is not finite in batch {batch} of epoch 2, .*labels out of range"):
        network.fit(x, y, epochs=3, batch_size=32, optimizer=optimizer, shuffle=shuffle, rng=0, callbacks=[spoil])
    assert are_finite(network, optimizer)


def test_a_loss_whose_sum_over_an_epoch_overflows():
    x, _ = data(64, np.float64)
    y = np.full((64, CLASSES), 9e153)
    with pytest.raises(FloatingPointError, match=re.escape("the loss is not finite in batch 1 of epoch 1")):
        train("blocks", make(dtype=np.float64, loss=fastbp.MeanSquaredError()), SGD(1e-300), x, y * 1.4)
