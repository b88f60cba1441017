"""Training: the textbook's results, the same bits with any number of threads, and the ways in which it ends."""
import _thread
import functools
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
import textbook
from fastbp._runtime import cpu
from fastbp._training import loop
from fastbp.kernels.train import blocks

LOSSES = {"softmax": fastbp.SoftmaxCrossEntropy, "binary": fastbp.BinaryCrossEntropy, "squared": fastbp.MeanSquaredError}
CLOSE = {"float32": {"rtol": 1e-3, "atol": 1e-4}, "float64": {"rtol": 1e-9, "atol": 1e-11}}


def make(sizes=(5, 8, 3), activation="relu", loss="softmax", dtype=np.float32, rate=0.0, first_rate=0.0, l2=0.0, seed=0,
         **options):
    """A network of layers of these sizes, with a Dropout before its last layer and one before its first if they have a rate."""
    layers = [fastbp.Dropout(first_rate)] if first_rate else []
    for i, (n_inputs, n_neurons) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        is_last = i == len(sizes) - 2
        if is_last and rate:
            layers.append(fastbp.Dropout(rate))
        layers.append(fastbp.Dense(n_inputs, n_neurons, activation="identity" if is_last else activation, dtype=dtype,
                                   rng=seed + i, **options))
        if layers[-1].biases is not None:
            layers[-1].biases[:] = np.random.default_rng(seed).normal(0, 0.1, n_neurons)
    return fastbp.Sequential(layers, LOSSES[loss](), l2=l2)


def data(rows=50, n_inputs=5, loss="softmax", n_outputs=3, dtype=np.float32, seed=1):
    """x and y that a network can learn."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, n_inputs)).astype(dtype)
    scores = x @ rng.standard_normal((n_inputs, n_outputs)).astype(dtype)
    y = {"softmax": scores.argmax(axis=1), "binary": (scores > 0).astype(dtype), "squared": np.tanh(scores)}[loss]
    return x, y


def bits(network):
    return [a.tobytes() for a in network.parameters()]


def assert_as_in_the_textbook(network, x, y, optimizer="sgd", *, epochs=3, batch_size=16, **options):
    """Train both, and compare all parameters, losses and accuracies."""
    book, before, close = textbook.Network(network), bits(network), CLOSE[network.dtype.name]
    losses, accuracies = book.fit(x, y, epochs=epochs, batch_size=batch_size, optimizer=optimizer, **options)
    history = network.fit(x, y, epochs=epochs, batch_size=batch_size, optimizer=textbook.OPTIMIZERS[optimizer][0](),
                          **({"rng": 0} | options))
    for i, (values, expected) in enumerate(zip(network.parameters(), book.parameters, strict=True)):
        assert_allclose(values, expected, **close, err_msg=f"parameters {i}")
    assert before != bits(network)
    assert_allclose(history.loss, losses, **close)
    assert_allclose(history.accuracy, accuracies, atol=0.021 if network.dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", textbook.ACTIVATIONS)
def test_activations_and_losses(dtype, activation, loss):
    optimizers = list(textbook.OPTIMIZERS)
    optimizer = optimizers[(list(textbook.ACTIVATIONS).index(activation) + list(LOSSES).index(loss)) % len(optimizers)]
    x, y = data(loss=loss, dtype=dtype)
    assert_as_in_the_textbook(make((5, 9, 7, 3), activation, loss, dtype), x, y, optimizer)


@pytest.mark.parametrize("activation", textbook.ACTIVATIONS)
def test_activations_of_the_last_layer(dtype, activation):
    x, y = data(loss="squared", dtype=dtype)
    layers = [fastbp.Dense(5, 8, activation="tanh", dtype=dtype, rng=0),
              fastbp.Dense(8, 3, activation=activation, dtype=dtype, rng=1)]
    assert_as_in_the_textbook(fastbp.Sequential(layers, fastbp.MeanSquaredError()), x, y)


@pytest.mark.parametrize("optimizer", textbook.OPTIMIZERS)
@pytest.mark.parametrize("options", [{"shuffle": False}, {"rng": 7}])
def test_optimizers_with_everything(dtype, optimizer, options):
    """Penalty, dropouts, sample weights, and batches of 16 of 50 rows."""
    x, y = data(dtype=dtype)
    network = make((5, 9, 7, 3), "tanh", dtype=dtype, rate=0.3, first_rate=0.1, l2=0.01)
    weights = np.random.default_rng(3).random(50)
    assert_as_in_the_textbook(network, x, y, optimizer, sample_weight=weights, **options)


@pytest.mark.parametrize("rows, sizes, batch_size, shards", [
    (300, (5, 8, 3), 128, 2), (200, (5, 8, 3), 256, 2), (129, (5, 8, 3), 128, 2), (193, (5, 8, 3), 128, 2),
    (128, (5, 8, 3), 128, 2), (50, (5, 8, 3), 16, 1), (127, (5, 8, 3), 1000, 1), (140, (5, 8, 3), 1000, 2),
    (200, (5, 8, 3), 64, 1), (65, (5, 8, 3), 64, 1), (97, (5, 8, 3), 64, 1), (64, (5, 8, 3), 64, 1), (63, (5, 8, 3), 1000, 1),
    (70, (5, 8, 3), 1000, 1), (7, (5, 8, 3), 1, 1), (1, (5, 8, 3), 1, 1), (1, (5, 8, 3), 10, 1), (300, (5, 3), 128, 2),
    (40, (5, 1, 3), 16, 1),
    (150, (5, 33, 17, 3), 150, 2), (130, (5, 300, 250, 3), 64, 1), (150, (5, 130, 65, 3), 64, 1),
    (530, (5, 4400, 120, 3), 530, 1),
])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_batches_and_their_shards(dtype, rows, sizes, batch_size, shards, rate):
    x, y = data(rows, dtype=dtype)
    network = make(sizes, dtype=dtype, rate=rate, l2=0.01)
    assert blocks.shards(min(rows, batch_size), sum(layer.weights.size for layer in network.dense)) == shards
    weights = np.random.default_rng(3).random(rows)
    assert_as_in_the_textbook(network, x, y, "momentum", batch_size=batch_size, sample_weight=weights)


@pytest.mark.parametrize("loss", ["binary", "squared"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_output(dtype, loss, shape):
    x, y = data(loss=loss, n_outputs=1, dtype=dtype)
    assert_as_in_the_textbook(make((5, 8, 1), loss=loss, dtype=dtype), x, y.reshape(shape), "adam")


@pytest.mark.parametrize("loss", LOSSES)
def test_without_biases(dtype, loss):
    x, y = data(loss=loss, dtype=dtype)
    network = make(loss=loss, dtype=dtype, bias=False)
    assert_as_in_the_textbook(network, x, y, "adamw")
    assert all(layer.biases is None for layer in network.dense)


def test_shares_as_targets(dtype):
    x, _ = data(dtype=dtype)
    y = np.random.default_rng(2).dirichlet(np.ones(3), 50).astype(dtype)
    assert_as_in_the_textbook(make(dtype=dtype), x, y, "adam")


def test_a_relu_after_a_dense(dtype):
    x, y = data(dtype=dtype)
    layers = [fastbp.Dense(5, 8, dtype=dtype, rng=0), fastbp.ReLU(), fastbp.Dropout(0.2), fastbp.Dropout(0.2),
              fastbp.Dense(8, 3, dtype=dtype, rng=1)]
    assert_as_in_the_textbook(fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy()), x, y, "momentum")


@pytest.mark.parametrize("weights", [np.arange(50), np.r_[np.zeros(32), np.ones(18)], np.full(50, 1e-9), [3] * 50],
                         ids=["integers", "batches of 0", "tiny", "list"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_sample_weights(dtype, weights, shuffle):
    x, y = data(dtype=dtype)
    assert_as_in_the_textbook(make(dtype=dtype, l2=0.1), x, y, sample_weight=weights, shuffle=shuffle)


def test_a_single_row_of_any_stride(dtype):
    """The stride of an axis of length 1 means nothing."""
    x, _ = data(dtype=dtype)
    y = np.repeat(np.eye(3, dtype=dtype), 400, axis=0)
    expected = make(dtype=dtype)
    expected.fit(x[:1].copy(), y[:1].copy(), epochs=3, batch_size=4, optimizer=fastbp.Adam(), rng=0)
    for one_x, one_y in ((x[0], y[0][np.newaxis]), (x[0][np.newaxis], y[::400][:1]),
                         (x[::49][:1], np.broadcast_to(y[0], (1, 3)))):
        network = make(dtype=dtype)
        network.fit(one_x, one_y, epochs=3, batch_size=4, optimizer=fastbp.Adam(), rng=0)
        assert bits(network) == bits(expected)
    labels = make(dtype=dtype)
    labels.fit(x[0], np.zeros(50, np.int64)[::40][:1], epochs=3, batch_size=4, optimizer=fastbp.Adam(), rng=0)
    for values, others in zip(labels.parameters(), expected.parameters(), strict=True):
        assert_allclose(values, others, **CLOSE[dtype.name])


def trained(sizes, rows, batch_size, dtype=np.float32, seed=0, **options):
    """The bits after training from a seed."""
    network = make(sizes, dtype=dtype, rate=0.2, seed=seed)
    x, y = data(rows, dtype=dtype)
    history = network.fit(x, y, **({"epochs": 3, "batch_size": batch_size, "optimizer": fastbp.Adam(), "rng": seed} | options))
    return bits(network), history.loss, history.accuracy


@pytest.mark.parametrize("sizes, rows, batch_size", [((5, 8, 3), 500, 64), ((5, 300, 200, 3), 500, 128),
                                                     ((5, 64, 3), 9000, 4500), ((5, 2000, 3), 130, 100)])
def test_the_same_bits_on_any_number_of_threads(dtype, sizes, rows, batch_size):
    results = []
    for threads in (1, 2, 3, 1, 2):
        fastbp.set_num_threads(threads)
        results.append(trained(sizes, rows, batch_size, dtype))
    assert all(result == results[0] for result in results)
    assert trained(sizes, rows, batch_size, dtype, seed=1)[0] != results[0][0]


def test_the_rng_decides_order_and_dropout():
    x, y = data()

    def run(rng, **options):
        network = make(**options)
        network.fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.SGD(0.1), rng=rng)
        return bits(network)

    assert run(3) == run(np.random.default_rng(3)) != run(4)
    assert run(None) != run(None)
    generator = np.random.default_rng(3)
    assert run(generator, rate=0.5) != run(generator, rate=0.5)


def test_without_shuffling_the_rng_decides_nothing():
    results = [trained((5, 8, 3), 50, 16, shuffle=False, rng=rng)[0] for rng in (1, 2)]
    assert results[0] != results[1]                                                     # there is a dropout
    x, y = data()
    networks = [make(), make()]
    for seed, network in enumerate(networks):
        network.fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.SGD(), shuffle=False, rng=seed)
    assert bits(networks[0]) == bits(networks[1])


@pytest.fixture
def runs(monkeypatch):
    """The training sessions that were made."""
    made = []

    class Recorded(loop.TrainingSession):
        def use(self, *arguments):
            made.append(self)
            super().use(*arguments)

    monkeypatch.setattr(loop, "TrainingSession", Recorded)
    return made


@pytest.mark.parametrize("loss", LOSSES)
def test_data_of_the_right_dtype_are_not_copied_and_never_changed(dtype, loss, runs):
    wide = np.random.default_rng(0).standard_normal((90, 9)).astype(dtype)
    x, (_, y), weights = wide[::2, 1:6], data(45, loss=loss, dtype=dtype), np.random.default_rng(0).random(45)
    before = wide.tobytes(), y.tobytes(), weights.tobytes()
    for array in (wide, x, y, weights):
        array.flags.writeable = False
    make(loss=loss, dtype=dtype, rate=0.2, first_rate=0.2).fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.SGD(),
                                                              sample_weight=weights)
    assert (wide.tobytes(), y.tobytes(), weights.tobytes()) == before
    assert all(np.shares_memory(mine, theirs) for mine, theirs in zip(runs[0].data, (x, y, weights), strict=True))


def test_x_may_be_anything_like_an_array(dtype, tmp_path):
    x = np.random.default_rng(0).integers(-3, 4, (50, 5)).astype(dtype)
    _, y = data()
    np.save(tmp_path / "x.npy", x)
    padded = np.zeros((100, 11), dtype)
    padded[::2, 1::2] = x
    same = {"float32": x.astype(np.float32), "float64": x.astype(np.float64), "float16": x.astype(np.float16),
            "integers": x.astype(np.int8), "list": x.tolist(), "memory map": np.load(tmp_path / "x.npy", mmap_mode="r"),
            "Fortran order": np.asfortranarray(x), "strided": padded[::2, 1::2], "reversed": x[::-1].copy()[::-1],
            "all reversed": x[::-1, ::-1].copy()[::-1, ::-1], "another byte order": x.astype(x.dtype.newbyteorder()),
            "unaligned": np.frombuffer(b"\0" + x.tobytes(), dtype, offset=1).reshape(x.shape)}
    targets = {"int32": y.astype(np.int32), "uint8": y.astype(np.uint8), "list": y.tolist(), "reversed": y[::-1].copy()[::-1]}

    def run(x, y, shuffle):
        network = make(dtype=dtype)
        network.fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.Adam(), rng=0, shuffle=shuffle)
        return bits(network)

    for shuffle in (False, True):
        expected = run(x, y, shuffle)
        for name, values in same.items():
            assert run(values, y, shuffle) == expected, name
        for name, values in targets.items():
            assert run(x, values, shuffle) == expected, name


def test_weights_are_changed_in_place():
    network = make()
    arrays = network.parameters()
    before = [a.copy() for a in arrays]
    x, y = data()
    network.fit(x, y, epochs=1, batch_size=16, optimizer=fastbp.Adam())
    assert all(a is b for a, b in zip(network.parameters(), arrays, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


@pytest.mark.parametrize("optimizer", textbook.OPTIMIZERS)
def test_a_second_fit_goes_on(optimizer):
    x, y = data()
    make_optimizer = textbook.OPTIMIZERS[optimizer][0]
    once, twice = make(), make()
    one, both = make_optimizer(), make_optimizer()
    losses = once.fit(x, y, epochs=5, batch_size=16, optimizer=one, shuffle=False).loss
    parts = [twice.fit(x, y, epochs=n, batch_size=16, optimizer=both, shuffle=False).loss for n in (2, 3)]
    assert bits(once) == bits(twice)
    assert parts[0] + parts[1] == losses
    assert one.iterations == both.iterations == 20


@pytest.mark.parametrize("other", [make((5, 9, 3)), make((5, 3)), make(bias=False), make(dtype=np.float64)],
                         ids=["size", "layers", "biases", "dtype"])
def test_another_networks_optimizer_is_refused(other):
    network, optimizer, (x, y) = make(), fastbp.Adam(), data()
    network.fit(x, y, epochs=1, batch_size=50, optimizer=optimizer)
    before, theirs = bits(network), bits(other)
    with pytest.raises(ValueError, match="another network needs an optimiser of its own"):
        other.fit(x, y, epochs=1, batch_size=50, optimizer=optimizer)
    assert bits(other) == theirs and optimizer.iterations == 1
    network.fit(x, y, epochs=1, batch_size=50, optimizer=optimizer)
    assert bits(network) != before and optimizer.iterations == 2


@pytest.mark.parametrize("loss", LOSSES)
def test_history(dtype, loss):
    x, y = data(loss=loss, dtype=dtype)
    validation = data(30, loss=loss, dtype=dtype, seed=5)
    told = []
    network = make(loss=loss, dtype=dtype, l2=0.01)
    history = network.fit(x, y, epochs=4, batch_size=16, optimizer=fastbp.Adam(0.01), validation_data=validation,
                          callbacks=[lambda network, history: told.append(network.evaluate(*validation))])
    assert len(history.loss) == len(history.validation_loss) == 4 and not history.interrupted
    assert history.loss[3] < history.loss[0]
    assert history.validation_loss == [value for value, _ in told]
    accuracies = [] if loss == "squared" else [accuracy for _, accuracy in told]
    assert history.validation_accuracy == accuracies and len(history.accuracy) == len(accuracies)
    weighted = network.fit(x, y, epochs=1, batch_size=16, optimizer=fastbp.Adam(0.01),
                           validation_data=[*validation, np.arange(30)])
    assert weighted.validation_loss == [network.evaluate(*validation, np.arange(30))[0]]
    plain = network.fit(x, y, epochs=1, batch_size=16, optimizer=fastbp.Adam())
    assert plain.validation_loss == plain.validation_accuracy == []


def test_training_learns():
    x, y = data(400)
    network = make((5, 32, 3))
    history = network.fit(x, y, epochs=60, batch_size=32, optimizer=fastbp.Adam(0.01), rng=0)
    assert history.accuracy[-1] > 0.97 and history.loss[-1] < history.loss[0] / 5
    assert network.evaluate(*data(400))[1] > 0.97


@pytest.mark.parametrize("answer", [True, np.True_])
def test_a_callback_ends_the_training(answer):
    x, y = data()
    calls = []

    def third(network, history):
        calls.append((network, history, len(history.loss)))
        return answer if len(history.loss) == 3 else None

    network = make()
    history = network.fit(x, y, epochs=10, batch_size=16, optimizer=fastbp.SGD(),
                          callbacks=[third, lambda *_: calls.append("other")])
    assert calls == [(network, history, 1), "other", (network, history, 2), "other", (network, history, 3), "other"]
    assert len(history.loss) == 3 and not history.interrupted


@pytest.mark.parametrize("answer", [None, False, 1, "stop", np.False_, np.ones(2)])
def test_no_other_answer_of_a_callback_ends_it(answer):
    x, y = data()
    assert len(make().fit(x, y, epochs=3, batch_size=16, optimizer=fastbp.SGD(), callbacks=[lambda *_: answer]).loss) == 3


def test_a_single_callback():
    x, y, told = *data(), []
    make().fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.SGD(),
               callbacks=lambda _, history: told.append(len(history.loss)))
    assert told == [1, 2]


def test_a_callback_changes_the_learning_rate():
    x, y = data()
    one, other = fastbp.Adam(0.01), fastbp.Adam(0.01)

    def lower(network, history):
        one.learning_rate /= 2

    network, by_hand = make(), make()
    network.fit(x, y, epochs=3, batch_size=16, optimizer=one, shuffle=False, callbacks=[lower])
    for _ in range(3):
        by_hand.fit(x, y, epochs=1, batch_size=16, optimizer=other, shuffle=False)
        other.learning_rate /= 2
    assert bits(network) == bits(by_hand)


def test_an_error_in_a_callback_comes_through():
    x, y = data()

    def fail(*_):
        raise RuntimeError("mine")

    network = make()
    with pytest.raises(RuntimeError, match="mine"):
        network.fit(x, y, epochs=3, batch_size=16, optimizer=(optimizer := fastbp.SGD()), callbacks=[fail])
    assert optimizer.iterations == 4
    network.fit(x, y, epochs=1, batch_size=16, optimizer=optimizer)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream, progress, shows", [(Terminal, True, True), (Terminal, False, False),
                                                     (io.StringIO, True, False)])
def test_the_bar(monkeypatch, stream, progress, shows):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setenv("COLUMNS", "200")    # tqdm cuts the line at these, which any process that imports readline hands on
    monkeypatch.setenv("LINES", "24")
    x, y = data()
    make().fit(x, y, epochs=3, batch_size=16, optimizer=fastbp.SGD(), progress=progress, validation_data=(x, y))
    text = sys.stderr.getvalue()
    assert ("Training: 100%" in text and "3.0/3 epochs" in text and "validation_accuracy=" in text) if shows else not text


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("batch_size", [16, 64])
def test_data_that_are_not_finite_end_the_training_before_their_batch(dtype, loss, bad, batch_size):
    x, y = data(200, loss=loss, dtype=dtype)
    x[150, 2] = bad
    network, expected = (make(loss=loss, dtype=dtype, activation="leaky_relu") for _ in range(2))
    optimizer, batch = fastbp.Adam(), 150 // batch_size
    with pytest.raises(FloatingPointError, match=f"not finite in batch {batch + 1} of epoch 1, .*as they were before"):
        network.fit(x, y, epochs=2, batch_size=batch_size, optimizer=optimizer, shuffle=False)
    assert optimizer.iterations == batch
    rows = batch * batch_size
    expected.fit(x[:rows], y[:rows], epochs=1, batch_size=batch_size, optimizer=fastbp.Adam(), shuffle=False)
    assert bits(network) == bits(expected)
    assert np.isfinite(np.concatenate([a.ravel() for a in network.parameters()])).all()
    history = network.fit(x, y, epochs=2, batch_size=batch_size, optimizer=optimizer, check_finite=False)
    assert not np.isfinite(history.loss[1]) and not np.isfinite(network.layers[-1].weights).any()


def test_targets_that_are_not_finite(dtype):
    x, y = data(loss="squared", dtype=dtype)
    y[20, 1] = np.nan
    with pytest.raises(FloatingPointError, match="batch 2 of epoch 1"):
        make(loss="squared", dtype=dtype).fit(x, y, epochs=1, batch_size=16, optimizer=fastbp.SGD(), shuffle=False)


def test_without_a_penalty_no_square_of_a_weight_counts(dtype):
    """It may be infinite where the loss is not."""
    x, y = data(dtype=dtype)
    network = make((5, 3), dtype=dtype)
    network.layers[0].weights *= 1e30 if dtype == np.float32 else 1e200
    history = network.fit(0 * x, y, epochs=2, batch_size=16, optimizer=fastbp.SGD())
    assert np.isfinite(history.loss).all() and np.isfinite(network.evaluate(0 * x, y)[0])


@pytest.mark.parametrize("loss", ["softmax", "squared"])
def test_a_learning_rate_too_high_ends_the_training(dtype, loss):
    x, y = data(loss=loss, dtype=dtype)
    network, told = make(loss=loss, dtype=dtype), []
    with pytest.raises(FloatingPointError, match="not finite in batch . of epoch .*try a lower learning rate"):
        network.fit(x, y, epochs=10_000, batch_size=16, optimizer=fastbp.SGD(1e25), rng=0,
                    callbacks=[lambda _, history: told.append(history.loss[-1])])
    assert np.isfinite(told).all()
    assert np.isfinite(np.concatenate([a.ravel() for a in network.parameters()])).all()


def test_the_epoch_that_is_not_finite_is_named():
    x, y = data()
    network = make()

    def spoil(network, history):
        if len(history.loss) == 2:
            network.layers[0].weights[0, 0] = np.nan

    with pytest.raises(FloatingPointError, match="batch 1 of epoch 3"):
        network.fit(x, y, epochs=5, batch_size=16, optimizer=fastbp.SGD(), callbacks=[spoil])


def assert_usable(network, x, y, optimizer):
    assert np.isfinite(np.concatenate([a.ravel() for a in network.parameters()])).all()
    steps = optimizer.iterations
    assert len(network.fit(x[:64], y[:64], epochs=2, batch_size=32, optimizer=optimizer).loss) == 2
    assert optimizer.iterations == steps + 4


def test_ctrl_c_between_epochs():
    x, y = data()
    network, expected, optimizer = make(), make(), fastbp.Adam()

    def interrupt(network, history):
        if len(history.loss) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(RuntimeWarning, match="interrupted after 3 of 9 epochs; what was learnt is kept") as caught:
        history = network.fit(x, y, epochs=9, batch_size=16, optimizer=optimizer, rng=0, callbacks=[interrupt])
    assert caught[0].filename == __file__
    assert history.interrupted and len(history.loss) == 3
    expected.fit(x, y, epochs=3, batch_size=16, optimizer=fastbp.Adam(), rng=0)
    assert bits(network) == bits(expected)
    assert_usable(network, x, y, optimizer)


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_within_an_epoch_stops_at_a_whole_step(threads):
    fastbp.set_num_threads(threads)
    x, y = data(1_000_000)
    network, expected, optimizer, over = make(), make(), fastbp.Adam(), threading.Event()

    def interrupt():
        while not optimizer.iterations and not over.is_set():
            pass
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.warns(RuntimeWarning, match="interrupted after 0 of 9 epochs"):
            history = network.fit(x, y, epochs=9, batch_size=1, optimizer=optimizer, shuffle=False)
    finally:
        over.set()
        thread.join()
    assert history.interrupted and history.loss == []
    assert 0 < (rows := optimizer.iterations) < len(x)
    expected.fit(x[:rows], y[:rows], epochs=1, batch_size=1, optimizer=fastbp.Adam(), shuffle=False)
    assert bits(network) == bits(expected)
    assert_usable(network, x, y, optimizer)


def test_ctrl_c_in_an_evaluation_leaves_the_history_as_it_was(monkeypatch):
    x, y = data()
    network = make()
    calls = iter(range(100))

    def evaluate(*arguments):
        if next(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return 1.0, 0.5

    monkeypatch.setattr(network, "evaluate", evaluate)
    with pytest.warns(RuntimeWarning, match="interrupted after 2 of 5 epochs"):
        history = network.fit(x, y, epochs=5, batch_size=16, optimizer=fastbp.SGD(), validation_data=(x, y))
    assert [len(v) for v in (history.loss, history.accuracy, history.validation_loss, history.validation_accuracy)] == [2] * 4


X, Y = data()


@pytest.mark.parametrize("wrong, error, message", [
    ({"epochs": 0}, ValueError, "epochs is 0, expected an integer of at least 1"),
    ({"epochs": True}, ValueError, "epochs is True"),
    ({"epochs": 2.0}, ValueError, "epochs is 2.0"),
    ({"epochs": None}, ValueError, "epochs is None"),
    ({"batch_size": -1}, ValueError, "batch_size is -1"),
    ({"batch_size": "16"}, ValueError, "batch_size is '16'"),
    ({"optimizer": "adam"}, TypeError, r"optimizer is 'adam', expected one such as Adam\(\)"),
    ({"optimizer": fastbp.Adam}, TypeError, "optimizer is <class"),
    ({"optimizer": None}, TypeError, "optimizer is None"),
    ({"x": X[:, :4]}, ValueError, r"x has shape \(50, 4\), expected \(rows, 5\): the first layer has 5 inputs"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, r"x has shape \(0, 5\), expected at least one row"),
    ({"x": X[:49]}, ValueError, r"targets has shape \(50,\)"),
    ({"x": X[np.newaxis]}, ValueError, r"x has shape \(1, 50, 5\)"),
    ({"x": X * 1j}, TypeError, "x has dtype complex64"),
    ({"x": X.astype(str)}, TypeError, "x has dtype <U"),
    ({"x": [[1, 2], [3]]}, ValueError, "x is not an array"),
    ({"x": None}, TypeError, "x has dtype object"),
    ({"y": Y.astype(float)}, ValueError, r"targets has shape \(50,\) and dtype float64, expected integers"),
    ({"y": Y + 1}, ValueError, "targets has classes from 1 to 3, expected 0 to 2"),
    ({"y": Y - 1}, ValueError, "targets has classes from -1 to 1, expected 0 to 2"),
    ({"y": np.eye(4)[Y]}, ValueError, r"targets has shape \(50, 4\)"),
    ({"y": None}, TypeError, "targets has dtype object"),
    ({"sample_weight": np.ones(49)}, ValueError, r"sample_weight has shape \(49,\), expected \(50,\)"),
    ({"sample_weight": -np.ones(50)}, ValueError, "sample_weight has numbers that are negative"),
    ({"sample_weight": np.zeros(50)}, ValueError, "sample_weight has numbers that are negative"),
    ({"sample_weight": np.full(50, np.nan)}, ValueError, "sample_weight has numbers that are negative"),
    ({"validation_data": X}, TypeError, r"validation_data is not \(x, y\)"),
    ({"validation_data": (X,)}, TypeError, r"validation_data is not \(x, y\)"),
    ({"validation_data": (X, Y, None, None)}, TypeError, r"validation_data is not \(x, y\)"),
    ({"validation_data": (X[:, 1:], Y)}, ValueError, r"validation_data: x has shape \(50, 4\)"),
    ({"validation_data": (X, Y[1:])}, ValueError, r"targets has shape \(49,\)"),
    ({"validation_data": (X, Y, np.ones(3))}, ValueError, r"sample_weight has shape \(3,\)"),
    ({"callbacks": [None]}, TypeError, "callbacks holds None"),
    ({"callbacks": 3}, TypeError, "callbacks is 3, expected functions of the network and the History"),
    ({"rng": "0"}, TypeError, None),
    ({"rng": -1}, ValueError, None),
])
def test_errors_come_before_anything_is_changed(wrong, error, message):
    network, optimizer, generator = make(), fastbp.Adam(), np.random.default_rng(0)
    before, arrays, state = bits(network), network.parameters(), generator.bit_generator.state
    right = {"x": X, "y": Y, "epochs": 2, "batch_size": 16, "optimizer": optimizer, "rng": generator}
    with pytest.raises(error, match=message):
        network.fit(**right | wrong)
    assert bits(network) == before and all(a is b for a, b in zip(network.parameters(), arrays, strict=True))
    assert optimizer.iterations == 0 and generator.bit_generator.state == state
    make((5, 4, 3)).fit(**right)                                # the optimiser is still free


def test_without_a_loss_there_is_nothing_to_train_for():
    network = fastbp.Sequential([fastbp.Dense(5, 3)])
    with pytest.raises(ValueError, match="loss is None, expected one for fit"):
        network.fit(X, Y, epochs=1, batch_size=16, optimizer=fastbp.SGD())


@pytest.mark.parametrize("wrong, message", [
    ({"weights": np.ones((5, 9))}, "layers.1. has 8 inputs, expected 9"),
    ({"weights": np.ones((4, 8))}, r"x has shape \(50, 5\), expected \(rows, 4\)"),
    ({"weights": np.ones(5)}, r"layers.0. has weights of shape \(5,\), expected \(n_inputs, n_neurons\)"),
    ({"biases": np.ones((1, 7))}, r"biases has shape \(1, 7\), expected \(1, 8\)"),
    ({"biases": np.ones((2, 8))}, r"biases has shape \(2, 8\), expected \(1, 8\)"),
])
def test_assigned_arrays_that_do_not_fit(wrong, message):
    network, optimizer = make(), fastbp.Adam()
    for name, values in wrong.items():
        setattr(network.layers[0], name, values)
    for work in (lambda: network.fit(X, Y, epochs=1, batch_size=16, optimizer=optimizer), lambda: network.predict(X)):
        with pytest.raises(ValueError, match=message):
            work()
    assert optimizer.iterations == 0


@pytest.mark.parametrize("weights, error, message", [
    (np.ones(8), ValueError, r"layers.1. has weights of shape \(8,\), expected \(n_inputs, n_neurons\)"),
    (None, TypeError, "weights has dtype object")])
def test_assigned_weights_of_the_last_layer(weights, error, message):
    network, optimizer = make((5, 8, 3)), fastbp.Adam()
    network.layers[1].weights = weights
    for work in (lambda: network.fit(X, Y, epochs=1, batch_size=16, optimizer=optimizer), lambda: network.predict(X)):
        with pytest.raises(error, match=message):
            work()
    assert optimizer.iterations == 0


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("change", [np.asfortranarray, lambda a: a.astype(np.float64), lambda a: a.astype(np.float32),
                                    read_only, lambda a: a.copy()[::-1][::-1], lambda a: np.repeat(a, 2, axis=1)[:, ::2],
                                    lambda a: a.astype(a.dtype.newbyteorder())],
                         ids=["Fortran", "float64", "float32", "read-only", "views", "strided", "byte order"])
def test_assigned_arrays_of_any_layout_are_trained(dtype, change):
    x, y = data(dtype=dtype)
    network, expected = make(dtype=dtype), make(dtype=dtype)
    given = []
    for layer, other in zip(network.layers, expected.layers, strict=True):
        for array in (layer.weights, layer.biases, other.weights, other.biases):
            array[:] = array.astype(np.float32)
        layer.weights, layer.biases = change(layer.weights), change(layer.biases)
        given.append((layer.weights, layer.weights.tobytes()))
    for one in (network, expected):
        one.fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.Adam(), rng=0)
    assert bits(network) == bits(expected)
    assert all(a.dtype == dtype and a.flags.c_contiguous and a.flags.writeable for a in network.parameters())
    assert all(a.tobytes() == before for a, before in given if not a.flags.writeable)


def test_a_vector_of_biases_is_trained():
    x, y = data()
    network, expected = make(), make()
    vector = network.layers[0].biases = network.layers[0].biases[0]
    for one in (network, expected):
        one.fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.Adam(), rng=0)
    assert bits(network) == bits(expected)
    assert_array_equal(vector, expected.layers[0].biases[0])


def test_bfloat16(recwarn):
    """As near as its rounding: 8 bits."""
    x, y = data(200)
    networks = [make((5, 300, 300, 3), precision=precision) for precision in (None, "bfloat16")]
    losses = [n.fit(x, y, epochs=3, batch_size=200, optimizer=fastbp.SGD(0.1), rng=0).loss for n in networks]
    assert (bits(networks[0]) != bits(networks[1])) == cpu.multiplies_bfloat16()
    assert_allclose(losses[0], losses[1], rtol=0.01)


def test_fits_at_once_in_threads():
    """There is one team of threads in a process, which one of them has."""
    fastbp.set_num_threads(2)
    cases = [functools.partial(trained, *case, epochs=8, progress=False)
             for case in (((5, 300, 200, 3), 500, 128), ((5, 8, 3), 3000, 64), ((5, 64, 3), 9000, 4500),
                          ((5, 40, 30, 3), 900, 64))]
    expected = [case() for case in cases]
    results, barrier = [None] * len(cases), threading.Barrier(len(cases))

    def work(i):
        barrier.wait()
        results[i] = cases[i]()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


# What a process of its own needs to tell what a fit makes of the weights, in it, in a thread and in a forked child.
PROCESS = """
import hashlib, json, os, signal, sys, threading
import numpy as np
import fastbp

def fit():
    layers = [fastbp.DenseReLU(20, 100, rng=0), fastbp.Dropout(0.1), fastbp.DenseReLU(100, 100, rng=1),
              fastbp.Dense(100, 3, rng=2)]
    network = fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy())
    x = np.random.default_rng(0).standard_normal((600, 20), np.float32)
    network.fit(x, x[:, :3].argmax(axis=1), epochs=3, batch_size=128, optimizer=fastbp.Adam(), rng=0)
    return hashlib.sha256(b"".join(a.tobytes() for a in network.parameters())).hexdigest()

def in_thread(work):
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results

def in_child(work):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            os.write(writer, work().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text

"""


def run(code):
    package = Path(fastbp.__file__).parents[1]
    process = subprocess.run([sys.executable, "-c", PROCESS + code], timeout=200, capture_output=True, text=True,
                             env=os.environ | {"PYTHONPATH": str(package), "FASTBP_NUM_THREADS": "2"})
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_a_first_fit_in_a_thread():
    results = run("print(json.dumps([*in_thread(fit), fit(), *in_thread(fit)]))")
    assert len(results) == 3 and len(set(results)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fits_in_forked_children():
    results = run("""
results = [fit(), in_child(fit), in_child(lambda: in_child(fit)), fit(), *in_thread(lambda: in_child(fit))]
print(json.dumps(results))
""")
    assert len(results) == 5 and len(set(results)) == 1
