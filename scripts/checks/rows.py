"""Rows of results beside the same rows in batches of other sizes, for bits.py: a row does not depend on its neighbours."""
import numpy as np

import fastbp
from fastbp.kernels.elementwise.activations import NAMES

from . import steps

# Rows of batches on both sides of the numbers at which another algorithm, tile or block begins.
BATCHES = 1, 2, 3, 4, 5, 8, 12, 13, 16, 17, 32, 33, 64, 65, 96, 200, 513, 4095, 4096, 5000, 9000

# The ranges that sizes of layers are drawn from, end excluded: tiny ones, around vectors, around tiles, longer than blocks.
SIZES = (1, 6), (1, 20), (1, 130), (120, 700), (1000, 1100)

MOST = 1 << 26                  # A product has at most this many multiplications.

# The losses of networks, which say what `predict` returns.
LOSSES = None, fastbp.SoftmaxCrossEntropy(), fastbp.BinaryCrossEntropy(), fastbp.MeanSquaredError()


def layer_faults(number):
    """Return the faults of a layer's forward and backward pass: rows of y and dinputs that depend on their neighbours."""
    rng = np.random.default_rng(number)
    dtype, activation = steps._one(rng, steps.DTYPES), steps._one(rng, NAMES)
    n_inputs, n_neurons = (int(rng.integers(*steps._one(rng, SIZES))) for _ in range(2))
    weights, biases = (rng.standard_normal((n, n_neurons)).astype(dtype) for n in (n_inputs, 1))
    weights = _laid_out(rng, weights)
    rows = _rows_of(rng, n_inputs * n_neurons)
    x = _laid_out(rng, rng.standard_normal((rows, n_inputs)).astype(dtype))
    dvalues = rng.standard_normal((rows, n_neurons)).astype(dtype)

    def passes(part):
        layer = fastbp.Dense(n_inputs, n_neurons, activation=activation, dtype=dtype)
        layer.weights, layer.biases = weights, biases
        return {"y": layer.forward(_in_some_order(rng, x[part])), "dinputs": layer.backward(dvalues[part])}

    what = f"rows {number}: Dense({n_inputs}, {n_neurons}, {activation}, {dtype})"
    return _faults(rng, what, rows, passes)


def network_faults(number):
    """Return the faults of a network's predictions and of its frozen ones."""
    rng = np.random.default_rng(number)
    dtype, loss = steps._one(rng, steps.DTYPES), steps._one(rng, LOSSES)
    sizes = [int(rng.integers(*steps._one(rng, SIZES[:4]))) for _ in range(int(rng.integers(2, 5)))]
    layers = [fastbp.Dense(a, b, activation=steps._one(rng, NAMES), dtype=dtype, rng=rng)
              for a, b in zip(sizes, sizes[1:-1], strict=False)]
    network = fastbp.Sequential([*layers, fastbp.Dense(*sizes[-2:], dtype=dtype, rng=rng)], loss)
    frozen = network.frozen()
    rows = _rows_of(rng, max(a * b for a, b in zip(sizes, sizes[1:], strict=False)))
    x = _laid_out(rng, rng.standard_normal((rows, sizes[0])).astype(steps._one(rng, [dtype, *steps.DTYPES])))

    def predictions(part):
        given = _in_some_order(rng, x[part])
        predicted, h = network.predict(given), given
        for layer in network.layers:
            h = layer.forward(h)
        found = {"predict": predicted, "frozen": frozen(given)}
        return found | ({"layers": h} if given.dtype == dtype and loss is None else {})

    return _faults(rng, f"rows {number}: {sizes}, {dtype}, {loss!r}", rows, predictions)


def _rows_of(rng, product):
    """Return the rows of the largest batch: one of BATCHES, for layers with that many products a row."""
    return int(steps._one(rng, [rows for rows in BATCHES[10:] if rows * product <= MOST] or [BATCHES[10]]))


def _laid_out(rng, a):
    """Return an array in one of the layouts that kernels read, or in one that is copied first."""
    kind = int(rng.integers(7))
    if kind == 0:
        return np.asfortranarray(a)
    if kind == 1:
        return np.repeat(np.repeat(a, 2, axis=1), 3, axis=0)[::3, ::2]
    if kind == 2:
        return np.repeat(a, 2, axis=0)[::2]
    return a


def _in_some_order(rng, part):
    """Return some rows of x as they are, or a copy of them in C order."""
    return part if rng.integers(2) else np.ascontiguousarray(part)


def _faults(rng, what, rows, computed):
    """Return the faults of results, `computed` for a slice of the rows, beside those of all rows. Each call has new threads."""
    fastbp.set_num_threads(int(rng.integers(1, 4)))
    expected, faults = {name: np.array(a) for name, a in computed(slice(0, rows)).items()}, []
    for batch in BATCHES[:BATCHES.index(rows) + 1]:
        for start in {0, int(rng.integers(rows - batch + 1)), rows - batch}:
            part = slice(start, start + batch)
            fastbp.set_num_threads(int(rng.integers(1, 4)))
            for name, found in computed(part).items():
                if found.tobytes() != expected[name][part].tobytes():
                    faults.append(f"{what}: {name} of rows {start} to {start + batch} differs from that among {rows} rows")
    return faults
