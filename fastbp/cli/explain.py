"""The chain rule on one neuron, step by step, with every number from fastbp's own functions.

A neuron is a dense layer with one sample and one neuron. Its parts are smaller layers: a product x0 * w0 is a layer with one
input, and the sum of the products is a layer whose weights are all 1. So each line of the derivation is a call of the library.
"""
import argparse
import math
from typing import NamedTuple

import numpy as np

from .. import dense_backward, dense_forward, dense_relu_backward, dense_relu_forward, relu_backward, relu_forward
from .._runtime import terminal


class Line(NamedTuple):
    """A line of the derivation: the name of a quantity, its value and its meaning."""

    name: str
    value: float
    meaning: str


def explain(inputs: list[float], weights: list[float], bias: float, dvalue: float,
            step: float) -> dict[str, list[Line]]:
    """Return the derivation in four parts, by title: forward, backward, update, forward again.

    inputs and weights have the same length. dvalue is the gradient that the next layer hands back. step is the factor of the
    gradient that is subtracted from the weights and the bias.

    Some notes compute drelu_db without the factor drelu_dz, as dsum_db * dsum_dxw2. The chain rule has this factor, and so has
    this function. The two agree only where drelu_dz is 1.
    """
    n = len(inputs)
    x, w, b = np.array([inputs], float), np.array([weights], float).T, np.array([[bias]], float)
    dvalues = np.array([[dvalue]], float)

    xw = np.array([[dense_forward(x[:, [i]], w[[i]]).item() for i in range(n)]], float)
    z = dense_forward(x, w, b)
    output = relu_forward(z)

    dz = relu_backward(dvalues, z)
    dxw, _, db = dense_backward(dz, xw, np.ones((n, 1), float))
    dx, dw, _ = dense_relu_backward(dvalues, output, x, w)

    new_w, new_b = w - step * dw, b - step * db
    new_output = dense_relu_forward(x, new_w, new_b)

    gate = "passes, as z > 0" if z.item() > 0 else "stops, as z <= 0"
    return {
        "Forward": [
            *_lines("xw{}", xw, "x{0} * w{0}"),
            Line("z", z.item(), "the weighted sum: every xw, plus b"),
            Line("ReLU", output.item(), "max(z, 0)"),
        ],
        "Backward": [
            Line("dvalue", dvalue, "the gradient from the next layer"),
            Line("drelu_dz", dz.item(), f"dvalue * (1 if z > 0 else 0): the gradient {gate}"),
            *_lines("drelu_dxw{}", dxw, "drelu_dz * dsum_dxw{}, which is 1: a sum passes it to each term"),
            Line("drelu_db", db.item(), "drelu_dz * dsum_db, which is 1; leaving drelu_dz out is an error"),
            *_lines("drelu_dx{}", dx, "drelu_dxw{0} * dmul_dx{0}, which is w{0}"),
            *_lines("drelu_dw{}", dw, "drelu_dxw{0} * dmul_dw{0}, which is x{0}"),
        ],
        "Update": [
            *_lines("w{}", new_w, "w{0} - step * drelu_dw{0}"),
            Line("b", new_b.item(), "b - step * drelu_db"),
        ],
        "Forward again": [
            Line("ReLU", new_output.item(), f"the output now; it was {output.item():.10g}"),
        ],
    }


def _lines(name, values, meaning):
    return [Line(name.format(i), value, meaning.format(i)) for i, value in enumerate(values.ravel().tolist())]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m fastbp explain`."""
    parser.add_argument("--inputs", type=_numbers, default=[1.0, -2.0, 3.0], metavar="X0,X1,...",
                        help="default: 1,-2,3")
    parser.add_argument("--weights", type=_numbers, default=[-3.0, -1.0, 2.0], metavar="W0,W1,...",
                        help="as many as inputs; default: -3,-1,2")
    parser.add_argument("--bias", type=_number, default=1.0, metavar="B", help="default: 1")
    parser.add_argument("--dvalue", type=_number, default=1.0, help="gradient from the next layer; default: 1")
    parser.add_argument("--step", type=_number, default=0.001, help="factor of the gradient; default: 0.001")


def run(options: argparse.Namespace) -> int:
    """Print the derivation in columns, and return 0."""
    if len(options.inputs) != len(options.weights):
        raise argparse.ArgumentError(None, f"argument --weights: expected as many numbers as --inputs has, "
                                           f"{len(options.inputs)}, got {len(options.weights)}")
    with np.errstate(over="ignore", invalid="ignore"):      # products of large numbers may be infinite
        parts = explain(options.inputs, options.weights, options.bias, options.dvalue, options.step)
    texts = [(line.name, f"{line.value:.10g}") for lines in parts.values() for line in lines]
    name_width, value_width = (max(map(len, column)) for column in zip(*texts, strict=True))
    print(terminal.fill(f"One neuron: inputs x = {_text(options.inputs)}, weights w = {_text(options.weights)}, "
                        f"bias b = {options.bias:g}", most=terminal.WIDEST))
    column = name_width + value_width + 6
    indent = " " * (column if column < terminal.width() // 2 else 4)
    for title, lines in parts.items():
        print(f"\n{title}" + (f", step {options.step:g}" if title == "Update" else ""))
        for line in lines:
            text = f"{line.name:<{name_width}}  {line.value:>{value_width}.10g}  {line.meaning}"
            print(terminal.fill(f"  {text}", indent, terminal.WIDEST))
    return 0


def _text(numbers):
    return "[" + ", ".join(f"{number:g}" for number in numbers) + "]"


def _number(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _numbers(text):
    return [_number(part) for part in text.split(",")]


_number.__name__, _numbers.__name__ = "number", "list of numbers"       # argparse prints "invalid number value: '1,x'"
