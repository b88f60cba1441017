"""No input makes a function return a wrong number or touch memory that is not its own.

Each case is a call of a function with arrays of random shapes, layouts, dtypes and numbers, that lie between canaries and
walls (memory.py), some in each other; its results are held to exact ones within proven bounds (bounds.py). Some calls have an
argument that must be refused, and then must leave everything as it was. A case follows from the seed and its number.
"""
import sys
import time
import warnings
from typing import NamedTuple

import numpy as np
from numba import njit, types

import fastbp
import oracle

from . import bounds, child, report
from .memory import Rooms, extent

FLOATS = np.dtype(np.float32), np.dtype(np.float64)
OTHERS = tuple(map(np.dtype, (np.float16, np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, np.bool_)))
SIZES = 0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 97, 128, 130
BATCHES = 191, 193, 383, 385, 511, 513, 1023, 1025, 4095, 4096, 4097, 4300
MOST_WORK = {FLOATS[0]: 1 << 21, FLOATS[1]: 1 << 18}        # multiply-adds: exact products of float64 take longer


class Case(NamedTuple):
    """A call: the function's name, the dtype that its results must have, its arguments and its options."""

    name: str
    dtype: np.dtype
    arguments: dict
    options: dict
    way: str                        # "python", or "compiled": from @njit code


class Fuzzer:
    """Makes cases and tries them: what try_one returns is what was wrong."""

    def __init__(self, seed, compiled=True):
        self.seed, self._compiled, self._rooms = seed, compiled, Rooms()

    def try_one(self, number):
        rng = np.random.default_rng([self.seed, number])
        fastbp.set_num_threads(int(rng.choice([1, 1, 2, 3])))
        case = self._case(rng)
        try:
            if rng.random() < 0.06 and case.way == "python":
                return self._refused(rng, case)
            return self._computed(rng, case)
        except Exception as error:
            return [f"{_described(case)}: {type(error).__name__}: {error}"]
        finally:
            self._rooms.give_back()

    def _case(self, rng):
        name, dtype = str(rng.choice(list(oracle.ARGUMENTS))), FLOATS[rng.integers(2)]
        way = "compiled" if self._compiled and name.startswith("dense") and rng.random() < 0.15 else "python"
        shapes = _shapes(rng, name, dtype)
        mixed = way == "python" and rng.random() < 0.2
        kinds = {argument: _kind(rng, dtype, mixed) for argument in shapes}
        style = _style(rng)
        arguments = {argument: self._placed(rng, _numbers(rng, shape, kinds[argument], style), way)
                     for argument, shape in shapes.items()}
        result, options = _result_dtype(name, arguments), {}
        if way == "python" and name.startswith("dense") and result == FLOATS[0] and rng.random() < 0.2:
            options["precision"] = "bfloat16"
        return Case(name, result, arguments, options, way)

    def _placed(self, rng, numbers, way):
        """An array with these numbers, in a layout of its own."""
        dtype = numbers.dtype
        if way == "python" and rng.random() < 0.08:
            dtype = dtype.newbyteorder()
        _, view = self._view(rng, numbers.shape, dtype, may_repeat=True)
        view[...] = numbers
        view.flags.writeable = bool(rng.random() < 0.8)
        return view

    def _view(self, rng, shape, dtype, room=None, may_repeat=False):
        """(room, array): in a room of its own, or anywhere in that one if there is space."""
        strides = _strides(rng, shape, dtype.itemsize, may_repeat)
        span = extent(shape, dtype.itemsize, strides)[1]
        if room is not None and span <= len(room.bytes):
            return room, room.array(shape, dtype, strides, False, int(rng.integers(len(room.bytes) - span + 1)))
        gap = int(rng.choice([0, 0, 0, dtype.itemsize, 1, 64, 60]))
        room = self._rooms.take(span + gap)
        return room, room.array(shape, dtype, strides, bool(rng.random() < 0.6), gap)

    def _outs(self, rng, case, shapes):
        """For each result an array to write it to, or None; some lie in memory of the arguments, none in that of another."""
        outs, rooms = [], self._rooms.used()
        for shape in shapes:
            out = None
            if case.way == "compiled" or rng.random() < 0.6:
                shared = rooms.pop(rng.integers(len(rooms))) if rooms and rng.random() < 0.25 else None
                room, out = self._view(rng, shape, case.dtype, shared)
                room.let_change(out)
            outs.append(out)
        return outs

    def _computed(self, rng, case):
        given = {name: a.astype(a.dtype.newbyteorder("=")) for name, a in case.arguments.items()}
        expected = _expected(case, given)
        outs = self._outs(rng, case, [exact.shape for exact, _ in expected])
        for room in self._rooms.used():
            room.remember()
        results = _call(case, _also_lists(rng, case), outs)
        faults = [f"{room.changed()} bytes that are no result's were written" for room in self._rooms.used() if room.changed()]
        for (exact, bound), result, out in zip(expected, results, outs, strict=True):
            faults += _differing(case, result, out, exact, bound)
        return [f"{_described(case)}: {fault}" for fault in faults]

    def _refused(self, rng, case):
        what, arguments, options = _spoilt(rng, case)
        for room in self._rooms.used():
            room.remember()
        try:
            getattr(fastbp, case.name)(**arguments, **options)
        except (TypeError, ValueError) as error:
            names = (*oracle.ARGUMENTS[case.name], "out", "precision")
            faults = [] if str(error).startswith(names) else [f"the error names no argument: {error}"]
        except Exception as error:
            faults = [f"{type(error).__name__}: {error}"]
        else:
            faults = ["no error"]
        faults += ["memory was written" for room in self._rooms.used() if room.changed()]
        return [f"{_described(case)} with {what}: {fault}" for fault in faults]


# ---- what goes in


def _shapes(rng, name, dtype):
    """The shape of each argument, 1-D ones among them."""
    if name.startswith("relu"):
        shape = tuple(int(n) for n in rng.choice(SIZES[:24], rng.integers(0, 5)))
        while np.prod(shape) > 1 << 16:
            shape = shape[1:]
        return dict.fromkeys(oracle.ARGUMENTS[name], shape)
    while True:
        batch, n_inputs, n_neurons = (int(rng.choice(SIZES)) if rng.random() < 0.8 else int(rng.integers(0, 700))
                                      for _ in range(3))
        if rng.random() < 0.1:
            batch = int(rng.choice(BATCHES))
        if batch * n_inputs * n_neurons <= MOST_WORK[dtype] and batch * (n_inputs + n_neurons) <= 1 << 19:
            break
    rows = (batch,) if batch != 1 or rng.random() < 0.7 else ()
    shapes = {"inputs": (*rows, n_inputs), "weights": (n_inputs, n_neurons),
              "biases": (1, n_neurons) if rng.random() < 0.5 else (n_neurons,)}
    shapes = {argument: shapes.get(argument, (*rows, n_neurons)) for argument in oracle.ARGUMENTS[name]}
    if rng.random() < 0.2:
        shapes.pop("biases", None)
    return shapes


def _kind(rng, dtype, mixed):
    return (*FLOATS, *OTHERS)[rng.integers(len(FLOATS) + len(OTHERS))] if mixed and rng.random() < 0.5 else dtype


STYLES = "whole", "normal", "wide", "tiny", "huge", "special"


def _style(rng):
    return str(rng.choice(STYLES, p=[0.3, 0.25, 0.15, 0.1, 0.08, 0.12]))


def _numbers(rng, shape, dtype, style):
    if dtype.kind != "f":
        least, most = (0, 1) if dtype.kind == "b" else (max(np.iinfo(dtype).min, -9), 9)
        return rng.integers(least, most + 1, shape).astype(dtype)
    info = np.finfo(dtype)
    if style == "whole":
        return rng.integers(-3, 4, shape).astype(dtype)
    normal = rng.standard_normal(shape)
    if style in ("normal", "special"):
        numbers = normal.astype(dtype)
        if style == "special" and numbers.size:
            places = rng.integers(0, numbers.size, rng.integers(1, 4))
            numbers.flat[places] = rng.choice([np.nan, np.inf, -np.inf, -0.0, info.smallest_subnormal, info.max])
        return numbers
    exponents = {"wide": (info.minexp // 3, info.maxexp // 3), "tiny": (info.minexp - info.nmant, info.minexp // 2),
                 "huge": (info.maxexp // 2, info.maxexp - 3)}[style]
    return np.ldexp(rng.uniform(0.5, 1, shape) * np.sign(normal), rng.integers(*exponents, shape)).astype(dtype)


def _strides(rng, shape, itemsize, may_repeat):
    """C or Fortran order, or any order of the axes, steps forwards and backwards, gaps between the rows, and rows again."""
    draw = rng.random()
    axes = list(range(len(shape)))[::-1]
    if draw > 0.6:
        rng.shuffle(axes)
    strides, span = [0] * len(shape), itemsize
    for axis in axes:
        step = span if draw < 0.45 else span * int(rng.choice([1, 1, 1, 2, 3]))
        if draw > 0.9:
            step += int(rng.integers(0, 9))
        strides[axis] = -step if draw > 0.7 and rng.random() < 0.3 else step
        if may_repeat and draw > 0.95 and rng.random() < 0.5:
            strides[axis] = 0
        span = step * max(shape[axis], 1)
    return tuple(strides)


def _result_dtype(name, arguments):
    dtypes = [array.dtype.newbyteorder("=") for array in arguments.values()]
    if name.startswith("relu"):
        return dtypes[0]
    promoted = np.result_type(*dtypes)
    return FLOATS[1] if promoted.kind != "f" else max(promoted, FLOATS[0])


def _also_lists(rng, case):
    """The arguments, small ones now and then as lists."""
    if case.way == "compiled" or case.dtype != FLOATS[1]:
        return case.arguments
    return {name: array.tolist() if array.dtype == FLOATS[1] and 0 < array.size < 50 and rng.random() < 0.05 else array
            for name, array in case.arguments.items()}


def _spoilt(rng, case):
    """(what, arguments, options) of a call that must be refused."""
    name = str(rng.choice(list(case.arguments)))
    array, is_relu = case.arguments[name], case.name.startswith("relu")
    spoilt = {"complex": array.astype(np.complex128), "of objects": array.astype(object), "a text": "text", "a set": {1, 2},
              "of longdouble": array.astype(np.longdouble), "of six dimensions": np.zeros((2, 1, 1, 1, 1, 1), case.dtype)}
    if not is_relu and (name, "biases" in case.arguments, "forward" in case.name) != ("weights", False, True):
        spoilt["a column wider"] = np.zeros((*array.shape[:-1], array.shape[-1] + 1), case.dtype)
    outs = {"a text": "text", "complex": np.zeros(1, np.complex64), "of six dimensions": spoilt["of six dimensions"]}
    if is_relu and len(case.arguments) == 1:
        spoilt.pop("of six dimensions")
    if rng.random() < 0.7:
        what = str(rng.choice(list(spoilt)))
        return f"{name} {what}", {**case.arguments, name: spoilt[what]}, case.options
    what = str(rng.choice(list(outs)))
    out = (outs[what],) * 3 if not is_relu and "backward" in case.name else outs[what]
    return f"out {what}", case.arguments, {**case.options, "out": out}


# ---- what comes out


def _call(case, arguments, outs):
    """The results, as a tuple."""
    if case.way == "compiled":
        _compiled(case.name, case.dtype, "biases" in arguments or "forward" not in case.name)(*_typed(case, arguments), *outs)
        return tuple(outs)
    out = None if all(o is None for o in outs) else tuple(outs) if len(outs) > 1 else outs[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "precision 'bfloat16' is not faster", RuntimeWarning)
        return oracle.results(getattr(fastbp, case.name)(**arguments, **case.options, out=out))


def _typed(case, arguments):
    """As the compiled functions take them: batches of 2-D arrays in any layout."""
    return [a if a.ndim == 2 else a[np.newaxis] for a in arguments.values()]


_functions = {}


def _compiled(name, dtype, biased):
    """The function inside an @njit function, compiled once for arrays of any layout and alignment."""
    key = name, dtype, biased
    if key not in _functions:
        kind = types.float32 if dtype == FLOATS[0] else types.float64
        operand = types.Array(kind, 2, "A", readonly=True, aligned=False)
        result = types.Array(kind, 2, "A", aligned=False)
        function, count = getattr(fastbp, name), len(oracle.ARGUMENTS[name]) - (not biased)
        if name.endswith("forward"):
            if biased:
                def call(a, b, c, out):
                    function(a, b, c, out)
            else:
                def call(a, b, out):
                    function(a, b, None, out)
        elif count == 3:
            def call(a, b, c, x, y, z):
                function(a, b, c, (x, y, z))
        else:
            def call(a, b, c, d, x, y, z):
                function(a, b, c, d, (x, y, z))
        results = [result] * (1 if name.endswith("forward") else 3)
        _functions[key] = njit(types.void(*[operand] * count, *results))(call)
    return _functions[key]


def _expected(case, given):
    """[(exact, bound)] of each result, in the order in which the function returns them."""
    values = {name: array if case.name.startswith("relu") else np.atleast_2d(array.astype(case.dtype))
              for name, array in given.items()}
    if case.name.startswith("relu"):
        z, dvalues = values["z"], values.get("dvalues", values["z"])
        exact = np.where(z <= 0, np.zeros((), dvalues.dtype), dvalues)
        return [(exact, np.zeros(exact.shape))]
    rounded = "precision" in case.options
    if case.name.endswith("forward"):
        exact, bound = bounds.product(values["inputs"], values["weights"], values.get("biases"), case.dtype, rounded)
        return [(np.where(exact <= 0, 0, exact) if "relu" in case.name else exact, bound)]
    dz, x, weights = values["dvalues"], values["inputs"], values["weights"]
    if "output" in values:
        dz = np.where(values["output"] <= 0, 0, dz).astype(case.dtype)
    return [bounds.product(dz, weights.T, None, case.dtype, rounded), bounds.product(x.T, dz, None, case.dtype, rounded),
            bounds.product(np.ones((1, len(dz)), case.dtype), dz, None, case.dtype)]


def _differing(case, result, out, exact, bound):
    if out is not None and result is not out:
        return ["the result is not out"]
    if not isinstance(result, np.ndarray) or result.shape != exact.shape or result.dtype != case.dtype:
        return [f"the result is {result!r:.60}, expected {exact.shape} of {case.dtype}"]
    if exact.dtype.kind != "f":
        return [] if np.array_equal(result, exact) else ["the result differs"]
    wrong = bounds.differences(result, exact, bound)
    if not wrong.any():
        return []
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return [f"{wrong.sum()} of {wrong.size} elements of a result differ, at {first} {result[first]!r}, expected "
            f"{exact[first]!r} within {bound[first]!r}"]


def _described(case):
    arrays = ", ".join(f"{name} {a.shape} {a.dtype} strides {a.strides}" for name, a in case.arguments.items())
    return f"{case.way} {case.name}({arrays}, {case.options}), {fastbp.get_num_threads()} threads"


# ---- many of them


_WORK = "import sys; from checks import fuzz; fuzz.work(*map(int, sys.argv[1:]))"


def work(seed, first, step, cases, seconds, compiled):
    """Try the cases first, first + step, …; print the number of each before it, and what is wrong with it after."""
    fuzzer, until = Fuzzer(seed, bool(compiled)), time.monotonic() + seconds
    for number in range(first, cases, step):
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        for fault in fuzzer.try_one(number):
            print(f"FAULT {number} {fault}")
        if time.monotonic() > until:
            return
    print("done")


def main(arguments):
    parser = report.options(sys.modules[__name__], cases=100_000, seconds=10**9, jobs=2)
    parser.add_argument("--case", type=int, help="try this one alone, in this process")
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}", flush=True)
    if chosen.case is not None:
        return report.close(Fuzzer(chosen.seed).try_one(chosen.case), cases=1)
    faults, tried = run(chosen.seed, chosen.cases, chosen.seconds, chosen.jobs)
    return report.close(faults, cases=tried)


def run(seed, cases, seconds=10**9, jobs=1, compiled=True):
    """(faults, cases tried) of so many processes."""
    faults, tried = [], 0
    workers = [_Worker(seed, first, jobs, cases, seconds, compiled) for first in range(jobs)]
    for worker in workers:
        count, found = worker.finish()
        tried, faults = tried + count, faults + found
    return faults, tried


class _Worker:
    """A process at work on a share of the cases, and one after it from the next case on where one dies."""

    def __init__(self, seed, first, step, cases, seconds, compiled):
        self._first, self._rest = first, (step, cases, seconds, int(compiled))
        self._seed, self._step, self._cases = seed, step, cases
        self._process = self._start(first)

    def _start(self, first):
        return child.start(_WORK, self._seed, first, *self._rest)

    def finish(self):
        faults, tried = [], 0
        while True:
            status, output, errors = child.finish(self._process, patience=1 << 20)
            lines = output.splitlines()
            numbers = [int(line) for line in lines if line.isdigit()]
            tried += len(numbers)
            faults += [line for line in lines if line.startswith("FAULT")]
            if status == 0:
                return tried, faults
            last = numbers[-1] if numbers else self._cases
            faults.append(f"FAULT {last} status {status}: {errors[-1500:]}")
            if last + self._step >= self._cases:
                return tried, faults
            self._process = self._start(last + self._step)
