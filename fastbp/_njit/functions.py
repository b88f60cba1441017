"""Numba overloads of the functions in functional.py, for the user's own @njit functions: same names, arguments and results.

Whatever the types alone decide (dtypes, one sample or a batch, whether there is an `out`) is decided when the user's function
is compiled. At run time there is only a check and a call of the same kernel. A dtype that must be promoted costs a copy, and so
does an `out` that overlaps an input. With an `out` of the right dtype nothing is allocated. (`precision` is keyword-only in
Python. Numba 0.68 takes the last positional argument for a keyword-only one, so here it is an ordinary parameter.)
"""
import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload, register_jitable
from numba.np.numpy_support import as_dtype, from_dtype

from .. import functional
from .._arrays import operands
from .._compile import link
from ..kernels.blocking import MOST_THREADS
from ..kernels.dense import bfloat16, passes
from ..kernels.dense.operands import BackwardOperands, ForwardOperands
from ..kernels.elementwise import relu
from ..kernels.elementwise.activations import IDENTITY, RELU
from ..kernels.matrix import NO_MATRIX, keep, matrix, overlap
from ..kernels.schedule.records import replace
from ..kernels.simd.tile import BFLOAT16
from .allocation import allocator


def _is_none(argument):
    """Return whether the argument is None, or the type of None."""
    return argument is None or isinstance(argument, types.NoneType | types.Omitted)


def check_array(name, argument, dimensions=None):
    """Raise TypingError unless the argument is an array of real numbers; dimensions: the ones that it may have."""
    expected = "an array" if dimensions is None else f"an array of {' or '.join(map(str, dimensions))} dimensions"
    if not isinstance(argument, types.Array) or (dimensions is not None and argument.ndim not in dimensions):
        raise TypingError(f"{name} is {argument}, expected {expected}")
    if not isinstance(argument.dtype, types.Integer | types.Boolean) and argument.dtype not in (types.float32, types.float64):
        raise TypingError(f"{name} has dtype {argument.dtype}, expected booleans, integers, float32 or float64")


def _check_out(name, argument, dtype, ndim):
    """Raise TypingError unless the argument is None, or a writeable array of that Numba dtype and number of dimensions."""
    if _is_none(argument):
        return
    if not isinstance(argument, types.Array) or argument.ndim != ndim or argument.dtype != dtype or not argument.mutable:
        raise TypingError(f"{name} is {argument}, expected a writeable array of {dtype} with {ndim} dimensions")


def _float_type(*arrays):
    """Return the Numba type of the result, by NumPy's promotion, as in Python."""
    return from_dtype(operands.float_dtype(*(as_dtype(a.dtype) for a in arrays)))


def _units(dtype, precision):
    """Return the module of kernels and the key of its units that multiply that type at that precision."""
    if not (_is_none(precision) or isinstance(precision, types.StringLiteral)):
        raise TypingError(f"precision is {precision}, expected a constant string or None")
    try:
        multiplied = operands.multiplied(as_dtype(dtype), None if _is_none(precision) else precision.literal_value)
    except ValueError as error:
        raise TypingError(str(error)) from None
    return (bfloat16, BFLOAT16) if multiplied is operands.BFLOAT16 else (passes, dtype)


# ---- Small functions that depend on the types alone, for compiling into the caller


@register_jitable
def _itself(array):
    return array


def _converter(array, dtype):
    """Return array -> array of that dtype. An array that has the dtype already, or None, is returned as it is."""
    if _is_none(array) or array.dtype == dtype:
        return _itself
    kind = as_dtype(dtype)
    return register_jitable(lambda array: array.astype(kind))


def _copier(array):
    """Return array -> a copy of it in C order. None is returned as it is."""
    return _itself if _is_none(array) else register_jitable(lambda array: array.copy())


def _provider(out, dtype):
    """Return (out, rows, cols) -> out, or a new array if out is None."""
    if not _is_none(out):
        return register_jitable(lambda out, rows, cols: out)
    new = allocator(dtype, 2)
    return register_jitable(lambda out, rows, cols: new((rows, cols)))


@register_jitable
def _copy(source, target):
    """Copy a matrix. Numba takes seconds to compile target[:, :] = source, for the error message about different shapes."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@register_jitable
def _check_forward(x, weights, biases, y):
    """Raise ValueError unless the matrices fit: x (batch, n_inputs), weights, biases, and y, the `out`."""
    if x.cols != weights.rows:
        raise ValueError("inputs does not fit weights, expected inputs (batch, n_inputs) and weights (n_inputs, n_neurons)")
    if biases.data != 0 and (biases.rows != 1 or biases.cols != weights.cols):
        raise ValueError("biases does not fit weights, expected (1, n_neurons) or (n_neurons,)")
    if y.data != 0 and (y.rows != x.rows or y.cols != weights.cols):
        raise ValueError("out does not fit inputs and weights, expected (batch, n_neurons)")


@register_jitable
def _check_status(status):
    """Raise MemoryError unless a kernel has done its work."""
    if status != link.OK:
        raise MemoryError("no memory for the workspace of a kernel")


def _forward(inputs, weights, biases, out, activation, precision):
    """Return implementation(inputs, weights, biases, out, precision) of a forward pass for these types."""
    check_array("inputs", inputs, (1, 2))
    check_array("weights", weights, (2,))
    if not _is_none(biases):
        check_array("biases", biases, (1, 2))
    dtype = _float_type(*(a for a in (inputs, weights, biases) if not _is_none(a)))
    _check_out("out", out, dtype, 2)
    kernels, key = _units(dtype, precision)
    unit, provide, new = kernels.forward[key].all_bound, _provider(out, dtype), allocator(dtype, 2)
    to_x, to_weights, to_biases = (_converter(a, dtype) for a in (inputs, weights, biases))
    copy_x, copy_w = _copier(inputs), _copier(weights)

    def implementation(inputs, weights, biases=None, out=None, precision=None):
        _check_forward(matrix(inputs), matrix(weights), matrix(biases), matrix(out))    # first, as an exception frees nothing
        x, w, b = to_x(inputs), to_weights(weights), to_biases(biases)
        mx, mw, mb = matrix(x), matrix(w), matrix(b)
        y = provide(out, mx.rows, mw.cols)
        my = matrix(y)
        operands = ForwardOperands(x=mx, weights=mw, biases=mb, y=my, saved=NO_MATRIX, activation=activation)
        status = link.call(unit(), (operands, MOST_THREADS))
        if status == link.REFUSED:
            x_rows, w_rows, apart = copy_x(x), copy_w(w), new((mx.rows, mw.cols))
            apart_operands = replace(operands, x=matrix(x_rows), weights=matrix(w_rows), y=matrix(apart))
            status = link.call(unit(), (apart_operands, MOST_THREADS))
            _copy(apart, y)
            keep(x_rows)
            keep(w_rows)
        keep(x)
        keep(w)
        keep(b)
        _check_status(status)
        return y

    return implementation


@overload(functional.dense_forward, prefer_literal=True)
def _dense_forward(inputs, weights, biases=None, out=None, precision=None):
    return _forward(inputs, weights, biases, out, IDENTITY, precision)


@overload(functional.dense_relu_forward, prefer_literal=True)
def _dense_relu_forward(inputs, weights, biases=None, out=None, precision=None):
    return _forward(inputs, weights, biases, out, RELU, precision)


@register_jitable
def _check_backward(dvalues, saved, x, weights, dinputs, dweights, dbiases):
    """Raise ValueError unless the matrices fit: the operands of a backward pass, and dinputs, dweights, dbiases, its `out`."""
    if x.cols != weights.rows:
        raise ValueError("inputs does not fit weights, expected inputs (batch, n_inputs) and weights (n_inputs, n_neurons)")
    if dvalues.rows != x.rows or dvalues.cols != weights.cols:
        raise ValueError("dvalues does not fit inputs and weights, expected (batch, n_neurons)")
    if saved.data != 0 and (saved.rows != x.rows or saved.cols != weights.cols):
        raise ValueError("output does not fit dvalues, expected (batch, n_neurons)")
    if dinputs.data != 0 and (dinputs.rows != x.rows or dinputs.cols != x.cols):
        raise ValueError("out: dinputs does not fit inputs, expected (batch, n_inputs)")
    if dweights.data != 0 and (dweights.rows != weights.rows or dweights.cols != weights.cols):
        raise ValueError("out: dweights does not fit weights, expected (n_inputs, n_neurons)")
    if dbiases.data != 0 and (dbiases.rows != 1 or dbiases.cols != weights.cols):
        raise ValueError("out: dbiases does not fit weights, expected (1, n_neurons)")


def _parts(out):
    """Return the three types in `out`, each of which may be None. Raises TypingError."""
    if _is_none(out):
        return None, None, None
    if not isinstance(out, types.BaseTuple) or len(out) != 3:
        raise TypingError(f"out is {out}, expected a tuple (dinputs, dweights, dbiases)")
    return tuple(out)


def _backward(dvalues, saved, inputs, weights, out, precision):
    """Return implementation(dvalues, saved, inputs, weights, out) of a backward pass for these types.

    saved: the output that ReLU has saved, or None for a layer without an activation.
    """
    for name, argument, dimensions in (("dvalues", dvalues, (1, 2)), ("inputs", inputs, (1, 2)), ("weights", weights, (2,))):
        check_array(name, argument, dimensions)
    if not _is_none(saved):
        check_array("output", saved, (1, 2))
    dtype = _float_type(*(a for a in (dvalues, saved, inputs, weights) if not _is_none(a)))
    parts = _parts(out)
    for name, argument in zip(("dinputs", "dweights", "dbiases"), parts, strict=True):
        _check_out(f"out: {name}", argument, dtype, 2)
    provide_dinputs, provide_dweights, provide_dbiases = (_provider(p, dtype) for p in parts)
    part = register_jitable((lambda out, i: None) if _is_none(out) else (lambda out, i: out[i]))
    kernels, key = _units(dtype, precision)
    activation = IDENTITY if _is_none(saved) else RELU
    unit, new = kernels.backward[key].all_bound, allocator(dtype, 2)
    to_d, to_y, to_x, to_w = (_converter(a, dtype) for a in (dvalues, saved, inputs, weights))
    copy_d, copy_y, copy_x, copy_w = (_copier(a) for a in (dvalues, saved, inputs, weights))

    def implementation(dvalues, saved, inputs, weights, out):
        _check_backward(matrix(dvalues), matrix(saved), matrix(inputs), matrix(weights), matrix(part(out, 0)),
                        matrix(part(out, 1)), matrix(part(out, 2)))         # first, as in _forward
        d, y, x, w = to_d(dvalues), to_y(saved), to_x(inputs), to_w(weights)
        md, my, mx, mw = matrix(d), matrix(y), matrix(x), matrix(w)
        dinputs = provide_dinputs(part(out, 0), mx.rows, mx.cols)
        dweights = provide_dweights(part(out, 1), mw.rows, mw.cols)
        dbiases = provide_dbiases(part(out, 2), 1, mw.cols)
        mdi, mdw, mdb = matrix(dinputs), matrix(dweights), matrix(dbiases)
        operands = BackwardOperands(dvalues=md, saved=my, x=mx, weights=mw, dinputs=mdi, dweights=mdw, dbiases=mdb,
                                    activation=activation)
        status = link.call(unit(), (operands, MOST_THREADS))
        if status == link.REFUSED:
            d_rows, y_rows, x_rows, w_rows = copy_d(d), copy_y(y), copy_x(x), copy_w(w)
            md, my, mx, mw = matrix(d_rows), matrix(y_rows), matrix(x_rows), matrix(w_rows)
            di, dw, db = new((mx.rows, mx.cols)), new((mw.rows, mw.cols)), new((1, mw.cols))
            status = link.call(unit(), (BackwardOperands(
                dvalues=md, saved=my, x=mx, weights=mw, dinputs=matrix(di), dweights=matrix(dw), dbiases=matrix(db),
                activation=activation), MOST_THREADS))
            _copy(di, dinputs)
            _copy(dw, dweights)
            _copy(db, dbiases)
            keep(d_rows)
            keep(y_rows)
            keep(x_rows)
            keep(w_rows)
        keep(d)
        keep(y)
        keep(x)
        keep(w)
        _check_status(status)
        return dinputs, dweights, dbiases

    return register_jitable(implementation)


@overload(functional.dense_backward, prefer_literal=True)
def _dense_backward(dvalues, inputs, weights, out=None, precision=None):
    run = _backward(dvalues, None, inputs, weights, out, precision)
    return lambda dvalues, inputs, weights, out=None, precision=None: run(dvalues, None, inputs, weights, out)


@overload(functional.dense_relu_backward, prefer_literal=True)
def _dense_relu_backward(dvalues, output, inputs, weights, out=None, precision=None):
    run = _backward(dvalues, output, inputs, weights, out, precision)
    return lambda dvalues, output, inputs, weights, out=None, precision=None: run(dvalues, output, inputs, weights, out)


# ---- ReLU


@register_jitable
def _masked(dvalues, z, result):
    """Write dvalues to result, but 0 where z <= 0. The arrays may have any layout and dtype."""
    for index in np.ndindex(z.shape):
        result[index] = 0 if z[index] <= 0 else dvalues[index]


@register_jitable
def _copy_elements(source, target):
    """Copy all elements of an array of any dimensions."""
    for index in np.ndindex(source.shape):
        target[index] = source[index]


@register_jitable
def _check_same_shape(dvalues, z):
    """Raise ValueError unless both have the same shape."""
    if dvalues.shape != z.shape:
        raise ValueError("dvalues does not fit z, expected the same shape")


@register_jitable
def _check_result(out, z):
    """Return `out`, or raise ValueError if its shape is not z's."""
    if out.shape != z.shape:
        raise ValueError("out does not fit z, expected the same shape")
    return out


def _elementwise(dvalues, z, out):
    """Return implementation(dvalues, z, out) of ReLU or its derivative for these types. With dvalues = z it is ReLU."""
    check_array("dvalues", dvalues, (z.ndim,))
    _check_out("out", out, dvalues.dtype, z.ndim)
    arrays = [a for a in (dvalues, z, out) if not _is_none(a)]
    new = allocator(dvalues.dtype, z.ndim)
    provide = register_jitable((lambda out, z: new(z.shape)) if _is_none(out) else (lambda out, z: _check_result(out, z)))
    if dvalues.dtype in relu.relu and all(a.dtype == dvalues.dtype and a.layout == "C" and a.ndim > 0 for a in arrays):
        return _contiguous(provide, new, relu.relu[dvalues.dtype].all_bound)

    def implementation(dvalues, z, out):
        _check_same_shape(dvalues, z)
        result, apart = provide(out, z), new(z.shape)       # `out` may overlap the others in any way
        _masked(dvalues, z, apart)
        _copy_elements(apart, result)
        return result

    return register_jitable(implementation)


def _contiguous(provide, new, unit):
    """Return the implementation that calls the unit, for arrays in C order of the unit's dtype."""
    def implementation(dvalues, z, out):
        _check_same_shape(dvalues, z)
        result = provide(out, z)
        d, m, r = matrix(dvalues.reshape(-1)), matrix(z.reshape(-1)), matrix(result.reshape(-1))
        if (overlap(r, d, z.itemsize) and r.data != d.data) or (overlap(r, m, z.itemsize) and r.data != m.data):
            apart = new(z.shape)
            status = link.call(unit(), (d.data, m.data, matrix(apart.reshape(-1)).data, z.size))
            _copy_elements(apart, result)
        else:
            status = link.call(unit(), (d.data, m.data, r.data, z.size))
        keep(dvalues)
        keep(z)
        _check_status(status)
        return result

    return register_jitable(implementation)


@overload(functional.relu_forward)
def _relu_forward(z, out=None):
    check_array("z", z)
    run = _elementwise(z, z, out)
    return lambda z, out=None: run(z, z, out)


@overload(functional.relu_backward)
def _relu_backward(dvalues, z, out=None):
    check_array("z", z)
    run = _elementwise(dvalues, z, out)
    return lambda dvalues, z, out=None: run(dvalues, z, out)
