"""The book's classes one by one: beside plain NumPy, central differences and numbers computed by hand."""
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastbp import nnfs
from test_gradients import central_differences


class DenseTwin:
    """The book's dense layer in plain NumPy."""

    def __init__(self, n_inputs, n_neurons):
        self.weights = 0.01 * np.random.randn(n_inputs, n_neurons)
        self.biases = np.zeros((1, n_neurons))

    def forward(self, inputs):
        self.inputs, self.output = inputs, np.dot(inputs, self.weights) + self.biases

    def backward(self, dvalues):
        self.dweights = np.dot(self.inputs.T, dvalues)
        self.dbiases = np.sum(dvalues, axis=0, keepdims=True)
        self.dinputs = np.dot(dvalues, self.weights.T)


class ReLUTwin:
    """The book's ReLU in plain NumPy."""

    def forward(self, inputs):
        self.inputs, self.output = inputs, np.maximum(0, inputs)

    def backward(self, dvalues):
        self.dinputs = dvalues.copy()
        self.dinputs[self.inputs <= 0] = 0


def spiral_data(samples, classes):
    """Points on one arm of a spiral for each class, somewhat scattered: (points (n, 2), classes (n,))."""
    radius = np.linspace(0, 1, samples)
    points = []
    for arm in range(classes):
        angle = 4 * (arm + radius) + 0.2 * np.random.randn(samples)
        points.append(np.column_stack([radius * np.sin(2.5 * angle), radius * np.cos(2.5 * angle)]))
    return np.concatenate(points), np.repeat(np.arange(classes), samples)


def softmax_loss(scores, classes):
    """The mean cross-entropy of the softmax, and its gradient with respect to the scores."""
    rows = np.arange(len(scores))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    loss = -np.log(np.clip(probabilities[rows, classes], 1e-7, 1 - 1e-7)).mean()
    probabilities[rows, classes] -= 1
    return loss, probabilities / len(scores)


class Network:
    """2 inputs, 64 hidden neurons, 3 classes, of whichever classes of layers, and plain gradient descent."""

    def __init__(self, dense, relu, seed=0):
        np.random.seed(seed)
        self.points, self.classes = spiral_data(100, 3)
        self.first, self.activation, self.last = dense(2, 64), relu(), dense(64, 3)

    def step(self, learning_rate):
        self.first.forward(self.points)
        self.activation.forward(self.first.output)
        self.last.forward(self.activation.output)
        loss, dvalues = softmax_loss(self.last.output, self.classes)
        self.last.backward(dvalues)
        self.activation.backward(self.last.dinputs)
        self.first.backward(self.activation.dinputs)
        for layer in (self.first, self.last):
            layer.weights += -learning_rate * layer.dweights
            layer.biases += -learning_rate * layer.dbiases
        return loss


@pytest.fixture
def networks():
    return Network(nnfs.Layer_Dense, nnfs.Activation_ReLU), Network(DenseTwin, ReLUTwin)


def test_a_seeded_script_draws_the_same_stream(networks):
    ours, numpys = networks
    for name in ("first", "last"):
        for parameter in ("weights", "biases"):
            array = getattr(getattr(ours, name), parameter)
            assert array.dtype == np.float64
            assert_array_equal(array, getattr(getattr(numpys, name), parameter))
    assert_array_equal(ours.points, numpys.points)


def test_the_same_gradients(networks):
    ours, numpys = networks
    for network in networks:
        network.last.biases += 0.1
        network.step(0.5)
    for name in ("output", "inputs", "dinputs", "dweights", "dbiases"):
        for layer in ("first", "last"):
            a, b = (getattr(getattr(network, layer), name) for network in networks)
            assert a.dtype == np.float64
            assert a.shape == b.shape
            assert_allclose(a, b, rtol=1e-12, atol=1e-15, err_msg=f"{layer}.{name}")
    for name in ("output", "inputs", "dinputs"):
        assert_allclose(getattr(ours.activation, name), getattr(numpys.activation, name), rtol=1e-12, atol=1e-15)


def test_methods_return_nothing():
    """As in the book, whose scripts read attributes."""
    dense, relu = nnfs.Layer_Dense(2, 3), nnfs.Activation_ReLU()
    x = np.ones((4, 2))
    assert dense.forward(x) is None
    assert dense.inputs is x
    assert relu.forward(dense.output) is None
    assert relu.backward(relu.output) is None
    assert dense.backward(relu.dinputs) is None
    assert dense.output.shape == dense.dinputs[:, :1].repeat(3, axis=1).shape == (4, 3)
    assert dense.weights.shape == dense.dweights.shape == (2, 3)
    assert dense.biases.shape == dense.dbiases.shape == (1, 3)


def test_lists_as_in_the_first_chapters():
    dense = nnfs.Layer_Dense(3, 2)
    dense.weights, dense.biases = np.array([[1.0, -1.0], [2.0, 0.5], [0.0, 3.0]]), np.array([[0.5, -0.5]])
    dense.forward([[1, 2, 3], [4, 5, 6]])
    assert_array_equal(dense.output, [[5.5, 8.5], [14.5, 16.0]])


@pytest.mark.parametrize("learning_rate, epochs", [(1.0, 300), (0.05, 10_000)])
def test_the_same_losses(networks, learning_rate, epochs):
    """To 3 decimals in every epoch, at learning rates of which the run is not chaotic; and the networks do learn."""
    ours, numpys = (np.array([network.step(learning_rate) for _ in range(epochs)]) for network in networks)
    assert abs(ours - numpys).max() < 0.0005
    assert ours[-1] < ours[0] - 0.01


def test_the_names():
    assert nnfs.__all__ == sorted(nnfs.__all__)
    assert all(getattr(nnfs, name).__doc__ for name in nnfs.__all__)


def probabilities(rng, rows, columns):
    values = rng.uniform(0.1, 1, (rows, columns))
    return values / values.sum(axis=1, keepdims=True)


ACTIVATIONS = nnfs.Activation_ReLU, nnfs.Activation_Softmax, nnfs.Activation_Sigmoid, nnfs.Activation_Linear


@pytest.mark.parametrize("activation_type", ACTIVATIONS)
def test_gradients_of_activations(rng, activation_type):
    activation, inputs, dvalues = activation_type(), rng.standard_normal((5, 4)), rng.standard_normal((5, 4))

    def weighted_sum():
        activation.forward(inputs)
        return (dvalues * activation.output).sum()

    numeric = central_differences(weighted_sum, inputs)
    weighted_sum()
    activation.backward(dvalues)
    assert_allclose(activation.dinputs, numeric, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("activation_type, outputs, expected", [
    (nnfs.Activation_ReLU, [[0.0, 3.0]], [[0.0, 3.0]]),
    (nnfs.Activation_Softmax, [[0.2, 0.7, 0.1], [0.5, 0.2, 0.3]], [1, 0]),
    (nnfs.Activation_Sigmoid, [[0.5, 0.51], [0.9, 0.1]], [[0, 1], [1, 0]]),
    (nnfs.Activation_Linear, [[-1.5], [2.0]], [[-1.5], [2.0]]),
])
def test_predictions(activation_type, outputs, expected):
    assert_array_equal(activation_type().predictions(np.array(outputs)), expected)


def test_large_inputs():
    softmax, sigmoid = nnfs.Activation_Softmax(), nnfs.Activation_Sigmoid()
    softmax.forward([[1000, 0], [-1000, -1000]])
    assert_array_equal(softmax.output, [[1, 0], [0.5, 0.5]])
    sigmoid.forward(np.array([[-1000.0, 0.0, 1000.0]]))
    assert_array_equal(sigmoid.output, [[0, 0.5, 1]])


CLASSES = np.array([2, 0, 1, 1, 2, 0])
ONE_HOT = np.eye(3, dtype=np.uint8)[CLASSES]            # unsigned: its negative would be 255
SOFT = np.array([[0.5, 0.25, 0.25]] * 6)


def targets(loss_type, rng):
    """What a loss can be given for y_true, (6,) or (6, 3)."""
    if loss_type is nnfs.Loss_CategoricalCrossentropy:
        return CLASSES, CLASSES.astype(np.uint8), ONE_HOT, SOFT
    if loss_type is nnfs.Loss_BinaryCrossentropy:
        return ONE_HOT, ONE_HOT == 1, SOFT
    return rng.standard_normal((6, 3)), ONE_HOT


LOSSES = (nnfs.Loss_CategoricalCrossentropy, nnfs.Loss_BinaryCrossentropy, nnfs.Loss_MeanSquaredError,
          nnfs.Loss_MeanAbsoluteError)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_gradients_of_losses(rng, loss_type):
    loss, y_pred = loss_type(), probabilities(rng, 6, 3)
    for y_true in targets(loss_type, rng):
        loss.backward(y_pred, y_true)
        numeric = central_differences(lambda y_true=y_true: loss.calculate(y_pred, y_true), y_pred)
        assert_allclose(loss.dinputs, numeric, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("loss_type, y_pred, y_true, expected", [
    (nnfs.Loss_CategoricalCrossentropy, [[0.7, 0.3], [0.1, 0.9]], [0, 0], [-np.log(0.7), -np.log(0.1)]),
    (nnfs.Loss_CategoricalCrossentropy, [[0.7, 0.3], [0.1, 0.9]], [[1, 0], [0, 1]], [-np.log(0.7), -np.log(0.9)]),
    (nnfs.Loss_CategoricalCrossentropy, [[1.0, 0.0], [1.0, 0.0]], [1, 0], [-np.log(1e-7), -np.log(1 - 1e-7)]),
    (nnfs.Loss_BinaryCrossentropy, [[0.7, 0.2]], [[1, 0]], [-(np.log(0.7) + np.log(0.8)) / 2]),
    (nnfs.Loss_BinaryCrossentropy, [[1.0], [1.0]], [[0], [1]], [-np.log(1e-7), -np.log(1 - 1e-7)]),
    (nnfs.Loss_MeanSquaredError, [[1.0, 2.0], [0.0, 1.0]], [[0, 4], [3, 1]], [2.5, 4.5]),
    (nnfs.Loss_MeanAbsoluteError, [[1.0, 2.0], [0.0, 1.0]], [[0, 4], [3, 1]], [1.5, 1.5]),
])
def test_the_loss_of_each_sample(loss_type, y_pred, y_true, expected):
    loss = loss_type()
    assert_allclose(loss.forward(y_pred, y_true), expected, rtol=1e-9)
    assert loss.calculate(y_pred, y_true) == pytest.approx(np.mean(expected))


def test_certain_but_wrong_probabilities_have_a_finite_gradient():
    loss = nnfs.Loss_BinaryCrossentropy()
    loss.backward([[0.0], [1.0]], [[1], [0]])
    assert_allclose(loss.dinputs, [[-1e7 / 2], [1e7 / 2]], rtol=1e-6)


@pytest.mark.parametrize("y_true", [CLASSES, ONE_HOT, SOFT], ids=["classes", "one_hot", "soft"])
def test_softmax_and_its_loss_in_one(rng, y_true):
    both, scores = nnfs.Activation_Softmax_Loss_CategoricalCrossentropy(), rng.standard_normal((6, 3))
    numeric = central_differences(lambda: both.forward(scores, y_true), scores)
    loss = both.forward(scores, y_true)
    output = both.output.copy()
    both.backward(both.output, y_true)
    assert_allclose(both.dinputs, numeric, rtol=1e-7, atol=1e-8)
    assert_array_equal(both.output, output)

    softmax, crossentropy = nnfs.Activation_Softmax(), nnfs.Loss_CategoricalCrossentropy()
    softmax.forward(scores)
    assert crossentropy.calculate(softmax.output, y_true) == loss
    crossentropy.backward(softmax.output, y_true)
    softmax.backward(crossentropy.dinputs)
    assert_allclose(softmax.dinputs, both.dinputs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss_type, y_true, error, message", [
    (nnfs.Loss_CategoricalCrossentropy, [[0], [1]], ValueError, r"y_true has shape \(2, 1\), expected \(2,\), .* or \(2, 3\)"),
    (nnfs.Loss_CategoricalCrossentropy, [0], ValueError, r"y_true has shape \(1,\)"),
    (nnfs.Loss_CategoricalCrossentropy, [0.0, 1.0], TypeError, "y_true has dtype float64, expected integers"),
    (nnfs.Loss_CategoricalCrossentropy, [True, False], TypeError, "y_true has dtype bool, expected integers"),
    (nnfs.Loss_CategoricalCrossentropy, [0, 3], ValueError, "y_true has classes from 0 to 3, expected 0 to 2"),
    (nnfs.Loss_CategoricalCrossentropy, [-1, 2], ValueError, "y_true has classes from -1 to 2, expected 0 to 2"),
    (nnfs.Loss_BinaryCrossentropy, [0, 1], ValueError, r"y_true has shape \(2,\), expected \(2, 3\)"),
    (nnfs.Loss_MeanSquaredError, [0, 1], ValueError, r"y_true has shape \(2,\), expected \(2, 3\)"),
    (nnfs.Loss_MeanAbsoluteError, [[0], [1]], ValueError, r"y_true has shape \(2, 1\), expected \(2, 3\)"),
])
def test_a_y_true_that_does_not_fit(loss_type, y_true, error, message):
    loss, y_pred = loss_type(), np.full((2, 3), 1 / 3)
    for method in (loss.forward, loss.backward, loss.calculate):
        with pytest.raises(error, match=message):
            method(y_pred, y_true)


FACTORS = dict(weight_regularizer_l1=0.3, weight_regularizer_l2=0.02, bias_regularizer_l1=0.5, bias_regularizer_l2=0.07)


@pytest.mark.parametrize("names", [*[[name] for name in FACTORS], list(FACTORS)], ids="+".join)
def test_gradients_of_the_penalties(rng, names):
    dense, inputs, dvalues = nnfs.Layer_Dense(4, 3, **{name: FACTORS[name] for name in names}), np.ones((5, 4)), np.ones((5, 3))
    dense.set_parameters(rng.standard_normal((4, 3)), rng.standard_normal((1, 3)))
    loss = nnfs.Loss()

    def total():
        dense.forward(inputs)
        return dense.output.sum() + loss.regularization_loss(dense)

    dense.forward(inputs)
    dense.backward(dvalues)
    for values, gradient in zip(dense.get_parameters(), (dense.dweights, dense.dbiases), strict=True):
        assert_allclose(gradient, central_differences(total, values), rtol=1e-7, atol=1e-7)


def test_penalties():
    dense = nnfs.Layer_Dense(2, 2, 1, 10, 100, 1000)
    dense.set_parameters(np.array([[1.0, -2.0], [0.0, 3.0]]), np.array([[-1.0, 2.0]]))
    other = nnfs.Layer_Dense(2, 2, weight_regularizer_l1=0.5)
    other.weights = np.full((2, 2), -1.0)
    loss = nnfs.Loss_MeanSquaredError()
    assert loss.regularization_loss() == 0
    assert loss.regularization_loss(nnfs.Layer_Dense(2, 2)) == 0
    assert loss.regularization_loss(dense) == 6 + 140 + 300 + 5000
    loss.remember_trainable_layers([dense, other])
    assert loss.regularization_loss() == 5446 + 2
    assert loss.regularization_loss(other) == 2
    assert loss.calculate([[1.0]], [[3.0]]) == 4
    assert loss.calculate([[1.0]], [[3.0]], include_regularization=True) == (4, 5448)

    dense.forward(np.zeros((1, 2)))
    dense.backward(np.zeros((1, 2)))
    assert_array_equal(dense.dweights, [[1 + 20, -1 - 40], [1, 1 + 60]])        # the slope at 0 counts as 1
    assert_array_equal(dense.dbiases, [[-100 - 2000, 100 + 4000]])


def test_parameters_are_the_arrays_themselves():
    dense = nnfs.Layer_Dense(2, 3)
    weights, biases = np.ones((2, 3)), np.ones((1, 3))
    dense.set_parameters(weights, biases)
    assert dense.weights is dense.get_parameters()[0] is weights
    assert dense.biases is dense.get_parameters()[1] is biases


def test_means_of_a_pass(rng):
    """Over batches of unequal sizes: the mean of all samples, not of the batches' means."""
    loss, accuracy = nnfs.Loss_CategoricalCrossentropy(), nnfs.Accuracy_Categorical()
    y_pred = probabilities(rng, 6, 3)
    expected = loss.calculate(y_pred, CLASSES), accuracy.calculate(y_pred.argmax(axis=1), CLASSES)
    for mean in (loss, accuracy):
        mean.new_pass()
        with pytest.raises(RuntimeError, match="calculate_accumulated of .* was called before calculate"):
            mean.calculate_accumulated()
    for rows in (slice(0, 5), slice(5, 6)):
        loss.calculate(y_pred[rows], CLASSES[rows])
        accuracy.calculate(y_pred[rows].argmax(axis=1), CLASSES[rows])
    assert (loss.calculate_accumulated(), accuracy.calculate_accumulated()) == pytest.approx(expected, rel=1e-14)
    loss.remember_trainable_layers([nnfs.Layer_Dense(1, 1, bias_regularizer_l1=1)])
    loss.trainable_layers[0].biases += 7
    assert loss.calculate_accumulated(include_regularization=True) == (loss.calculate_accumulated(), 7)


def test_dropout_draws_the_same_stream(rng):
    dropout, inputs, dvalues = nnfs.Layer_Dropout(0.2), rng.standard_normal((50, 40)), rng.standard_normal((50, 40))
    np.random.seed(1)
    masks = [np.random.binomial(1, 0.8, inputs.shape) / 0.8 for _ in range(2)]
    np.random.seed(1)
    for mask in masks:
        dropout.forward(inputs)
        dropout.backward(dvalues)
        assert_array_equal(dropout.binary_mask, mask)
        assert_array_equal(dropout.output, inputs * mask)
        assert_array_equal(dropout.dinputs, dvalues * mask)
    assert dropout.rate == 0.8
    assert dropout.inputs is inputs
    assert abs(masks[0].mean() - 1) < 0.05


def test_dropout_outside_training(rng):
    dropout, inputs = nnfs.Layer_Dropout(0.5), rng.standard_normal((5, 4))
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    dropout.forward(inputs, training=False)
    assert_array_equal(dropout.output, inputs)
    assert np.random.rand() == expected, "a number was drawn"


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_rates_that_are_none(rate):
    with pytest.raises(ValueError, match=f"rate is {rate}, expected"):
        nnfs.Layer_Dropout(rate)


def fading_sum(values, kept):
    """The last of the values, plus `kept` times the one before it, plus kept**2 times ..."""
    return sum(kept ** age * value for age, value in enumerate(reversed(values)))


def adam(gradients, rates, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """Its last step, written without recursion."""
    mean, square = ((1 - kept) * fading_sum(values, kept) / (1 - kept ** len(values))
                    for values, kept in ((gradients, beta_1), ([g * g for g in gradients], beta_2)))
    return -rates[-1] * mean / (np.sqrt(square) + epsilon)


def momentum(gradients, rates):
    return -fading_sum([rate * g for rate, g in zip(rates, gradients, strict=True)], 0.8)


def adagrad(gradients, rates):
    return -rates[-1] * gradients[-1] / (np.sqrt(sum(g * g for g in gradients)) + 0.01)


def rmsprop(gradients, rates):
    return -rates[-1] * gradients[-1] / (np.sqrt(0.3 * fading_sum([g * g for g in gradients], 0.7)) + 0.01)


@pytest.mark.parametrize("decay", [0.0, 0.25])
@pytest.mark.parametrize("optimizer_type, options, last_step, kept", [
    (nnfs.Optimizer_SGD, {}, lambda gradients, rates: -rates[-1] * gradients[-1], set()),
    (nnfs.Optimizer_SGD, {"momentum": 0.8}, momentum, {"momentums"}),
    (nnfs.Optimizer_Adagrad, {"epsilon": 0.01}, adagrad, {"cache"}),
    (nnfs.Optimizer_RMSprop, {"epsilon": 0.01, "rho": 0.7}, rmsprop, {"cache"}),
    (nnfs.Optimizer_Adam, {}, adam, {"momentums", "cache"}),
    (nnfs.Optimizer_Adam, {"epsilon": 0.01, "beta_1": 0.7, "beta_2": 0.9},
     lambda gradients, rates: adam(gradients, rates, 0.7, 0.9, 0.01), {"momentums", "cache"}),
], ids=["SGD", "momentum", "Adagrad", "RMSprop", "Adam", "Adam with options"])
def test_steps_of_optimizers(rng, optimizer_type, options, last_step, kept, decay):
    optimizer, layers = optimizer_type(learning_rate=0.3, decay=decay, **options), [nnfs.Layer_Dense(4, 3) for _ in range(2)]
    expected = [array.copy() for layer in layers for array in layer.get_parameters()]
    history = []
    for step in range(6):
        history.append([rng.standard_normal(array.shape) for array in expected])
        for layer, (dweights, dbiases) in zip(layers, (history[-1][:2], history[-1][2:]), strict=True):
            layer.dweights, layer.dbiases = dweights, dbiases
        optimizer.pre_update_params()
        assert optimizer.current_learning_rate == pytest.approx(0.3 / (1 + decay * step), rel=1e-14)
        for layer in layers:
            optimizer.update_params(layer)
        optimizer.post_update_params()
        assert optimizer.iterations == step + 1

        rates = [0.3 / (1 + decay * i) for i in range(step + 1)]
        for array, gradients in zip(expected, zip(*history, strict=True), strict=True):
            array += last_step(gradients, rates)
        found = [array for layer in layers for array in layer.get_parameters()]
        for array, value in zip(found, expected, strict=True):
            assert_allclose(array, value, rtol=1e-12, atol=1e-14)
    assert {name for name in vars(layers[0]) if name.endswith(("_momentums", "_cache"))} == \
        {f"{kind}_{name}" for kind in ("weight", "bias") for name in kept}


@pytest.mark.parametrize("optimizer, defaults", [
    (nnfs.Optimizer_SGD(), {"learning_rate": 1.0, "momentum": 0.0}),
    (nnfs.Optimizer_Adagrad(), {"learning_rate": 1.0, "epsilon": 1e-7}),
    (nnfs.Optimizer_RMSprop(), {"learning_rate": 0.001, "epsilon": 1e-7, "rho": 0.9}),
    (nnfs.Optimizer_Adam(), {"learning_rate": 0.001, "epsilon": 1e-7, "beta_1": 0.9, "beta_2": 0.999}),
])
def test_defaults_of_optimizers(optimizer, defaults):
    defaults |= {"current_learning_rate": defaults["learning_rate"], "decay": 0.0, "iterations": 0}
    assert {name: getattr(optimizer, name) for name in defaults} == defaults


@pytest.mark.parametrize("accuracy, predictions, y, expected", [
    (nnfs.Accuracy_Categorical(), [0, 2, 1, 1], [0, 2, 2, 1], 0.75),
    (nnfs.Accuracy_Categorical(), [0, 2], [[1, 0, 0], [1, 0, 0]], 0.5),
    (nnfs.Accuracy_Categorical(binary=True), [[0, 1], [1, 1]], [[0, 1], [1, 0]], 0.75),
    (nnfs.Accuracy_Regression(), [[0.003], [2.005]], [[0.0], [2.0]], 0.5),
])
def test_accuracies(accuracy, predictions, y, expected):
    accuracy.init(np.array(y))
    assert accuracy.calculate(np.array(predictions), np.array(y)) == expected
    assert accuracy.calculate_accumulated() == expected
    with pytest.raises(ValueError, match=r"y has shape \(1,\), expected"):
        accuracy.calculate(np.array(predictions), np.array([0]))


def test_precision_of_a_regression():
    accuracy, y = nnfs.Accuracy_Regression(), np.array([[0.0], [500.0]])
    with pytest.raises(RuntimeError, match="before init"):
        accuracy.calculate(y, y)
    accuracy.init(y)
    assert accuracy.precision == 1
    accuracy.init(2 * y)
    assert accuracy.precision == 1
    accuracy.init(2 * y, reinit=True)
    assert accuracy.precision == 2
