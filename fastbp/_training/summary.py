"""Descriptions of layers and networks, a line or a table in ASCII, whatever somebody has assigned to their attributes."""
import math
import reprlib
from numbers import Real
from typing import Any

import numpy as np

from .._runtime import terminal


def layer_line(layer: Any) -> str:
    """Return the repr of a layer, such as <Dense 64 -> 128 relu float32>, which also names arrays that cannot be used."""
    words, notes = [type(layer).__name__], []
    if hasattr(layer, "rate"):
        words.append(shown(layer.rate))
    if hasattr(layer, "weights"):
        sizes, problems = _sizes(layer)
        words += [] if sizes is None else [f"{sizes[0]} -> {sizes[1]}"]
        words.append(_text(lambda: layer.activation))
        words += [] if sizes is None else [_text(lambda: getattr(layer.weights, "dtype", type(layer.weights).__name__))]
        if (precision := getattr(layer, "precision", None)) is not None:
            notes.append(f"multiplied in {precision[:20] if isinstance(precision, str) else shown(precision)}")
        if getattr(layer, "biases", None) is None:
            notes.append("without biases")
        notes += problems
    return terminal.in_ascii(f"<{', '.join([' '.join(words), *notes])}>")


def line(network: Any) -> str:
    """Return the repr of a network, such as <Sequential 64-128-10 float32, loss SoftmaxCrossEntropy()>."""
    sizes = [_sizes(layer)[0] or "??" for layer in _layers(network) if hasattr(layer, "weights")]
    joined = "-".join(str(n) for n in [*(pair[0] for pair in sizes[:1]), *(pair[1] for pair in sizes)])
    dtype = _text(lambda: network.dtype)
    return terminal.in_ascii(f"<{type(network).__name__} {joined} {dtype}, loss {shown(getattr(network, 'loss', None))}>")


def table(network: Any) -> str:
    """Return a table with a row for each layer: its name, the shape of its output, and how many numbers are trained.

    Below it are the loss, l2, and the arrays that cannot be used.
    """
    layers = _layers(network)
    dense = [layer for layer in layers if hasattr(layer, "weights")]
    sizes = _sizes(dense[0])[0] if dense else None
    rows, total, notes = [("layer", "output", "parameters")], 0, []
    neurons = "?" if sizes is None else sizes[0]
    for i, layer in enumerate(layers):
        count = 0
        if hasattr(layer, "weights"):
            sizes, problems = _sizes(layer)
            notes += [f"layers[{i}] has {problem}" for problem in problems]
            neurons = "?" if sizes is None else sizes[1]
            count = None if problems else math.prod(sizes) + (0 if getattr(layer, "biases", None) is None else neurons)
        rows.append((_name(layer), f"(rows, {neurons})", "?" if count is None else f"{count:,}"))
        total = None if count is None or total is None else total + count
    rows.append(("all", _text(lambda: network.dtype.name), "?" if total is None else f"{total:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{name:<{widths[0]}}  {output:<{widths[1]}}  {count:>{widths[2]}}" for name, output, count in rows]
    rule = "-" * len(lines[0])
    loss, l2 = network.loss, network.l2
    settings = f"loss {shown(loss) if loss is not None else 'none'}, l2 {shown(l2)}"
    return terminal.in_ascii("\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], settings, *notes]))


def _name(layer):
    if hasattr(layer, "rate"):
        return f"{type(layer).__name__} {shown(layer.rate)}"
    if hasattr(layer, "weights"):
        activation = _text(lambda: layer.activation)
        return "Dense" if activation == "identity" else f"Dense {activation}"
    return type(layer).__name__


def _layers(network):
    return network.layers if isinstance(network.layers, list | tuple) else []


def _sizes(layer):
    """Return ((n_inputs, n_neurons), problems of the layer's arrays), with None for sizes that are unknown."""
    shape, biases = _shape(layer.weights), getattr(layer, "biases", None)
    if shape is None or len(shape) != 2:
        return None, [f"weights {_what(layer.weights, shape)}, expected (n_inputs, n_neurons)"]
    of_biases = _shape(biases)
    if biases is not None and of_biases not in ((1, shape[1]), (shape[1],)):
        return shape, [f"biases {_what(biases, of_biases)}, expected (1, {shape[1]})"]
    return shape, []


def _shape(values):
    """Return the shape of an array, or of something that becomes one, such as a list of lists; else None."""
    try:
        shape = values.shape if hasattr(values, "shape") else np.shape(values)
        return tuple(int(n) for n in shape)
    except Exception:               # what somebody assigned may raise anything
        return None


def _what(values, shape):
    """Return words for what is in an array's place: its shape, or its type."""
    return f"of shape {shape}" if shape else f"of type {type(values).__name__}"


def shown(value: object, spec: str = "g") -> str:
    """Return a number in that format, or another value's shortened repr, or "?" if it has none, in ASCII."""
    return terminal.in_ascii(_text(lambda: format(value, spec) if isinstance(value, Real) else reprlib.repr(value)))


def _text(make):
    """Return the text of what make() returns, or "?" if it raises."""
    try:
        return str(make())
    except Exception:               # what somebody assigned may raise anything
        return "?"
