"""Networks as files: .safetensors or .npz, of arrays and a description of the layers; nothing in a file is ever executed."""
import os

import numpy as np

from . import _storage
from .layers import Dense, Dropout, ReLU
from .losses import LOSSES

_FORMAT = 1


def save(network, path):
    """Sequential.save."""
    network.parts()                 # assigned arrays become what load takes, or raise
    arrays, layers = {}, []
    for i, layer in enumerate(network.layers):
        described = {"type": type(layer).__name__}
        if isinstance(layer, Dense):
            described = {"type": "Dense", "activation": layer.activation, "need_dinputs": layer.need_dinputs,
                         "precision": layer.precision}
            arrays[f"{i}.weights"] = layer.weights
            if layer.biases is not None:
                arrays[f"{i}.biases"] = layer.biases
        elif isinstance(layer, Dropout):
            described["rate"] = layer.rate
        layers.append(described)
    loss = None if network.loss is None else type(network.loss).__name__
    _storage.write(path, arrays, {"format": _FORMAT, "layers": layers, "loss": loss, "l2": network.l2})


def load(path, network_of):
    """network.load, where network_of(layers, loss, l2=l2) is made."""
    arrays, about = _storage.read(path)
    if about.get("format") != _FORMAT:
        raise ValueError(f"{os.fspath(path)} is of format {about.get('format')!r}, expected {_FORMAT}: it is no network, or "
                         "one of a later fastbp")
    try:
        layers = [_layer(described, arrays.get(f"{i}.weights"), arrays.get(f"{i}.biases"))
                  for i, described in enumerate(about["layers"])]
        unknown = arrays.keys() - {f"{i}.{name}" for i, layer in enumerate(layers) for name in ("weights", "biases")
                                   if isinstance(layer, Dense)}
        if unknown:
            raise ValueError(f"there are arrays that belong to no layer: {', '.join(sorted(unknown))}")
        loss = None if about["loss"] is None else LOSSES[about["loss"]]()
        return network_of(layers, loss, l2=about["l2"])
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{os.fspath(path)} does not describe a network: {error!r}") from error


def _layer(described, weights, biases):
    if described["type"] == "Dropout":
        return Dropout(described["rate"])
    if described["type"] == "ReLU":
        return ReLU()
    if described["type"] != "Dense" or weights is None or weights.ndim != 2:
        raise ValueError(f"a layer is {described}, expected Dense with weights of two dimensions, Dropout or ReLU")
    layer = Dense(0, 0, activation=described["activation"], bias=biases is not None, dtype=weights.dtype,
                  need_dinputs=bool(described["need_dinputs"]), precision=described["precision"])
    if biases is not None and (biases.shape != (1, weights.shape[1]) or biases.dtype != weights.dtype):
        raise ValueError(f"biases of {biases.dtype} have shape {biases.shape}, expected (1, {weights.shape[1]}) of "
                         f"{weights.dtype}")
    layer.weights, layer.biases = np.array(weights), None if biases is None else np.array(biases)
    return layer
