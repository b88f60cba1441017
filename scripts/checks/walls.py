"""No kernel touches memory outside its arrays, at any shape around its tiles and on both sides of every blocking size.

Steps of optimisers, losses, trainings, predictions and compiled networks are checked, too (walls_training.py).

Each array lies against a wall, a page that kills the process if it is touched: once with the wall behind the last element, once
with the wall before the first. Operands are whole numbers, so that results are exact and must be equal.
"""
import itertools
import sys

import numba
import numpy as np

import fastbp
import oracle
from fastbp._runtime import cpu
from fastbp.kernels import blocking
from fastbp.kernels.dense import blocks
from fastbp.kernels.elementwise.activations import NAMES
from fastbp.kernels.sizes import PRESENT

from . import child, report, walls_training
from .memory import Rooms

# The functions that are called, beside layers of each other activation.
FUNCTIONS = "dense_relu_forward", "dense_relu_backward", "dense_forward", "dense_backward"

# A few shapes (batch, inputs, neurons) for every algorithm: streamed, packed and unpacked B, swapped factors, dot products, the
# fused backward pass, and few neurons.
SOME = ((1, 100, 92), (5, 97, 70), (64, 66, 65), (2, 33, 257), (3, 100, 65), (12, 64, 41), (7, 33, 12), (100, 7, 11),
        (30, 5, 13), (300, 92, 1), (40, 65, 2), (70, 3, 2), (1025, 7, 9), (5000, 1, 11), (5000, 92, 1),
        (4100, 45, 2), (4100, 13, 13), (4100, 2, 1), (4100, 1, 70))

# The code of a process that checks shapes.
_WORK = "import sys; from checks import walls; walls.work(*sys.argv[1:])"


def small(dtype):
    """Return every shape from 0 to one more than two tiles in each dimension."""
    tile = blocking.tiles(numba.from_dtype(dtype)).full
    width = 2 * tile.vecs * tile.lanes + 2
    return itertools.product(range(2 * tile.rows + 2), range(width), range(width))


def around_blocks(dtype):
    """Yield shapes on both sides of every size of a block, and of every size from which on another kernel is used."""
    b, here, lanes = blocking, PRESENT.sizes, blocking.tiles(numba.from_dtype(dtype)).full.lanes
    rows = _around(b.UNPACKED_ROWS, b.MC, here.swapped_rows, here.few_rows, here.swapped_most, b.COPIED_MC, blocks.NARROW_ROWS,
                   blocks.NARROW_UNIT, blocks.FUSED_ROWS, b.TASK_ROWS, 2 * b.TASK_ROWS,
                   *(blocks.FUSED_PARTITION_ROWS * n for n in (1, 2, 4, blocks.PARTITIONS)))
    depths = _around(b.SHALLOW_K, here.streamed_inputs, b.KC, 2 * b.KC, b.LONG_ROW // dtype.itemsize)
    columns = _around(cpu.caches().l3 // (b.NC_L3_PART * b.KC * dtype.itemsize))
    few = _around(b.SKINNY_NEURONS, b.DOT_LANES, b.SKINNY_INPUTS * lanes, blocks.NARROW, b.DOT_VECTORS * lanes)
    yield from itertools.product(rows, (1, 3, 67, 131), (1, 2, 5, 70))
    yield from itertools.product(rows, few, few)
    yield from itertools.product((1, 2, 7, b.UNPACKED_ROWS + 1, 100), depths, (1, 9, 70))
    yield from itertools.product((1, 2, 7, b.UNPACKED_ROWS + 1, 100), (1, 9, 70), depths)
    yield from itertools.product((1, 7, b.UNPACKED_ROWS + 1), depths, depths)
    yield from itertools.product((1, b.UNPACKED_ROWS, b.MC + 1), columns, (1, 20))
    yield from itertools.product((1, b.UNPACKED_ROWS, b.MC + 1), (1, 20), columns)


def _around(*sizes):
    """Return each size, the one before and the one after."""
    return sorted({size + step for size in sizes for step in (-1, 0, 1)})


# The names of sets of shapes, and functions of the dtype that return them.
SHAPES = {"some": lambda dtype: (*SOME, *walls_training.SOME), "small": small, "blocks": around_blocks,
          "training": walls_training.cases}


class Calls:
    """The calls of all functions and activations, with arrays that are allocated as usual."""

    def __init__(self, dtype):
        self._dtype = dtype

    def place(self, numbers):
        """Return an array with these numbers."""
        return np.array(numbers, self._dtype, order="C")

    def room(self, shape):
        """Return an array for a result, filled with NaN."""
        return self.place(np.full(shape, np.nan))

    def give_back(self):
        """Free the memory of the arrays, where a subclass keeps it."""

    def check(self, shape, rng):
        """Make all calls of a shape. Raise AssertionError if a result is not exact; the process dies if a wall is touched."""
        for name in FUNCTIONS:
            arguments = oracle.operands(rng, name, *shape, self._dtype)
            self._compare(name, shape, arguments, oracle.expected(name, arguments))
            if self._dtype == np.float32:       # bfloat16 holds whole numbers from -3 to 3 exactly
                self._compare(name, shape, arguments, oracle.expected(name, arguments), precision="bfloat16")
        self._check_activations(shape, rng)

    def _compare(self, name, shape, arguments, expected, **options):
        """Call a function, and raise AssertionError unless the results equal the expected ones."""
        arguments = {argument: self.place(array) for argument, array in arguments.items()}
        out = tuple(self.room(values.shape) for values in expected)
        getattr(fastbp, name)(**arguments, **options, out=out if len(out) > 1 else out[0])
        for result, values in zip(out, expected, strict=True):
            assert np.array_equal(result, values), f"{name} of {shape} {self._dtype} {options} is wrong"
        self.give_back()

    def _check_activations(self, shape, rng):
        """Raise AssertionError unless steps of layers give the same bits as with arrays that lie anywhere."""
        batch, n_inputs, n_neurons = shape
        x, dvalues = oracle.integers(rng, (batch, n_inputs), self._dtype), oracle.integers(rng, (batch, n_neurons), self._dtype)
        for name in NAMES[2:]:
            layer = fastbp.Dense(n_inputs, n_neurons, activation=name, dtype=self._dtype, rng=0)
            free = self._step(layer, x, dvalues, np.empty(dvalues.shape, self._dtype))
            layer.weights, layer.biases = self.place(layer.weights), self.place(layer.biases)
            walled = self._step(layer, self.place(x), self.place(dvalues), self.room(dvalues.shape))
            assert free == walled, f"{name} of {shape} {self._dtype} differs"
            self.give_back()

    def _step(self, layer, x, dvalues, out):
        layer.forward(x, out=out)
        layer.backward(dvalues)
        return [a.tobytes() for a in (out, layer.dinputs, layer.dweights, layer.dbiases)]


class Walled(Calls):
    """The same calls with each array in a room of its own."""

    def __init__(self, dtype, at_end):
        super().__init__(dtype)
        self._at_end, self._rooms = at_end, Rooms()
        self._training = walls_training.Training(self, dtype)

    def check(self, shape, rng):
        if isinstance(shape[0], str):
            self._training.check(*shape, rng=rng)
        else:
            super().check(shape, rng)

    def place(self, numbers):
        return self.placed(np.array(numbers, self._dtype, order="C"))

    def placed(self, array):
        """Return a copy of an array in a room of its own, against a wall; it is in C order."""
        view = self._rooms.take(array.nbytes).array(array.shape, array.dtype, array.strides, self._at_end)
        view[...] = array
        return view

    def give_back(self):
        self._rooms.give_back()


def work(which, dtype, at_end, first, jobs):
    """Check the shapes number first, first + jobs, … Print each shape before it is checked."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(0)
    walled = Walled(dtype, at_end == "1")
    for shape in itertools.islice(SHAPES[which](dtype), int(first), None, int(jobs)):
        print(*shape, flush=True)
        walled.check(shape, rng)


def run(which, dtypes=("float32", "float64"), jobs=1):
    """Check shapes in `jobs` processes at once; return (faults, shapes checked). A shape counts for each dtype and wall."""
    faults, checked = [], 0
    for dtype, at_end in itertools.product(dtypes, (1, 0)):
        processes = [child.start(_WORK, which, dtype, at_end, first, jobs) for first in range(jobs)]
        for process in processes:
            status, output, errors = child.finish(process, patience=1 << 20)
            shapes = output.splitlines()
            checked += len(shapes)
            if status:
                last = shapes[-1] if shapes else "no shape"
                faults.append(f"{dtype}, wall {'behind' if at_end else 'before'}, at {last}: status {status}, {errors[-1500:]}")
    return faults, checked


def main(arguments):
    parser = report.options(sys.modules[__name__], jobs=2)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    chosen = parser.parse_args(arguments)
    faults, checked = [], 0
    for which in chosen.shapes:
        found, count = run(which, jobs=chosen.jobs)
        print(f"{which}: {count:,} shapes", flush=True)
        faults, checked = faults + found, checked + count
    return report.close(faults, shapes=checked)
