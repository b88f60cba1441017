"""A network as functions for the user's own @njit code: its parameters come and go as a tuple of arrays."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload
from numba.np.numpy_support import from_dtype

from .._arrays.operands import BFLOAT16
from .._compile import compiler, link
from ..kernels.blocking import MOST_THREADS
from ..kernels.elementwise.activations import GELU, IDENTITY
from ..kernels.entry import dense_of
from ..kernels.matrix import keep, matrices, matrix, only_if
from ..kernels.schedule.records import read
from ..kernels.schedule.trace import in_memory
from ..kernels.simd.tile import BFLOAT16 as PAIRS
from ..kernels.train import losses
from ..kernels.train.losses import Loss, Sums
from . import interpreted
from .allocation import allocator
from .functions import check_array
from .interpreted import CLASSES, INPUTS, LABELS, NEGATIVE, PARAMETERS, SHARES, TARGETS


class Jitted(NamedTuple):
    """Functions compiled by Numba, to be called from Python or from @njit code.

    forward(parameters, x): the scores (rows, n_outputs) of x (rows, n_inputs).
    value_and_gradient(parameters, x, y): (loss, gradients), the mean loss without penalty and dropout, and the gradients with
    respect to the parameters, a tuple like them. y as the loss takes it: (rows,) integers or (rows, n_outputs).
    parameters: tuple(network.parameters()), or arrays like them, of the network's dtype in this machine's byte order, of which
    Numba does not tell another one in a tuple.
    x and y may be of any dtype of real numbers. Both functions raise ValueError for shapes that do not fit, for classes that
    the network has not, and for targets of BinaryCrossEntropy outside 0 to 1, before they compute anything; what is of another
    type is refused when the caller is compiled, by Numba's TypingError. A function that calls them is compiled in each process:
    they hold a network, and Numba's cache would not notice another one. Where Numba's JIT is disabled they are plain Python
    functions, as are those that call them.
    """

    forward: Callable
    value_and_gradient: Callable


def jitted(network) -> Jitted:
    """Sequential.jitted."""
    network._require_loss("jitted")
    kind, plan = network.dtype, _plan(network)
    if compiler.DISABLED or config.DISABLE_JIT:
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
    parts = [part for part in network._specs() if part.weights is not None]
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


_compiled = njit(**compiler.FLAGS)


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
    if status == link.NO_MEMORY:
        raise MemoryError("no memory for the workspace of a kernel")
    if status != link.OK:
        raise ValueError("parameters are not laid out as a kernel takes them, expected arrays in C order")


def _forward(kind, plan):
    """forward(parameters, x) of a network."""
    layer, check = _layer(kind, plan), _check_parameters(kind, plan)
    inputs, layers, new = plan.shapes[0][0], len(plan.shapes), allocator(from_dtype(kind), 2)

    @_compiled
    def forward(parameters, x):
        _raise(check(parameters) or _check_x(x, inputs))
        arrays, h = matrices(parameters), _copied(x, new(x.shape))
        for k in range(layers):
            h, _ = layer(arrays, h, k, False)
        return h

    return forward


def _layer(kind, plan):
    """layer(arrays, h, k, training): (y, slope) of layer k, from the Matrix of each array of parameters."""
    weights, biased, activations, shapes, _ = plan
    unit, _ = _units(kind, plan)
    new = allocator(from_dtype(kind), 2)

    @_compiled
    def layer(arrays, h, k, training):
        _of_this_process()
        needs_slope = training and activations[k] == GELU
        y, slope = new((h.shape[0], shapes[k][1])), new((h.shape[0] if needs_slope else 0, shapes[k][1]))
        b = only_if(biased[k], arrays[weights[k] + biased[k]])
        _check_status(link.call(unit(), (matrix(h), arrays[weights[k]], b, matrix(y), only_if(needs_slope, matrix(slope)),
                                          activations[k], MOST_THREADS)))
        keep(h)
        return y, slope

    return layer


def _check_parameters(kind, plan):
    """check(parameters): a fault, or none; what they are and how many is looked at when the caller is compiled."""
    weights, biased, _, shapes, rounded = plan
    layers, count, dtype, size = len(shapes), len(shapes) + sum(biased), from_dtype(kind), kind.itemsize

    @intrinsic
    def check_types(typing_context, parameters):
        if not isinstance(parameters, types.BaseTuple) or len(parameters) != count:
            raise TypingError(f"parameters is {parameters}, expected a tuple of {count} arrays, as tuple(network.parameters())")
        for i, array in enumerate(parameters):
            check_array(f"parameters[{i}]", array, (2,) if i in weights else (1, 2))
            if array.dtype != dtype:
                raise TypingError(f"parameters[{i}] has dtype {array.dtype}, expected {dtype}, the network's: "
                                  f"parameters[{i}].astype(np.{dtype})")
        return types.void(parameters), lambda context, builder, signature, args: context.get_dummy_value()

    @_compiled
    def check(parameters):
        check_types(parameters)
        arrays = matrices(parameters)
        for k in range(layers):
            w, b, (rows, cols) = arrays[weights[k]], arrays[weights[k] + biased[k]], shapes[k]
            if w.rows != rows or w.cols != cols or (biased[k] and (b.rows != 1 or b.cols != cols)):
                return _PARAMETERS
            if rounded and w.col_step != size:
                return _GAPS
        return _FINE

    return check


def _value_and_gradient(kind, plan, loss):
    """value_and_gradient(parameters, x, y) of a network."""
    weights, biased, activations, shapes, _ = plan
    inputs, layers, outputs = shapes[0][0], len(shapes), shapes[-1][1]
    layer, check, evaluate = _layer(kind, plan), _check_parameters(kind, plan), _evaluate(kind, loss, outputs)
    check_y = {losses.SOFTMAX: _check_classes, losses.BINARY: _check_shares}.get(loss._kind, _check_numbers)
    _, unit = _units(kind, plan)
    new, as_tuple = allocator(from_dtype(kind), 2), _as_tuple(layers + sum(biased))

    @_compiled
    def value_and_gradient(parameters, x, y):
        _raise(check(parameters) or _check_x(x, inputs) or check_y(y, x.shape[0], outputs))
        arrays = matrices(parameters)
        activity, slopes = [_copied(x, new(x.shape))], [new((0, 0))]
        for k in range(layers):
            h, slope = layer(arrays, activity[k], k, True)
            activity.append(h)
            slopes.append(slope)
        dvalues = activity[layers].copy()
        value = evaluate(dvalues, y)
        gradients = [slopes[0] for _ in range(len(parameters))]
        for k in range(layers - 1, -1, -1):
            h, w = activity[k], arrays[weights[k]]
            dinputs = new((h.shape[0] if k > 0 else 0, w.rows))
            dweights, dbiases = new((w.rows, w.cols)), new((1, w.cols))
            s = slopes[k + 1] if activations[k] == GELU else activity[k + 1]
            of_s, of_dinputs = only_if(activations[k] != IDENTITY, matrix(s)), only_if(k > 0, matrix(dinputs))
            _check_status(link.call(unit(), (matrix(dvalues), of_s, matrix(h), w, of_dinputs, matrix(dweights),
                                              matrix(dbiases), activations[k], MOST_THREADS)))
            keep(dvalues)
            keep(s)
            keep(h)
            gradients[weights[k]] = dweights
            if biased[k]:
                gradients[weights[k] + 1] = dbiases
            dvalues = dinputs
        return value, as_tuple(gradients, parameters)

    return value_and_gradient


def _as_tuple(count):
    """as_tuple(gradients, parameters): a tuple of so many, each of as many dimensions as its parameters.

    Compiled code makes a tuple only of items that are written out.
    """
    names = {"shaped": _shaped}
    items = ", ".join(f"shaped(gradients[{i}], parameters[{i}])" for i in range(count))
    exec(f"def as_tuple(gradients, parameters): return {items},", names)
    return _compiled(names["as_tuple"])


def _shaped(gradient, parameters):
    """Return a gradient with as many dimensions as its parameters."""


@overload(_shaped)
def _overload_shaped(gradient, parameters):
    check_array("parameters", parameters, (1, 2))
    if parameters.ndim == 1:
        return lambda gradient, parameters: gradient.reshape(gradient.size)
    return lambda gradient, parameters: gradient


def _evaluate(kind, loss, outputs):
    """evaluate(scores, y): the loss, of a y that was checked; the gradient takes the place of the scores."""
    unit, code, dtype = losses.run_all[from_dtype(kind)].complete, loss._kind, from_dtype(kind)
    gradient_factor, loss_factor = loss.factors(outputs)
    size, as_targets = kind.itemsize, _targets(dtype, outputs, code)
    new, width = allocator(types.float64, 2), len(Sums._fields)

    @_compiled
    def evaluate(scores, y):
        rows = scores.shape[0]
        blocks, targets = (rows + losses.ROWS - 1) // losses.ROWS, as_targets(y, rows)
        sums = new((blocks, width))
        job = Loss(tasks=blocks, rows=rows, cols=outputs, scores=matrix(scores).data, scores_row=outputs * size, kind=code,
                   targets=matrix(targets).data, targets_row=0 if targets.ndim == 1 else outputs * size, weights=0,
                   factor=gradient_factor / rows, least=0.0, most=np.inf, scale=1.0, sums=matrix(sums).data)
        if rows * outputs > 0:
            _check_status(link.call(unit(), (in_memory(job),)))
        keep(targets)
        total = 0.0
        for i in range(blocks):
            total += read(matrix(sums).data + i * losses.SUMS_BYTES, Sums).loss
        keep(sums)
        return total * loss_factor / rows

    return evaluate


def _targets(dtype, outputs, code):
    """as_targets(y, rows): a copy of y as the kernel takes it: labels, or rows of the network's dtype."""
    labels, table = allocator(types.int64, 1), allocator(dtype, 2)

    def as_targets(y, rows):
        """Return the copy."""

    def column(y, rows):
        targets = table((rows, 1))
        _copied(y, targets[:, 0])
        return targets

    @overload(as_targets)
    def overload_as_targets(y, rows):
        check_array("y", y, (1, 2))
        if code == losses.SOFTMAX and y.ndim == 1:
            return lambda y, rows: _copied(y, labels((rows,)))
        return column if y.ndim == 1 else lambda y, rows: _copied(y, table((rows, outputs)))

    return as_targets


def _copied(source, target):
    """Return the target, after copying a source of its shape into it."""


@overload(_copied)
def _overload_copied(source, target):
    def of_one_dimension(source, target):
        for i in range(source.shape[0]):
            target[i] = source[i]
        return target

    def of_two(source, target):
        for i in range(source.shape[0]):
            for j in range(source.shape[1]):
                target[i, j] = source[i, j]
        return target

    return of_one_dimension if source.ndim == 1 else of_two


# ---- checks before anything is allocated, as Numba frees nothing of a function in which another one raises an error: so checks
# return what is wrong, and the function that the user calls raises it

_FINE, _PARAMETERS, _GAPS, _X, _Y, _LABELS, _CLASS, _SHARE, _NEGATIVE = range(9)


@njit(**compiler.FLAGS, inline="always")
def _raise(fault):
    """Raise ValueError for what is wrong, in the function that this is inlined into."""
    if fault == _PARAMETERS:
        raise ValueError(PARAMETERS)
    if fault == _GAPS:
        raise ValueError("parameters are weights whose rows have gaps, expected arrays in C order for bfloat16")
    if fault == _X:
        raise ValueError(INPUTS)
    if fault == _Y:
        raise ValueError(TARGETS)
    if fault == _LABELS:
        raise ValueError(LABELS)
    if fault == _CLASS:
        raise ValueError(CLASSES)
    if fault == _SHARE:
        raise ValueError(SHARES)
    if fault == _NEGATIVE:
        raise ValueError(NEGATIVE)


def _check_x(x, cols):
    """Return a fault unless x is (rows, cols), of real numbers."""


@overload(_check_x)
def _overload_check_x(x, cols):
    check_array("x", x, (2,))
    return lambda x, cols: _FINE if x.shape[1] == cols else _X


def _check_numbers(y, rows, outputs):
    """Return a fault unless y is (rows, outputs), or (rows,) for one output, of real numbers."""


@overload(_check_numbers)
def _overload_check_numbers(y, rows, outputs):
    check_array("y", y, (1, 2))

    if y.ndim == 1:
        return lambda y, rows, outputs: _FINE if y.size == rows and outputs == 1 else _Y
    return lambda y, rows, outputs: _FINE if y.shape[0] == rows and y.shape[1] == outputs else _Y


def _check_shares(y, rows, outputs):
    """Return a fault unless y is as `_check_numbers` has it, of numbers from 0 to 1."""


@overload(_check_shares)
def _overload_check_shares(y, rows, outputs):
    def check(y, rows, outputs):
        fault = _check_numbers(y, rows, outputs)
        if fault == _FINE:
            for value in y.flat:
                if not (value >= 0 and value <= 1):
                    return _SHARE
        return fault

    return check


def _check_positive(y, rows, outputs):
    """Return a fault unless y is as `_check_numbers` has it, of numbers from 0 on."""
    fault = _check_numbers(y, rows, outputs)
    if fault == _FINE:
        for value in y.flat:
            if value < 0:
                return _NEGATIVE
    return fault


def _check_classes(y, rows, outputs):
    """Return a fault unless y is (rows,) classes from 0 and below `outputs`, or (rows, outputs) of real numbers."""


@overload(_check_classes)
def _overload_check_classes(y, rows, outputs):
    check_array("y", y, (1, 2))
    if y.ndim == 2:
        return _check_positive
    if not isinstance(y.dtype, types.Integer | types.Boolean):
        raise TypingError(f"y has dtype {y.dtype}, expected integers, or (rows, n_outputs)")

    def check(y, rows, outputs):
        if y.size != rows:
            return _LABELS
        for i in range(rows):
            label = np.int64(y[i])
            if label < 0 or label >= outputs:
                return _CLASS
        return _FINE

    return check
