"""Scripts in the style of the book's chapters 10 to 19, beside one plain NumPy loop that uses none of the book's classes."""
import re
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastbp.nnfs import (
    Accuracy_Categorical,
    Accuracy_Regression,
    Activation_Linear,
    Activation_ReLU,
    Activation_Sigmoid,
    Activation_Softmax,
    Activation_Softmax_Loss_CategoricalCrossentropy,
    Layer_Dense,
    Layer_Dropout,
    Loss_BinaryCrossentropy,
    Loss_CategoricalCrossentropy,
    Loss_MeanSquaredError,
    Model,
    Optimizer_Adagrad,
    Optimizer_Adam,
    Optimizer_RMSprop,
    Optimizer_SGD,
)
from test_nnfs import adam, softmax_loss, spiral_data

EPOCHS, RATE, DECAY = 120, 0.02, 0.01
PENALTIES = dict(weight_regularizer_l1=1e-4, weight_regularizer_l2=5e-3, bias_regularizer_l1=2e-4, bias_regularizer_l2=1e-3)
PENALTY_FACTORS = tuple(PENALTIES.values())
MODEL_LINE = "{}, acc: {:.3f}, loss: {:.3f} (data_loss: {:.3f}, reg_loss: {:.3f}), lr: {}"


@pytest.fixture(autouse=True)
def the_same_data():
    np.random.seed(0)


class ByHand:
    """Dense layers with ReLU in between, penalties on the first and dropout after each ReLU, trained by Adam in plain NumPy."""

    def __init__(self, *sizes, penalties=(0, 0, 0, 0), rate=0.0):
        self.parameters = [array for n_inputs, n_neurons in pairwise(sizes)
                           for array in (0.01 * np.random.randn(n_inputs, n_neurons), np.zeros((1, n_neurons)))]
        self.penalties, self.keep, self.history = penalties, 1 - rate, []

    def scores(self, x, training=True):
        """Of the last layer; notes the inputs of all, and the slopes between them."""
        self.inputs, self.slopes = [x], []
        *hidden, (weights, biases) = zip(self.parameters[::2], self.parameters[1::2], strict=True)
        for w, b in hidden:
            x = x @ w + b
            slope = (x > 0) * 1.0
            if training and self.keep < 1:
                slope *= np.random.binomial(1, self.keep, x.shape) / self.keep
            x = x * slope
            self.inputs.append(x)
            self.slopes.append(slope)
        return x @ weights + biases

    def penalty(self):
        """The penalties of the first layer."""
        weights, biases = self.parameters[:2]
        norms = abs(weights).sum(), (weights ** 2).sum(), abs(biases).sum(), (biases ** 2).sum()
        return float(np.dot(self.penalties, norms))

    def step(self, dscores):
        """One of Adam, of the gradient of the last scores."""
        gradients = []
        for i in reversed(range(len(self.inputs))):
            gradients[:0] = self.inputs[i].T @ dscores, dscores.sum(axis=0, keepdims=True)
            if i:
                dscores = dscores @ self.parameters[2 * i].T * self.slopes[i - 1]
        for i in range(2):
            l1, l2 = self.penalties[2 * i:2 * i + 2]
            values = self.parameters[i]
            gradients[i] = gradients[i] + l1 * np.where(values < 0, -1, 1) + 2 * l2 * values
        self.history.append(gradients)
        rates = [RATE / (1 + DECAY * i) for i in range(len(self.history))]
        for values, past in zip(self.parameters, zip(*self.history, strict=True), strict=True):
            values += adam(past, rates)
        return rates[-1]

    def train(self, x, y, loss_of_scores):
        """(data loss, penalty, scores) of each epoch, before its step."""
        for _ in range(EPOCHS):
            scores = self.scores(x)
            loss, dscores = loss_of_scores(scores, y)
            yield loss, self.penalty(), scores
            self.step(dscores)


def logistic_loss(scores, y):
    """The mean binary cross-entropy of the sigmoid, and its gradient with respect to the scores."""
    losses = np.logaddexp(0, scores) - y * scores
    return losses.mean(), (1 / (1 + np.exp(-scores)) - y) / scores.size


def squared_loss(scores, y):
    """The mean squared error and its gradient."""
    return ((scores - y) ** 2).mean(), 2 * (scores - y) / scores.size


def spiral():
    return spiral_data(40, 3)


def one_hot_spiral():
    points, classes = spiral()
    return points, np.eye(3)[classes]


def two_arms():
    points, classes = spiral_data(60, 2)
    return points, classes.reshape(-1, 1)


def sine():
    x = np.linspace(0, 1, 100).reshape(-1, 1)
    return x, np.sin(2 * np.pi * x)


def forward(layers, values):
    for layer in layers:
        layer.forward(values)
        values = layer.output
    return values


def backward(layers, dvalues):
    for layer in reversed(layers):
        layer.backward(dvalues)
        dvalues = layer.dinputs


def update(optimizer, layers):
    optimizer.pre_update_params()
    for layer in layers:
        if isinstance(layer, Layer_Dense):
            optimizer.update_params(layer)
    optimizer.post_update_params()


def train_softmax(layers, x, y):
    """Chapters 10, 14 and 15: (data loss, penalty, probabilities) of each epoch."""
    loss_activation, optimizer = Activation_Softmax_Loss_CategoricalCrossentropy(), Optimizer_Adam(RATE, DECAY)
    for _ in range(EPOCHS):
        data_loss = loss_activation.forward(forward(layers, x), y)
        yield data_loss, loss_activation.loss.regularization_loss(layers[0]), loss_activation.output
        loss_activation.backward(loss_activation.output, y)
        backward(layers, loss_activation.dinputs)
        update(optimizer, layers)


def train_with_loss(layers, loss, x, y):
    """Chapters 16 and 17: (data loss, penalty, output) of each epoch."""
    optimizer = Optimizer_Adam(learning_rate=RATE, decay=DECAY)
    for _ in range(EPOCHS):
        output = forward(layers, x)
        yield loss.calculate(output, y), loss.regularization_loss(layers[0]), output
        loss.backward(output, y)
        backward(layers, loss.dinputs)
        update(optimizer, layers)


def assert_same(script, by_hand, output_of_scores):
    """The same losses, penalties and outputs in each epoch, and the network learns."""
    script, by_hand = list(script), list(by_hand)
    assert len(script) == len(by_hand) == EPOCHS
    for (loss, penalty, output), (expected_loss, expected_penalty, scores) in zip(script, by_hand, strict=True):
        assert output.dtype == np.float64
        assert loss == pytest.approx(expected_loss, rel=1e-8)
        assert penalty == pytest.approx(expected_penalty, rel=1e-8, abs=0)
        assert_allclose(output, output_of_scores(scores), rtol=1e-6, atol=1e-9)
    assert script[-1][0] < 0.95 * script[0][0]


def softmax(scores):
    powers = np.exp(scores)
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(scores):
    return 1 / (1 + np.exp(-scores))


def test_chapter_10_adam():
    x, y = spiral()
    np.random.seed(0)
    layers = Layer_Dense(2, 32), Activation_ReLU(), Layer_Dense(32, 3)
    np.random.seed(0)
    assert_same(train_softmax(layers, x, y), ByHand(2, 32, 3).train(x, y, softmax_loss), softmax)


def test_chapter_14_regularization():
    x, y = spiral()
    np.random.seed(1)
    layers = Layer_Dense(2, 32, **PENALTIES), Activation_ReLU(), Layer_Dense(32, 3)
    np.random.seed(1)
    by_hand = ByHand(2, 32, 3, penalties=PENALTY_FACTORS)
    assert_same(train_softmax(layers, x, y), by_hand.train(x, y, softmax_loss), softmax)


def test_chapter_15_dropout():
    x, y = spiral()
    np.random.seed(2)
    layers = Layer_Dense(2, 32, **PENALTIES), Activation_ReLU(), Layer_Dropout(0.1), Layer_Dense(32, 3)
    script = list(train_softmax(layers, x, np.eye(3)[y]))
    np.random.seed(2)
    by_hand = ByHand(2, 32, 3, penalties=PENALTY_FACTORS, rate=0.1)
    assert_same(script, by_hand.train(x, y, softmax_loss), softmax)


def test_chapter_16_binary_logistic_regression():
    x, y = two_arms()
    np.random.seed(3)
    layers = Layer_Dense(2, 32, **PENALTIES), Activation_ReLU(), Layer_Dense(32, 1), Activation_Sigmoid()
    np.random.seed(3)
    by_hand = ByHand(2, 32, 1, penalties=PENALTY_FACTORS)
    assert_same(train_with_loss(layers, Loss_BinaryCrossentropy(), x, y), by_hand.train(x, y, logistic_loss), sigmoid)


def test_chapter_17_regression():
    x, y = sine()
    np.random.seed(4)
    layers = (Layer_Dense(1, 16), Activation_ReLU(), Layer_Dense(16, 16), Activation_ReLU(), Layer_Dense(16, 1),
              Activation_Linear())
    np.random.seed(4)
    by_hand = ByHand(1, 16, 16, 1)
    script = train_with_loss(layers, Loss_MeanSquaredError(), x, y)
    assert_same(script, by_hand.train(x, y, squared_loss), lambda scores: scores)


@pytest.mark.parametrize("optimizer", [Optimizer_SGD(momentum=0.9, decay=0.1), Optimizer_Adagrad(), Optimizer_RMSprop(),
                                       Optimizer_Adam()], ids=lambda optimizer: type(optimizer).__name__)
def test_float32(optimizer):
    """With which the book's own package draws data and weights: nothing becomes float64 on its way."""
    x, y = spiral()
    layers = Layer_Dense(2, 8, **PENALTIES), Activation_ReLU(), Layer_Dense(8, 3)
    for layer in layers[::2]:
        layer.set_parameters(*(array.astype(np.float32) for array in layer.get_parameters()))
    both = Activation_Softmax_Loss_CategoricalCrossentropy()
    assert both.forward(forward(layers, x.astype(np.float32)), y).dtype == np.float32
    both.loss.backward(both.output, y)
    both.activation.backward(both.loss.dinputs)
    both.backward(both.output, y)
    backward(layers, both.dinputs)
    update(optimizer, layers)
    arrays = [value for part in (*layers, both, both.loss, both.activation) for value in vars(part).values()
              if isinstance(value, np.ndarray)]
    assert len(arrays) >= 20
    assert {array.dtype.name for array in arrays} == {"float32"}


def model_of(layers, loss, accuracy):
    model = Model()
    for layer in layers:
        model.add(layer)
    model.set(loss=loss, optimizer=Optimizer_Adam(learning_rate=RATE, decay=DECAY), accuracy=accuracy)
    model.finalize()
    return model


def classifier():
    return model_of((Layer_Dense(2, 32, **PENALTIES), Activation_ReLU(), Layer_Dropout(0.1), Layer_Dense(32, 3),
                     Activation_Softmax()), Loss_CategoricalCrossentropy(), Accuracy_Categorical())


def logistic():
    return model_of((Layer_Dense(2, 32, **PENALTIES), Activation_ReLU(), Layer_Dense(32, 1), Activation_Sigmoid()),
                    Loss_BinaryCrossentropy(), Accuracy_Categorical(binary=True))


def regressor():
    return model_of((Layer_Dense(1, 16), Activation_ReLU(), Layer_Dense(16, 16), Activation_ReLU(), Layer_Dense(16, 1),
                     Activation_Linear()), Loss_MeanSquaredError(), Accuracy_Regression())


MODELS = {
    "classes": (classifier, spiral, dict(penalties=PENALTY_FACTORS, rate=0.1), (2, 32, 3), softmax_loss,
                lambda scores, y: scores.argmax(axis=1) == y),
    "one_hot": (classifier, one_hot_spiral, dict(penalties=PENALTY_FACTORS, rate=0.1), (2, 32, 3),
                lambda scores, y: softmax_loss(scores, y.argmax(axis=1)),
                lambda scores, y: scores.argmax(axis=1) == y.argmax(axis=1)),
    "binary": (logistic, two_arms, dict(penalties=PENALTY_FACTORS), (2, 32, 1), logistic_loss,
               lambda scores, y: (scores > 0) == y),
    "numbers": (regressor, sine, {}, (1, 16, 16, 1), squared_loss, lambda scores, y: abs(scores - y) < np.std(y) / 250),
}


@pytest.fixture(params=MODELS)
def case(request):
    """(model, network by hand, x, y, loss of scores, right of scores), both networks with the same weights."""
    model, data, options, sizes, loss_of_scores, right = MODELS[request.param]
    x, y = data()
    np.random.seed(5)
    by_hand = ByHand(*sizes, **options)
    np.random.seed(5)
    return model(), by_hand, x, y, loss_of_scores, right


def test_chapter_18_model(case, capsys):
    """The lines printed are those of the loop by hand, and so is the network after them."""
    model, by_hand, x, y, loss_of_scores, right = case
    state = np.random.get_state()
    model.train(x, y, epochs=EPOCHS, print_every=20, validation_data=(x[::3], y[::3]))
    printed = capsys.readouterr().out.splitlines()

    np.random.set_state(state)
    expected, losses = [], []
    for epoch, (loss, penalty, scores) in enumerate(by_hand.train(x, y, loss_of_scores), 1):
        losses.append(loss)
        if epoch % 20 == 0:
            expected.append(MODEL_LINE.format(f"epoch: {epoch}", right(scores, y).mean(), loss + penalty, loss, penalty,
                                              RATE * (1 / (1 + DECAY * (epoch - 1)))))
    scores = by_hand.scores(x[::3], training=False)
    expected.append(f"validation, acc: {right(scores, y[::3]).mean():.3f}, loss: {loss_of_scores(scores, y[::3])[0]:.3f}")
    assert printed == expected
    assert losses[-1] < 0.95 * losses[0]
    trained = [array for layer in model.trainable_layers for array in layer.get_parameters()]
    for array, value in zip(trained, by_hand.parameters, strict=True):
        assert_allclose(array, value, rtol=1e-6, atol=1e-9)


def test_chapter_19_batches(case, capsys):
    """Three epochs in batches of which the last is smaller: its steps, the epoch's means and the validation."""
    model, by_hand, x, y, loss_of_scores, right = case
    state = np.random.get_state()
    model.train(x, y, epochs=3, batch_size=32, print_every=2, validation_data=(x, y))
    printed = capsys.readouterr().out.splitlines()

    np.random.set_state(state)
    expected = []
    starts = range(0, len(x), 32)
    assert len(x) % 32, "the last batch should be smaller"
    for epoch in range(1, 4):
        expected.append(f"epoch: {epoch}")
        loss_sum = hits = 0
        for step, start in enumerate(starts):
            batch = slice(start, start + 32)
            scores = by_hand.scores(x[batch])
            (loss, dscores), penalty, hit = loss_of_scores(scores, y[batch]), by_hand.penalty(), right(scores, y[batch])
            loss_sum += loss * len(scores)
            hits += hit.sum()
            by_hand.step(dscores)
            rate = RATE * (1 / (1 + DECAY * (len(by_hand.history) - 1)))
            if step % 2 == 0 or step == len(starts) - 1:
                expected.append(MODEL_LINE.format(f"step: {step}", hit.mean(), loss + penalty, loss, penalty, rate))
        loss, penalty = loss_sum / len(x), by_hand.penalty()
        expected.append(MODEL_LINE.format("training", hits / len(x), loss + penalty, loss, penalty, rate))
        scores = by_hand.scores(x, training=False)
        expected.append(f"validation, acc: {right(scores, y).mean():.3f}, loss: {loss_of_scores(scores, y)[0]:.3f}")
    assert printed == expected


def test_chapter_19_without_batches(capsys, monkeypatch):
    """With prints_steps a model prints the lines of a batch of all samples."""
    x, y = spiral()
    printed = []
    for prints_steps, batch_size in ((False, len(x)), (True, None)):
        monkeypatch.setattr(Model, "prints_steps", prints_steps)
        np.random.seed(5)
        classifier().train(x, y, epochs=2, batch_size=batch_size, print_every=100, validation_data=(x, y))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert len(printed[0].splitlines()) == 2 * 4


def test_predictions_in_batches():
    np.random.seed(6)
    model = classifier()
    x, _ = spiral()
    whole = model.predict(x)
    assert whole.shape == (len(x), 3)
    assert_array_equal(model.predict(x), whole)             # without dropout
    for batch_size in (1, 32, 1000):
        assert_allclose(model.predict(x, batch_size=batch_size), whole, rtol=1e-12)
    assert_array_equal(model.output_layer_activation.predictions(whole), whole.argmax(axis=1))


def test_links_of_a_model():
    model = classifier()
    first, relu, dropout, last, activation = model.layers
    assert [layer.prev for layer in model.layers] == [model.input_layer, first, relu, dropout, last]
    assert [layer.next for layer in model.layers] == [relu, dropout, last, activation, model.loss]
    assert model.trainable_layers == model.loss.trainable_layers == [first, last]
    assert model.output_layer_activation is activation
    assert isinstance(model.softmax_classifier_output, Activation_Softmax_Loss_CategoricalCrossentropy)
    assert logistic().softmax_classifier_output is None


def test_set_keeps_what_is_not_given():
    model = classifier()
    loss, accuracy, optimizer = model.loss, model.accuracy, Optimizer_Adam()
    model.set(optimizer=optimizer)
    assert (model.loss, model.accuracy, model.optimizer) == (loss, accuracy, optimizer)


def test_a_model_that_is_not_ready():
    x, y = spiral()
    model = Model()
    with pytest.raises(RuntimeError, match="finalize was called before add"):
        model.finalize()
    model.add(Layer_Dense(2, 3))
    for call in (model.predict, model.forward):
        with pytest.raises(RuntimeError, match="input_layer of the model is None, expected add, set and finalize first"):
            call(x)
    model.finalize()
    assert model.predict(x).shape == (len(x), 3)
    model.set(loss=Loss_CategoricalCrossentropy())
    with pytest.raises(RuntimeError, match="optimizer of the model is None"):
        model.train(x, y)
    with pytest.raises(RuntimeError, match="accuracy of the model is None"):
        model.evaluate(x, y)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_sizes_that_are_none(batch_size):
    x, y = spiral()
    for call in (classifier().train, classifier().evaluate):
        with pytest.raises(ValueError, match=re.escape(f"batch_size is {batch_size}, expected 1 or more")):
            call(x, y, batch_size=batch_size)
