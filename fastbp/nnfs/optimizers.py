"""The optimizers of chapter 10: from a layer's dweights and dbiases to its new weights and biases, which change in place.

All is computed in the order and the dtypes of the book's listings: a float64 gradient of float32 biases makes their
momentums float64, and the biases stay float32.
"""
from collections.abc import Callable
from typing import Any

import numpy as np

from ._order import require


class _Optimizer:
    """The learning rate and its decay, and a layer's arrays that a rule keeps from step to step.

    A rule is a `_step(gradient, *kept)`, which returns what to add to the values, and the new kept arrays. `_kept` are their
    names: "momentums" is a layer's weight_momentums and bias_momentums. They begin as zeros in a step that misses one.
    """

    _kept: Any = ()
    _step: Callable[..., tuple[Any, ...]]

    def __init__(self, learning_rate: float, decay: float):
        self.learning_rate = self.current_learning_rate = learning_rate
        self.decay = decay
        self.iterations = 0

    def pre_update_params(self) -> None:
        """Set current_learning_rate = learning_rate / (1 + decay * iterations); to be called before a step's layers."""
        if self.decay:
            self.current_learning_rate = self.learning_rate * (1 / (1 + self.decay * self.iterations))

    def update_params(self, layer: Any) -> None:
        """Change the layer's weights and biases by one step.

        An array that cannot be changed in place, because it is read-only, a tuple, a list or has integers, is replaced by a
        copy. Raises RuntimeError before the layer's first backward.
        """
        require(layer, "dweights", "update_params", "backward")
        kinds = {"weight": _changeable(layer, "weights"), "bias": _changeable(layer, "biases")}
        if not all(hasattr(layer, f"{kind}_{name}") for kind in kinds for name in self._kept):
            for kind, values in kinds.items():
                for name in self._kept:
                    setattr(layer, f"{kind}_{name}", np.zeros_like(values))
        for (kind, values), gradient in zip(kinds.items(), (layer.dweights, layer.dbiases), strict=True):
            names = [f"{kind}_{name}" for name in self._kept]
            step, *kept = self._step(np.asarray(gradient), *(getattr(layer, name) for name in names))
            values += step
            for name, array in zip(names, kept, strict=True):
                setattr(layer, name, array)

    def post_update_params(self) -> None:
        """Count the step in iterations; to be called after a step's layers."""
        self.iterations += 1


class _CachingOptimizer(_Optimizer):
    """A rule that divides by the root of a mean of the squared gradients, weight_cache and bias_cache; epsilon avoids 0."""

    _kept: Any = ("cache",)

    def __init__(self, learning_rate: float, decay: float, epsilon: float):
        super().__init__(learning_rate, decay)
        self.epsilon = epsilon

    def _scaled(self, direction, mean_square):
        """Return the step along a direction."""
        return -self.current_learning_rate * direction / (np.sqrt(mean_square) + self.epsilon)


class Optimizer_SGD(_Optimizer):
    """Gradient descent: a step is -learning_rate * gradient, plus `momentum` times the last one, a layer's weight_momentums."""

    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, momentum: float = 0.0):
        super().__init__(learning_rate, decay)
        self.momentum = momentum

    @property
    def _kept(self):
        return ("momentums",) if self.momentum else ()

    def _step(self, gradient, momentums=None):
        step = -self.current_learning_rate * gradient
        if momentums is None:
            return (step,)
        momentums = self.momentum * momentums + step
        return momentums, momentums


class Optimizer_Adagrad(_CachingOptimizer):
    """Gradient descent over the root of the sum of all squared gradients, a layer's weight_cache and bias_cache."""

    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, epsilon: float = 1e-7):
        super().__init__(learning_rate, decay, epsilon)

    def _step(self, gradient, cache):
        cache = (cache + np.square(gradient)).astype(cache.dtype, copy=False)      # the book adds to it in place
        return self._scaled(gradient, cache), cache


class Optimizer_RMSprop(_CachingOptimizer):
    """As Adagrad, with a moving mean of the squared gradients, of which a step forgets 1 - rho."""

    def __init__(self, learning_rate: float = 0.001, decay: float = 0.0, epsilon: float = 1e-7, rho: float = 0.9):
        super().__init__(learning_rate, decay, epsilon)
        self.rho = rho

    def _step(self, gradient, cache):
        cache = _moved(cache, np.square(gradient), self.rho)
        return self._scaled(gradient, cache), cache


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
        momentums = _moved(momentums, gradient, self.beta_1)
        cache = _moved(cache, np.square(gradient), self.beta_2)
        steps = self.iterations + 1
        step = self._scaled(momentums / (1 - self.beta_1 ** steps), cache / (1 - self.beta_2 ** steps))
        return step, momentums, cache


def _changeable(layer, name):
    """Return the layer's array of that name, after a copy has taken its place if it cannot be changed in place."""
    values = getattr(layer, name)
    if not (isinstance(values, np.ndarray) and values.flags.writeable and values.dtype.kind == "f"):
        values = np.asarray(values)
        values = np.array(values, dtype=values.dtype if values.dtype.kind == "f" else np.float64)
        setattr(layer, name, values)
    return values


def _moved(mean, values, kept):
    """Return the mean, moved towards the values."""
    return kept * mean + (1 - kept) * values
