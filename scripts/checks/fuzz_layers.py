"""Passes of a layer in random order, with assignments between them, compared with formulas.py, for scripts/check fuzz."""
import numpy as np

import fastbp

from . import formulas
from .fuzz_steps import OPERAND_KINDS, spoilt
from .random_arrays import FLOATS, Fuzzer, described, differing, draw_dtype, no_bfloat16_warning, numbers, result_dtype


class Layers(Fuzzer):
    """Cases of a Dense: forward, backward and assignments in any order."""

    def check(self, rng):
        self._dtype, n, m = FLOATS[rng.integers(2)], *(int(n) for n in rng.choice([1, 2, 3, 7, 8, 9, 16, 17, 33, 65], 2))
        self._activation, self._n, self._m = str(rng.choice(list(formulas.ACTIVATIONS))), n, m
        self._is_rounded = self._dtype == FLOATS[0] and rng.random() < 0.1
        with no_bfloat16_warning():
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
        return self.placed(rng, numbers(rng, shape, draw_dtype(rng, self._dtype, self._is_mixed), "normal"))

    def _forward(self, rng):
        layer, rows = self._layer, int(rng.choice([1, 2, 5, 8, 33, 100]))
        x = self._array(rng, (rows, self._n))
        if rng.random() < 0.1:
            x = x[0]
        self._note(f"forward({described(inputs=x)})")
        arrays = [np.asarray(a) for a in (x, layer.weights, layer.biases) if a is not None]
        dtype = result_dtype(*arrays)
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
        """Return x @ w + b in float64, and a bound for the rounding errors of each sum."""
        x, w = x.astype(np.float64), w.astype(np.float64)
        b = np.zeros((1, w.shape[1])) if b is None else b.reshape(1, -1).astype(np.float64)
        return x @ w + b, self._unit(dtype, x.shape[1]) * (abs(x) @ abs(w) + abs(b))

    def _unit(self, dtype, terms):
        """Return a bound for the rounding error of a sum of so many products, relative to the sum of their absolute values."""
        return (terms + 4) * float(np.finfo(dtype).eps) + (2.0**-7 + 2.0**-14 if self._is_rounded else 0)

    def _backward(self, rng):
        layer = self._layer
        if self._state is None:
            return []
        x, output, saved, z, error, dtype = self._state
        x = np.atleast_2d(x)
        d = self._array(rng, output.shape)
        self._note(f"backward({described(dvalues=d)})")
        w = np.asarray(layer.weights)
        arrays = (d, x, w) if self._activation == "identity" else (d, x, w, output)
        result, unit = result_dtype(*arrays), float(np.finfo(dtype).eps)
        self.remember()
        returned = layer.backward(d)
        faults = self.changed()
        d, x, w = (a.astype(np.float64) for a in (d, x, w))
        saved = saved.astype(np.float64)
        # A layer computes these derivatives from its own output; the others follow from z.
        derivative = {"relu": lambda: np.where(saved > 0, 1.0, 0), "leaky_relu": lambda: np.where(saved > 0, 1.0, 0.01),
                      "sigmoid": lambda: saved * (1 - saved), "tanh": lambda: 1 - saved * saved}.get(
                          self._activation, lambda: formulas.ACTIVATIONS[self._activation][1](z))()
        dz = d * derivative
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
        """Assign weights or biases, of any layout and dtype, as lists or None; or need_dinputs; or make results read-only."""
        layer, what = self._layer, int(rng.integers(6))
        if self._is_rounded and what in (1, 3):             # a list becomes float64, which excludes bfloat16
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
        """Keep a result, or a view of it, which later calls must then not write over."""
        name = ("output", "dinputs", "dweights", "dbiases")[rng.integers(4)]
        array = getattr(self._layer, name)
        if array is not None:
            self._held.append((name, array[:1] if rng.random() < 0.5 else array, b""))
            self._held[-1] = (name, self._held[-1][1], self._held[-1][1].tobytes())
            self._note(f"hold {name}")
        return []

    def _refused(self, rng):
        """Make a call that must be refused; return a fault for each thing that it changed."""
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
