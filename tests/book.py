"""The basis of scripts of "Neural Networks from Scratch": nnfs.init()'s changes to NumPy, its data, and the book's formulas.

Kinsley and Kukieła, 2020. The formulas are in plain NumPy and in the book's order, so that they round as the book's code does.
They look np.dot up at each call, so that a replaced one counts.
"""
import numpy as np


def init(replace=setattr):
    """Change NumPy as nnfs.init() does: float32 by default, and products in float64. replace: called like setattr."""
    dot, zeros, eye, randn = np.dot, np.zeros, np.eye, np.random.randn
    replace(np, "dot", lambda a, b: dot(a.astype("float64"), b.astype("float64")).astype("float32"))
    replace(np, "zeros", lambda shape, dtype="float32": zeros(shape, dtype))
    replace(np, "eye", lambda n, dtype="float32": eye(n, dtype=dtype))
    replace(np.random, "randn", lambda *shape: randn(*shape).astype("float32"))
    np.random.seed(0)


def spiral_data(samples, classes):
    """Return scattered points (n, 2), on one arm of a spiral for each class, and their classes (n,)."""
    radius, arms = np.linspace(0, 1, samples), []
    for arm in range(classes):
        angle = np.linspace(4 * arm, 4 * (arm + 1), samples) + 0.2 * np.random.randn(samples)
        arms.append(np.column_stack([radius * np.sin(2.5 * angle), radius * np.cos(2.5 * angle)]))
    return np.concatenate(arms).astype(np.float32), np.repeat(np.arange(classes, dtype=np.uint8), samples)


def vertical_data(samples, classes):
    """Return points (n, 2), around the middle of one stripe for each class, and their classes (n,)."""
    stripes = []
    for stripe in range(classes):
        across, along = 0.1 * np.random.randn(samples), 0.1 * np.random.randn(samples)
        stripes.append(np.column_stack([across + stripe / 3, along + 0.5]))
    return np.concatenate(stripes).astype(np.float32), np.repeat(np.arange(classes, dtype=np.uint8), samples)


def sine_data(samples=1000):
    """Return x (n, 1), from 0 to below 1, and sin(2 pi x) (n, 1)."""
    x = np.arange(samples)[:, np.newaxis] / samples
    return x, np.sin(2 * np.pi * x)


def dense(x, weights, biases):
    return np.dot(x, weights) + biases


def dense_gradients(dvalues, x, weights, biases, penalties=(0, 0, 0, 0)):
    """Return dinputs, dweights and dbiases; penalties: the factors l1 and l2 of the weights, then those of the biases."""
    dweights, dbiases = np.dot(x.T, dvalues), np.sum(dvalues, axis=0, keepdims=True)
    for gradient, values, l1, l2 in ((dweights, weights, *penalties[:2]), (dbiases, biases, *penalties[2:])):
        if l1 > 0:
            signs = np.ones_like(values)
            signs[values < 0] = -1
            gradient += l1 * signs
        if l2 > 0:
            gradient += 2 * l2 * values
    return np.dot(dvalues, weights.T), dweights, dbiases


def penalty(weights, biases, penalties):
    """Return the penalty of a layer; penalties: as for dense_gradients."""
    total = 0
    for values, l1, l2 in ((weights, *penalties[:2]), (biases, *penalties[2:])):
        if l1 > 0:
            total += l1 * np.sum(np.abs(values))
        if l2 > 0:
            total += l2 * np.sum(values * values)
    return total


def relu_gradient(dvalues, x):
    dinputs = dvalues.copy()
    dinputs[x <= 0] = 0
    return dinputs


def softmax(x):
    powers = np.exp(x - np.max(x, axis=1, keepdims=True))
    return powers / np.sum(powers, axis=1, keepdims=True)


def softmax_gradient(dvalues, output):
    dinputs = np.empty_like(dvalues)
    for i, p in enumerate(output):
        p = p.reshape(-1, 1)
        dinputs[i] = np.dot(np.diagflat(p) - np.dot(p, p.T), dvalues[i])
    return dinputs


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sigmoid_gradient(dvalues, output):
    return dvalues * (1 - output) * output


def clipped(probabilities):
    return np.clip(probabilities, 1e-7, 1 - 1e-7)


def crossentropy(p, y):
    right = clipped(p)[range(len(p)), y] if y.ndim == 1 else np.sum(clipped(p) * y, axis=1)
    return -np.log(right)


def crossentropy_gradient(p, y):
    y = np.eye(p.shape[1])[y] if y.ndim == 1 else y
    return -y / p / len(p)


def softmax_crossentropy_gradient(p, y):
    dinputs = p.copy()
    dinputs[range(len(p)), y if y.ndim == 1 else np.argmax(y, axis=1)] -= 1
    return dinputs / len(p)


def binary_crossentropy(p, y):
    p = clipped(p)
    return np.mean(-(y * np.log(p) + (1 - y) * np.log(1 - p)), axis=-1)


def binary_crossentropy_gradient(p, y):
    p = clipped(p)
    return -(y / p - (1 - y) / (1 - p)) / p.shape[1] / len(p)


def squared_error(output, y):
    return np.mean((y - output)**2, axis=-1)


def squared_error_gradient(output, y):
    return -2 * (y - output) / output.shape[1] / len(output)


def absolute_error(output, y):
    return np.mean(np.abs(y - output), axis=-1)


def absolute_error_gradient(output, y):
    return np.sign(output - y) / output.shape[1] / len(output)         # the listing has the opposite sign, which is wrong


class Sgd:
    """Gradient descent with momentum. Each of these optimisers holds one array and the state for its next step."""

    def __init__(self, values, momentum=0.0):
        self.values, self.momentum, self.moved = values, momentum, np.zeros_like(values)

    def step(self, rate, gradient, number):
        self.moved = self.momentum * self.moved - rate * gradient if self.momentum else -rate * gradient
        self.values += self.moved


class Adagrad:
    def __init__(self, values, epsilon=1e-7):
        self.values, self.epsilon, self.cache = values, epsilon, np.zeros_like(values)

    def step(self, rate, gradient, number):
        self.cache += gradient**2
        self.values += -rate * gradient / (np.sqrt(self.cache) + self.epsilon)


class RmsProp:
    def __init__(self, values, epsilon=1e-7, rho=0.9):
        self.values, self.epsilon, self.rho, self.cache = values, epsilon, rho, np.zeros_like(values)

    def step(self, rate, gradient, number):
        self.cache = self.rho * self.cache + (1 - self.rho) * gradient**2
        self.values += -rate * gradient / (np.sqrt(self.cache) + self.epsilon)


class Adam:
    def __init__(self, values, epsilon=1e-7, beta_1=0.9, beta_2=0.999):
        self.values, self.epsilon, self.beta_1, self.beta_2 = values, epsilon, beta_1, beta_2
        self.momentums = self.cache = np.zeros_like(values)

    def step(self, rate, gradient, number):
        self.momentums = self.beta_1 * self.momentums + (1 - self.beta_1) * gradient
        self.cache = self.beta_2 * self.cache + (1 - self.beta_2) * gradient**2
        momentums, cache = self.momentums / (1 - self.beta_1**number), self.cache / (1 - self.beta_2**number)
        self.values += -rate * momentums / (np.sqrt(cache) + self.epsilon)
