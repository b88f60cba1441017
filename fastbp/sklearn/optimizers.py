"""scikit-learn's stochastic optimisers, whose arrays compiled steps change in place."""
from typing import Any

import numpy as np

from .._arrays.memory import empty
from ..kernels.train import optimizers
from ..optimizers import Optimizer
from . import functions as originals
from .functions import AdamOptimizer, SGDOptimizer


def aligned(array: np.ndarray) -> np.ndarray:
    """Return a copy of a matrix whose data begin at a cache line; return anything else as it is.

    A step of 50 000 weights takes 3 % less time with such copies.
    """
    if type(array) is not np.ndarray or array.ndim != 2:
        return array
    copy = empty(array.shape, array.dtype)
    copy[:] = array
    return copy


class _InPlace:
    """An optimiser of scikit-learn whose arrays compiled steps change in place."""

    t: int                          # steps made, for an optimiser that counts them

    def __init__(self, params, *settings):
        super().__init__(params, *settings)
        for arrays in states_of(self):
            arrays[:] = map(aligned, arrays)

    def update_params(self, params, grads):
        """Make scikit-learn's step, or none without gradients, because compiled code has made the epoch's steps."""
        if grads:
            super().update_params(params, grads)

    def _on_arrays(self, kind, **settings):
        """Return a fastbp Optimizer that keeps its state in this one's arrays."""
        states = list(zip(*states_of(self), strict=True))         # one state for each parameter: all weights, then all biases
        layers = len(states) // 2
        optimizer = Optimizer(kind, learning_rate=self.learning_rate_init, decay=0.0, weight_decay=0.0, corrected=0.0,
                              **settings)
        return optimizer.remember([states[i] for k in range(layers) for i in (k, layers + k)])


class SGD(_InPlace, SGDOptimizer):
    """scikit-learn's gradient descent with momentum. Its velocities change in place."""

    def compiled(self) -> Optimizer:
        """Return the fastbp Optimizer that has this one's arrays and settings."""
        kind = optimizers.NESTEROV if self.nesterov else optimizers.MOMENTUM
        return self._on_arrays(kind, beta=self.momentum, beta2=0.0, epsilon=0.0)

    def before(self, optimizer: Optimizer) -> None:
        """Give fastbp's Optimizer, before an epoch, the learning rate that scikit-learn's loop may have changed."""
        optimizer._set(learning_rate=self.learning_rate)        # unchecked, as in scikit-learn: it may shrink to 0

    def after(self, optimizer: Optimizer) -> None:
        """Do nothing after an epoch: gradient descent counts no steps."""


class Adam(_InPlace, AdamOptimizer):
    """scikit-learn's Adam. Its moments change in place."""

    def compiled(self) -> Optimizer:
        """Return the fastbp Optimizer that has this one's arrays and settings."""
        return self._on_arrays(optimizers.ADAM, beta=self.beta_1, beta2=self.beta_2, epsilon=self.epsilon)

    def before(self, optimizer: Optimizer) -> None:
        """Give fastbp's Optimizer, before an epoch, the number of steps that were made."""
        optimizer.iterations = self.t

    def after(self, optimizer: Optimizer) -> None:
        """Take over the number of steps from fastbp's Optimizer after an epoch, and the learning rate that follows from it."""
        if self.t != optimizer.iterations:
            self.t = optimizer.iterations
            self.learning_rate = self.learning_rate_init * np.sqrt(1 - self.beta_2**self.t) / (1 - self.beta_1**self.t)


# The class above that takes the place of each class that an optimiser may have.
IN_PLACE = {SGDOptimizer: SGD, AdamOptimizer: Adam, SGD: SGD, Adam: Adam}


def states_of(optimizer: Any) -> list[list[np.ndarray]]:
    """Return the state of an optimiser of scikit-learn: lists that hold one array for each array of the parameters."""
    return [optimizer.velocities] if isinstance(optimizer, SGDOptimizer) else [optimizer.ms, optimizer.vs]


def settings_of(optimizer: Any) -> list[float]:
    """Return the settings that compiled steps read from an optimiser of scikit-learn when they are built."""
    if isinstance(optimizer, SGDOptimizer):
        return [optimizer.learning_rate_init, optimizer.momentum, bool(optimizer.nesterov)]
    return [optimizer.learning_rate_init, optimizer.beta_1, optimizer.beta_2, optimizer.epsilon]


def is_plain(optimizer: object) -> bool:
    """Return whether an optimiser is of scikit-learn's classes or of those above, without methods set on the instance."""
    return type(optimizer) in IN_PLACE and not vars(optimizer).keys() & originals.OPTIMIZER_METHODS
