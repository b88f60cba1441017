"""Batches beyond 2**31 and 2**32 bytes, rows that lie that far apart, and steps without enough memory.

Batches on both sides of these limits are zeros but for a few rows, so that all sums are exact whole numbers. Batches larger
than any memory repeat one row: the distance from row to row is 0 bytes.
"""
import mmap
import sys
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided

import fastbp
import oracle

from . import child, report
from .steps import digest

# The dtype of all arrays but those of some WORKS.
DTYPE = np.dtype(np.float32)
FAR = 1 << 33                   # Rows that are far apart have this distance in bytes.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)     # Their memory is not reserved: Python 3.13 and later name this flag.


def available():
    """Return how many bytes of memory are available."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def large_batch(rows, n_inputs, n_neurons):
    """Return the faults of both passes over a batch of that many rows in memory."""
    rng = np.random.default_rng(0)
    places = _places(rows, n_inputs, n_neurons)
    x, dvalues = np.zeros((rows, n_inputs), DTYPE), np.zeros((rows, n_neurons), DTYPE)
    x[places], dvalues[places] = (oracle.integers(rng, (len(places), n), DTYPE) for n in (n_inputs, n_neurons))
    weights, biases = oracle.integers(rng, (n_inputs, n_neurons), DTYPE), oracle.integers(rng, (1, n_neurons), DTYPE)
    y = fastbp.dense_relu_forward(x, weights, biases)
    expected = np.maximum(x[places] @ weights + biases, 0)
    faults = _unequal("output", y[places], expected)
    y[places] = 0
    if not (y[np.delete(np.arange(0, rows, 1009), 0)].max(axis=0) <= np.maximum(biases, 0)).all():
        faults.append("output of rows of zeros")
    y[...] = 1                                                      # the ReLU lets all gradients pass
    dinputs, dweights, dbiases = fastbp.dense_relu_backward(dvalues, y, x, weights)
    faults += _unequal("dweights", dweights, x[places].T @ dvalues[places])
    faults += _unequal("dbiases", dbiases, dvalues[places].sum(axis=0, keepdims=True))
    faults += _unequal("dinputs", dinputs[places], dvalues[places] @ weights.T)
    dinputs[places] = 0
    if any(dinputs[first:first + (1 << 20)].any() for first in range(0, rows, 1 << 20)):
        faults.append("dinputs of rows of zeros")
    return [f"batch of {rows:,} x {n_inputs} -> {n_neurons}: {fault}" for fault in faults]


def _places(rows, *widths):
    """Return the rows at both ends of a batch, and around each row that begins at 2**31, 2**32 or 2**33 bytes or elements."""
    places = {0, 1, rows - 2, rows - 1}
    for width in widths:
        for limit in (1 << 31, 1 << 32, 1 << 33):
            for row in (limit // (width * DTYPE.itemsize), limit // width):
                places |= {row + step for step in range(-3, 4)}
    return np.array(sorted(place for place in places if 0 <= place < rows))


def _unequal(name, result, expected):
    return [] if np.array_equal(result, expected) else [f"{name} differs"]


def repeated_row(rows):
    """Return the faults of a backward pass over one row, repeated: dweights and dbiases are multiples of the number of rows."""
    faults = []
    for n_inputs, n_neurons in ((1, 1), (3, 2)):
        x, dvalues = (np.broadcast_to(np.full(n, 2.0), (rows, n)) for n in (n_inputs, n_neurons))
        memory = np.zeros((1, n_inputs))
        dinputs = as_strided(memory, (rows, n_inputs), (0, 8))
        weights = np.ones((n_inputs, n_neurons))
        out = dinputs, np.zeros(weights.shape), np.zeros((1, n_neurons))
        _, dweights, dbiases = fastbp.dense_backward(dvalues, x, weights, out=out)
        right = (dweights == 4.0 * rows).all() and (dbiases == 2.0 * rows).all() and (memory == 2.0 * n_neurons).all()
        faults += [] if right else [f"{rows:,} times a row of {n_inputs} -> {n_neurons}: {dweights}, {dbiases}, {memory}"]
    return faults


def far_rows(rows=40, n_inputs=9, n_neurons=70):
    """Return the faults of passes over arrays whose rows, or columns, are 8 GiB apart."""
    rng, faults = np.random.default_rng(0), []
    try:
        memory = mmap.mmap(-1, FAR * (rows + 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    except OSError as error:
        print(f"skipped: rows far apart, {error}")
        return []
    for name in ("dense_relu_forward", "dense_relu_backward"):
        arguments = oracle.operands(rng, name, rows, n_inputs, n_neurons, DTYPE)
        expected = oracle.expected(name, arguments)
        far = {argument: _far(memory, array, 4096 * i) for i, (argument, array) in enumerate(arguments.items())}
        out = [_far(memory, values.astype(DTYPE), 4096 * (i + 8)) for i, values in enumerate(expected)]
        getattr(fastbp, name)(**far, out=tuple(out) if len(out) > 1 else out[0])
        for result, values in zip(out, expected, strict=True):
            faults += _unequal(f"{name} of rows far apart", result, values)
        far["inputs"] = _far(memory, arguments["inputs"].T, 4096 * 7).T
        for result, values in zip(oracle.results(getattr(fastbp, name)(**far)), expected, strict=True):
            faults += _unequal(f"{name} of columns far apart", result, values)
    return faults


def _far(memory, array, offset):
    """Return a copy of an array in `memory`, with rows FAR bytes apart."""
    view = np.ndarray(array.shape, DTYPE, memory, offset, (FAR, DTYPE.itemsize))
    view[...] = array
    return view


# The code of a process that works under limits of memory.
NO_MEMORY = """
import resource, sys
import numpy as np
import fastbp
from checks import limits
limits.without_memory(*map(int, sys.argv[1:]))
"""


def without_memory(seed, tries):
    """Do works under limits of memory, in a process of its own; print how many were refused, and how many done."""
    import resource

    rng, refused, done = np.random.default_rng(seed), 0, 0
    first = [work(1) for work in WORKS]
    for _ in range(tries):
        number, scale = int(rng.integers(len(WORKS))), int(rng.integers(1, 9))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (used + int(rng.integers(0, 100 << 20)), resource.RLIM_INFINITY))
        try:
            result = WORKS[number](scale)
        except MemoryError:
            result = None
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        refused, done = refused + (result is None), done + (result is not None)
        if WORKS[number](1) != first[number]:
            print(f"FAULT work {number} is wrong after a limit")
        if result is not None and result != WORKS[number](scale):
            print(f"FAULT work {number} of scale {scale} is wrong under a limit")
    print(refused, done)


def _step(rows, n_inputs, n_neurons, **options):
    """Return the digest of a layer's step. Raise MemoryError if it is refused, and AssertionError if that changed the layer."""
    layer = fastbp.Dense(n_inputs, n_neurons, rng=0, **options)
    x = np.ones((rows, n_inputs), layer.weights.dtype)
    x[:, ::3] = -2
    layer.backward(layer.forward(x[:1]))
    before = [(name, getattr(layer, name), digest(getattr(layer, name))) for name in STATE]
    try:
        layer.forward(x)
    except MemoryError:
        for name, array, content in before:
            assert getattr(layer, name) is array and digest(array) == content, f"the layer's {name} has changed"
        raise
    layer.backward(layer.output)
    return digest(*(getattr(layer, name) for name in STATE))


def _fit(rows):
    x = np.random.default_rng(1).standard_normal((rows, 400)).astype(np.float32)
    y = np.random.default_rng(2).integers(0, 9, rows)
    network = fastbp.Sequential([fastbp.DenseReLU(400, 600, rng=0), fastbp.Dense(600, 9, rng=1)], fastbp.SoftmaxCrossEntropy())
    network.fit(x, y, epochs=1, batch_size=500, optimizer=fastbp.Adam(), progress=False, rng=0)
    return digest(network.predict(x))


# The arrays of a layer, which a refused step must not change.
STATE = "weights", "biases", "inputs", "output", "dinputs", "dweights", "dbiases"

# Works that need memory for results, for copies, for scratch memory of any size, or for a fit. Each returns a digest.
WORKS = (lambda scale: _step(2000 * scale, 700, 900), lambda scale: _step(20_000 * scale, 60, 50, dtype=np.float64),
         lambda scale: _step(30, 500 * scale, 500 * scale), lambda scale: _step(300 * scale, 500, 700, precision="bfloat16"),
         lambda scale: _step(900 * scale, 300, 400, activation="gelu"),
         lambda scale: digest(fastbp.dense_forward(np.ones((1000 * scale, 2000), np.float32)[:, ::2], np.ones((1000, 9)))),
         lambda scale: _fit(700 * scale))


def scarce(seed, tries):
    """Run without_memory() in a process of its own; return (faults, MemoryErrors, works done under a limit)."""
    status, output, errors = child.run(NO_MEMORY, seed, tries)
    faults = [line for line in output.splitlines() if line.startswith("FAULT")]
    if status != 0:
        return [*faults, f"without memory: status {status}: {errors[-1500:]}"], 0, 0
    return faults, *map(int, output.split()[-2:])


def main(arguments):
    parser = report.options(sys.modules[__name__], tries=300, rows=2**33 + 3)
    chosen = parser.parse_args(arguments)
    faults, batches = [], 0
    for rows, n_inputs, n_neurons in ((2**25 + 5, 33, 2), (2**29 + 9, 2, 1), (2**26 + 1, 3, 17)):
        needed = rows * (2 * n_inputs + 3 * n_neurons) * DTYPE.itemsize
        if needed > 0.9 * available():
            print(f"skipped: {rows:,} x {n_inputs} -> {n_neurons}, for which {needed >> 30} GiB are needed", flush=True)
            continue
        print(f"{rows:,} x {n_inputs} -> {n_neurons}: {rows * n_inputs * DTYPE.itemsize:,} bytes of inputs", flush=True)
        faults, batches = faults + large_batch(rows, n_inputs, n_neurons), batches + 1
    faults += repeated_row(chosen.rows) + far_rows()
    print(f"{chosen.rows:,} times one row; {FAR:,} bytes between two rows", flush=True)
    found, refused, done = scarce(chosen.seed, chosen.tries)
    return report.close(faults + found, large_batches=batches, memory_errors=refused, calls_done_under_a_limit=done)
