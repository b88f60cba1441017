"""scikit-learn's stochastic optimisers, with arrays that compiled steps change in place."""
from typing import Any

import numpy as np

from . import sklearn_functions as originals
from ._memory import empty
from .kernels import optimizers
from .optimizers import Optimizer
from .sklearn_functions import AdamOptimizer, SGDOptimizer


def aligned(array: np.ndarray) -> np.ndarray:
    """Return a copy of a matrix that begins with a cache line (a step of 50 000 weights takes 3 % less); a vector itself."""
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
        """Do nothing without gradients: then an epoch has made its own steps."""
        if grads:
            super().update_params(params, grads)

    def _on_arrays(self, kind, **settings):
        """Return an Optimizer that remembers in this one's arrays."""
        states = list(zip(*states_of(self), strict=True))         # of each array, all weights first, then all biases
        layers = len(states) // 2
        optimizer = Optimizer(kind, learning_rate=self.learning_rate_init, decay=0.0, weight_decay=0.0, corrected=0.0,
                              **settings)
        return optimizer.remember([states[i] for k in range(layers) for i in (k, layers + k)])


class SGD(_InPlace, SGDOptimizer):
    def compiled(self) -> Optimizer:
        """Return the Optimizer of this one's arrays and settings."""
        kind = optimizers.NESTEROV if self.nesterov else optimizers.MOMENTUM
        return self._on_arrays(kind, beta=self.momentum, beta2=0.0, epsilon=0.0)

    def before(self, optimizer: Optimizer) -> None:
        """Tell the other one, before an epoch, what the loop may have changed."""
        optimizer._settings[0] = self.learning_rate         # unchecked: as it shrinks it may come to 0

    def after(self, optimizer: Optimizer) -> None:
        """Take over what the other one counted in an epoch: nothing."""


class Adam(_InPlace, AdamOptimizer):
    def compiled(self) -> Optimizer:
        """Return the Optimizer of this one's arrays and settings."""
        return self._on_arrays(optimizers.ADAM, beta=self.beta_1, beta2=self.beta_2, epsilon=self.epsilon)

    def before(self, optimizer: Optimizer) -> None:
        """Tell the other one, before an epoch, what the loop may have changed."""
        optimizer.iterations = self.t

    def after(self, optimizer: Optimizer) -> None:
        """Take over what the other one counted in an epoch."""
        if self.t != optimizer.iterations:
            self.t = optimizer.iterations
            self.learning_rate = self.learning_rate_init * np.sqrt(1 - self.beta_2**self.t) / (1 - self.beta_1**self.t)


# The class whose arrays compiled steps change in place, for each class that an optimiser may have.
IN_PLACE = {SGDOptimizer: SGD, AdamOptimizer: Adam, SGD: SGD, Adam: Adam}


def states_of(optimizer: Any) -> list[list[np.ndarray]]:
    """Return what an optimiser of scikit-learn remembers: lists with an array for each array of the parameters."""
    return [optimizer.velocities] if isinstance(optimizer, SGDOptimizer) else [optimizer.ms, optimizer.vs]


def settings_of(optimizer: Any) -> list[float]:
    """Return the numbers that compiled steps take from an optimiser of scikit-learn when they are built."""
    if isinstance(optimizer, SGDOptimizer):
        return [optimizer.learning_rate_init, optimizer.momentum, bool(optimizer.nesterov)]
    return [optimizer.learning_rate_init, optimizer.beta_1, optimizer.beta_2, optimizer.epsilon]


def is_plain(optimizer: object) -> bool:
    """Whether an optimiser is of one of scikit-learn's classes, or of those above, and has no methods of its own."""
    return type(optimizer) in IN_PLACE and not vars(optimizer).keys() & originals.OPTIMIZER_METHODS
