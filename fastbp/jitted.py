"""A network as functions for the user's own @njit code: its parameters come and go as a tuple of arrays."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload
from numba.np.numpy_support import from_dtype

from . import _jit, _link, interpreted
from ._operands import BFLOAT16
from .kernels import losses
from .kernels.activations import GELU, IDENTITY
from .kernels.blocking import MOST_THREADS
from .kernels.entry import dense_of
from .kernels.losses import Loss
from .kernels.matrix import keep, matrix, only_if
from .kernels.record import in_memory
from .kernels.tile import BFLOAT16 as PAIRS


class Jitted(NamedTuple):
    """Functions compiled by Numba, to be called from Python or from @njit code.

    forward(parameters, x): the scores (rows, n_outputs) of x (rows, n_inputs).
    value_and_gradient(parameters, x, y): (loss, gradients), the mean loss without penalty and dropout, and the gradients with
    respect to the parameters, a tuple like them. y as the loss takes it: (rows,) integers or (rows, n_outputs).
    parameters: tuple(network.parameters()), or arrays like them, in C order and of the network's dtype.
    x and y may be of any dtype of real numbers. Both functions raise ValueError for shapes that do not fit. A function that
    calls them is compiled in each process: they hold a network, and Numba's cache would not notice another one.
    Where Numba's JIT is disabled they are plain Python functions, as are those that call them.
    """

    forward: Callable
    value_and_gradient: Callable


def jitted(network) -> Jitted:
    """Sequential.jitted."""
    network.needs_loss("jitted")
    kind, plan = network.dtype, _plan(network)
    if _jit.DISABLED or config.DISABLE_JIT:
        return Jitted(*interpreted.functions(plan, kind, network.loss))
    return Jitted(_forward(kind, plan), _value_and_gradient(kind, plan, network.loss))


class _Plan(NamedTuple):
    """Of each dense layer: where its weights are among the parameters, whether biases follow, its activation and its shape."""

    weights: tuple[int, ...]
    biased: tuple[bool, ...]
    activations: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    rounded: bool


def _plan(network):
    parts = [part for part in network.parts() if part.weights is not None]
    biased = tuple(part.biases is not None for part in parts)
    first = np.cumsum([0] + [1 + has for has in biased])
    precisions = {part.precision for part in parts}
    if len(precisions) > 1:
        raise ValueError("the layers have different precisions, expected one for a network that is to be jitted")
    return _Plan(tuple(map(int, first[:-1])), biased, tuple(part.activation for part in parts),
                 tuple(part.weights.shape for part in parts), precisions == {BFLOAT16})


def _units(kind, plan):
    key = PAIRS if plan.rounded else from_dtype(kind)
    passes = dense_of(key)
    return passes.forward[key].complete, passes.backward[key].complete


_compiled = njit(**_jit.FLAGS)


@intrinsic
def _of_this_process(typing_context):
    """Keep Numba from caching whatever calls this: a later process may have another network under the same names."""
    def generate(context, builder, signature, args):
        address = context.add_dynamic_addr(builder, 1, info="a network of fastbp")
        builder.asm(ir.FunctionType(ir.VoidType(), [address.type]), "", "r", [address], True)      # so that it is not left out
        return context.get_dummy_value()
    return types.void(), generate


@_compiled
def _check_status(status):
    if status == _link.NO_MEMORY:
        raise MemoryError("no memory for the workspace of a kernel")
    if status != _link.OK:
        raise ValueError("parameters do not fit the network, expected arrays like those of network.parameters()")


def _forward(kind, plan):
    """forward(parameters, x) of a network."""
    layer = _layer(kind, plan)
    inputs, layers = plan.shapes[0][0], len(plan.shapes)

    @_compiled
    def forward(parameters, x):
        h = _as_rows(x, inputs, kind)
        for k in range(layers):
            h, _ = layer(parameters, h, k, False)
        return h

    return forward


def _layer(kind, plan):
    """layer(parameters, h, k, training): (y, slope) of layer k."""
    weights, biased, activations, shapes, _ = plan
    unit, _ = _units(kind, plan)

    @_compiled
    def layer(parameters, h, k, training):
        _of_this_process()
        w, b = parameters[weights[k]], parameters[weights[k] + biased[k]]
        _check_shapes(w, b, shapes[k], biased[k])
        y = np.empty((h.shape[0], shapes[k][1]), kind)
        needs_slope = training and activations[k] == GELU
        slope = np.empty(y.shape if needs_slope else (0, 0), kind)
        _check_status(_link.call(unit(), (matrix(h), matrix(w), only_if(biased[k], matrix(b)), matrix(y),
                                          only_if(needs_slope, matrix(slope)), activations[k], MOST_THREADS)))
        keep(h)
        return y, slope

    return layer


@_compiled
def _check_shapes(w, b, shape, biased):
    if w.shape != shape or (biased and b.shape != (1, shape[1])):
        raise ValueError("parameters do not fit the network, expected arrays like those of network.parameters()")


@_compiled
def _as_rows(x, cols, kind):
    """A copy of x in C order and of the network's dtype."""
    if x.shape[1] != cols:
        raise ValueError("x does not fit the network, expected (rows, n_inputs)")
    rows = np.empty(x.shape, kind)
    for i in range(x.shape[0]):
        for j in range(cols):
            rows[i, j] = x[i, j]
    return rows


def _value_and_gradient(kind, plan, loss):
    """value_and_gradient(parameters, x, y) of a network."""
    weights, biased, activations, shapes, _ = plan
    inputs, layers = shapes[0][0], len(shapes)
    layer, evaluate = _layer(kind, plan), _evaluate(kind, loss, shapes[-1][1])
    _, unit = _units(kind, plan)
    as_tuple = _as_tuple(layers + sum(biased))

    @_compiled
    def value_and_gradient(parameters, x, y):
        activity, slopes = [_as_rows(x, inputs, kind)], [np.empty((0, 0), kind)]
        for k in range(layers):
            h, slope = layer(parameters, activity[k], k, True)
            activity.append(h)
            slopes.append(slope)
        dvalues = activity[layers].copy()
        value = evaluate(dvalues, y)
        gradients = list(parameters)
        for k in range(layers - 1, -1, -1):
            h, w = activity[k], parameters[weights[k]]
            dinputs = np.empty(h.shape if k > 0 else (0, 0), kind)
            dweights, dbiases = np.empty(w.shape, kind), np.empty((1, w.shape[1]), kind)
            s = slopes[k + 1] if activations[k] == GELU else activity[k + 1]
            of_s, of_dinputs = only_if(activations[k] != IDENTITY, matrix(s)), only_if(k > 0, matrix(dinputs))
            _check_status(_link.call(unit(), (matrix(dvalues), of_s, matrix(h), matrix(w), of_dinputs, matrix(dweights),
                                              matrix(dbiases), activations[k], MOST_THREADS)))
            keep(dvalues)
            keep(s)
            keep(h)
            gradients[weights[k]] = dweights
            if biased[k]:
                gradients[weights[k] + 1] = dbiases
            dvalues = dinputs
        return value, as_tuple(gradients)

    return value_and_gradient


def _as_tuple(count):
    """A function of a list of so many arrays. Compiled code makes a tuple only of items that are written out."""
    names = {}
    exec(f"def as_tuple(arrays): return {', '.join(f'arrays[{i}]' for i in range(count))},", names)
    return _compiled(names["as_tuple"])


def _evaluate(kind, loss, outputs):
    """evaluate(scores, y): the loss; the gradient takes the place of the scores."""
    unit, code = losses.run_all[from_dtype(kind)].complete, loss._kind
    gradient_factor, loss_factor = loss.factors(outputs)
    size, as_targets = kind.itemsize, _as_classes if code == losses.SOFTMAX else _as_numbers

    @_compiled
    def evaluate(scores, y):
        rows = scores.shape[0]
        targets = as_targets(y, rows, outputs, kind)
        blocks = (rows + losses.ROWS - 1) // losses.ROWS
        numbers, sums = np.array([gradient_factor / rows, 0.0, np.inf]), np.zeros((blocks, 2))
        targets_row = 0 if targets.ndim == 1 else outputs * size
        job = Loss(blocks, rows, outputs, scores.ctypes.data, outputs * size, code, targets.ctypes.data, targets_row, 0,
                   numbers.ctypes.data, sums.ctypes.data)
        if rows * outputs > 0:
            _check_status(_link.call(unit(), (in_memory(job),)))
        keep(targets)
        keep(numbers)
        return sums[:, 0].sum() * loss_factor / rows

    return evaluate


@_compiled
def _as_numbers(y, rows, outputs, kind):
    """A copy of y (rows, outputs), or (rows,) for one output, in C order and of the network's dtype."""
    if y.size != rows * outputs or y.shape[0] != rows:
        raise ValueError("y does not fit x and the network, expected (rows, n_outputs)")
    numbers = np.empty((rows, outputs), kind)
    for i, value in enumerate(y.flat):
        numbers[i // outputs, i % outputs] = value
    return numbers


@_compiled
def _as_labels(y, rows, outputs, kind):
    """A copy of y (rows,) as 64-bit integers from 0 and below `outputs`."""
    if y.size != rows:
        raise ValueError("y does not fit x, expected (rows,)")
    labels = np.empty(rows, np.int64)
    for i in range(rows):
        labels[i] = y[i]
        if labels[i] < 0 or labels[i] >= outputs:
            raise ValueError("y has a class that the network has not, expected 0 to n_outputs - 1")
    return labels


def _as_classes(y, rows, outputs, kind):
    """Labels, or a share for each class."""


@overload(_as_classes)
def _overload_as_classes(y, rows, outputs, kind):
    if not isinstance(y, types.Array) or y.ndim not in (1, 2):
        raise TypingError(f"y is {y}, expected an array of one or two dimensions")
    if y.ndim == 2:
        return lambda y, rows, outputs, kind: _as_numbers(y, rows, outputs, kind)
    if not isinstance(y.dtype, types.Integer | types.Boolean):
        raise TypingError(f"y has dtype {y.dtype}, expected integers, or (rows, n_outputs)")
    return lambda y, rows, outputs, kind: _as_labels(y, rows, outputs, kind)
