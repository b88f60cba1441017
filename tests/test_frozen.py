"""Frozen networks, and the compiled call that makes all predictions."""
import copy
import pickle

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
from fastbp.kernels.elementwise.activations import NAMES

# Sizes of networks whose layers take each algorithm at some number of rows: naive, skinny, unpacked and packed, with one KC
# block and several, whole tiles, column-edge tiles and both.
SIZES = (4, 32, 3), (13, 1), (8, 64, 64, 4), (64, 128, 10), (300, 530, 40, 2), (700, 100, 10), (1, 5, 1), (600, 600)

# Numbers of rows on both sides of those at which the algorithm or the number of blocks changes.
ROWS = 0, 1, 2, 5, 12, 13, 16, 17, 32, 33, 129, 1000

LOSSES = None, fastbp.SoftmaxCrossEntropy(), fastbp.BinaryCrossEntropy(), fastbp.MeanSquaredError()


def network(sizes, loss=None, activation="relu", dtype=np.float32, bias=True, precision=None):
    """Return a network with biases that are not 0."""
    rng = np.random.default_rng(5)
    layers = [fastbp.Dense(p, q, activation=activation if k < len(sizes) - 2 else "identity", bias=bias, dtype=dtype, rng=rng,
                           precision=precision) for k, (p, q) in enumerate(zip(sizes, sizes[1:], strict=False))]
    for layer in layers:
        if bias:
            layer.biases[:] = rng.standard_normal(layer.biases.shape)
    return fastbp.Sequential(layers, loss)


def by_layers(net, x):
    """Return the predictions of the layers' forward passes, one after another."""
    h = x
    for layer in net.layers:
        h = layer.forward(h)
    return h if net.loss is None else net.loss.predictions(h)


def normal(rows, cols, dtype=np.float32):
    return np.random.default_rng(rows).standard_normal((rows, cols)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bits_are_those_of_the_layers(sizes, dtype):
    for bias in (True, False):
        net = network(sizes, dtype=dtype, bias=bias)
        frozen = net.frozen()
        for rows in ROWS:
            x = normal(rows, sizes[0], dtype)
            expected = by_layers(net, x)
            for given in (x, np.asfortranarray(x)):
                assert_array_equal(net.predict(given), by_layers(net, given), str((rows, bias)))
                assert_array_equal(frozen(given), net.predict(given), str((rows, bias)))
            assert frozen(x).dtype == dtype and frozen(x).shape == expected.shape


def test_blocks_of_rows_have_the_bits_of_all_rows_together():
    net = network((20, 70, 5), fastbp.SoftmaxCrossEntropy())
    for rows in (4095, 4096, 4097, 8200):
        x = normal(rows, 20)
        expected = by_layers(net, x)
        assert_array_equal(net.predict(x), expected)
        assert_array_equal(net.frozen()(x.astype(np.float16)), net.predict(x.astype(np.float16).astype(np.float32)))


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_activations_and_losses(activation, loss):
    net = network((9, 70, 6), loss, activation)
    for rows in (1, 7, 40):
        x = normal(rows, 9)
        expected = by_layers(net, x)
        assert_array_equal(net.predict(x), expected)
        assert_array_equal(net.frozen()(x), expected)


def test_a_loss_of_a_user_predicts_what_it_says():
    class Doubled(fastbp.SoftmaxCrossEntropy):
        def predictions(self, scores):
            return 2 * scores

    net, x = network((9, 7, 6), Doubled()), normal(5, 9)
    assert_array_equal(net.predict(x), 2 * network((9, 7, 6)).predict(x))
    assert_array_equal(net.frozen()(x), net.predict(x))


@pytest.mark.filterwarnings("ignore:precision 'bfloat16'")
def test_bfloat16():
    net = network((40, 50, 6), precision="bfloat16")
    net.layers[1].precision = None
    for rows in (1, 30, 300):
        x = normal(rows, 40)
        assert_array_equal(net.predict(x), by_layers(net, x))
        assert_array_equal(net.frozen()(x), by_layers(net, x))


def test_no_thread_changes_a_bit():
    before = fastbp.get_num_threads()
    net = network((784, 512, 10), fastbp.SoftmaxCrossEntropy())
    frozen = net.frozen()
    try:
        for rows in (8, 100, 3000):
            x = normal(rows, 784)
            fastbp.set_num_threads(1)
            expected = net.predict(x)
            for threads in (2, 3):
                fastbp.set_num_threads(threads)
                assert_array_equal(net.predict(x), expected)
                assert_array_equal(frozen(x), expected)
    finally:
        fastbp.set_num_threads(before)


def test_accuracy():
    sizes = (300, 200, 7)
    net, x = network(sizes, activation="tanh"), normal(50, 300)
    h = x.astype(np.longdouble)
    for layer in net.layers:
        h = h @ layer.weights.astype(np.longdouble) + layer.biases
        h = np.tanh(h) if layer.activation == "tanh" else h
    assert_allclose(net.frozen()(x), h.astype(np.float64), rtol=1e-4, atol=1e-4)


# ---- what changes later


@pytest.mark.parametrize("rows", [1, 40])
def test_it_holds_what_weights_were(rows):
    net, x = network((9, 300, 3), fastbp.SoftmaxCrossEntropy()), normal(rows, 9)       # wide: a row is not packed
    frozen, expected = net.frozen(), net.predict(x)
    for change in (lambda: np.multiply(net.layers[0].weights, 2, out=net.layers[0].weights),
                   lambda: setattr(net.layers[1], "biases", np.full((1, 3), [7, 1, 2], np.float32)),
                   lambda: net.layers.pop(0)):
        before = net.predict(x)
        change()
        if len(net.layers) == 2:
            assert not np.array_equal(net.predict(x), before)
            assert_array_equal(net.frozen()(x), net.predict(x))
        assert_array_equal(frozen(x), expected)


def assign(net):
    net.layers[0].weights = net.layers[0].weights * 2


def assign_biases(net):
    net.layers[0].biases = net.layers[0].biases[0] + 1


def drop_biases(net):
    net.layers[0].biases = None


def assign_elsewhere(net):
    net.layers[0].weights = np.asfortranarray(net.layers[0].weights) * 3


def lock(net):
    net.layers[0].weights *= 2
    net.layers[0].weights.flags.writeable = False


def resize(net):
    array = net.layers[0].weights
    content = array * 4
    array.resize((9000, 70), refcheck=False)            # moves the memory
    array.resize((9, 70), refcheck=False)
    array[:] = content


def swap_content(net):
    other = (np.ones((9, 70), np.float32) / 7)
    net.layers[0].weights.__setstate__(other.__reduce__()[2])


def replace_layer(net):
    net.layers[0] = fastbp.Dense(9, 70, activation="tanh", rng=3)


def change_activation(net):
    net.layers[0]._kind = NAMES.index("sigmoid")


def change_loss(net):
    net.loss = fastbp.SoftmaxCrossEntropy()


@pytest.mark.parametrize("change", [assign, assign_biases, drop_biases, assign_elsewhere, lock, resize, swap_content,
                                    replace_layer, change_activation, change_loss], ids=lambda change: change.__name__)
def test_a_prediction_takes_what_the_network_is_now(change):
    net, x = network((9, 70, 3)), normal(7, 9)
    before = net.predict(x)
    change(net)
    expected = by_layers(copy.deepcopy(net), x)
    assert_array_equal(net.predict(x), expected)
    assert_array_equal(net.predict(x), expected)
    assert not np.array_equal(expected, before)


@pytest.mark.parametrize("change, message", [
    (lambda layer: setattr(layer, "weights", np.ones((9, 8), np.float32)), "has 70 inputs, expected 8"),
    (lambda layer: setattr(layer, "biases", np.ones((1, 8), np.float32)), r"biases has shape \(1, 8\)"),
    (lambda layer: setattr(layer, "weights", np.ones(9, np.float32)), "has weights of shape"),
])
def test_what_fits_no_more_is_refused(change, message):
    net, x = network((9, 70, 3)), normal(7, 9)
    net.predict(x)
    change(net.layers[0])
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            net.predict(x)
    with pytest.raises(ValueError, match=message):
        net.frozen()


def test_a_network_that_has_predicted_is_pickled_without_more():
    net, x = network((9, 70, 3)), normal(7, 9)
    size = len(pickle.dumps(net))
    expected = net.predict(x)
    assert len(pickle.dumps(net)) == size
    for same in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert_array_equal(same.predict(x), expected)
        same.layers[0].weights *= 2
        assert not np.array_equal(same.predict(x), expected)
    assert_array_equal(net.predict(x), expected)


# ---- what it takes


def test_it_takes_what_predict_takes():
    net = network((6, 9, 3))
    frozen, x = net.frozen(), np.random.default_rng(1).integers(-3, 4, (20, 6)).astype(np.float32)
    padded = np.zeros((40, 13), np.float32)
    padded[::2, 1::2] = x
    for same in (x.astype(np.float16), x.astype(np.float64), x.astype(np.int8), x.tolist(), np.asfortranarray(x),
                 padded[::2, 1::2], x[::-1].copy()[::-1], x.astype(">f4"), x[3], x[3].tolist(), x > 0, x[:0]):
        assert_array_equal(frozen(same), net.predict(same))
        assert frozen(same).dtype == np.float32


@pytest.mark.parametrize("x", [np.ones((3, 4)), np.ones((2, 3, 6)), 3.0, np.ones((3, 6)) * 1j, [["a"] * 6], None,
                               np.ma.masked_array(np.ones((3, 6)))], ids=lambda x: type(x).__name__)
def test_errors_are_those_of_predict(x):
    net = network((6, 9, 3))
    with pytest.raises((ValueError, TypeError)) as expected:
        net.predict(x)
    with pytest.raises(expected.type) as raised:
        net.frozen()(x)
    assert str(raised.value) == str(expected.value)


def test_a_dask_array():
    da = pytest.importorskip("dask.array")
    net, x = network((6, 9, 3), fastbp.SoftmaxCrossEntropy()), normal(40, 6)
    assert_array_equal(net.frozen()(da.from_array(x, chunks=(20, 6))).compute(), net.predict(x))


def test_pickle_copy_and_repr():
    net, x = network((6, 9, 3), fastbp.BinaryCrossEntropy()), normal(5, 6)
    frozen = net.frozen()
    assert repr(frozen) == "<Frozen 6-9-3 float32, loss BinaryCrossEntropy()>"
    assert (frozen.dtype, frozen.n_inputs, frozen.n_outputs) == (np.float32, 6, 3)
    assert isinstance(frozen, fastbp.Frozen)
    for same in (pickle.loads(pickle.dumps(frozen)), copy.copy(frozen), copy.deepcopy(frozen)):
        assert_array_equal(same(x), frozen(x))
        assert repr(same) == repr(frozen)


def test_a_relu_and_a_dropout_are_part_of_it():
    net = fastbp.Sequential([fastbp.Dense(6, 9, rng=0), fastbp.ReLU(), fastbp.Dropout(0.5), fastbp.Dense(9, 3, rng=1)])
    x = normal(5, 6)
    assert_array_equal(net.frozen()(x), net.forward(x))
    assert_array_equal(net.predict(x), net.forward(x))


def test_a_layer_without_inputs():
    net = fastbp.Sequential([fastbp.Dense(0, 3)])
    net.layers[0].biases[:] = 1, 2, 3
    for predict in (net.predict, net.frozen()):
        assert_array_equal(predict(np.empty((2, 0), np.float32)), [[1, 2, 3]] * 2)


# ---- in compiled code


@numba.njit
def call(predict, x):
    return predict(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_in_compiled_code(dtype):
    net = network((8, 64, 64, 4), fastbp.SoftmaxCrossEntropy(), dtype=dtype)
    frozen = net.frozen()
    for rows in (0, 1, 30, 300):
        x = normal(rows, 8, dtype)
        for given in (x, np.asfortranarray(x), x[:, ::-1], x.astype(np.float64), (x * 3).astype(np.int32)):
            assert_array_equal(call(frozen, given), frozen(given))
    assert_array_equal(call(frozen, x[1]), frozen(x[1]))
    assert_array_equal(call(frozen, x[:8, 0]), frozen(x[:8, 0]))


def summing(frozen):
    @numba.njit
    def total(x):
        result = np.float32(0)
        for i in range(len(x)):
            result += frozen(x[i:i + 1]).sum()
        return result

    return total


def test_as_a_global_of_compiled_code():
    net, x = network((6, 9, 3)), normal(5, 6)
    totals = [summing(net.frozen())(x)]
    net.layers[0].weights *= 2
    totals.append(summing(net.frozen())(x))
    assert totals[0] != totals[1]
    assert_allclose(totals[1], net.predict(x).sum(), rtol=1e-5)


def test_what_compiled_code_refuses():
    frozen = network((6, 9, 3)).frozen()
    for x, message in ((np.ones((2, 6)) * 1j, "x has dtype complex128"), (np.ones((2, 2, 6)), "expected an array"),
                       (3.0, "expected an array")):
        with pytest.raises((TypingError, TypeError, ValueError), match=None if numba.config.DISABLE_JIT else message):
            call(frozen, x)
    for x in (np.ones((2, 5), np.float32), np.ones(5, np.float32)):
        with pytest.raises(ValueError, match="expected"):
            call(frozen, x)
