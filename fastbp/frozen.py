"""Frozen networks: predictions of a network whose weights never change any more."""
import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from ._arrays import operands
from ._arrays.memory import empty
from ._njit import frozen
from ._runtime import terminal
from ._training.session import LayerSpec
from .functional import FloatArray
from .inference import Predictor, as_inputs
from .losses import Loss


class Frozen:
    """A network as it was when `Sequential.frozen()` made this: `frozen(x)` returns what its `predict(x)` returned then.

    It has the same bits, takes the same x, and raises the same errors. It holds copies of weights and biases, once as they were
    and once in the order in which kernels read them, so a call copies no weights. What happens to the network later changes
    nothing here: it holds what they were.

    A Frozen can be called inside @njit code, too, as an argument of the compiled function or as a global of it. There x is an
    array (rows, n_inputs) or (n_inputs,), a wrong dtype is a TypingError, and a global is kept for as long as the process runs.

    dtype: that of weights and predictions. n_inputs, n_outputs: the sizes of a row of x and of a row of predictions. A Frozen
    can be pickled and copied.
    """

    def __init__(self, specs: Sequence[LayerSpec], loss: Loss | None):
        self.__setstate__((specs, loss))

    def __setstate__(self, state: tuple[Sequence[LayerSpec], Loss | None]) -> None:
        specs, loss = state
        self._layers = [_copied(spec) for spec in specs if spec.weights is not None]
        self.loss = copy.deepcopy(loss)
        self._predictor = Predictor(self._layers, self.loss, are_kept=True)
        self._address = self._predictor.address

    def __getstate__(self) -> tuple[Sequence[LayerSpec], Loss | None]:
        return self._layers, self.loss

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of weights and predictions."""
        return self._predictor.dtype

    @property
    def n_inputs(self) -> int:
        """The number of inputs of the first layer."""
        return self._predictor.n_inputs

    @property
    def n_outputs(self) -> int:
        """The number of neurons of the last layer."""
        return self._predictor.n_outputs

    def __repr__(self) -> str:
        sizes = "-".join(map(str, [self.n_inputs, *(spec.weights.shape[1] for spec in self._layers)]))
        return terminal.in_ascii(f"<Frozen {sizes} {self.dtype}, loss {self.loss!r}>")

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Return the predictions (rows, n_outputs) for x (rows, n_inputs), as Sequential.predict does.

        Raises ValueError for another shape, TypeError for what holds no real numbers, MemoryError.
        """
        if type(x) is ndarray:
            predicted = self._predictor.direct(x)
            if predicted is not None:
                return predicted
        if operands.is_lazy(x):
            from .dask import arrays

            return arrays.predict(self, x)
        return self._predictor(as_inputs("x", x, self._predictor.n_inputs))

    # ---- for dask/arrays.py, as Sequential has them

    def _specs(self) -> Sequence[LayerSpec]:
        return self._layers

    def _as_inputs(self, name: str, x: ArrayLike) -> np.ndarray:
        return as_inputs(name, x, self.n_inputs)


def _copied(spec):
    """Return a LayerSpec with copies of its arrays, which nobody can write."""
    copies = {}
    for name, array in (("weights", spec.weights), ("biases", spec.biases)):
        if array is not None:
            copies[name] = empty(array.shape, array.dtype)      # at a cache line, as the layers' own
            np.copyto(copies[name], array)
            copies[name].flags.writeable = False
    return spec._replace(**copies)


frozen.register(Frozen)
