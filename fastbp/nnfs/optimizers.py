"""The optimizers of chapter 10: from a layer's dweights and dbiases to its new weights and biases, which change in place."""
from typing import Any

import numpy as np


class _Optimizer:
    """The learning rate and its decay, and a layer's arrays that a rule keeps from step to step.

    A rule is a `_step(gradient, *kept)`, what to add to the values. `_kept` are the names of what it keeps: "momentums" is
    a layer's weight_momentums and bias_momentums, zeros before the first step.
    """

    _kept = ()

    def __init__(self, learning_rate, decay):
        self.learning_rate = self.current_learning_rate = learning_rate
        self.decay = decay
        self.iterations = 0

    def pre_update_params(self) -> None:
        """Sets current_learning_rate = learning_rate / (1 + decay * iterations); to be called before a step's layers."""
        if self.decay:
            self.current_learning_rate = self.learning_rate * (1 / (1 + self.decay * self.iterations))

    def update_params(self, layer: Any) -> None:
        """Changes the layer's weights and biases by one step."""
        for kind, values, gradient in (("weight", layer.weights, layer.dweights), ("bias", layer.biases, layer.dbiases)):
            values += self._step(gradient, *(_array_of(layer, f"{kind}_{name}", values) for name in self._kept))

    def post_update_params(self) -> None:
        """Counts the step in iterations; to be called after a step's layers."""
        self.iterations += 1


class _CachingOptimizer(_Optimizer):
    """A rule that divides by the root of a mean of the squared gradients, weight_cache and bias_cache; epsilon avoids 0."""

    _kept = ("cache",)

    def __init__(self, learning_rate, decay, epsilon):
        super().__init__(learning_rate, decay)
        self.epsilon = epsilon

    def _scaled(self, direction, mean_square):
        """The step along a direction."""
        step = -self.current_learning_rate * direction
        root = np.sqrt(mean_square)
        root += self.epsilon
        step /= root
        return step


class Optimizer_SGD(_Optimizer):
    """Gradient descent: a step is -learning_rate * gradient, plus `momentum` times the last one, a layer's weight_momentums."""

    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, momentum: float = 0.0):
        super().__init__(learning_rate, decay)
        self.momentum = momentum
        self._kept = ("momentums",) if momentum else ()

    def _step(self, gradient, momentums=None):
        step = -self.current_learning_rate * gradient
        if momentums is None:
            return step
        momentums *= self.momentum
        momentums += step
        return momentums


class Optimizer_Adagrad(_CachingOptimizer):
    """Gradient descent over the root of the sum of all squared gradients, a layer's weight_cache and bias_cache."""

    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, epsilon: float = 1e-7):
        super().__init__(learning_rate, decay, epsilon)

    def _step(self, gradient, cache):
        cache += np.square(gradient)
        return self._scaled(gradient, cache)


class Optimizer_RMSprop(_CachingOptimizer):
    """As Adagrad, with a moving mean of the squared gradients, of which a step forgets 1 - rho."""

    def __init__(self, learning_rate: float = 0.001, decay: float = 0.0, epsilon: float = 1e-7, rho: float = 0.9):
        super().__init__(learning_rate, decay, epsilon)
        self.rho = rho

    def _step(self, gradient, cache):
        _move(cache, np.square(gradient), self.rho)
        return self._scaled(gradient, cache)


class Optimizer_Adam(_CachingOptimizer):
    """Moving means of the gradients, weight_momentums, and of their squares, weight_cache, both corrected for their start at 0.

    (Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015.)
    """

    _kept = ("momentums", "cache")

    def __init__(self, learning_rate: float = 0.001, decay: float = 0.0, epsilon: float = 1e-7,
                 beta_1: float = 0.9, beta_2: float = 0.999):
        super().__init__(learning_rate, decay, epsilon)
        self.beta_1, self.beta_2 = beta_1, beta_2

    def _step(self, gradient, momentums, cache):
        _move(momentums, gradient, self.beta_1)
        _move(cache, np.square(gradient), self.beta_2)
        steps = self.iterations + 1
        return self._scaled(momentums / (1 - self.beta_1 ** steps), cache / (1 - self.beta_2 ** steps))


def _array_of(layer, name, values):
    """The layer's array of that name, which begins as zeros like the values."""
    if not hasattr(layer, name):
        setattr(layer, name, np.zeros_like(values))
    return getattr(layer, name)


def _move(mean, values, kept):
    """Moves a mean towards the values, in place."""
    mean *= kept
    mean += (1 - kept) * values
