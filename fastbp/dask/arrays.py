"""A dense layer's passes on Dask arrays that are cut along the batch. Each task of a graph calls functional.py on one chunk.

A tree of tasks adds up dweights and dbiases of the chunks. Its order depends on the chunks alone, so the bits of the sums
depend neither on the workers nor on which of them finishes first.
"""
import copy
import functools
import operator
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import dask
import dask.array as da
import numpy as np
from numpy.typing import ArrayLike

from .. import functional
from .._arrays import operands
from .._runtime.threads import thread_limit
from ..inference import predictions
from ..kernels.elementwise.activations import GELU, IDENTITY, RELU

# A task of the tree adds up the gradients of so many chunks, or so many sums of them.
_FAN_IN = 8

# The parameters and the result of a function that is decorated.
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _also_by_old_name(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Let a function take `inputs` by its old name, the keyword `x`, too."""
    @functools.wraps(function)
    def renamed(*arguments, **named):
        if "x" in named and "inputs" not in named:
            named["inputs"] = named.pop("x")
        return function(*arguments, **named)

    return renamed


@_also_by_old_name
def dense_forward(inputs: da.Array, weights: ArrayLike | da.Array, biases: ArrayLike | da.Array | None = None, *,
                  precision: str | None = None) -> da.Array:
    """Return inputs @ weights + biases as a Dask array (batch, n_neurons), cut along the batch as inputs are.

    inputs (batch, n_inputs) is a Dask array, which may have chunks without rows or of unknown sizes. Chunks that do not hold
    whole rows are joined, with a warning. weights (n_inputs, n_neurons) and biases (1, n_neurons) or (n_neurons,) are Dask
    arrays or NumPy arrays; NumPy arrays are copied, so later changes of them have no effect. precision is that of
    fastbp.dense_forward. Nothing is computed before the result is.

    Raises TypeError if inputs are no Dask array, and what fastbp.dense_forward raises, with the same messages, before anything
    is computed.
    """
    return forward(inputs, weights, biases, IDENTITY, precision)[0]


@_also_by_old_name
def dense_relu_forward(inputs: da.Array, weights: ArrayLike | da.Array, biases: ArrayLike | da.Array | None = None, *,
                       precision: str | None = None) -> da.Array:
    """Return relu(inputs @ weights + biases). Arguments, result and errors are those of `dense_forward`."""
    return forward(inputs, weights, biases, RELU, precision)[0]


@_also_by_old_name
def dense_backward(dvalues: ArrayLike | da.Array, inputs: da.Array, weights: ArrayLike | da.Array, *,
                   precision: str | None = None) -> tuple[da.Array, da.Array, da.Array]:
    """Return the gradients of `dense_forward`, (dinputs, dweights, dbiases), as Dask arrays.

    dvalues (batch, n_neurons), inputs (batch, n_inputs), weights (n_inputs, n_neurons). dinputs is cut along the batch as
    inputs are; dweights (n_inputs, n_neurons) and dbiases (1, n_neurons) have one chunk. One task for each chunk of inputs
    computes all three, so that inputs are read once if the three are computed together, also together with the forward pass.
    `dense_forward` says which arrays weights may be, and what is raised.
    """
    return backward(dvalues, None, inputs, weights, IDENTITY, True, precision)


@_also_by_old_name
def dense_relu_backward(dvalues: ArrayLike | da.Array, output: ArrayLike | da.Array, inputs: da.Array,
                        weights: ArrayLike | da.Array, *,
                        precision: str | None = None) -> tuple[da.Array, da.Array, da.Array]:
    """Return the gradients of `dense_relu_forward`, as `dense_backward` does, from its output (batch, n_neurons)."""
    if output is None:
        raise TypeError("output is None, expected an array of the shape of dvalues")
    return backward(dvalues, output, inputs, weights, RELU, True, precision)


def forward(inputs, weights, biases, activation, precision):
    """Return (output, saved), where saved is what `backward` needs for the derivative of the activation."""
    inputs = as_batch("inputs", inputs)
    *_, dtype = functional.check_forward(*placeholders([inputs], [weights, biases]))
    operands.multiplied(dtype, precision)
    inputs, weights = join_columns("inputs", inputs, stacklevel=5), _in_one_chunk(weights)
    biases = da.atleast_2d(_in_one_chunk(biases)) if biases is not None else None
    pairs = da.blockwise(_forward_of_chunk, "ij", inputs, "ik", weights, "kj", *((biases, "zj") if biases is not None else ()),
                         activation=activation, precision=precision, **_blockwise_options(dtype))
    output = _pick(pairs, 0, dtype)
    return output, output if activation != GELU else _pick(pairs, 1, dtype)


def backward(dvalues, saved, inputs, weights, activation, need_dinputs, precision):
    """Return (dinputs, dweights, dbiases); dinputs is None unless it is needed.

    saved: what `forward` returned for the derivative of the activation; None for the identity.
    """
    inputs = as_batch("inputs", inputs)
    *_, dtype = functional.check_backward(*placeholders([dvalues, saved, inputs], [weights]))
    operands.multiplied(dtype, precision)
    inputs, weights = join_columns("inputs", inputs, stacklevel=5), _in_one_chunk(weights)
    dvalues = cut_as(inputs, "dvalues", dvalues)
    saved_pair = (cut_as(inputs, "output", saved), "ij") if saved is not None else (None, None)
    gradients = da.blockwise(_backward_of_chunk, "ik", dvalues, "ij", *saved_pair, inputs, "ik", weights, "kj",
                             activation=activation, need_dinputs=need_dinputs, precision=precision, **_blockwise_options(dtype))
    sums = da.reduction(gradients, chunk=_without_dinputs, combine=_add_up, aggregate=_add_up, axis=0, keepdims=True,
                        concatenate=False, split_every=_FAN_IN, dtype=dtype, meta=_meta(dtype))
    n_inputs, n_neurons = weights.shape
    return (_pick(gradients, 0, dtype) if need_dinputs else None, _pick(sums, 0, dtype, (n_inputs,), (n_neurons,)),
            _pick(sums, 1, dtype, (1,), (n_neurons,)))


def relu_forward(z):
    """Return fastbp.relu_forward of a Dask array of any shape."""
    functional.relu_forward(*placeholders([z[:0]]))
    return da.map_blocks(functional.relu_forward, z, dtype=z.dtype, meta=z._meta)


def relu_backward(dvalues, z):
    """Return fastbp.relu_backward of Dask arrays (rows, …). dvalues is cut as z is."""
    operands.check_shape("dvalues", dvalues, z.shape, "that is the shape of z")
    dvalues = cut_as(z, "dvalues", dvalues)
    return da.map_blocks(functional.relu_backward, dvalues, z, dtype=dvalues.dtype, meta=dvalues._meta)


def dropped(values, rate, seed):
    """Return what a layers.Dropout makes of a Dask array. It drops the same places whenever seed and chunks are the same."""
    return da.map_blocks(_dropout_of_chunk, values, rate=rate, seed=seed, meta=values._meta,
                         dtype=operands.float_dtype(*placeholders([values])))


def predict(network, x):
    """Return Sequential.predict of a Dask array, with the weights that the network has now."""
    x = as_batch("x", x)
    network._as_inputs("x", *placeholders([x]))
    specs = dask.delayed(copy.deepcopy(network._specs()), pure=True, traverse=False)
    return da.map_blocks(_predict_of_chunk, join_columns("x", x), specs=specs, loss=network.loss, dtype=network.dtype,
                         chunks=(x.chunks[0], (network.n_outputs,)), meta=_meta(network.dtype))


# ---- the tasks


def _dropout_of_chunk(values, rate, seed, block_id):
    values = operands.as_array("inputs", values)
    kept, factor = functional._draw_dropout(values, rate, np.random.default_rng((seed, *block_id)))
    return functional._apply_dropout(values, kept, factor)


def _predict_of_chunk(x, specs, loss):
    with thread_limit(1):
        return predictions(specs, loss, x)


def _forward_of_chunk(inputs, weights, biases=None, *, activation, precision):
    with thread_limit(1):
        return functional._forward(inputs, weights, biases, None, activation, precision=precision)


def _backward_of_chunk(dvalues, saved, inputs, weights, *, activation, need_dinputs, precision):
    with thread_limit(1):
        return functional._backward(dvalues, saved, inputs, weights, None, activation, need_dinputs, precision=precision)


def _without_dinputs(gradients, axis, keepdims):
    _, dweights, dbiases = gradients
    return dweights, dbiases


def _add_up(gradients, axis, keepdims):
    """Return the sums (dweights, dbiases) over some chunks, added one after another.

    The first addition makes new arrays: other tasks may still need the arrays that a task gets.
    """
    total, *others = gradients if isinstance(gradients, list) else [gradients]
    if others:
        total = [np.add(a, b) for a, b in zip(total, others[0], strict=True)]
    for other in others[1:]:
        for a, b in zip(total, other, strict=True):
            a += b
    return total


# ---- the graphs


def _blockwise_options(dtype):
    """Return the options of da.blockwise for chunks of whole rows."""
    return {"concatenate": True, "align_arrays": False, "dtype": dtype, "meta": _meta(dtype)}


def _meta(dtype):
    return np.empty((0, 0), dtype)


def _pick(results, number, dtype, *chunks):
    """Return a Dask array of one of the arrays that each chunk of results holds, the one of this number."""
    return da.map_blocks(operator.itemgetter(number), results, chunks=chunks or results.chunks, dtype=dtype,
                         meta=_meta(dtype), name=f"part-{number}-{results.name}")


def as_batch(name, array):
    """Return a Dask array (rows, columns), of one row if it is 1-D. Raises TypeError for what is no Dask array."""
    if not isinstance(array, da.Array):
        raise TypeError(f"{name} is of type {type(array).__name__}, expected a dask.array.Array: fastbp has functions for "
                        "NumPy arrays")
    return array[np.newaxis] if array.ndim == 1 else array


def placeholders(batches, others=()):
    """Return NumPy arrays of the shapes and dtypes of Dask arrays, for functional's checks. They take no memory.

    If the number of rows of one batch is unknown, all batches are replaced by empty ones.
    """
    are_unknown = any(np.isnan(batch.shape[0]) for batch in batches if isinstance(batch, da.Array))
    return [_placeholder(a, are_unknown) for a in batches] + [_placeholder(a, False) for a in others]


def _placeholder(array, is_empty):
    if not isinstance(array, da.Array) and not (is_empty and isinstance(array, np.ndarray)):
        return array
    shape = (0, *array.shape[1:]) if is_empty else array.shape
    return np.broadcast_to(np.zeros((), array.dtype.newbyteorder("=")), shape)


def join_columns(name, array, stacklevel=4):
    """Return a Dask array (rows, columns) in chunks of whole rows. If that takes a copy, a RuntimeWarning says so.

    stacklevel: the number of calls from the user's down to warnings.warn, as that function counts them.
    """
    if array.numblocks[1] > 1:
        warnings.warn(f"{name} is cut along its columns into chunks of {array.chunks[1]}, which are joined: whole rows are "
                      f"multiplied, so read it as {name}.rechunk({{1: -1}})", RuntimeWarning, stacklevel=stacklevel)
        return array.rechunk({1: -1})
    return array


def cut_as(like, name, array, like_name="inputs"):
    """Return an array as a Dask array of whole rows, cut along the rows as another one, `like`, of as many rows.

    Raises ValueError for another number of rows, or for other chunks where the sizes of some are unknown.
    """
    array = array if isinstance(array, da.Array) else da.from_array(np.asarray(array), -1)
    array = join_columns(name, array) if array.ndim > 1 else array
    rows, like_rows = array.chunks[0], like.chunks[0]
    if len(rows) == len(like_rows) and np.array_equal(rows, like_rows, equal_nan=True):
        return array
    if np.isnan([*rows, *like_rows]).any():
        raise ValueError(f"{name} has chunks of {rows} rows, expected those of {like_name}, {like_rows}: some sizes are "
                         "unknown")
    if len(array) != len(like):
        raise ValueError(f"{name} has shape {array.shape}, expected {len(like)} rows: as {like_name} has")
    return array.rechunk({0: like_rows})


def _in_one_chunk(array):
    """Return weights or biases as a Dask array of one chunk; a NumPy array is copied."""
    return array.rechunk(-1) if isinstance(array, da.Array) else da.from_array(np.asarray(array).copy(), -1)
