"""A network: its layers, the results of each layer, and its description of itself."""
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
import textbook
from fastbp import functional
from fastbp._training import session

LOSSES = [fastbp.SoftmaxCrossEntropy, fastbp.BinaryCrossEntropy, fastbp.MeanSquaredError]


def make(loss=fastbp.SoftmaxCrossEntropy, activation="relu", dtype=np.float32, rate=0.3, l2=0.0, **options):
    """5 inputs, two hidden layers, one of them with a ReLU of its own, and 3 outputs; some biases are not 0."""
    layers = [fastbp.Dense(5, 8, activation=activation, dtype=dtype, rng=0, **options), fastbp.Dropout(rate, rng=1),
              fastbp.Dense(8, 7, dtype=dtype, rng=2, **options), fastbp.ReLU(),
              fastbp.Dense(7, 3, dtype=dtype, rng=3, **options)]
    if layers[0].biases is not None:
        layers[0].biases += np.linspace(-0.2, 0.2, 8).astype(dtype)
    return fastbp.Sequential(layers, None if loss is None else loss(), l2=l2)


def data(rng, loss=fastbp.SoftmaxCrossEntropy, rows=20, dtype=np.float32):
    x = rng.standard_normal((rows, 5)).astype(dtype)
    if loss is fastbp.SoftmaxCrossEntropy:
        return x, rng.integers(0, 3, rows)
    return x, rng.random((rows, 3)).astype(dtype)


DENSE = fastbp.Dense(4, 3)


@pytest.mark.parametrize("layers, error, message", [
    ([], ValueError, "ends with no Dense"),
    ([fastbp.ReLU()], ValueError, "ends with no Dense"),
    ([fastbp.Dropout(0.1)], ValueError, "ends with no Dense"),
    ([DENSE, fastbp.Dropout(0.1)], ValueError, "ends with no Dense"),
    ([DENSE, fastbp.Dense(4, 2)], ValueError, r"layers\[1\] has 4 inputs, expected 3"),
    ([DENSE, fastbp.Dropout(0.1), fastbp.ReLU(), fastbp.Dense(3, 3)], ValueError, r"layers\[2\] is a ReLU"),
    ([DENSE, fastbp.Dropout(0.1), fastbp.Dense(2, 3)], ValueError, r"layers\[2\] has 2 inputs, expected 3"),
    ([DENSE, fastbp.Dense(3, 3, dtype=np.float64)], ValueError, "are of float64, expected float32"),
    ([fastbp.ReLU(), DENSE], ValueError, r"layers\[0\] is a ReLU, expected it after a Dense without an activation"),
    ([fastbp.DenseReLU(4, 3), fastbp.ReLU(), fastbp.Dense(3, 3)], ValueError, r"layers\[1\] is a ReLU"),
    ([fastbp.Dense(4, 3), fastbp.ReLU(), fastbp.ReLU(), fastbp.Dense(3, 3)], ValueError, r"layers\[2\] is a ReLU"),
    ([fastbp.Dense(4, 3, activation="tanh"), fastbp.ReLU(), fastbp.Dense(3, 3)], ValueError, r"layers\[1\] is a ReLU"),
    ([DENSE, "relu"], TypeError, r"layers\[1\] is 'relu', expected a Dense, DenseReLU, Dropout or ReLU"),
    ([fastbp.Dense, DENSE], TypeError, r"layers\[0\] is <class"),
    ([None], TypeError, r"layers\[0\] is None"),
    ([fastbp.SoftmaxCrossEntropy()], TypeError, r"layers\[0\] is SoftmaxCrossEntropy\(\)"),
    ([fastbp.Sequential([DENSE])], TypeError, r"layers\[0\] is <Sequential 4-3"),
    (DENSE, TypeError, "not iterable"),
    ([fastbp.Dense(4, 0)], ValueError, "the last Dense has 0 neurons"),
    ([square := fastbp.Dense(3, 3), fastbp.ReLU(), square], ValueError, r"layers\[2\] is there before"),
    ([fastbp.Dense(3, 3), relu := fastbp.ReLU(), fastbp.Dense(3, 3), relu], ValueError, r"layers\[3\] is there before"),
])
def test_layers_that_make_no_network(layers, error, message):
    with pytest.raises(error, match=message):
        fastbp.Sequential(layers)


@pytest.mark.parametrize("loss", ["softmax", fastbp.SoftmaxCrossEntropy, fastbp.Adam(), 0, lambda scores, y: 0])
def test_what_is_no_loss(loss):
    with pytest.raises(TypeError, match=r"loss is .*, expected a loss such as SoftmaxCrossEntropy\(\), or None"):
        fastbp.Sequential([fastbp.Dense(4, 3)], loss)


@pytest.mark.parametrize("l2, error", [(-1e-9, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("much", ValueError),
                                       (None, ValueError)])
def test_a_wrong_l2(l2, error):
    with pytest.raises(error):
        fastbp.Sequential([fastbp.Dense(4, 3)], l2=l2)


@pytest.mark.parametrize("activation", [name for name in textbook.ACTIVATIONS if name != "identity"])
def test_cross_entropies_bring_their_activation_with_them(activation):
    last = fastbp.Dense(4, 3, activation=activation)
    for loss, brought in ((fastbp.SoftmaxCrossEntropy(), "softmax"), (fastbp.BinaryCrossEntropy(), "sigmoid")):
        expected = f"has activation '{activation}', expected 'identity': {type(loss).__name__} brings its {brought} with it"
        with pytest.raises(ValueError, match=expected):
            fastbp.Sequential([last], loss)
        with pytest.raises(ValueError, match="has activation 'relu', expected 'identity'"):
            fastbp.Sequential([fastbp.Dense(4, 3), fastbp.ReLU()], loss)
    assert fastbp.Sequential([last], fastbp.MeanSquaredError()).layers == [last]
    assert fastbp.Sequential([last]).loss is None


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_are_the_layers_own_arrays_in_order(bias):
    network = make(bias=bias)
    layers = [network.layers[i] for i in (0, 2, 4)]
    expected = [a for layer in layers for a in ((layer.weights, layer.biases) if bias else (layer.weights,))]
    assert all(a is b for a, b in zip(network.parameters(), expected, strict=True))
    assert network.dense == layers
    assert (network.n_inputs, network.n_outputs, network.dtype) == (5, 3, np.float32)
    assert repr(network) == "<Sequential 5-8-7-3 float32, loss SoftmaxCrossEntropy()>"


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_stand_in_the_order_of_parameters(rng, bias):
    network, (x, y) = make(bias=bias), data(rng)
    _, dvalues = network.loss.value_and_gradient(network.forward(x), y)
    network.backward(dvalues)
    expected = [a for layer in network.dense for a in ((layer.dweights, layer.dbiases) if bias else (layer.dweights,))]
    assert all(a is b for a, b in zip(network.gradients(), expected, strict=True))
    assert [g.shape for g in network.gradients()] == [p.shape for p in network.parameters()]


@pytest.mark.parametrize("is_training", [True, False])
def test_forward_and_backward_are_those_of_the_layers(rng, dtype, is_training):
    network, by_hand, (x, _) = make(dtype=dtype), make(dtype=dtype), data(rng, dtype=dtype)
    scores = network.forward(x, training=is_training)
    first, dropout, second, relu, last = by_hand.layers
    h = last.forward(relu.forward(second.forward(dropout.forward(first.forward(x), training=is_training))))
    assert_array_equal(scores, h)
    dvalues = rng.standard_normal(scores.shape).astype(dtype)
    dx = network.backward(dvalues)
    expected = first.backward(dropout.backward(second.backward(relu.backward(last.backward(dvalues)))))
    assert_array_equal(dx, expected)
    for gradient, other in zip(network.gradients(), by_hand.gradients(), strict=True):
        assert_array_equal(gradient, other)
    assert is_training == (not np.array_equal(scores, make(dtype=dtype).forward(x)))


class Doubled(fastbp.Dense):
    """A user's layer, whose forward takes the inputs alone."""

    def forward(self, inputs):
        return super().forward(2 * inputs)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_layer_with_a_forward_of_its_own(rng, is_training):
    first, last = Doubled(5, 8, rng=0), fastbp.Dense(8, 3, rng=1)
    x = rng.standard_normal((6, 5)).astype("f4")
    expected = fastbp.dense_forward(fastbp.dense_forward(2 * x, first.weights), last.weights)
    assert_array_equal(fastbp.Sequential([first, last]).forward(x, training=is_training), expected)


def test_what_is_no_layer_of_fastbp_is_refused():
    class Mine:
        def forward(self, inputs, training=False):
            return inputs

        def backward(self, dvalues):
            return dvalues

    with pytest.raises(TypeError, match=r"layers\[0\] is .*Mine.*, expected a Dense, DenseReLU, Dropout or ReLU"):
        fastbp.Sequential([Mine(), fastbp.Dense(5, 3)])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", textbook.OPTIMIZERS)
def test_a_loop_of_ones_own_does_what_fit_does(rng, dtype, loss, optimizer):
    x, y = data(rng, loss, 50, dtype)
    network, fitted = make(loss, "gelu", dtype, rate=0.0), make(loss, "gelu", dtype, rate=0.0)
    mine, theirs = textbook.OPTIMIZERS[optimizer][0](), textbook.OPTIMIZERS[optimizer][0]()
    weights, losses = rng.random(50), []
    for _ in range(3):
        for rows in (slice(0, 20), slice(20, 40), slice(40, 50)):
            value, dvalues = network.loss.value_and_gradient(network.forward(x[rows], training=True), y[rows], weights[rows])
            network.backward(dvalues)
            mine.update(network.parameters(), network.gradients())
            losses.append(value * (rows.stop - rows.start) / 50)
    history = fitted.fit(x, y, epochs=3, batch_size=20, optimizer=theirs, sample_weight=weights, shuffle=False)
    close = {"rtol": 1e-3, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-12}
    for a, b in zip(network.parameters(), fitted.parameters(), strict=True):
        assert_allclose(a, b, **close)
    assert_allclose(np.reshape(losses, (3, 3)).sum(axis=1), history.loss, **close)
    assert mine.iterations == theirs.iterations == 9


def test_predictions_are_what_the_loss_makes_of_scores(rng, dtype):
    x, _ = data(rng, dtype=dtype)
    scores = make(None, dtype=dtype).predict(x)
    close = {"rtol": 1e-5 if dtype == np.float32 else 1e-12}
    assert scores.dtype == dtype
    assert_allclose(scores, textbook_scores(make(dtype=dtype), x), rtol=1e-4, atol=1e-5)
    assert_array_equal(make(fastbp.MeanSquaredError, dtype=dtype).predict(x), scores)
    classes = make(dtype=dtype).predict(x)
    assert_allclose(classes, textbook.softmax(scores), **close)
    assert_allclose(classes.sum(axis=1), 1, rtol=1e-6)
    assert_allclose(make(fastbp.BinaryCrossEntropy, dtype=dtype).predict(x), 1 / (1 + np.exp(-scores)), **close)


def textbook_scores(network, x):
    return textbook.Network(network).forward(np.asarray(x, np.float64))[0]


def test_many_rows_are_taken_in_blocks(rng, dtype):
    x, y = data(rng, rows=10_000, dtype=dtype)
    network = make(dtype=dtype)
    together = network.predict(x)
    assert_allclose(together, textbook.softmax(textbook_scores(network, x)), rtol=1e-4, atol=1e-5)
    assert_allclose(np.concatenate([network.predict(x[i:i + 1000]) for i in range(0, 10_000, 1000)]), together, rtol=1e-5)
    assert network.predict(x[:0]).shape == (0, 3)
    assert network.evaluate(x, y)[1] == (together.argmax(axis=1) == y).mean()


def test_any_x_is_predicted(rng, dtype):
    network = make(dtype=dtype)
    x = rng.integers(-3, 4, (20, 5)).astype(dtype)
    padded = np.zeros((40, 11), dtype)
    padded[::2, 1::2] = x
    expected = network.predict(x)
    for same in (x.astype(np.float16), x.astype(np.float32), x.astype(np.float64), x.astype(np.int64), x.astype(np.int8),
                 x.tolist(), np.asfortranarray(x), padded[::2, 1::2], x[::-1].copy()[::-1], x.astype(x.dtype.newbyteorder())):
        predicted = network.predict(same)
        assert predicted.dtype == dtype
        assert_array_equal(predicted, expected)
    assert_allclose(network.predict(x[3]), expected[3:4], rtol=1e-5)
    assert_array_equal(network.predict(x > 0), network.predict((x > 0).astype(dtype)))


@pytest.mark.parametrize("x, error, message", [
    (np.ones((3, 4)), ValueError, r"x has shape \(3, 4\), expected \(rows, 5\): the first layer has 5 inputs"),
    (np.ones((2, 3, 5)), ValueError, r"x has shape \(2, 3, 5\)"),
    (3.0, ValueError, r"x has shape \(\)"),
    (np.ones((3, 5)) * 1j, TypeError, "x has dtype complex128"),
    ([["a"] * 5], TypeError, "x has dtype <U1"),
])
def test_what_cannot_be_predicted(x, error, message):
    for work in (make().predict, lambda x: make().evaluate(x, [0]), lambda x: make().check_gradients(x, [0])):
        with pytest.raises(error, match=message):
            work(x)


def test_predicting_leaves_the_layers_as_they_are(rng):
    network, (x, y) = make(), data(rng)
    scores = network.forward(x, training=True)
    network.backward(np.ones_like(scores))
    before = [(name, value, value.tobytes() if isinstance(value, np.ndarray) else None)
              for layer in network.layers for name, value in vars(layer).items()]
    for _ in range(2):
        network.predict(x[:7])
        network.evaluate(x, y)
        network.check_gradients(x, y)
        network.summary()
    after = [(name, value) for layer in network.layers for name, value in vars(layer).items()]
    for (name, old, content), (_, new) in zip(before, after, strict=True):
        assert new is old, name
        assert content is None or old.tobytes() == content, name


def test_a_dropout_drops_nothing_of_what_is_predicted(rng):
    x, y = data(rng)
    expected, without = make(rate=0.9), make(rate=0.0)
    assert_array_equal(expected.predict(x), without.predict(x))
    assert expected.evaluate(x, y) == without.evaluate(x, y)


@pytest.mark.parametrize("loss", LOSSES)
def test_evaluate(rng, dtype, loss):
    x, y = data(rng, loss, dtype=dtype)
    network, weights = make(loss, dtype=dtype, l2=0.1), rng.random(20)
    z = textbook_scores(network, x)
    losses, _, right = textbook.LOSSES[loss.__name__](z, y)
    penalty = 0.05 * sum((layer.weights.astype(np.float64)**2).sum() for layer in network.dense)
    value, accuracy = network.evaluate(x, y)
    weighted, same_accuracy = network.evaluate(x, y, weights)
    close = {"rtol": 1e-5 if dtype == np.float32 else 1e-12}
    assert_allclose(value, losses.mean() + penalty, **close)
    assert_allclose(weighted, (weights * losses).sum() / weights.sum() + penalty, **close)
    assert accuracy == same_accuracy == (None if right is None else pytest.approx(right / 20))
    assert network.evaluate(x.tolist(), y.tolist())[0] == pytest.approx(value, rel=1e-5)


def test_a_single_row_of_targets_of_any_stride(dtype):
    """The stride of an axis of length 1 means nothing: it is 0 of y[np.newaxis]."""
    network, x = make(dtype=dtype), np.ones(5, dtype)
    shares = np.array([0.2, 0.5, 0.3], dtype)
    expected = network.evaluate(x, [shares.tolist()])
    for y in (shares[np.newaxis], np.broadcast_to(shares, (1, 3)), np.repeat([shares], 9, axis=0)[::5][:1]):
        assert network.evaluate(x, y) == expected
        assert network.check_gradients(x, y) < 1e-6


def test_evaluating_no_rows():
    loss, accuracy = make().evaluate(np.empty((0, 5)), np.empty(0, int))
    assert np.isnan(loss) and accuracy is None


def test_of_equal_scores_the_first_is_the_answer(dtype):
    """As numpy.argmax has it: a network of zeros is not always right."""
    network = make(dtype=dtype)
    for a in network.parameters():
        a[:] = 0
    x, y = np.ones((9, 5), dtype), np.arange(9) % 3
    assert network.evaluate(x, y)[1] == 1 / 3
    assert network.evaluate(x, np.eye(3)[y])[1] == 1 / 3
    network.layers[-1].biases[0, 1:] = 1
    assert network.evaluate(x, np.full(9, 1))[1] == 1 and network.evaluate(x, np.full(9, 2))[1] == 0


@pytest.mark.parametrize("y, weights, message", [
    ([0, 1, 2], None, r"targets has shape \(3,\)"), ([0, 1, 2, 3], None, "targets has classes from 0 to 3"),
    ([0, 1, 2, 0], [1, 1], r"sample_weight has shape \(2,\)"), ([0, 1, 2, 0], [-1, 1, 1, 1], "negative")])
def test_targets_that_cannot_be_evaluated(y, weights, message):
    with pytest.raises(ValueError, match=message):
        make().evaluate(np.ones((4, 5)), y, weights)


@pytest.mark.parametrize("name", ["evaluate", "check_gradients"])
def test_what_needs_a_loss(name):
    with pytest.raises(ValueError, match=rf"loss is None, expected one for {name}, as in Sequential\(layers, Soft"):
        getattr(make(None), name)(np.ones((4, 5)), [0, 1, 2, 0])


def test_summary():
    network = fastbp.Sequential([fastbp.Dense(784, 300, rng=0), fastbp.ReLU(), fastbp.Dropout(0.25),
                                 fastbp.Dense(300, 100, activation="tanh", bias=False, rng=0), fastbp.DenseReLU(100, 20, rng=0),
                                 fastbp.Dense(20, 10, rng=0)], fastbp.SoftmaxCrossEntropy(), l2=1e-4)
    assert network.summary() == """\
layer         output       parameters
-------------------------------------
Dense         (rows, 300)     235,500
ReLU          (rows, 300)           0
Dropout 0.25  (rows, 300)           0
Dense tanh    (rows, 100)      30,000
Dense relu    (rows, 20)        2,020
Dense         (rows, 10)          210
-------------------------------------
all           float32         267,730
loss SoftmaxCrossEntropy(), l2 0.0001"""
    assert fastbp.Sequential([fastbp.Dense(2, 1, dtype=np.float64)]).summary().splitlines()[-2:] == [
        "all    float64             3", "loss none, l2 0"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", textbook.ACTIVATIONS)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_gradients_of_right_networks_are_right(rng, dtype, activation, loss, rate):
    x, y = data(rng, loss, dtype=dtype)
    assert make(loss, activation, dtype, rate).check_gradients(x, y) < 1e-6


@pytest.mark.parametrize("seed", range(10))
def test_kinks_are_found_where_the_dropout_has_been(seed):
    """With so many samples and neurons some are at a kink, and not the same ones as without the dropouts."""
    layers = [fastbp.Dropout(0.3), fastbp.DenseReLU(5, 40, rng=seed), fastbp.Dropout(0.5),
              fastbp.Dense(40, 30, activation="leaky_relu", rng=seed + 1), fastbp.Dense(30, 3, rng=seed + 2)]
    x, y = data(np.random.default_rng(seed), rows=300)
    assert fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy()).check_gradients(x, y, places=30) < 1e-6


def test_gradients_of_networks_without_biases_or_of_bfloat16(rng, recwarn):
    x, y = data(rng)
    assert make(bias=False).check_gradients(x, y) < 1e-6
    assert make(precision="bfloat16").check_gradients(x, y) < 1e-6
    assert make().check_gradients(x[0], y[:1]) < 1e-6
    assert make().check_gradients(x, y, places=3, rng=np.random.default_rng(5)) < 1e-6


@pytest.mark.parametrize("factor, i", [(1.01, 0), (0.0, 3), (-1.0, 5), (np.nan, 4)])
def test_a_wrong_gradient_is_noticed(rng, monkeypatch, factor, i):
    advance = session.TrainingSession.advance

    def wrong(run, batches):
        goes_on = advance(run, batches)
        run.gradients[i] *= factor
        return goes_on

    monkeypatch.setattr(session.TrainingSession, "advance", wrong)
    assert not make().check_gradients(*data(rng)) < 5e-3


def test_a_single_wrong_element_is_noticed(rng, monkeypatch):
    advance = session.TrainingSession.advance

    def wrong(run, batches):
        goes_on = advance(run, batches)
        run.gradients[2][3, 2] += 0.1 * np.abs(run.gradients[2]).max()
        return goes_on

    monkeypatch.setattr(session.TrainingSession, "advance", wrong)
    network, (x, y) = make(), data(rng)
    assert network.check_gradients(x, y) > 0.09
    assert network.check_gradients(x, y, places=0) == 0


def test_samples_at_a_kink_are_an_error():
    network = make(dtype=np.float64)
    with pytest.raises(ValueError, match="x has 0 rows that are all at the kink"):
        network.check_gradients(np.empty((0, 5)), np.empty(0, int))
    network.layers[0].biases[:] = 0
    with pytest.raises(ValueError, match="x has 4 rows that are all at the kink of a ReLU, expected others"):
        network.check_gradients(np.zeros((4, 5)), [0, 1, 2, 0])


@pytest.mark.parametrize("change", [np.asfortranarray, lambda a: a.astype(np.float64), lambda a: np.round(a).astype(np.int64),
                                    lambda a: a.astype(np.float16), lambda a: a.tolist(), lambda a: np.repeat(a, 2, 1)[:, ::2]],
                         ids=["Fortran", "float64", "int64", "float16", "list", "strided"])
@pytest.mark.parametrize("i", [0, 2, 4])
def test_assigned_weights_count_with_the_networks_dtype(rng, dtype, change, i):
    x, y = data(rng, dtype=dtype)
    network, expected = make(dtype=dtype), make(dtype=dtype)
    given = change(network.layers[i].weights)
    expected.layers[i].weights = np.array(given, dtype, order="C")
    network.layers[i].weights = given
    if network.layers[i].biases.any():
        network.layers[i].biases = network.layers[i].biases[0]
    assert network.dtype == dtype
    predicted = network.predict(x)
    assert predicted.dtype == dtype
    assert_array_equal(predicted, expected.predict(x))
    assert network.evaluate(x, y) == expected.evaluate(x, y)
    assert network.check_gradients(x, y) < 1e-6
    assert network.summary() == expected.summary()


def test_assigned_weights_of_other_sizes_make_another_network(rng):
    network = make()
    network.layers[2].weights, network.layers[2].biases = rng.random((8, 9)), None
    network.layers[4].weights = rng.random((9, 3))
    assert_allclose(network.predict(np.ones((2, 5))), textbook.softmax(textbook_scores(network, np.ones((2, 5)))), rtol=1e-5)


def test_layers_may_be_replaced_if_they_fit(rng):
    network, x = make(None), np.ones((2, 5), np.float32)
    network.layers[0] = fastbp.DenseReLU(5, 9, rng=0)
    with pytest.raises(ValueError, match=r"layers\[2\] has 8 inputs, expected 9"):
        network.predict(x)
    network.layers[0] = fastbp.Dense(5, 8, activation="sigmoid", rng=0)
    assert_allclose(network.predict(x), textbook_scores(network, x), rtol=1e-4, atol=1e-5)


def test_a_precision_the_dtype_does_not_have(recwarn):
    network = make(dtype=np.float64)
    network.layers[0].precision = "bfloat16"
    for work in (lambda: network.fit(np.ones((4, 5)), [0, 1, 2, 0], epochs=1, batch_size=4, optimizer=fastbp.SGD()),
                 lambda: network.predict(np.ones((4, 5)))):
        with pytest.raises(ValueError, match="precision is 'bfloat16', expected 'float64' or None"):
            work()


def test_without_inputs_biases_are_learnt():
    network = fastbp.Sequential([fastbp.Dense(0, 3)], fastbp.SoftmaxCrossEntropy())
    y = np.repeat([0, 1, 2], [10, 20, 30])
    network.fit(np.empty((60, 0)), y, epochs=300, batch_size=60, optimizer=fastbp.SGD(0.5))
    assert_allclose(network.predict(np.empty((1, 0))), [[1 / 6, 1 / 3, 1 / 2]], rtol=0.02)


def test_predicting_compiles_nothing_of_its_own(rng):
    """It calls the same function as a layer by itself."""
    x, _ = data(rng)
    network = fastbp.Sequential([fastbp.DenseReLU(5, 3, rng=0)])
    assert_array_equal(network.predict(x), functional.dense_relu_forward(x, *network.parameters()))


@pytest.mark.parametrize("l2", [-5, float("nan"), float("inf"), "x", None])
def test_l2_is_checked_when_it_is_assigned(l2):
    network = fastbp.Sequential([fastbp.Dense(2, 1)], fastbp.MeanSquaredError())
    for assign in (lambda: setattr(network, "l2", l2), lambda: fastbp.Sequential(network.layers, network.loss, l2=l2)):
        with pytest.raises(ValueError, match="l2 is .*, expected a number of 0 or more"):
            assign()
    assert network.l2 == 0
