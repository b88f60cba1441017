"""Rounding errors of every result beside NumPy's, in units in the last place, from a hundred rows to ten million.

An error is the distance from the exact result, which is computed in longdouble. Its unit is the unit in the last place of the
exact number, or of the root mean square of all exact numbers of that result, whichever is larger. The table has the root mean
square of the errors and, in brackets, the largest. The operands are positive numbers, normal ones, or normal ones with a mean
of 1000. A result is at fault if its errors are larger than NumPy's by more than chance.
"""
import sys

import numpy as np

import fastbp

from . import report

# The names of the results.
NAMES = "forward", "dinputs", "dweights", "dbiases"
# The random numbers of each kind of operands.
KINDS = {"positive": lambda rng, shape: rng.random(shape), "normal": lambda rng, shape: rng.standard_normal(shape),
         "far from 0": lambda rng, shape: 1000 + rng.standard_normal(shape)}
LAYERS = (8, 6), (40, 30), (300, 200)   # Each layer has n_inputs and n_neurons.
MOST_WORK = 1 << 30             # Layers with more multiply-adds are left out, as longdouble is slow.
MOST_ELEMENTS = 10**8           # Layers with more elements in one array are left out, too.
LOOKED_AT = 20_000              # Only the first rows of forward and dinputs are compared, up to this number.
CHUNK = 1 << 16                 # This many rows are converted to longdouble at a time.
ENOUGH = 200                    # Small layers are drawn several times, for about this many elements of dbiases in all.
MOST_DRAWN = 2_000_000          # No layer is drawn again if its draws would have more rows than this in all.
BY_CHANCE = 1.15                # A root mean square above this times NumPy's plus IN_THE_LAST_PLACE is more than chance.
IN_THE_LAST_PLACE = 0.35        # Units in the last place that are always allowed: rounding the exact result leaves 0.29.


def operands(rng, kind, rows, layer, dtype):
    """Return x (rows, n_inputs), weights (n_inputs, n_neurons), biases (1, n_neurons) and dvalues (rows, n_neurons)."""
    n_inputs, n_neurons = layer
    shapes = (rows, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (rows, n_neurons)
    return tuple(KINDS[kind](rng, shape).astype(dtype) for shape in shapes)


def computed(x, w, b, dvalues):
    """Return fastbp's results, in the order of NAMES."""
    return (fastbp.dense_forward(x, w, b), *fastbp.dense_backward(dvalues, x, w))


def by_numpy(x, w, b, dvalues):
    """Return NumPy's results, in the order of NAMES."""
    return x @ w + b, dvalues @ w.T, x.T @ dvalues, dvalues.sum(axis=0, keepdims=True)


def exact(x, w, b, dvalues):
    """Return the results in longdouble, in the order of NAMES; forward and dinputs only of the first rows."""
    wide_w, rows = w.astype(np.longdouble), np.s_[:LOOKED_AT]
    dweights, dbiases = np.zeros(w.shape, np.longdouble), np.zeros(b.shape, np.longdouble)
    for first in range(0, len(x), CHUNK):
        part_x, part_dvalues = (a[first:first + CHUNK].astype(np.longdouble) for a in (x, dvalues))
        dweights += part_x.T @ part_dvalues
        dbiases += part_dvalues.sum(axis=0, keepdims=True)
    return (x[rows].astype(np.longdouble) @ wide_w + b, dvalues[rows].astype(np.longdouble) @ wide_w.T, dweights, dbiases)


def errors(results, expected, dtype):
    """Yield the errors of each result in units in the last place, flat."""
    for result, values in zip(results, expected, strict=True):
        sizes = np.maximum(abs(values), np.sqrt(np.mean(values**2)))
        yield (abs(result[:len(values)] - values) / np.spacing(sizes.astype(dtype))).astype(float).ravel()


def compare(rng, rows, layer, kind, dtype):
    """Yield (name, summary of fastbp's errors, summary of NumPy's) of each result; a summary is (root mean square, largest)."""
    found = []
    for _ in range(max(1, min(ENOUGH // layer[1], MOST_DRAWN // rows))):
        arrays = operands(rng, kind, rows, layer, dtype)
        expected = exact(*arrays)
        found.append([errors(by(*arrays), expected, dtype) for by in (computed, by_numpy)])
    ours, numpys = ([np.concatenate(of_draws) for of_draws in zip(*which, strict=True)] for which in zip(*found, strict=True))
    return zip(NAMES, map(_summary, ours), map(_summary, numpys), strict=True)


def _summary(errors):
    return float(np.sqrt(np.mean(errors**2))), float(errors.max())


def is_worse(ours, numpys):
    return ours[0] > BY_CHANCE * numpys[0] + IN_THE_LAST_PLACE


def cases(rows):
    """Yield (rows, layer, kind, dtype) of each case that is not too large."""
    for n in rows:
        for layer in LAYERS:
            if n * layer[0] * layer[1] <= MOST_WORK and n * max(layer) <= MOST_ELEMENTS:
                for dtype in (np.float32, np.float64):
                    for kind in KINDS:
                        yield n, layer, kind, np.dtype(dtype)


def main(arguments):
    parser = report.options(sys.modules[__name__], most_rows=10**7)
    chosen = parser.parse_args(arguments)
    rng, faults, compared = np.random.default_rng(chosen.seed), [], 0
    print(f"seed {chosen.seed}")
    print("| rows, layer, dtype, numbers | " + " | ".join(f"{name}: fastbp, NumPy" for name in NAMES) + " |")
    print("| --- |" + " ---: |" * len(NAMES))
    for case in cases([n for n in (10**2, 10**3, 10**4, 10**5, 10**6, 10**7) if n <= chosen.most_rows]):
        cells = []
        for name, ours, numpys in compare(rng, *case):
            compared += 1
            cells.append("{:.2f} ({:.1f}), {:.2f} ({:.1f})".format(*ours, *numpys))
            if is_worse(ours, numpys):
                faults.append(f"{name} {case}: {cells[-1]}")
        rows, (n_inputs, n_neurons), kind, dtype = case
        print(f"| {rows:,}, {n_inputs} → {n_neurons}, {dtype}, {kind} | {' | '.join(cells)} |", flush=True)
    return report.close(faults, results=compared)
