"""Training as in textbooks: networks, losses and optimisers in a few lines of NumPy each, in float64.

Kinsley and Kukieła, Neural Networks from Scratch in Python, 2020; Kingma and Ba, Adam, ICLR 2015; Loshchilov and Hutter,
Decoupled weight decay regularization, ICLR 2019. The activations are those of scripts/checks/formulas.py.
"""
import numpy as np
from checks.formulas import ACTIVATIONS, sigmoid, softmax

import fastbp

# ---- losses: each function takes scores (rows, outputs) and targets, and returns (losses of the rows, gradient, right answers)


def softmax_cross_entropy(z, y):
    shares = np.eye(z.shape[1])[y] if y.ndim == 1 else y
    p = softmax(z)
    return -(shares * np.log(p)).sum(axis=1), p - shares, (z.argmax(axis=1) == shares.argmax(axis=1)).sum()


def binary_cross_entropy(z, y):
    y, p = y.reshape(z.shape), sigmoid(z)
    losses = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    return losses.mean(axis=1), (p - y) / z.shape[1], ((z > 0) == (y > 0.5)).sum() / z.shape[1]


def mean_squared_error(z, y):
    y = y.reshape(z.shape)
    return ((z - y)**2).mean(axis=1), 2 * (z - y) / z.shape[1], None


LOSSES = {"SoftmaxCrossEntropy": softmax_cross_entropy, "BinaryCrossEntropy": binary_cross_entropy,
          "MeanSquaredError": mean_squared_error}


# ---- optimisers: each function updates an array in place; step: from 0


def sgd(w, g, state, rate, step, is_weights):
    w -= rate * g


def momentum(w, g, state, rate, step, is_weights):
    state["v"] = 0.9 * state.get("v", 0) - rate * g
    w += state["v"]


def nesterov(w, g, state, rate, step, is_weights):
    state["v"] = 0.9 * state.get("v", 0) - rate * g
    w += 0.9 * state["v"] - rate * g


def adam(w, g, state, rate, step, is_weights, weight_decay=0.0):
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    m, v = state["m"] / (1 - 0.9**(step + 1)), state["v"] / (1 - 0.999**(step + 1))
    w -= rate * (m / (np.sqrt(v) + 1e-8) + (weight_decay * w if is_weights else 0))


def adamw(w, g, state, rate, step, is_weights):
    adam(w, g, state, rate, step, is_weights, weight_decay=0.1)


# Each has fastbp's optimiser, the function above, the learning rate and its decay.
OPTIMIZERS = {
    "sgd": (lambda: fastbp.SGD(0.1), sgd, 0.1, 0.0),
    "decaying": (lambda: fastbp.SGD(0.2, decay=0.1), sgd, 0.2, 0.1),
    "momentum": (lambda: fastbp.SGD(0.05, momentum=0.9), momentum, 0.05, 0.0),
    "nesterov": (lambda: fastbp.SGD(0.05, momentum=0.9, nesterov=True), nesterov, 0.05, 0.0),
    "adam": (lambda: fastbp.Adam(0.01), adam, 0.01, 0.0),
    "adamw": (lambda: fastbp.AdamW(0.01, weight_decay=0.1, decay=0.1), adamw, 0.01, 0.1),
}


def kept(key, count, rate):
    """Return which of `count` elements a Dropout keeps, by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) from a key on."""
    z = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(1) >= int(rate * 2**63)


class Network:
    """A copy of a fastbp.Sequential in float64."""

    def __init__(self, network):
        self.parts = []             # each ["dense", weights, biases or None, activation] or ["dropout", rate]
        for layer in network.layers:
            if isinstance(layer, fastbp.ReLU):
                self.parts[-1][3] = "relu"
            elif isinstance(layer, fastbp.Dropout):
                self.parts.append(["dropout", layer.rate])
            else:
                biases = None if layer.biases is None else layer.biases.astype(np.float64)
                self.parts.append(["dense", layer.weights.astype(np.float64), biases, layer.activation])
        self.loss, self.l2 = LOSSES.get(type(network.loss).__name__), network.l2
        self.states = {}

    @property
    def parameters(self):
        return [a for part in self.parts if part[0] == "dense" for a in part[1:3] if a is not None]

    def forward(self, x, key=None):
        """Return the scores, and for each part (inputs, z or the factors of a dropout). key: None leaves dropouts out."""
        kept_values = []
        for k, (kind, *part) in enumerate(self.parts):
            if kind == "dropout":
                factors = 1.0 if key is None else kept(key + k, x.size, part[0]).reshape(x.shape) / (1 - part[0])
                kept_values.append((x, factors))
                x = x * factors
            else:
                z = x @ part[0] + (0 if part[1] is None else part[1])
                kept_values.append((x, z))
                x = ACTIVATIONS[part[2]][0](z)
        return x, kept_values

    def gradients(self, x, y, weights, key):
        """Return (loss with penalty, gradients, number of right answers) of a batch.

        Gradients are in the order of `parameters`, each (array, its gradient, whether it is weights).
        """
        scores, kept_values = self.forward(x, key)
        losses, dvalues, right = self.loss(scores, y)
        total = weights.sum() or 1.0
        dvalues = dvalues * weights[:, np.newaxis] / total
        gradients = []
        for (kind, *part), (inputs, z) in zip(reversed(self.parts), reversed(kept_values), strict=True):
            if kind == "dropout":
                dvalues = dvalues * z
            else:
                dz = dvalues * ACTIVATIONS[part[2]][1](z)
                if part[1] is not None:
                    gradients.insert(0, (part[1], dz.sum(axis=0, keepdims=True), False))
                gradients.insert(0, (part[0], inputs.T @ dz + self.l2 * part[0], True))
                dvalues = dz @ part[0].T
        penalty = self.l2 / 2 * sum((w**2).sum() for w, _, is_weights in gradients if is_weights)
        return (weights * losses).sum() / total + penalty, gradients, right

    def fit(self, x, y, *, epochs, batch_size, optimizer, sample_weight=None, shuffle=True, rng=0):
        """Train; return the losses and the accuracies of the epochs."""
        x, y, rng = np.asarray(x, np.float64), np.asarray(y), np.random.default_rng(rng)
        weights = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        key, step, losses, accuracies = int(rng.integers(1 << 62)), 0, [], []
        _, update, learning_rate, decay = OPTIMIZERS[optimizer]
        for _ in range(epochs):
            order, together, all_right = rng.permutation(len(x)) if shuffle else np.arange(len(x)), 0.0, 0.0
            for start in range(0, len(x), batch_size):
                rows = order[start:start + batch_size]
                loss, gradients, right = self.gradients(x[rows], y[rows], weights[rows], key)
                rate = learning_rate / (1 + decay * step)
                for i, (values, gradient, is_weights) in enumerate(gradients):
                    update(values, gradient, self.states.setdefault(i, {}), rate, step, is_weights)
                together, step, key = together + loss * len(rows), step + 1, key + len(self.parts)
                all_right = None if right is None else all_right + right
            losses.append(together / len(x))
            accuracies += [] if all_right is None else [all_right / len(x)]
        return losses, accuracies
