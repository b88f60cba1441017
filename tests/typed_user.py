"""A user's program with type hints, which a type checker has to find free of errors; it is checked, not run."""
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

import fastbp
from fastbp.nnfs import Activation_ReLU, Layer_Dense, Loss_MeanSquaredError


def descend(x: NDArray[np.float32], rate: float) -> float:
    """Change a layer's weights by hand."""
    layer = fastbp.DenseReLU(784, 128, rng=0)
    y = layer.forward(x)
    dx = layer.backward(y - 1)
    layer.weights -= rate * layer.dweights
    layer.biases -= rate * layer.dbiases
    return float(dx.sum())


def through(layers: Sequence[fastbp.Dense | fastbp.Dropout | fastbp.ReLU], x: np.ndarray, training: bool) -> np.ndarray:
    """Run layers of all kinds in one way."""
    for layer in layers:
        x = layer.forward(x, training=training)
    for layer in reversed(layers):
        layer.backward(x)
    return x


def without_state(x: list[list[float]], weights: NDArray[np.float64]) -> NDArray[np.floating]:
    """Call the functions, into an array and into new ones."""
    out: NDArray[np.float64] = np.empty((1, 3))
    y = fastbp.dense_relu_forward(x, weights, None, out=out)
    dinputs, dweights, dbiases = fastbp.dense_relu_backward(y, y, x, weights, (None, np.empty_like(weights), None))
    return fastbp.softmax(dinputs @ dweights + dbiases)


def step(network: fastbp.Sequential, loss: fastbp.Loss, optimizer: fastbp.Optimizer, x: np.ndarray, y: np.ndarray) -> float:
    """Make a step of a training loop of one's own."""
    value, gradient = loss.value_and_gradient(network.forward(x, training=True), y)
    network.backward(gradient)
    optimizer.update(network.parameters(), network.gradients())
    return value


def stop_early(network: fastbp.Sequential, history: fastbp.History) -> bool:
    """End a training, as a callback."""
    return history.loss[-1] < 0.1


def train(x: np.ndarray, y: Iterable[int], path: str) -> tuple[fastbp.History, float | None]:
    """Train, save, load and evaluate a network."""
    targets = np.array(list(y))
    network = fastbp.Sequential([fastbp.Dense(64, 128, activation="gelu"), fastbp.Dropout(0.1), fastbp.Dense(128, 10)],
                                fastbp.SoftmaxCrossEntropy(), l2=1e-5)
    history = network.fit(x, targets, epochs=3, batch_size=32, optimizer=fastbp.Adam(0.003), validation_data=(x, targets),
                          callbacks=stop_early, rng=0)
    network.save(path)
    loss, accuracy = fastbp.load(path).evaluate(x, targets)
    history.loss.append(loss)
    forward, value_and_gradient = network.jitted()
    forward(tuple(network.parameters()), network.predict(x))
    return history, accuracy


def book(x: np.ndarray) -> float:
    """Use the book's classes."""
    dense, activation, loss = Layer_Dense(2, 3), Activation_ReLU(), Loss_MeanSquaredError()
    dense.forward(x)
    activation.forward(dense.output)
    data_loss, penalty = loss.calculate(activation.output, x, include_regularization=True)
    with fastbp.profile() as p:
        activation.backward(x)
    print(p.table(), data_loss, penalty)
    return loss.calculate(activation.output, x)
