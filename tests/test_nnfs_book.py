"""After nnfs.init() the book's classes compute what its listings compute, to the last bit, and scripts print the same lines."""
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import book
import fastbp
from fastbp import nnfs

FLOATS = ["float32", "float64"]
PENALTIES = 5e-4, 1e-3, 3e-4, 2e-3
CLASSES = np.array([2, 0, 1, 1, 2, 0] * 20)


@pytest.fixture
def under_init(monkeypatch):
    book.init(monkeypatch.setattr)


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype
    assert_array_equal(found, expected)


def attributes(part, *names):
    return [getattr(part, name) for name in names]


@pytest.mark.parametrize("dvalues_dtype", FLOATS)
@pytest.mark.parametrize("inputs_dtype", FLOATS)
@pytest.mark.parametrize("penalties", [(0, 0, 0, 0), PENALTIES])
def test_dense(under_init, rng, inputs_dtype, dvalues_dtype, penalties):
    """Inputs are float64 after dropout, and dvalues before a float64 y: products are float32, sums keep their dtype."""
    dense = nnfs.Layer_Dense(40, 30, *penalties)
    dense.biases += rng.standard_normal(30, np.float32)
    inputs, dvalues = (rng.standard_normal((120, n)).astype(dtype) for n, dtype in ((40, inputs_dtype), (30, dvalues_dtype)))
    dense.forward(inputs)
    dense.backward(dvalues)
    assert dense.weights.dtype == dense.biases.dtype == dense.output.dtype == dense.dweights.dtype == np.float32
    assert dense.dbiases.dtype == dvalues_dtype
    assert_same_bits(dense.output, book.dense(inputs, dense.weights, dense.biases))
    expected = book.dense_gradients(dvalues, inputs, dense.weights, dense.biases, penalties)
    for found, gradient in zip(attributes(dense, "dinputs", "dweights", "dbiases"), expected, strict=True):
        assert_same_bits(found, gradient)
    loss = nnfs.Loss().regularization_loss(dense)
    assert loss == book.penalty(dense.weights, dense.biases, penalties)
    assert type(loss) is type(book.penalty(dense.weights, dense.biases, penalties))


def relu(x):
    return np.maximum(0, x)


@pytest.mark.parametrize("dvalues_dtype", FLOATS)
@pytest.mark.parametrize("inputs_dtype", FLOATS)
@pytest.mark.parametrize("activation, forward, gradient, of_output", [
    (nnfs.Activation_ReLU(), relu, book.relu_gradient, False),
    (nnfs.Activation_Softmax(), book.softmax, book.softmax_gradient, True),
    (nnfs.Activation_Sigmoid(), book.sigmoid, book.sigmoid_gradient, True),
    (nnfs.Activation_Linear(), np.copy, lambda dvalues, output: dvalues, True),
], ids=lambda value: type(value).__name__ if hasattr(value, "backward") else "")
def test_activations(under_init, rng, activation, forward, gradient, of_output, inputs_dtype, dvalues_dtype):
    inputs, dvalues = (rng.standard_normal((120, 7)).astype(dtype) for dtype in (inputs_dtype, dvalues_dtype))
    activation.forward(inputs)
    activation.backward(dvalues)
    expected = forward(inputs)
    assert_same_bits(activation.output, expected)
    assert_same_bits(activation.dinputs, gradient(dvalues, expected if of_output else inputs))


def test_dropout(under_init, rng):
    dropout, inputs, dvalues = nnfs.Layer_Dropout(0.1), *rng.standard_normal((2, 50, 40), dtype=np.float32)
    np.random.seed(1)
    mask = np.random.binomial(1, 0.9, inputs.shape) / 0.9
    np.random.seed(1)
    dropout.forward(inputs)
    dropout.backward(dvalues)
    assert_same_bits(dropout.output, inputs * mask)
    assert_same_bits(dropout.dinputs, dvalues * mask)
    assert dropout.output.dtype == np.float64


def one_hot(dtype):
    return (np.arange(3) == CLASSES[:, np.newaxis]).astype(dtype)


Y = {"classes": CLASSES, **{dtype: one_hot(dtype) for dtype in ("uint8", "int64", "float32", "float64")}}
LOSSES = {
    nnfs.Loss_CategoricalCrossentropy: (book.crossentropy, book.crossentropy_gradient, list(Y)),
    nnfs.Loss_BinaryCrossentropy: (book.binary_crossentropy, book.binary_crossentropy_gradient, list(Y)[1:]),
    nnfs.Loss_MeanSquaredError: (book.squared_error, book.squared_error_gradient, ["float32", "float64"]),
    nnfs.Loss_MeanAbsoluteError: (book.absolute_error, book.absolute_error_gradient, ["float32", "float64"]),
}


@pytest.mark.parametrize("loss_type, y", [(loss, y) for loss in LOSSES for y in LOSSES[loss][2]])
def test_losses(under_init, rng, loss_type, y):
    forward, gradient, _ = LOSSES[loss_type]
    loss, output = loss_type(), book.softmax(rng.standard_normal((len(CLASSES), 3), np.float32))
    expected = forward(output, Y[y])
    assert_same_bits(loss.forward(output, Y[y]), expected)
    for total in (np.sum(expected), np.sum(expected) + np.sum(expected)):       # float32 sums of float32 losses
        assert_same_bits(loss.calculate(output, Y[y]), np.mean(expected))
        assert_same_bits(loss.accumulated_sum, total)
    assert_same_bits(loss.calculate_accumulated(), total / (2 * len(CLASSES)))
    if (loss_type, y) != (nnfs.Loss_CategoricalCrossentropy, "uint8"):         # the listing negates y, which is 255 then
        loss.backward(output, Y[y])
        assert_same_bits(loss.dinputs, gradient(output, Y[y]))


@pytest.mark.parametrize("y", Y)
def test_softmax_and_its_loss_in_one(under_init, rng, y):
    both, scores = nnfs.Activation_Softmax_Loss_CategoricalCrossentropy(), rng.standard_normal((len(CLASSES), 3), np.float32)
    loss, p = both.forward(scores, Y[y]), book.softmax(scores)
    both.backward(both.output, Y[y])
    assert_same_bits(loss, np.mean(book.crossentropy(p, Y[y])))
    assert_same_bits(both.dinputs, book.softmax_crossentropy_gradient(p, Y[y]))


@pytest.mark.parametrize("dbiases_dtype", FLOATS)
@pytest.mark.parametrize("optimizer_type, rule, options", [
    (nnfs.Optimizer_SGD, book.Sgd, {}),
    (nnfs.Optimizer_SGD, book.Sgd, {"momentum": 0.9}),
    (nnfs.Optimizer_Adagrad, book.Adagrad, {}),
    (nnfs.Optimizer_RMSprop, book.RmsProp, {"rho": 0.999}),
    (nnfs.Optimizer_Adam, book.Adam, {}),
    (nnfs.Optimizer_Adam, book.Adam, {"epsilon": np.float64(1e-3)}),
])
def test_optimizers(under_init, rng, optimizer_type, rule, options, dbiases_dtype):
    layer, optimizer = nnfs.Layer_Dense(9, 8), optimizer_type(learning_rate=0.05, decay=1e-2, **options)
    rules = [rule(values.copy(), **options) for values in layer.get_parameters()]
    for number in range(1, 7):
        layer.dweights = rng.standard_normal((9, 8), np.float32)
        layer.dbiases = rng.standard_normal((1, 8)).astype(dbiases_dtype)
        optimizer.pre_update_params()
        optimizer.update_params(layer)
        optimizer.post_update_params()
        rate = 0.05 * (1. / (1. + 1e-2 * (number - 1)))
        for own, gradient in zip(rules, (layer.dweights, layer.dbiases), strict=True):
            own.step(rate, gradient, number)
    for kind, values, own in zip(("weight", "bias"), layer.get_parameters(), rules, strict=True):
        assert_same_bits(values, own.values)
        for name in ("cache", "momentums"):
            if hasattr(own, name):
                assert_same_bits(getattr(layer, f"{kind}_{name}"), getattr(own, name))


def train(layers, loss, optimizer, x, y, right, epochs, every):
    """Yield the line of each every-th epoch of chapters 10 to 17, without the learning rate."""
    in_one = isinstance(loss, nnfs.Activation_Softmax_Loss_CategoricalCrossentropy)
    for epoch in range(epochs + 1):
        values = x
        for layer in layers:
            layer.forward(values)
            values = layer.output
        data_loss = loss.forward(values, y) if in_one else loss.calculate(values, y)
        output = loss.output if in_one else values
        penalty = sum((loss.loss if in_one else loss).regularization_loss(layer) for layer in layers[:1])
        if not epoch % every:
            yield f"epoch: {epoch}, acc: {np.mean(right(output, y)):.3f}, loss: {data_loss + penalty:.3f}"
        loss.backward(output, y)
        dvalues = loss.dinputs
        for layer in reversed(layers):
            layer.backward(dvalues)
            dvalues = layer.dinputs
        optimizer.pre_update_params()
        for layer in layers:
            if hasattr(layer, "weights"):
                optimizer.update_params(layer)
        optimizer.post_update_params()


def most_probable(output, y):
    return np.argmax(output, axis=1) == y


def chapter_10():
    x, y = book.spiral_data(100, 3)
    layers = nnfs.Layer_Dense(2, 64), nnfs.Activation_ReLU(), nnfs.Layer_Dense(64, 3)
    return layers, nnfs.Activation_Softmax_Loss_CategoricalCrossentropy(), nnfs.Optimizer_Adam(0.05, 5e-7), x, y, most_probable


def chapter_16():
    x, y = book.spiral_data(100, 2)
    layers = (nnfs.Layer_Dense(2, 64, weight_regularizer_l2=5e-4, bias_regularizer_l2=5e-4), nnfs.Activation_ReLU(),
              nnfs.Layer_Dense(64, 1), nnfs.Activation_Sigmoid())
    return (layers, nnfs.Loss_BinaryCrossentropy(), nnfs.Optimizer_Adam(decay=5e-7), x, y.reshape(-1, 1),
            lambda output, y: (output > 0.5) == y)


def chapter_17():
    x, y = book.sine_data()
    layers = (nnfs.Layer_Dense(1, 64), nnfs.Activation_ReLU(), nnfs.Layer_Dense(64, 64), nnfs.Activation_ReLU(),
              nnfs.Layer_Dense(64, 1), nnfs.Activation_Linear())
    return (layers, nnfs.Loss_MeanSquaredError(), nnfs.Optimizer_Adam(0.005, 1e-3), x, y,
            lambda output, y: np.abs(output - y) < np.std(y) / 250)


PRINTED = {             # every how many epochs, and (accuracy, loss) as published; chapter 17 as printed by the book's classes
    chapter_10: (100, [(0.360, 1.099), (0.670, 0.705), (0.797, 0.522), (0.847, 0.430), (0.887, 0.344), (0.910, 0.303)]),
    chapter_16: (100, [(0.500, 0.693), (0.630, 0.674), (0.625, 0.669)]),
    chapter_17: (10, [(0.003, 0.496), (0.003, 0.335), (0.003, 0.150)]),
}


@pytest.mark.parametrize("script", PRINTED)
def test_the_lines_printed(under_init, monkeypatch, script):
    if script is chapter_17:
        monkeypatch.setattr(nnfs.Layer_Dense, "weight_scale", 0.1)
    every, numbers = PRINTED[script]
    expected = [f"epoch: {every * i}, acc: {accuracy:.3f}, loss: {loss:.3f}" for i, (accuracy, loss) in enumerate(numbers)]
    assert list(train(*script(), every * (len(expected) - 1), every)) == expected


def test_fastbp_imported_last():
    """np.dot is known by what it is, not by what it was at the import of fastbp; other packages' defaults do not matter."""
    script = """
import numpy as np
import book
book.init()
for name in ("ones", "full", "arange", "array"):
    own = getattr(np, name)
    setattr(np, name, lambda *given, own=own, **named: own(*given, **{"dtype": np.float32} | named))
from fastbp.nnfs import *
dense, loss = Layer_Dense(300, 3), Activation_Softmax_Loss_CategoricalCrossentropy()
x, y = np.random.randn(200, 300), np.random.randint(0, 3, 200)
dense.forward(x)
print((dense.output == book.dense(x, dense.weights, dense.biases)).all(), loss.forward(dense.output, y).dtype)
loss.backward(loss.output, y)
loss.loss.backward(loss.output, y)
print(loss.dinputs.dtype, loss.loss.dinputs.dtype)
"""
    printed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
    assert printed.stdout == "True float32\nfloat32 float32\n"


REPLACED = {            # what stands in the place of np.dot, and whether it is not NumPy's own
    "nothing": (lambda dot: dot, False),
    "function": (lambda dot: lambda a, b: dot(a, b).astype(np.float16), True),
    "partial": (lambda dot: partial(dot), True),
    "method": (lambda dot: np.ndarray.dot, True),
    "ufunc": (lambda dot: np.matmul, True),
}


@pytest.mark.parametrize("replaced", REPLACED)
@pytest.mark.parametrize("exact", [None, True, False])
def test_whose_products(monkeypatch, rng, replaced, exact):
    """Those of np.dot as it is at the time of the call if it has been replaced, unless `exact` says otherwise."""
    made, foreign = REPLACED[replaced]
    dense, inputs, dvalues = nnfs.Layer_Dense(500, 30), rng.standard_normal((200, 500)), rng.standard_normal((200, 30))
    monkeypatch.setattr(nnfs, "exact", exact)
    monkeypatch.setattr(np, "dot", made(np.dot))
    if exact is True or (exact is None and foreign):
        expected = (book.dense(inputs, dense.weights, dense.biases),
                    *book.dense_gradients(dvalues, inputs, dense.weights, dense.biases))
    else:
        expected = (fastbp.dense_forward(inputs, dense.weights, dense.biases),
                    *fastbp.dense_backward(dvalues, inputs, dense.weights))
    dense.forward(inputs)
    dense.backward(dvalues)
    for found, value in zip(attributes(dense, "output", "dinputs", "dweights", "dbiases"), expected, strict=True):
        assert_same_bits(found, value)
    monkeypatch.undo()
    dense.forward(inputs)
    assert_same_bits(dense.output, fastbp.dense_forward(inputs, dense.weights, dense.biases))


@pytest.mark.parametrize("exact", [True, False])
def test_operands_that_do_not_fit(monkeypatch, exact):
    """The same errors as from fastbp's functions, and the layer is as before."""
    monkeypatch.setattr(nnfs, "exact", exact)
    dense = nnfs.Layer_Dense(3, 2)
    dense.forward(np.ones((4, 3)))
    output = dense.output
    with pytest.raises(ValueError, match=r"inputs has shape \(4, 2\)"):
        dense.forward(np.ones((4, 2)))
    assert dense.output is output
    assert dense.inputs.shape == (4, 3)
    with pytest.raises(ValueError, match=r"dvalues has shape \(3, 2\), expected \(4, 2\)"):
        dense.backward(np.ones((3, 2)))
    with pytest.raises(TypeError, match="dtype complex128"):
        dense.forward(np.ones((4, 3), np.complex128))


@pytest.mark.parametrize("exact", [True, False])
def test_lists_tuples_and_integers(monkeypatch, exact):
    monkeypatch.setattr(nnfs, "exact", exact)
    dense, optimizer = nnfs.Layer_Dense(2, 2, 1.0, 1.0, 1.0, 1.0), nnfs.Optimizer_SGD()
    dense.set_parameters(((1, 2), (3, 4)), (5, 6))
    dense.forward([1, 2])
    assert_array_equal(dense.output, [[12, 16]])
    dense.backward([[1, 0]])
    assert_array_equal(dense.dinputs, [[1, 3]])
    assert_array_equal(dense.dweights, [[1 + 1 + 2, 1 + 4], [2 + 1 + 6, 1 + 8]])
    assert_array_equal(dense.dbiases, [1 + 1 + 10, 1 + 12])        # of the shape of the biases
    optimizer.update_params(dense)
    assert_array_equal(dense.weights, [[-3, -3], [-6, -5]])
    assert_array_equal(dense.biases, [-7, -7])
