"""The data of a training. Each chunk of x, with its targets and weights, becomes a Chunk, which stays on a worker."""
import dask
import dask.array as da
import numpy as np
from distributed import wait

from ..losses import as_weights
from .arrays import as_batch, cut_as, join_columns, placeholders
from .worker import Chunk


def checked(network, x, y, sample_weight):
    """Return (x, y, sample_weight or None) as Dask arrays that are cut alike along the rows.

    Raises TypeError for what is no Dask array, ValueError for shapes that do not fit.
    """
    for name, array in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        if not isinstance(array, da.Array) and not (array is None and name == "sample_weight"):
            raise TypeError(f"{name} is of type {type(array).__name__}, expected a dask.array.Array: Sequential.fit is for "
                            "NumPy arrays")
    network._as_inputs("x", *placeholders([x]))
    x = join_columns("x", as_batch("x", x))
    return x, cut_as(x, "y", y, "x"), None if sample_weight is None else cut_as(x, "sample_weight", sample_weight, "x")


def load(client, network, arrays):
    """Return a future of the Chunk of each chunk of rows, when all are loaded. Raises as `raise_failed`."""
    columns = [[None] * arrays[0].numblocks[0] if array is None else array.to_delayed().reshape(-1) for array in arrays]
    make = dask.delayed(_chunk, pure=True)
    facts = network.loss, network.n_outputs, network.dtype
    futures = client.compute([make(*blocks, *facts) for blocks in zip(*columns, strict=True)])
    wait(futures)
    raise_failed(futures)
    return futures


def raise_failed(futures):
    """Raise the error of the first chunk that failed, if one did, with the chunk's number in its message."""
    for number, future in enumerate(futures):
        if future.status == "error":
            error = future.exception()
            kind = next((kind for kind in (ValueError, TypeError, MemoryError) if isinstance(error, kind)), RuntimeError)
            raise kind(f"chunk {number} of {len(futures)} of x, y and sample_weight cannot be computed: "
                       f"{type(error).__name__}: {error}") from error


def sizes_of(client, futures):
    """Return the number of rows of each chunk, and the largest weight, or None. Raises ValueError if all weights are 0."""
    rows, maxima = zip(*client.gather(client.map(_size, futures)), strict=True)
    weights = [weight for weight in maxima if weight is not None]
    if weights and not max(weights):
        raise ValueError("sample_weight has only zeros, expected others")
    return rows, max(weights, default=None)


def _chunk(x, y, weights, loss, n_outputs, dtype):
    x = np.require(x, dtype, "C")
    return Chunk(x=x, targets=loss.as_targets(y, len(x), n_outputs, dtype), weights=as_weights(weights, len(x), are_all=False))


def _size(chunk):
    """Return the number of rows of a chunk, and the largest of its weights, or None."""
    return len(chunk.x), None if chunk.weights is None else float(chunk.weights.max(initial=0))
