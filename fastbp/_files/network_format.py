"""Networks as files, .safetensors or .npz: arrays and a description of the layers. Nothing in a file is ever executed."""
import os
import reprlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .._arrays.operands import BFLOAT16
from .._training.loop import Network
from ..kernels.elementwise.activations import NAMES
from ..layers import Dense, Dropout, ReLU
from ..losses import LOSSES
from . import container

# The type of the network that `load` makes.
_N = TypeVar("_N")

_FORMAT = 1                     # The version of the description.

# The values that each name in the description of a network, and of a layer of each class, may have, as JSON has them. A type
# stands for all of its values.
_NETWORK: dict[str, tuple[Any, ...]] = {"format": (_FORMAT,), "layers": (list,), "loss": (None, *LOSSES), "l2": (float, int)}
_LAYERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "Dense": {"type": (str,), "activation": NAMES, "need_dinputs": (False, True), "precision": (None, BFLOAT16)},
    "Dropout": {"type": (str,), "rate": (float, int)},
    "ReLU": {"type": (str,)},
}


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a network to a file, as Sequential.save says."""
    network._specs()                # turns assigned arrays into those that load takes, or raises
    arrays: dict[str, np.ndarray] = {}
    layers = []
    for i, layer in enumerate(network.layers):
        described: dict[str, object] = {"type": type(layer).__name__}
        if isinstance(layer, Dense):
            described = {"type": "Dense", "activation": layer.activation, "need_dinputs": layer.need_dinputs,
                         "precision": layer.precision}
            arrays[f"{i}.weights"] = layer.weights
            if layer.biases is not None:
                arrays[f"{i}.biases"] = layer.biases.reshape(1, -1)
        elif isinstance(layer, Dropout):
            described["rate"] = layer.rate
        layers.append(described)
    loss = None if network.loss is None else type(network.loss).__name__
    container.write(path, arrays, {"format": _FORMAT, "layers": layers, "loss": loss, "l2": network.l2})


def load(path: str | os.PathLike[str], network_of: Callable[..., _N]) -> _N:
    """Return network_of(layers, loss, l2=l2), made of a file as network.load says."""
    arrays, about = container.read(path)
    form = about.get("format")
    if type(form) is not int or form != _FORMAT:
        raise ValueError(f"{os.fspath(path)} is of format {reprlib.repr(form)}, expected {_FORMAT}: it is no network, or one "
                         "of a later fastbp")
    try:
        _check("the network", about, _NETWORK)
        layers = [_layer(i, described, arrays) for i, described in enumerate(about["layers"])]
        if arrays:
            raise ValueError(f"there are arrays that belong to no layer: {', '.join(arrays)}")
        return network_of(layers, about["loss"] and LOSSES[about["loss"]](), l2=about["l2"])
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} does not describe a network: {container.shown(repr(error))}") from error


def _check(what, described, values):
    """Raise ValueError unless `described` is an object with exactly these names, each with a value that it may have."""
    if type(described) is not dict or described.keys() != values.keys():
        raise ValueError(f"{what} is {reprlib.repr(described)}, expected an object with {', '.join(values)}")
    for name, allowed in values.items():
        value = described[name]
        if not any(type(value) is one or type(value) is type(one) and value == one for one in allowed):
            expected = " or ".join(one.__name__ if isinstance(one, type) else repr(one) for one in allowed)
            raise ValueError(f"{name} of {what} is {reprlib.repr(value)}, expected {expected}")


def _layer(i, described, arrays):
    """Return layer i, and take its arrays out of the dictionary of arrays."""
    what, kind = f"layers[{i}]", described.get("type") if isinstance(described, dict) else None
    if not isinstance(kind, str) or kind not in _LAYERS:
        raise ValueError(f"{what} is {reprlib.repr(described)}, expected an object of type {' or '.join(_LAYERS)}")
    _check(what, described, _LAYERS[kind])
    if kind == "Dropout":
        return Dropout(described["rate"])
    if kind == "ReLU":
        return ReLU()
    weights, biases = arrays.pop(f"{i}.weights", None), arrays.pop(f"{i}.biases", None)
    if weights is None or weights.ndim != 2:
        found = "no weights" if weights is None else f"weights of shape {weights.shape}"
        raise ValueError(f"{what} has {found}, expected some of shape (n_inputs, n_neurons)")
    if biases is not None and (biases.shape != (1, weights.shape[1]) or biases.dtype != weights.dtype):
        raise ValueError(f"{what} has biases of {biases.dtype} and shape {biases.shape}, expected {weights.dtype} and shape "
                         f"(1, {weights.shape[1]})")
    layer = Dense(0, 0, activation=described["activation"], bias=False, dtype=weights.dtype,
                  need_dinputs=described["need_dinputs"], precision=described["precision"])
    layer.weights, layer.biases = weights.copy(), None if biases is None else biases.copy()
    return layer
