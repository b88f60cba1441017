"""Random orders of a layer's passes with attributes assigned in between, held to formulas.py, for scripts/check fuzz."""
import warnings

import numpy as np

import fastbp

from . import formulas
from .fuzz_steps import OPERAND_KINDS, spoilt
from .random_arrays import FLOATS, Fuzzer, described, differing, kind, numbers


class Layers(Fuzzer):
    """A Dense: forward, backward and assignments in any order."""

    def check(self, rng):
        self._dtype, n, m = FLOATS[rng.integers(2)], *(int(n) for n in rng.choice([1, 2, 3, 7, 8, 9, 16, 17, 33, 65], 2))
        self._activation, self._n, self._m = str(rng.choice(list(formulas.ACTIVATIONS))), n, m
        self._is_rounded = self._dtype == FLOATS[0] and rng.random() < 0.1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "precision 'bfloat16' is not faster", RuntimeWarning)
            self._layer = fastbp.Dense(n, m, activation=self._activation, dtype=self._dtype, rng=0,
                                       precision="bfloat16" if self._is_rounded else None)
        self._held, self._state, self._is_mixed = [], None, not self._is_rounded and rng.random() < 0.4
        self.case, faults = f"Dense({n}, {m}, {self._activation}, {self._dtype}, bfloat16 {self._is_rounded})", []
        moves = self._forward, self._forward, self._backward, self._backward, self._assign, self._refused, self._keep
        self._forward(rng)
        for _ in range(rng.integers(3, 12)):
            fastbp.set_num_threads(int(rng.integers(1, 4)))
            faults += moves[rng.integers(len(moves))](rng)
            faults += [f"{what}, held, was changed" for what, array, before in self._held if array.tobytes() != before]
            if faults:
                break
        return faults

    def _array(self, rng, shape):
        return self.placed(rng, numbers(rng, shape, kind(rng, self._dtype, self._is_mixed), "normal"))

    def _forward(self, rng):
        layer, rows = self._layer, int(rng.choice([1, 2, 5, 8, 33, 100]))
        x = self._array(rng, (rows, self._n))
        if rng.random() < 0.1:
            x = x[0]
        self._note(f"forward({described(inputs=x)})")
        arrays = [np.asarray(a) for a in (x, layer.weights, layer.biases) if a is not None]
        dtype = _result(*arrays)
        out = None
        if rng.random() < 0.2:
            room, out = self.view(rng, (len(np.atleast_2d(x)), self._m), dtype)
            room.let_change(out)
        self.remember()
        output = layer.forward(x, out=out)
        self._state = None
        z, bound = self._sums(np.atleast_2d(x), *(None if a is None else np.asarray(a) for a in (layer.weights, layer.biases)),
                              dtype)
        exact = formulas.ACTIVATIONS[self._activation][0](z)
        unit = float(np.finfo(dtype).eps)
        bound = 1.2 * bound + 16 * unit * (abs(exact) + abs(z)) + float(np.finfo(dtype).tiny)
        faults = self.changed() + differing("output", output, exact, bound, dtype)
        faults += [] if layer.output is output and (out is None or output is out) else ["output is another array"]
        self._state = x, output, np.array(output), z, bound, dtype
        if out is not None:
            self._held.append(("out", out, out.tobytes()))
        return faults

    def _sums(self, x, w, b, dtype):
        """Return inputs @ weights + biases, and how far rounding may lead from it."""
        x, w = x.astype(np.float64), w.astype(np.float64)
        b = np.zeros((1, w.shape[1])) if b is None else b.reshape(1, -1).astype(np.float64)
        return x @ w + b, self._unit(dtype, x.shape[1]) * (abs(x) @ abs(w) + abs(b))

    def _unit(self, dtype, terms):
        return (terms + 4) * float(np.finfo(dtype).eps) + (2.0**-7 + 2.0**-14 if self._is_rounded else 0)

    def _backward(self, rng):
        layer = self._layer
        if self._state is None:
            return []
        x, output, s, z, error, dtype = self._state
        x = np.atleast_2d(x)
        d = self._array(rng, output.shape)
        self._note(f"backward({described(dvalues=d)})")
        w = np.asarray(layer.weights)
        arrays = (d, x, w) if self._activation == "identity" else (d, x, w, output)
        result, unit = _result(*arrays), float(np.finfo(dtype).eps)
        self.remember()
        returned = layer.backward(d)
        faults = self.changed()
        d, x, w = (a.astype(np.float64) for a in (d, x, w))
        s = s.astype(np.float64)
        slope = {"relu": lambda: np.where(s > 0, 1.0, 0), "leaky_relu": lambda: np.where(s > 0, 1.0, 0.01),
                 "sigmoid": lambda: s * (1 - s), "tanh": lambda: 1 - s * s}.get(
                     self._activation, lambda: formulas.ACTIVATIONS[self._activation][1](z))()
        dz = d * slope
        off = abs(d) * (16 * unit + (1.2 * error + unit * abs(z) * 16 if self._activation == "gelu" else 0))
        if self._activation == "identity":
            off = 0 * off
        terms = self._unit(result, max(w.shape[1], len(x)))
        tiny = float(np.finfo(result).tiny)
        if layer.need_dinputs:
            faults += differing("dinputs", returned, dz @ w.T, off @ abs(w.T) + terms * (abs(dz) @ abs(w.T)) + tiny, result)
            faults += [] if returned is layer.dinputs else ["dinputs is not what was returned"]
        elif returned is not None or layer.dinputs is not None:
            faults.append("need_dinputs is False, and dinputs is not None")
        faults += differing("dweights", layer.dweights, x.T @ dz, abs(x.T) @ off + terms * (abs(x.T) @ abs(dz)) + tiny, result)
        if layer.biases is None:
            return faults + ([] if layer.dbiases is None else ["biases is None, and dbiases is not"])
        shape = (self._m,) if np.ndim(layer.biases) == 1 else (1, self._m)
        bound = off.sum(axis=0) + terms * abs(dz).sum(axis=0) + tiny
        return faults + differing("dbiases", layer.dbiases, dz.sum(axis=0).reshape(shape), bound.reshape(shape), result)

    def _assign(self, rng):
        """Other weights or biases, of any layout and dtype, lists, none; need_dinputs; results that cannot be written."""
        layer, what = self._layer, int(rng.integers(6))
        if self._is_rounded and what in (1, 3):             # a list is float64, which bfloat16 is not for
            what = 2
        if what == 0:
            layer.weights = self._array(rng, (self._n, self._m))
            self._note(described(weights=layer.weights))
        elif what == 1:
            layer.weights = rng.integers(-3, 4, (self._n, self._m)).astype(self._dtype).tolist()
            self._note("weights a list")
        elif what == 2:
            shape = ((self._m,), (1, self._m))[rng.integers(2)]
            layer.biases = None if rng.random() < 0.3 else self._array(rng, shape)
            self._note("no biases" if layer.biases is None else described(biases=layer.biases))
        elif what == 3:
            layer.biases = [0.5] * self._m
            self._note("biases a list")
        elif what == 4:
            layer.need_dinputs = not layer.need_dinputs
            self._note(f"need_dinputs = {layer.need_dinputs}")
        else:
            for name in ("output", "dinputs", "dweights", "dbiases", "_slope"):
                if getattr(layer, name) is not None:
                    getattr(layer, name).flags.writeable = False
            self._note("results made read-only")
        return []

    def _keep(self, rng):
        """Hold a result, or a view of it."""
        name = ("output", "dinputs", "dweights", "dbiases")[rng.integers(4)]
        array = getattr(self._layer, name)
        if array is not None:
            self._held.append((name, array[:1] if rng.random() < 0.5 else array, b""))
            self._held[-1] = (name, self._held[-1][1], self._held[-1][1].tobytes())
            self._note(f"hold {name}")
        return []

    def _refused(self, rng):
        """A call that must be refused, after which all is as it was."""
        layer, names = self._layer, ("inputs", "output", "dinputs", "dweights", "dbiases", "_slope")
        before = [getattr(layer, name) for name in names]
        contents = [None if a is None else np.array(a) for a in before]
        forward = self._state is None or rng.random() < 0.5
        array = self._array(rng, (3, self._n) if forward else self._state[1].shape)
        what = (*OPERAND_KINDS, "a column wider", "of three dimensions")[rng.integers(len(OPERAND_KINDS) + 2)]
        value = {"a column wider": lambda: np.zeros((len(array), array.shape[1] + 1), self._dtype),
                 "of three dimensions": lambda: array[np.newaxis]}.get(what, lambda: spoilt(array, what))()
        self._note(f"{'forward' if forward else 'backward'}({what})")
        call, name = (layer.forward, "inputs") if forward else (layer.backward, "dvalues")
        faults = self.refused(lambda: call(value), [name])
        for name, array, content in zip(names, before, contents, strict=True):
            now = getattr(layer, name)
            if now is not array or (array is not None and not np.array_equal(array, content)):
                faults.append(f"{name} was changed")
        return faults

    def _note(self, what):
        self.case += f"; {what}"


def _result(*arrays):
    dtype = np.result_type(*(a.dtype for a in arrays)).newbyteorder("=")
    return FLOATS[1] if dtype.kind != "f" else max(dtype, FLOATS[0])
