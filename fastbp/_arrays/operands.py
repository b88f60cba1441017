"""Checks and conversions of what a user passes: every operand becomes an ndarray of one float dtype, or raises an error.

Everything is checked before anything is computed. An error names the argument, what it was and what was expected.
"""
import sys
import warnings
from functools import cache

import numpy as np

from .._runtime import cpu
from .memory import empty, has_contiguous_rows

# The dtypes that kernels compute with, the narrower one first.
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# The precision that multiplies float32 arrays as bfloat16. It is not a dtype; do not compare it with one by ==, because NumPy
# knows no dtype of that name and loses a KeyboardInterrupt that comes during the comparison.
BFLOAT16 = "bfloat16"


def is_lazy(value):
    """Return whether `value` is a Dask array. There is none before the user has imported Dask, so this does not import it."""
    dask_array = sys.modules.get("dask.array")
    return dask_array is not None and isinstance(value, dask_array.Array)


def as_array(name, value):
    """Return `value` as an ndarray of real numbers in native byte order; raise TypeError for anything else.

    A masked array is refused, because the masked numbers would count in the computation.
    """
    if type(value) is not np.ndarray and _is_masked(value):
        raise TypeError(f"{name} is a masked array, expected one without a mask: {name}.filled(0) puts 0 in the masked places")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not an array: {error}") from None
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{name} has dtype {array.dtype}, expected booleans, integers, float16, float32 or float64")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _is_masked(value):
    """Return whether `value` is a masked array, or a sequence that begins with one."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, np.ma.MaskedArray)


def float_dtype(*arrays):
    """Return the dtype of NumPy's promotion, but at least float32. Integers alone become float64."""
    dtype = np.result_type(*arrays)
    return np.dtype(np.float64) if dtype.kind != "f" else max(dtype, FLOATS[0])


def multiplied(dtype, precision):
    """Return the type in which arrays of that dtype are multiplied at that precision: the dtype itself, or "bfloat16".

    On a CPU that does not multiply bfloat16 that precision is computed in float32, which is more precise and faster there.
    Raises ValueError for a precision that the dtype does not have.
    """
    if precision is None:
        return dtype
    if precision == BFLOAT16 and dtype == FLOATS[0]:
        _warn_if_not_faster()
        return BFLOAT16 if cpu.multiplies_bfloat16() else dtype
    if precision == dtype.name:
        return dtype
    expected = f"{dtype.name!r}, {BFLOAT16!r}" if dtype == FLOATS[0] else f"{dtype.name!r}"
    raise ValueError(f"precision is {precision!r}, expected {expected} or None: the dtype is {dtype}")


@cache
def _warn_if_not_faster():
    """Warn once in a process if this CPU has no instructions that multiply bfloat16."""
    if not cpu.multiplies_bfloat16():
        warnings.warn("precision 'bfloat16' is not faster here: this CPU multiplies no bfloat16, so float32 is computed",
                      RuntimeWarning, stacklevel=5)


def as_rows(name, array):
    """Return a 2-D array as it is, and one sample, 1-D, as a single row. Raises ValueError for other dimensions."""
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} has shape {array.shape}, expected (batch, n) or one sample (n,)")
    return array[np.newaxis] if array.ndim == 1 else array


def check_shape(name, array, expected, because):
    """Raise ValueError unless `array` has the shape `expected`."""
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}: {because}")


def check_weights(inputs, weights):
    """Raise ValueError unless inputs (batch, n_inputs) can be multiplied with weights (n_inputs, n_neurons)."""
    if weights.ndim != 2:
        raise ValueError(f"weights has shape {weights.shape}, expected (n_inputs, n_neurons)")
    if inputs.shape[1] != weights.shape[0]:
        raise ValueError(f"inputs has shape {inputs.shape}, expected (batch, {weights.shape[0]}): "
                         f"weights has shape {weights.shape}")


def as_biases(biases, n_neurons):
    """Return biases (n_neurons,) or (1, n_neurons) as (1, n_neurons). Raises ValueError for another shape."""
    rows = biases[np.newaxis] if biases.ndim == 1 else biases
    if rows.shape != (1, n_neurons):
        raise ValueError(f"biases has shape {biases.shape}, expected (1, {n_neurons}) or ({n_neurons},): "
                         f"weights has {n_neurons} columns")
    return rows


def check_out(name, out, shape, dtype):
    """Raise TypeError or ValueError unless `out` is None, or a writeable ndarray of that shape and dtype."""
    if out is None:
        return
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{name} is of type {type(out).__name__}, expected a numpy.ndarray")
    if out.dtype != dtype:
        raise TypeError(f"{name} has dtype {out.dtype}, expected {dtype}")
    if out.shape != shape:
        raise ValueError(f"{name} has shape {out.shape}, expected {shape}")
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only, expected an array that can be written")


def with_contiguous_rows(array):
    """Return the 2-D array itself if its rows are contiguous, else a copy with contiguous rows."""
    return array if has_contiguous_rows(array) else np.ascontiguousarray(array)


def with_contiguous_lines(array):
    """Return the 2-D array itself if its rows or its columns are contiguous, else a copy with contiguous rows."""
    return array if array.strides[0] == array.itemsize else with_contiguous_rows(array)


def as_factors(inputs, weights, precision):
    """Return inputs and weights in a layout that the kernels take.

    For bfloat16 the rows of both are contiguous. Otherwise the rows or columns of inputs are, and weights may have any layout.
    """
    if precision == BFLOAT16:
        return with_contiguous_rows(inputs), with_contiguous_rows(weights)
    return with_contiguous_lines(inputs), weights


def result(out, shape, dtype, operands):
    """Return the array for a kernel to write: `out`, or a new one if out's rows have gaps or it overlaps an operand.

    Compiled code takes no subclass of ndarray: in place of such an `out` it takes a view.
    """
    if out is None or not has_contiguous_rows(out) or any(np.may_share_memory(out, a) for a in operands if a is not None):
        return empty(shape, dtype)
    return np.asarray(out)


def deliver(computed, out):
    """Return the result, after copying it to the user's `out` if there is one, and if it is not there already."""
    if out is None or out is computed:
        return computed
    if not np.may_share_memory(computed, out):          # else it is the view that `result` returned
        np.copyto(out, computed)
    return out
