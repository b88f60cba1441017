"""A dense layer's passes on Dask arrays that are cut along the batch: graphs whose tasks call functional.py on a chunk each.

dweights and dbiases of the chunks are added up in a tree, whose order follows from the chunks alone: the bits depend neither on
the workers nor on which of them is done first.
"""
import copy
import operator
import warnings

import dask
import dask.array as da
import numpy as np

from .. import _operands as operands
from .. import functional
from .._threads import thread_limit
from ..kernels.activations import GELU, IDENTITY, RELU
from ..layers import Dropout
from ..network import predictions

_ADDED = 8                      # gradients of chunks that a task of the tree adds up


def dense_forward(x, weights, biases=None, *, precision=None):
    """fastbp.dense_forward of a Dask array x (batch, n_inputs): a Dask array (batch, n_neurons), cut along the batch as x is.

    Nothing is computed before the result is. weights (n_inputs, n_neurons) and biases are NumPy arrays, of which later changes
    are not seen, or Dask arrays. x may have chunks without rows or of unknown sizes; one that is cut along its columns is
    joined there, with a warning.

    Raises as fastbp.dense_forward, in its words, before anything is computed; TypeError for x that is no Dask array.
    """
    return forward(x, weights, biases, IDENTITY, precision)[0]


def dense_relu_forward(x, weights, biases=None, *, precision=None):
    """fastbp.dense_relu_forward of a Dask array: arguments, result and errors as for `dense_forward`."""
    return forward(x, weights, biases, RELU, precision)[0]


def dense_backward(dvalues, x, weights, *, precision=None):
    """fastbp.dense_backward of Dask arrays: (dinputs, dweights, dbiases), of which dinputs is cut along the batch as x is.

    dvalues (batch, n_neurons), x (batch, n_inputs); dweights and dbiases have one chunk. All three come from one task for each
    chunk of x, so that x is read once if they are computed together, with the forward pass as well. `dense_forward` says what
    weights may be, and what is raised.
    """
    return backward(dvalues, None, x, weights, IDENTITY, True, precision)


def dense_relu_backward(dvalues, output, x, weights, *, precision=None):
    """fastbp.dense_relu_backward of Dask arrays, as `dense_backward`; output (batch, n_neurons) of `dense_relu_forward`."""
    if output is None:
        raise TypeError("output is None, expected an array of the shape of dvalues")
    return backward(dvalues, output, x, weights, RELU, True, precision)


def forward(x, weights, biases, activation, precision):
    """(output, s), s as `backward` takes it."""
    x = as_batch("x", x)
    *_, dtype = functional.check_forward(*stand_ins([x], [weights, biases]))
    operands.multiplied(dtype, precision)
    x, weights = whole_rows("x", x), _parameter(weights)
    biases = da.atleast_2d(_parameter(biases)) if biases is not None else None
    both = da.blockwise(_forward_of_chunk, "ij", x, "ik", weights, "kj", *((biases, "zj") if biases is not None else ()),
                        activation=activation, precision=precision, **_whole(dtype))
    output = _part(both, 0, dtype)
    return output, output if activation != GELU else _part(both, 1, dtype)


def backward(dvalues, s, x, weights, activation, need_dinputs, precision):
    """The gradients; dinputs is None unless it is needed. s is what the activation's derivative follows from, or None."""
    x = as_batch("x", x)
    *_, dtype = functional.check_backward(*stand_ins([dvalues, s, x], [weights]))
    operands.multiplied(dtype, precision)
    x, weights = whole_rows("x", x), _parameter(weights)
    dvalues = cut_as(x, "dvalues", dvalues)
    s = (cut_as(x, "output", s), "ij") if s is not None else (None, None)
    gradients = da.blockwise(_backward_of_chunk, "ik", dvalues, "ij", *s, x, "ik", weights, "kj", activation=activation,
                             need_dinputs=need_dinputs, precision=precision, **_whole(dtype))
    added = da.reduction(gradients, chunk=_without_dinputs, combine=_added, aggregate=_added, axis=0, keepdims=True,
                         concatenate=False, split_every=_ADDED, dtype=dtype, meta=_meta(dtype))
    n_inputs, n_neurons = weights.shape
    return (_part(gradients, 0, dtype) if need_dinputs else None, _part(added, 0, dtype, (n_inputs,), (n_neurons,)),
            _part(added, 1, dtype, (1,), (n_neurons,)))


def relu_forward(z):
    """fastbp.relu_forward of a Dask array."""
    functional.relu_forward(*stand_ins([z[:0]]))
    return da.map_blocks(functional.relu_forward, z, dtype=z.dtype, meta=z._meta)


def relu_backward(dvalues, z):
    """fastbp.relu_backward of Dask arrays (rows, …); dvalues is cut as z is."""
    operands.check_shape("dvalues", dvalues, z.shape, "that is the shape of z")
    dvalues = cut_as(z, "dvalues", dvalues)
    return da.map_blocks(functional.relu_backward, dvalues, z, dtype=dvalues.dtype, meta=dvalues._meta)


def dropped(values, rate, seed):
    """What a layers.Dropout lets pass of a Dask array: always the same for a seed and the same chunks."""
    return da.map_blocks(_dropped_of_chunk, values, rate=rate, seed=seed, dtype=operands.float_dtype(*stand_ins([values])),
                         meta=values._meta)


def predict(network, x):
    """Sequential.predict of a Dask array, by the network as it is now."""
    x = as_batch("x", x)
    network._as_inputs("x", *stand_ins([x]))
    parts = dask.delayed(copy.deepcopy(network._specs()), pure=True, traverse=False)
    return da.map_blocks(_predict_of_chunk, whole_rows("x", x), parts=parts, loss=network.loss, dtype=network.dtype,
                         chunks=(x.chunks[0], (network.n_outputs,)), meta=_meta(network.dtype))


def _dropped_of_chunk(values, rate, seed, block_id):
    layer = Dropout(rate, rng=np.random.default_rng((seed, *block_id)))
    return layer.forward(values)


def _predict_of_chunk(x, parts, loss):
    with thread_limit(1):
        return predictions(parts, loss, x)


def _forward_of_chunk(x, weights, biases=None, *, activation, precision):
    with thread_limit(1):
        return functional._forward(x, weights, biases, None, activation, precision=precision)


def _backward_of_chunk(dvalues, s, x, weights, *, activation, need_dinputs, precision):
    with thread_limit(1):
        return functional._backward(dvalues, s, x, weights, None, activation, need_dinputs, precision=precision)


def _without_dinputs(gradients, axis, keepdims):
    return gradients[1:]


def _added(gradients, axis, keepdims):
    """(dweights, dbiases) of some chunks, one after another: a task may not change what others may ask for, too."""
    total, *others = gradients if isinstance(gradients, list) else [gradients]
    if others:
        total = [np.add(a, b) for a, b in zip(total, others[0], strict=True)]
    for more in others[1:]:
        for a, b in zip(total, more, strict=True):
            a += b
    return total


def _whole(dtype):
    """Of chunks that have all columns: how blockwise passes them."""
    return {"concatenate": True, "align_arrays": False, "dtype": dtype, "meta": _meta(dtype)}


def _meta(dtype):
    return np.empty((0, 0), dtype)


def _part(results, number, dtype, *chunks):
    """One of the arrays that each chunk holds."""
    return da.map_blocks(operator.itemgetter(number), results, chunks=chunks or results.chunks, dtype=dtype,
                         meta=_meta(dtype), name=f"part-{number}-{results.name}")


def as_batch(name, array):
    if not isinstance(array, da.Array):
        raise TypeError(f"{name} is of type {type(array).__name__}, expected a dask.array.Array: fastbp has functions for "
                        "NumPy arrays")
    return array[np.newaxis] if array.ndim == 1 else array


def stand_ins(batches, others=()):
    """What looks like the Dask arrays to functional's checks, in no memory; all batches are empty if one is of unknown size."""
    are_unknown = any(np.isnan(batch.shape[0]) for batch in batches if isinstance(batch, da.Array))
    return [_stand_in(a, are_unknown) for a in batches] + [_stand_in(a, False) for a in others]


def _stand_in(array, is_empty):
    if not isinstance(array, da.Array) and not (is_empty and isinstance(array, np.ndarray)):
        return array
    shape = (0, *array.shape[1:]) if is_empty else array.shape
    return np.broadcast_to(np.zeros((), array.dtype.newbyteorder("=")), shape)


def whole_rows(name, array):
    if array.numblocks[1] > 1:
        warnings.warn(f"{name} is cut along its columns into chunks of {array.chunks[1]}, which are joined: whole rows are "
                      f"multiplied, so read it as {name}.rechunk({{1: -1}})", RuntimeWarning, stacklevel=4)
        return array.rechunk({1: -1})
    return array


def cut_as(x, name, array):
    """An array of as many rows as x, with its chunks along them, and whole rows; one that is not Dask's is cut."""
    array = array if isinstance(array, da.Array) else da.from_array(np.asarray(array), -1)
    array = whole_rows(name, array) if array.ndim > 1 else array
    if len(array.chunks[0]) == len(x.chunks[0]) and np.array_equal(array.chunks[0], x.chunks[0], equal_nan=True):
        return array
    if np.isnan([*array.chunks[0], *x.chunks[0]]).any():
        raise ValueError(f"{name} has chunks of {array.chunks[0]} rows, expected those of x, {x.chunks[0]}: some sizes are "
                         "unknown")
    if len(array) != len(x):
        raise ValueError(f"{name} has shape {array.shape}, expected {len(x)} rows: as x has")
    return array.rechunk({0: x.chunks[0]})


def _parameter(array):
    """Weights or biases as a Dask array of one chunk."""
    return array.rechunk(-1) if isinstance(array, da.Array) else da.from_array(np.asarray(array).copy(), -1)
