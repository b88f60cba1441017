"""Functions of a network for the user's own @njit code. Its parameters come and go as a tuple of arrays."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, register_jitable
from numba.np.numpy_support import from_dtype

from .._arrays.operands import BFLOAT16
from .._compile import compiler, link
from .._runtime import cpu
from ..kernels.blocking import MOST_THREADS
from ..kernels.dense.operands import BackwardOperands, ForwardOperands
from ..kernels.elementwise.activations import GELU, IDENTITY
from ..kernels.entry import passes_of
from ..kernels.infer.call import infer
from ..kernels.infer.network import LAYER_BYTES, DenseLayer, Network
from ..kernels.matrix import keep, matrices, matrix, only_if
from ..kernels.schedule.records import read, write
from ..kernels.schedule.trace import in_memory
from ..kernels.simd.tile import BFLOAT16 as PAIRS
from ..kernels.train import losses
from ..kernels.train.losses import Loss, Sums
from . import interpreted
from .allocation import allocator, by_types, copied
from .frozen import as_rows
from .functions import check_array
from .interpreted import CLASSES, INPUTS, LABELS, NEGATIVE, PARAMETERS, SHARES, TARGETS


class Jitted(NamedTuple):
    """Two functions compiled by Numba, for calls from Python or from @njit code.

    forward(parameters, x) returns the scores (rows, n_outputs) of x (rows, n_inputs). value_and_gradient(parameters, x, y)
    returns (loss, gradients): the mean loss, without penalty and dropout, and a tuple of the gradients with respect to the
    parameters.

    parameters: tuple(network.parameters()), or arrays like them, of the network's dtype. They must be in this machine's byte
    order: in a tuple, Numba does not notice another one. y: what the loss takes, (rows,) integers or (rows, n_outputs). x and y
    may be of any dtype of real numbers.

    Before they compute anything, both functions raise ValueError for shapes that do not fit, for classes that the network does
    not have, and for targets of BinaryCrossEntropy outside 0 to 1. Arguments of other types are refused when the caller is
    compiled, by Numba's TypingError.

    A function that calls them is compiled in each process, because they hold a network, and Numba's cache would not notice that
    another process has another network. If Numba's JIT is disabled, they and their callers are plain Python functions.
    """

    forward: Callable
    value_and_gradient: Callable


def jitted(network) -> Jitted:
    """Return the functions of a network, as Sequential.jitted does."""
    network._require_loss("jitted")
    kind, plan = network.dtype, _plan(network)
    if compiler.DISABLED or config.DISABLE_JIT:
        return Jitted(*interpreted.functions(plan, kind, network.loss))
    return Jitted(_forward(kind, plan), _value_and_gradient(kind, plan, network.loss))


class _Plan(NamedTuple):
    """The facts of a network that its functions depend on. Every tuple has one item for each dense layer."""

    weights: tuple[int, ...]    # the index of the layer's weights among the parameters
    biased: tuple[bool, ...]    # whether biases follow the weights there
    activations: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]     # of the weights: (n_inputs, n_neurons)
    rounded: bool               # whether all layers multiply in bfloat16


def _plan(network):
    """Return the plan of a network. Raises ValueError if its layers have different precisions."""
    specs = [spec for spec in network._specs() if spec.weights is not None]
    biased = tuple(spec.biases is not None for spec in specs)
    first = np.cumsum([0] + [1 + has for has in biased])
    precisions = {spec.precision for spec in specs}
    if len(precisions) > 1:
        raise ValueError("the layers have different precisions, expected one for a network that is to be jitted")
    is_rounded = precisions == {BFLOAT16} and cpu.multiplies_bfloat16()
    return _Plan(weights=tuple(map(int, first[:-1])), biased=biased, activations=tuple(spec.activation for spec in specs),
                 shapes=tuple(spec.weights.shape for spec in specs), rounded=is_rounded)


def _units(kind, plan):
    """Return the addresses, as functions, of the units for the forward and the backward pass of a layer."""
    key = PAIRS if plan.rounded else from_dtype(kind)
    passes = passes_of(key)
    return passes.forward[key].all_bound, passes.backward[key].all_bound


# The decorator of the functions that Numba compiles here.
_compiled = njit(**compiler.FLAGS)


@intrinsic
def _of_this_process(typing_context):
    """Keep Numba from caching any caller of this: a later process may have another network under the same names."""
    def generate(context, builder, signature, args):
        address = context.add_dynamic_addr(builder, 1, info="a network of fastbp")
        builder.asm(ir.FunctionType(ir.VoidType(), [address.type]), "", "r", [address], True)      # else LLVM drops it
        return context.get_dummy_value()
    return types.void(), generate


@_compiled
def _check_status(status):
    """Raise MemoryError or ValueError unless a unit has done its work."""
    if status == link.NO_MEMORY:
        raise MemoryError("no memory for the workspace of a kernel")
    if status != link.OK:
        raise ValueError("parameters are not laid out as a kernel takes them, expected arrays in C order")


def _forward(kind, plan):
    """Return the network's forward(parameters, x)."""
    dtype, check, (layer_unit, _) = from_dtype(kind), _check_parameters(kind, plan), _units(kind, plan)
    weights, biased, activations, shapes, rounded = plan.weights, plan.biased, plan.activations, plan.shapes, int(plan.rounded)
    layers, (inputs, _), (_, outputs) = len(shapes), shapes[0], shapes[-1]
    unit, new, words, convert = infer[dtype].all_bound, allocator(dtype, 2), allocator(types.int64, 1), as_rows(dtype, (2,))
    count = layers * len(DenseLayer._fields)

    @_compiled
    def forward(parameters, x):
        _raise(check(parameters) or _check_x(x, inputs))
        _of_this_process()
        arrays, h, y, records = matrices(parameters), convert(x), new((x.shape[0], outputs)), words((count,))
        start = matrix(records).data
        for k in range(layers):
            w, b, (rows, cols) = arrays[weights[k]], arrays[weights[k] + biased[k]], shapes[k]
            write(start + k * LAYER_BYTES, DenseLayer(
                forward=layer_unit(), rounded=rounded, inputs=rows, neurons=cols, weights=w.data, weights_row_step=w.row_step,
                weights_col_step=w.col_step, biases=b.data if biased[k] else 0, biases_step=b.col_step,
                activation=activations[k], kept=0))
        network = in_memory(Network(layers=start, count=layers, kind=0, probabilities=0))
        status = link.call(unit(), (network, matrix(h), matrix(y)))
        keep(records)
        keep(h)
        _check_status(status)
        return y

    return forward


def _layer(kind, plan):
    """Return layer(arrays, h, k), which returns (y, saved) of layer k.

    arrays: the Matrix of each array of parameters. h: the layer's inputs (rows, n_inputs). saved: GELU's derivative; for other
    activations it has no rows.
    """
    weights, biased, activations, shapes = plan.weights, plan.biased, plan.activations, plan.shapes
    unit, _ = _units(kind, plan)
    new = allocator(from_dtype(kind), 2)

    @_compiled
    def layer(arrays, h, k):
        _of_this_process()
        has_saved = activations[k] == GELU
        y, saved = new((h.shape[0], shapes[k][1])), new((h.shape[0] if has_saved else 0, shapes[k][1]))
        b = only_if(biased[k], arrays[weights[k] + biased[k]])
        operands = ForwardOperands(x=matrix(h), weights=arrays[weights[k]], biases=b, y=matrix(y),
                                   saved=only_if(has_saved, matrix(saved)), activation=activations[k])
        _check_status(link.call(unit(), (operands, MOST_THREADS)))
        keep(h)
        return y, saved

    return layer


def _check_parameters(kind, plan):
    """Return check(parameters), which returns a fault. The number and the types are checked when the caller is compiled."""
    weights, biased, shapes, rounded = plan.weights, plan.biased, plan.shapes, plan.rounded
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
    """Return the network's value_and_gradient(parameters, x, y)."""
    weights, biased, activations = plan.weights, plan.biased, plan.activations
    inputs, layers, outputs = plan.shapes[0][0], len(plan.shapes), plan.shapes[-1][1]
    layer, check, evaluate = _layer(kind, plan), _check_parameters(kind, plan), _evaluate(kind, loss, outputs)
    check_y = {losses.SOFTMAX: _check_classes, losses.BINARY: _check_shares}.get(loss._kind, _check_numbers)
    _, unit = _units(kind, plan)
    new, as_tuple = allocator(from_dtype(kind), 2), _as_tuple(layers + sum(biased))

    @_compiled
    def value_and_gradient(parameters, x, y):
        _raise(check(parameters) or _check_x(x, inputs) or check_y(y, x.shape[0], outputs))
        arrays = matrices(parameters)
        activity, derivatives = [copied(x, new(x.shape))], [new((0, 0))]
        for k in range(layers):
            h, derivative = layer(arrays, activity[k], k)
            activity.append(h)
            derivatives.append(derivative)
        dvalues = activity[layers].copy()
        value = evaluate(dvalues, y)
        gradients = [derivatives[0] for _ in range(len(parameters))]
        for k in range(layers - 1, -1, -1):
            h, w = activity[k], arrays[weights[k]]
            dinputs = new((h.shape[0] if k > 0 else 0, w.rows))
            dweights, dbiases = new((w.rows, w.cols)), new((1, w.cols))
            saved = derivatives[k + 1] if activations[k] == GELU else activity[k + 1]
            m_saved, m_dinputs = only_if(activations[k] != IDENTITY, matrix(saved)), only_if(k > 0, matrix(dinputs))
            operands = BackwardOperands(dvalues=matrix(dvalues), saved=m_saved, x=matrix(h), weights=w, dinputs=m_dinputs,
                                        dweights=matrix(dweights), dbiases=matrix(dbiases), activation=activations[k])
            _check_status(link.call(unit(), (operands, MOST_THREADS)))
            keep(dvalues)
            keep(saved)
            keep(h)
            gradients[weights[k]] = dweights
            if biased[k]:
                gradients[weights[k] + 1] = dbiases
            dvalues = dinputs
        return value, as_tuple(gradients, parameters)

    return value_and_gradient


def _as_tuple(count):
    """Return as_tuple(gradients, parameters): a tuple of `count` gradients, each with as many dimensions as its parameters.

    Compiled code makes a tuple only from items that are written out in the source.
    """
    names = {"shaped": _shaped}
    items = ", ".join(f"shaped(gradients[{i}], parameters[{i}])" for i in range(count))
    exec(f"def as_tuple(gradients, parameters): return {items},", names)
    return _compiled(names["as_tuple"])


@by_types
def _shaped(gradient, parameters):
    """Return a gradient with as many dimensions as its parameters."""
    check_array("parameters", parameters, (1, 2))
    if parameters.ndim == 1:
        return lambda gradient, parameters: gradient.reshape(gradient.size)
    return lambda gradient, parameters: gradient


def _evaluate(kind, loss, outputs):
    """Return evaluate(scores, y), which returns the loss and writes the gradient over the scores. y must have been checked."""
    unit, code, dtype = losses.run_all[from_dtype(kind)].all_bound, loss._kind, from_dtype(kind)
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
    """Return as_targets(y, rows), which copies y to what the kernel takes: labels (int64), or rows of the network's dtype."""
    labels, table = allocator(types.int64, 1), allocator(dtype, 2)

    def column(y, rows):
        targets = table((rows, 1))
        copied(y, targets[:, 0])
        return targets

    @by_types
    def as_targets(y, rows):
        check_array("y", y, (1, 2))
        if code == losses.SOFTMAX and y.ndim == 1:
            return lambda y, rows: copied(y, labels((rows,)))
        return column if y.ndim == 1 else lambda y, rows: copied(y, table((rows, outputs)))

    return as_targets


# ---- Checks, which come before anything is allocated: if a called function raises an error, Numba frees nothing of its caller.
# So the checks return a fault, and the function that the user calls raises the error.

# The faults that a check can return; _raise has the message of each. _FINE means no fault.
_FINE, _PARAMETERS, _GAPS, _X, _Y, _LABELS, _CLASS, _SHARE, _NEGATIVE = range(9)


@njit(**compiler.FLAGS, inline="always")
def _raise(fault):
    """Raise ValueError for a fault, in the function that this is inlined into."""
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


@by_types
def _check_x(x, cols):
    """Return a fault unless x is (rows, cols)."""
    check_array("x", x, (2,))
    return lambda x, cols: _FINE if x.shape[1] == cols else _X


@by_types
def _check_numbers(y, rows, outputs):
    """Return a fault unless y is (rows, outputs), or (rows,) for one output."""
    check_array("y", y, (1, 2))
    if y.ndim == 1:
        return lambda y, rows, outputs: _FINE if y.size == rows and outputs == 1 else _Y
    return lambda y, rows, outputs: _FINE if y.shape[0] == rows and y.shape[1] == outputs else _Y


def _check_values(allows, fault):
    """Return check(y, rows, outputs), which does what _check_numbers does and returns `fault` if a value is not allowed."""
    allows = register_jitable(allows)

    def check(y, rows, outputs):
        found = _check_numbers(y, rows, outputs)
        if found == _FINE:
            for value in y.flat:
                if not allows(value):
                    return fault
        return found

    return register_jitable(check)


# The check of shares from 0 to 1, which also refuses NaN.
_check_shares = _check_values(lambda value: value >= 0 and value <= 1, _SHARE)
# The check of shares of 0 or more, which lets NaN pass.
_check_positive = _check_values(lambda value: not value < 0, _NEGATIVE)


@by_types
def _check_classes(y, rows, outputs):
    """Return a fault unless y is (rows,) classes from 0 to `outputs` - 1, or (rows, outputs) numbers of 0 or more."""
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
