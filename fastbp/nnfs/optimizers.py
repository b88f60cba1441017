"""The optimizers of chapter 10. They change a layer's weights and biases in place, by its dweights and dbiases.

Everything is computed in the order and the dtypes of the book's listings: if the gradient of float32 biases is float64, their
momentums become float64, and the biases stay float32.
"""
from collections.abc import Callable
from typing import Any

import numpy as np

from ._order import require


class _Optimizer:
    """The learning rate, its decay, and the state arrays that a rule keeps in a layer from step to step.

    A subclass has the rule `_step(gradient, *state)`. It returns what to add to the parameters, and the new state arrays.
    `_state` has the names of these arrays: "momentums" stands for a layer's weight_momentums and bias_momentums. If one is
    missing in a step, all begin as zeros.
    """

    _state: Any = ()
    _step: Callable[..., tuple[Any, ...]]

    def __init__(self, learning_rate: float, decay: float):
        self.learning_rate = self.current_learning_rate = learning_rate
        self.decay = decay
        self.iterations = 0

    def pre_update_params(self) -> None:
        """Set current_learning_rate = learning_rate / (1 + decay * iterations). Call it before the update of the layers."""
        if self.decay:
            self.current_learning_rate = self.learning_rate * (1 / (1 + self.decay * self.iterations))

    def update_params(self, layer: Any) -> None:
        """Change the layer's weights and biases by one step.

        A copy takes the place of an array that cannot change in place: one that is read-only, a tuple, a list or of integers.
        Raises RuntimeError before the layer's first backward.
        """
        require(layer, "dweights", "update_params", "backward")
        kinds = {"weight": _changeable(layer, "weights"), "bias": _changeable(layer, "biases")}
        if not all(hasattr(layer, f"{kind}_{name}") for kind in kinds for name in self._state):
            for kind, values in kinds.items():
                for name in self._state:
                    setattr(layer, f"{kind}_{name}", np.zeros_like(values))
        for (kind, values), gradient in zip(kinds.items(), (layer.dweights, layer.dbiases), strict=True):
            names = [f"{kind}_{name}" for name in self._state]
            step, *state = self._step(np.asarray(gradient), *(getattr(layer, name) for name in names))
            values += step
            for name, array in zip(names, state, strict=True):
                setattr(layer, name, array)

    def post_update_params(self) -> None:
        """Count the step in iterations. Call it after the update of the layers."""
        self.iterations += 1


class _CachingOptimizer(_Optimizer):
    """A rule that divides by the root of accumulated squared gradients, weight_cache and bias_cache. epsilon avoids 0."""

    _state: Any = ("cache",)

    def __init__(self, learning_rate: float, decay: float, epsilon: float):
        super().__init__(learning_rate, decay)
        self.epsilon = epsilon

    def _scaled(self, direction, mean_square):
        """Return the step: -learning rate * direction / root of mean_square."""
        return -self.current_learning_rate * direction / (np.sqrt(mean_square) + self.epsilon)


class Optimizer_SGD(_Optimizer):
    """Gradient descent: a step is -learning_rate * gradient + momentum * last step, which is a layer's weight_momentums."""

    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, momentum: float = 0.0):
        super().__init__(learning_rate, decay)
        self.momentum = momentum

    @property
    def _state(self):
        return ("momentums",) if self.momentum else ()

    def _step(self, gradient, momentums=None):
        step = -self.current_learning_rate * gradient
        if momentums is None:
            return (step,)
        momentums = self.momentum * momentums + step
        return momentums, momentums


class Optimizer_Adagrad(_CachingOptimizer):
    """Gradient descent, divided by the root of the sum of all squared gradients, a layer's weight_cache and bias_cache."""

    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, epsilon: float = 1e-7):
        super().__init__(learning_rate, decay, epsilon)

    def _step(self, gradient, cache):
        cache = (cache + np.square(gradient)).astype(cache.dtype, copy=False)      # the book's cache keeps its dtype
        return self._scaled(gradient, cache), cache


class Optimizer_RMSprop(_CachingOptimizer):
    """Adagrad with a moving mean of the squared gradients in place of their sum. A step keeps the fraction rho of the mean."""

    def __init__(self, learning_rate: float = 0.001, decay: float = 0.0, epsilon: float = 1e-7, rho: float = 0.9):
        super().__init__(learning_rate, decay, epsilon)
        self.rho = rho

    def _step(self, gradient, cache):
        cache = _moved(cache, np.square(gradient), self.rho)
        return self._scaled(gradient, cache), cache


class Optimizer_Adam(_CachingOptimizer):
    """Adam (Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015).

    weight_momentums are moving means of the gradients, weight_cache of their squares. Both are corrected for their start at 0.
    """

    _state = ("momentums", "cache")

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
    """Return the layer's array of that name, after replacing it by a copy if it cannot change in place."""
    values = getattr(layer, name)
    if not (isinstance(values, np.ndarray) and values.flags.writeable and values.dtype.kind == "f"):
        values = np.asarray(values)
        values = np.array(values, dtype=values.dtype if values.dtype.kind == "f" else np.float64)
        setattr(layer, name, values)
    return values


def _moved(mean, values, rate):
    """Return the moving mean after it took in the values: rate * mean + (1 - rate) * values."""
    return rate * mean + (1 - rate) * values
