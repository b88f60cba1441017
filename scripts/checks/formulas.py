"""Formulas of activations, losses, optimisers and networks in NumPy's float64, with bounds for rounding errors.

Kinsley and Kukieła, Neural Networks from Scratch in Python, 2020, chapters 5, 9, 10, 16 and 17; Hendrycks and Gimpel, Gaussian
error linear units, arXiv:1606.08415; Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019. A loss is the
weighted mean over the rows, and so are its gradients.
"""
import numpy as np


def _gelu_tanh(z):
    """Return the hyperbolic tangent that is part of GELU."""
    return np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))


def _gelu(z):
    return z * (1 + _gelu_tanh(z)) / 2


def _gelu_derivative(z):
    tanh = _gelu_tanh(z)
    return (1 + tanh) / 2 + z / 2 * (1 - tanh**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)


def sigmoid(z):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-z))


def softmax(z):
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# Each activation and its derivative are both functions of z.
ACTIVATIONS = {
    "identity": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.where(z > 0, z, 0), lambda z: np.where(z > 0, 1.0, 0)),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "gelu": (_gelu, _gelu_derivative),
}


def loss(name, z, t, weights):
    """Return (loss, number of right answers, gradient, size of the loss, sizes of the gradient).

    z, t: scores and targets (rows, outputs). weights: of the rows. The rounding error of a number is relative to its size: the
    sum of the absolute values of its terms.
    """
    outputs, row_weights = z.shape[1], (weights / weights.sum())[:, np.newaxis]
    if name == "SoftmaxCrossEntropy":
        most, total = z.max(axis=1, keepdims=True), t.sum(axis=1, keepdims=True)
        powers = np.exp(z - most)
        sums = powers.sum(axis=1, keepdims=True)
        each = (total * (np.log(sums) + most) - (t * z).sum(axis=1, keepdims=True))
        sizes = abs(t).sum(axis=1, keepdims=True) * (1 + abs(most)) + abs(t * z).sum(axis=1, keepdims=True)
        right = np.count_nonzero(z.argmax(axis=1) == t.argmax(axis=1))
        gradient = total * powers / sums - t
        bounds = abs(t).sum(axis=1, keepdims=True) * powers / sums * (1 + abs(z - most)) + abs(t)
    elif name == "BinaryCrossEntropy":
        each, sizes = np.maximum(z, 0) - z * t + np.log1p(np.exp(-abs(z))), abs(z) * (1 + abs(t)) + 1
        right = np.count_nonzero((z > 0) == (t > 0.5))
        gradient, bounds = (sigmoid(z) - t) / outputs, (sigmoid(z) * (1 + abs(z)) + abs(t)) / outputs
    else:
        each, sizes, right = (z - t) ** 2, (abs(z) + abs(t)) ** 2, 0
        gradient, bounds = 2 * (z - t) / outputs, 2 * (abs(z) + abs(t)) / outputs
    means = [float((row_weights * a).sum() / a.shape[1]) for a in (each, sizes)]
    return means[0], right, row_weights * gradient, means[1], row_weights * bounds


class Optimizer:
    """An optimiser's steps, for arrays and for their sizes. Rounding errors are relative to the sizes.

    kind: "sgd", "momentum", "nesterov" or "adam".
    """

    def __init__(self, kind, rate, decay=0.0, beta=0.0, beta2=0.0, epsilon=0.0, weight_decay=0.0):
        self._kind, self._rates, self._betas = kind, (rate, decay), (beta, beta2)
        self._epsilon, self._weight_decay = epsilon, weight_decay
        self.iterations, self._states = 0, {}

    def step(self, i, w, size, g, decays):
        """Return array i and its size after a step with gradient g. The caller adds 1 to `iterations` after all arrays.

        w, size: the array and its size before the step. decays: whether weight decay applies to it.
        """
        self._decay = self._weight_decay if decays else 0.0
        w, v, s = self._stepped(w, g, *self._states.get((i, 0), (0.0, 0.0)), -1)
        self._states[i, 0] = v, s
        size, v, s = self._stepped(size, abs(g), *self._states.get((i, 1), (0.0, 0.0)), 1)
        self._states[i, 1] = v, s
        return w, size

    def _stepped(self, w, g, v, s, sign):
        """Return w and the optimiser's two arrays for it after a step. sign: -1 for an array, 1 for sizes, which only grow."""
        rate, (beta, beta2), steps = self._rates[0] / (1 + self._rates[1] * self.iterations), self._betas, self.iterations + 1
        if self._kind == "sgd":
            return w + sign * rate * g, v, s
        if self._kind == "adam":
            v, s = beta * v + (1 - beta) * g, beta2 * s + (1 - beta2) * g * g
            mean, root = v / (1 - beta**steps), np.sqrt(s / (1 - beta2**steps))
            return w + sign * rate * (mean / (root + self._epsilon) + self._decay * w), v, s
        v = beta * v + sign * rate * g
        return (w + beta * v + sign * rate * g if self._kind == "nesterov" else w + v), v, s


class Network:
    """A network of Dense layers, each a list [weights, biases or None, activation].

    kink: the distance from 0 within which rounding may change the sign of a ReLU's input. is_near_kink: whether such an input
    was met; an input of exactly 0 does not count.
    """

    def __init__(self, layers, kink):
        self.layers, self._kink, self.is_near_kink = layers, kink, False

    def forward(self, x):
        """Return the scores, and keep the inputs and sums of each layer for backward."""
        self._inputs, self._sums = [], []
        for weights, biases, activation in self.layers:
            z = x @ weights + (0.0 if biases is None else biases.reshape(1, -1))
            self._inputs.append(x)
            self._sums.append(z)
            if "relu" in activation:
                self.is_near_kink |= bool(((abs(z) < self._kink) & (z != 0)).any())
            x = ACTIVATIONS[activation][0](z)
        return x

    def backward(self, dvalues):
        """Return the gradients of weights and biases, in the order of parameters()."""
        gradients = []
        for (weights, biases, activation), x, z in reversed([*zip(self.layers, self._inputs, self._sums, strict=True)]):
            dz = dvalues * ACTIVATIONS[activation][1](z)
            gradients += [] if biases is None else [dz.sum(axis=0).reshape(biases.shape)]
            gradients.append(x.T @ dz)
            dvalues = dz @ weights.T
        return gradients[::-1]

    def parameters(self):
        """Return weights and biases, layer by layer."""
        return [a for layer in self.layers for a in layer[:2] if a is not None]

    def penalty(self, l2):
        """Return the L2 penalty: l2 / 2 times the sum of the squared weights."""
        return l2 / 2 * sum(float((weights**2).sum()) for weights, _, _ in self.layers)

    def fit(self, x, t, weights, *, loss_name, optimizer, orders, batch, l2):
        """Train for one epoch with each of these orders of the rows; return the mean loss of each epoch."""
        losses = []
        for order in orders:
            total = 0.0
            for start in range(0, len(x), batch):
                rows = order[start:start + batch]
                value, _, dvalues, _, _ = loss(loss_name, self.forward(x[rows]), t[rows], weights[rows])
                total += (value + self.penalty(l2)) * len(rows)
                self._step(self.backward(dvalues), optimizer, l2)
            losses.append(total / len(x))
        return losses

    def _step(self, gradients, optimizer, l2):
        """Update all parameters with the gradients of a batch and of the penalty."""
        gradients, i = iter(gradients), 0
        for layer in self.layers:
            for k in (0, 1):
                if layer[k] is not None:
                    g = next(gradients) + (l2 * layer[k] if k == 0 else 0)
                    layer[k], _ = optimizer.step(i, layer[k], abs(layer[k]), g, k == 0)
                    i += 1
        optimizer.iterations += 1
