"""The data of a training: each chunk of x, with its targets and weights, becomes what a worker trains on, and stays there."""
import dask
import dask.array as da
import numpy as np
from distributed import wait

from ..losses import as_weights
from .arrays import as_batch, cut_as, stand_ins, whole_rows
from .work import Chunk


def checked(network, x, y, sample_weight):
    """Dask arrays of (x, y, sample_weight or None), cut along the rows alike; ValueError or TypeError for others."""
    for name, array in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        if not isinstance(array, da.Array) and not (array is None and name == "sample_weight"):
            raise TypeError(f"{name} is of type {type(array).__name__}, expected a dask.array.Array: Sequential.fit is for "
                            "NumPy arrays")
    network._as_inputs("x", *stand_ins([x]))
    x = whole_rows("x", as_batch("x", x))
    return x, cut_as(x, "y", y), None if sample_weight is None else cut_as(x, "sample_weight", sample_weight)


def load(client, network, arrays):
    """A future of the Chunk of each chunk of rows; the error of one that cannot be made, which names it."""
    blocks = [[None] * arrays[0].numblocks[0] if array is None else array.to_delayed().reshape(-1) for array in arrays]
    make = dask.delayed(_chunk, pure=True)
    facts = network.loss, network.n_outputs, network.dtype
    futures = client.compute([make(*row, *facts) for row in zip(*blocks, strict=True)])
    wait(futures)
    raise_failed(futures)
    return futures


def raise_failed(futures):
    """The error of a chunk that failed, if one did."""
    for number, future in enumerate(futures):
        if future.status == "error":
            error = future.exception()
            kind = next((kind for kind in (ValueError, TypeError, MemoryError) if isinstance(error, kind)), RuntimeError)
            raise kind(f"chunk {number} of {len(futures)} of x, y and sample_weight cannot be computed: "
                       f"{type(error).__name__}: {error}") from error


def sizes_of(client, futures):
    """Return the rows of each chunk, and the largest of all weights, or None; ValueError if all weights are 0."""
    rows, largest = zip(*client.gather(client.map(_size, futures)), strict=True)
    weights = [weight for weight in largest if weight is not None]
    if weights and not max(weights):
        raise ValueError("sample_weight has only zeros, expected others")
    return rows, max(weights, default=None)


def _chunk(x, y, weights, loss, n_outputs, dtype):
    x = np.require(x, dtype, "C")
    return Chunk(x, loss.as_targets(y, len(x), n_outputs, dtype), as_weights(weights, len(x), are_all=False))


def _size(chunk):
    return len(chunk.x), None if chunk.weights is None else float(chunk.weights.max(initial=0))
