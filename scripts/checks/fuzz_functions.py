"""Random calls of the functions, compared with exact results within proven bounds (bounds.py), for scripts/check fuzz."""
from typing import NamedTuple

import numpy as np
from numba import njit, types

import fastbp
import oracle

from . import bounds, random_arrays
from .random_arrays import FLOATS, SIZES, Fuzzer, described, differing, draw_dtype, draw_style, numbers

# Batches on both sides of the sizes at which kernels change their blocks or their algorithm.
BATCHES = 191, 193, 383, 385, 511, 513, 1023, 1025, 4095, 4096, 4097, 4300
# The largest number of multiply-adds of a product. Exact products of float64, which need longdouble, take longer.
MOST_WORK = {FLOATS[0]: 1 << 21, FLOATS[1]: 1 << 18}


class Case(NamedTuple):
    """A call of a function."""

    name: str
    dtype: np.dtype                 # the dtype that its results must have
    arguments: dict
    options: dict
    way: str                        # "python", or "compiled" for a call in @njit code


class Functions(Fuzzer):
    """Calls of the functions, from Python and from @njit code."""

    def check(self, rng):
        fastbp.set_num_threads(int(rng.choice([1, 1, 2, 3])))
        case = self._case(rng)
        self.case = _described(case)
        if rng.random() < 0.06 and case.way == "python":
            return self._refused(rng, case)
        return self._computed(rng, case)

    def _case(self, rng):
        name, dtype = str(rng.choice(list(oracle.ARGUMENTS))), FLOATS[rng.integers(2)]
        way = "compiled" if self.compiled and name.startswith("dense") and rng.random() < 0.15 else "python"
        shapes = _shapes(rng, name, dtype)
        mixed = way == "python" and rng.random() < 0.2
        dtypes = {argument: draw_dtype(rng, dtype, mixed) for argument in shapes}
        style = draw_style(rng)
        arguments = {argument: self.placed(rng, numbers(rng, shape, dtypes[argument], style), way == "python")
                     for argument, shape in shapes.items()}
        result, options = _result_dtype(name, arguments), {}
        if way == "python" and name.startswith("dense") and result == FLOATS[0] and rng.random() < 0.2:
            options["precision"] = "bfloat16"
        return Case(name, result, arguments, options, way)

    def _outs(self, rng, case, shapes):
        """Return an array for each result, or None. Some of the arrays overlap arguments; none overlaps another one."""
        outs, rooms = [], self.rooms.used()
        for shape in shapes:
            out = None
            if case.way == "compiled" or rng.random() < 0.6:
                shared = rooms.pop(rng.integers(len(rooms))) if rooms and rng.random() < 0.25 else None
                room, out = self.view(rng, shape, case.dtype, shared)
                room.let_change(out)
            outs.append(out)
        return outs

    def _computed(self, rng, case):
        given = {name: a.astype(a.dtype.newbyteorder("=")) for name, a in case.arguments.items()}
        expected = _expected(case, given)
        outs = self._outs(rng, case, [exact.shape for exact, _ in expected])
        self.remember()
        results = _call(case, _also_lists(rng, case), outs)
        faults = self.changed()
        for (exact, bound), result, out in zip(expected, results, outs, strict=True):
            faults += _differing(case, result, out, exact, bound)
        return faults

    def _refused(self, rng, case):
        what, arguments, options = _spoilt(rng, case)
        self.case += f" with {what}"
        return self.refused(lambda: getattr(fastbp, case.name)(**arguments, **options),
                            (*oracle.ARGUMENTS[case.name], "out", "precision"))


# ---- arguments


def _shapes(rng, name, dtype):
    """Return the shape of each argument. A single row may be 1-D, and biases may be missing."""
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


def _result_dtype(name, arguments):
    if name.startswith("relu"):
        return next(iter(arguments.values())).dtype.newbyteorder("=")
    return random_arrays.result_dtype(*arguments.values())


def _also_lists(rng, case):
    """Return the arguments, with some small ones as lists."""
    if case.way == "compiled" or case.dtype != FLOATS[1]:
        return case.arguments
    return {name: array.tolist() if array.dtype == FLOATS[1] and 0 < array.size < 50 and rng.random() < 0.05 else array
            for name, array in case.arguments.items()}


def _spoilt(rng, case):
    """Return (what is wrong, arguments, options) of a call that must be refused."""
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


# ---- results


def _call(case, arguments, outs):
    """Call the function, and return its results as a tuple."""
    if case.way == "compiled":
        _compiled(case.name, case.dtype, "biases" in arguments or "forward" not in case.name)(*_typed(case, arguments), *outs)
        return tuple(outs)
    out = None if all(o is None for o in outs) else tuple(outs) if len(outs) > 1 else outs[0]
    with random_arrays.no_bfloat16_warning():
        return oracle.results(getattr(fastbp, case.name)(**arguments, **case.options, out=out))


def _typed(case, arguments):
    """Return the arguments as the compiled functions take them: 2-D arrays in any layout."""
    return [a if a.ndim == 2 else a[np.newaxis] for a in arguments.values()]


_functions = {}                 # The results of _compiled().


def _compiled(name, dtype, biased):
    """Return an @njit function that calls the function, compiled once for arrays of any layout and alignment."""
    key = name, dtype, biased
    if key not in _functions:
        operand, result = (random_arrays.any_layout(dtype, 2, readonly) for readonly in (True, False))
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
    """Return (exact, bound) of each result, in the order in which the function returns them."""
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
    if exact.dtype.kind != "f":
        return [] if np.array_equal(result, exact) and result.dtype == case.dtype else ["the result differs"]
    return differing("a result", result, exact, bound, case.dtype)


def _described(case):
    return f"{case.way} {case.name}({described(**case.arguments)}, {case.options}), {fastbp.get_num_threads()} threads"
