"""Memory that is not ours: the check of addresses, arrays that cannot be written, and arrays that overlap."""
import copy
import pickle
import threading

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastbp
from fastbp._arrays import memory as _memory

F4 = np.dtype(np.float32)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("array, error, message", [
    ([1.0, 2.0], TypeError, "x is of type list, expected a numpy.ndarray of float32"),
    (np.zeros(6, np.float64), TypeError, "x has dtype float64, expected float32"),
    (np.zeros(6, ">f4"), TypeError, "x has dtype >f4, expected float32"),
    (np.zeros(6, np.int32), TypeError, "x has dtype int32, expected float32"),
    (np.zeros(5, F4), ValueError, "x has 5 elements, expected 6"),
    (np.zeros(7, F4), ValueError, "x has 7 elements, expected 6"),
    (np.zeros(12, F4)[::2], ValueError, r"x has strides \(8,\), expected C order"),
    (np.zeros((2, 3), F4, order="F"), ValueError, "expected C order"),
    (np.broadcast_to(np.zeros((), F4), 6), ValueError, "expected"),
    (read_only(np.zeros(6, F4)), ValueError, "x is read-only, expected an array that can be written")])
def test_the_gate_refuses(array, error, message):
    with pytest.raises(error, match=message):
        _memory.address("x", array, F4, 6, written=True)


def test_the_gate_gives_addresses():
    for array in (np.arange(6, dtype=F4), np.zeros((2, 3), F4), np.zeros(0, F4), np.frombuffer(b"\0" * 25, F4, 6, 1)):
        assert _memory.address("x", array, F4, array.size) == array.ctypes.data
    rows = np.zeros((3, 8), F4)[:, :5]
    assert _memory.address_of_rows("x", rows, F4, (3, 5)) == (rows.ctypes.data, 32)
    for wrong in (rows[::-1], np.zeros((5, 3), F4).T, rows[:, ::2]):
        with pytest.raises(ValueError, match="expected rows without gaps"):
            _memory.address_of_rows("x", wrong, F4, wrong.shape)


@pytest.mark.parametrize("order", [[0, 1, 3], [0, -1, 1], [2**62, 0, 1]])
def test_orders_that_leave_the_data(order):
    with pytest.raises(ValueError, match="order has numbers from .*, expected 0 to 2"):
        _memory.address_of_order("order", np.array(order), 3)


# ---- memory that cannot be written


def trained(rng, optimizer=None):
    layers = [fastbp.Dense(8, 16, activation="gelu", rng=1), fastbp.DenseReLU(16, 12, rng=2), fastbp.Dense(12, 3, rng=3)]
    network = fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy())
    x, y, optimizer = rng.standard_normal((64, 8), np.float32), rng.integers(0, 3, 64), optimizer or fastbp.Adam()
    network.fit(x, y, epochs=1, batch_size=16, optimizer=optimizer, rng=0, progress=False)
    step(network, optimizer, x, y)
    return network, optimizer, x, y


def step(network, optimizer, x, y):
    _, gradient = network.loss.value_and_gradient(network.forward(x), y)
    network.backward(gradient)
    optimizer.update(network.parameters(), network.gradients())


def mapped(value, folder):
    """From a file that joblib maps into memory and that cannot be written."""
    joblib.dump(value, folder / "value")
    return joblib.load(folder / "value", mmap_mode="r")


def from_immutable_buffers(value, folder):
    buffers = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(content, buffers=[bytes(buffer.raw()) for buffer in buffers])


def made_read_only(value, folder):
    network, optimizer = copy.deepcopy(value)
    for layer in network.layers:
        for name in ("inputs", "output", "dinputs", "dweights", "dbiases", "_slope"):
            if getattr(layer, name) is not None:
                getattr(layer, name).flags.writeable = False
    return network, optimizer


@pytest.mark.parametrize("optimizer", [fastbp.Adam(), fastbp.SGD(0.1, momentum=0.9), fastbp.AdamW(), fastbp.SGD()])
@pytest.mark.parametrize("restored", [mapped, from_immutable_buffers, made_read_only])
def test_training_goes_on_with_what_cannot_be_written(restored, optimizer, rng, tmp_path):
    network, optimizer, x, y = trained(rng, copy.deepcopy(optimizer))
    other, its_optimizer = restored((network, optimizer), tmp_path)
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    for pair in ((network, optimizer), (other, its_optimizer)):
        for _ in range(3):
            step(*pair, x, y)
        pair[0].fit(x, y, epochs=2, batch_size=16, optimizer=pair[1], rng=1, progress=False)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert_array_equal(one, two)
    assert its_optimizer.iterations == optimizer.iterations
    assert [path.read_bytes() for path in tmp_path.iterdir()] == files


def test_a_shallow_copy_of_an_optimizer_remembers_for_itself(rng):
    network, optimizer, x, y = trained(rng)
    twin = copy.copy(optimizer)
    step(network, optimizer, x, y)
    optimizer.learning_rate = 0.5
    assert (twin.iterations, twin.learning_rate) == (optimizer.iterations - 1, 0.001)
    assert not any(np.shares_memory(a, b) for pair in zip(optimizer._states, twin._states, strict=True)
                   for a, b in zip(*pair, strict=True))


# ---- one array in two places


def square(rng, share):
    """A network of three layers with 8 neurons, of which share(first, second) changes two."""
    layers = [fastbp.Dense(8, 8, rng=k) for k in range(3)]
    share(*layers[:2])
    return fastbp.Sequential(layers, fastbp.MeanSquaredError()), rng.standard_normal((40, 8), np.float32)


def tie(first, second):
    second.weights = first.weights


def tie_a_view(first, second):
    second.weights = first.weights[::1]


def tie_parts(first, second):
    memory = np.ones(100, np.float32)
    first.weights, second.weights = memory[:64].reshape(8, 8), memory[36:].reshape(8, 8)


def tie_biases(first, second):
    second.biases = first.biases


def tie_biases_to_weights(first, second):
    first.biases = first.weights[:1]


@pytest.mark.parametrize("share, names", [
    (tie, r"layers\[1\].weights .* layers\[0\].weights"), (tie_a_view, r"layers\[1\].weights .* layers\[0\].weights"),
    (tie_parts, r"layers\[1\].weights .* layers\[0\].weights"), (tie_biases, r"layers\[1\].biases .* layers\[0\].biases"),
    (tie_biases_to_weights, r"layers\[0\].biases .* layers\[0\].weights")])
def test_parameters_that_share_memory_are_not_trained(share, names, rng):
    network, x = square(rng, share)
    expected = [array.copy() for array in network.parameters()]
    assert_array_equal(network.predict(x), network.forward(x))
    for train in (lambda: network.fit(x, x, epochs=1, batch_size=10, optimizer=fastbp.SGD(), progress=False),
                  lambda: step(network, fastbp.Adam(), x, x)):
        with pytest.raises(ValueError, match="has memory in common with"):
            train()
    with pytest.raises(ValueError, match=names):
        network.fit(x, x, epochs=1, batch_size=10, optimizer=fastbp.SGD(), progress=False)
    for array, before in zip(network.parameters(), expected, strict=True):
        assert_array_equal(array, before)


A = np.arange(64, dtype=np.float64).reshape(8, 8)


@pytest.mark.parametrize("pair", [lambda a: (a, a), lambda a: (a, a[2:]), lambda a: (a[:5], a[4:]), lambda a: (a, a.T),
                                  lambda a: (a[:, :4], a[:, 3:]), lambda a: (a, np.broadcast_to(a[0, 0], ()).copy(), a[7])])
def test_an_update_of_shared_memory_is_refused(pair):
    a, optimizer = A.copy(), fastbp.Adam()
    parameters = pair(a)
    with pytest.raises(ValueError, match="has memory in common with"):
        optimizer.update(parameters, [np.ones_like(p) for p in parameters])
    assert_array_equal(a, A)
    optimizer.update([np.ones(3)], [np.ones(3)])            # what was refused is not what the optimiser is for


def test_parts_of_one_array_that_do_not_overlap_are_updated():
    a, b = A.copy(), A.copy()
    for array, cut in ((a, lambda a: a), (b, np.copy)):
        parts = [cut(array[:, ::2]), cut(array[:, 1::2])]
        fastbp.SGD(0.5).update(parts, [np.ones_like(part) for part in parts])
        array[:, ::2], array[:, 1::2] = parts
    assert_array_equal(a, b)


@pytest.mark.parametrize("gradients", [lambda a, b: (a, b), lambda a, b: (b, a), lambda a, b: (a[::-1], b),
                                       lambda a, b: (b, b)])
def test_gradients_that_lie_within_parameters(gradients):
    a, b = A.copy(), A.copy() + 1
    apart = [array.copy() for array in (a, b)]
    fastbp.SGD(0.5).update(apart, [gradient.copy() for gradient in gradients(a, b)])
    fastbp.SGD(0.5).update([a, b], gradients(a, b))
    assert_array_equal(a, apart[0])
    assert_array_equal(b, apart[1])


# ---- memory that a training uses and somebody else gives up meanwhile


@pytest.mark.parametrize("replace", [
    lambda o, network: o.remember([[np.zeros((1, p.size), F4) for _ in range(2)] for p in network.parameters()]),
    lambda o, network: vars(o).update(vars(copy.deepcopy(o))), lambda o, network: o.__init__()])
def test_an_optimizer_that_is_changed_during_a_fit(replace, rng):
    """The fit goes on with what it began with, and keeps it alive."""
    def train(callback):
        network = fastbp.Sequential([fastbp.Dense(20, 3000, activation="relu", rng=0), fastbp.Dense(3000, 3, rng=1)],
                                    fastbp.SoftmaxCrossEntropy())
        optimizer = fastbp.Adam()
        network.fit(x, y, epochs=1, batch_size=32, optimizer=optimizer, rng=0, progress=False)
        network.fit(x, y, epochs=3, batch_size=32, optimizer=optimizer, rng=1, progress=False,
                    callbacks=lambda network, history: callback(optimizer, network))
        return network

    def change(optimizer, network):
        replace(optimizer, network)
        _ = [np.ones(60_000, F4) for _ in range(20)]        # in the place of what was freed

    x, y = rng.standard_normal((100, 20), np.float32), rng.integers(0, 3, 100)
    for one, other in zip(train(lambda *_: None).parameters(), train(change).parameters(), strict=True):
        assert_array_equal(one, other)


def test_an_optimizer_that_several_threads_begin_with(rng):
    """Which of their first steps counts is not said, but memory stays whole."""
    sets = [[rng.standard_normal((20, 300)), rng.standard_normal((1, 300))] for _ in range(4)]
    for _ in range(20):
        optimizer = fastbp.Adam()
        threads = [threading.Thread(target=lambda s=s, o=optimizer: [o.update(s, s) for _ in range(5)]) for s in sets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(np.isfinite(array).all() for arrays in sets for array in arrays)


@pytest.mark.parametrize("view", [lambda a: a.T, lambda a: a[::-1], lambda a: a[:, ::-1]])
def test_a_view_in_another_order_is_the_same_memory(view, rng):
    """Which a copy, that can be trained, would part from it without a word."""
    network, x = square(rng, lambda first, second: None)
    first, second, _ = network.layers
    second.weights = view(first.weights)
    for use in (lambda: network.fit(x, x, epochs=1, batch_size=10, optimizer=fastbp.SGD(), progress=False),
                network.parameters, lambda: network.predict(x), lambda: fastbp.Sequential(network.layers)):
        with pytest.raises(ValueError, match=r"layers\[1\].weights has memory in common with layers\[0\].weights"):
            use()
