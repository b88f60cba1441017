"""Scores and predictions of a network that is given as its layers' arrays, for Sequential and for tasks of Dask."""
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import functional
from ._arrays.memory import empty
from ._training.session import LayerSpec
from .losses import Loss

# Rows that scores() takes through all layers at a time, so that the arrays between two layers stay small.
_ROWS = 4096


def predictions(specs: Sequence[LayerSpec], loss: Loss | None, x: np.ndarray) -> np.ndarray:
    """Return the predictions (rows, n_outputs) for x (rows, n_inputs): probabilities, as the loss has them, or else scores.

    specs: Sequential._specs() of the network.
    """
    predicted = scores(specs, x)
    return predicted if loss is None else loss.predictions(predicted)


def scores(specs: Sequence[LayerSpec], x: np.ndarray) -> np.ndarray:
    """Return the output of the last layer, (rows, n_outputs), for x (rows, n_inputs). Dropouts drop nothing."""
    dense = [spec for spec in specs if spec.weights is not None]
    weights: Any = dense[-1].weights
    result = empty((len(x), weights.shape[1]), weights.dtype)
    for i in range(0, len(x), _ROWS):
        h = x[i:i + _ROWS].astype(weights.dtype, copy=False)
        for spec in dense:
            h, _ = functional._forward(h, spec.weights, spec.biases, None, spec.activation, precision=spec.precision)
        result[i:i + _ROWS] = h
    return result
