"""Random calls of losses and optimisers, compared with formulas.py, for scripts/check fuzz."""
import numpy as np

import fastbp
from fastbp.kernels.train.optimizers import CHUNK, STATES

from . import formulas
from .random_arrays import FLOATS, OTHERS, SIZES, Fuzzer, described, differing, draw_dtype, numbers, restored, result_dtype

# The losses that are drawn from.
LOSSES = fastbp.SoftmaxCrossEntropy, fastbp.BinaryCrossEntropy, fastbp.MeanSquaredError
LABELS = tuple(dtype for dtype in OTHERS if dtype.kind in "iu")         # Labels of classes may have these dtypes.
# The operands that spoilt() makes.
OPERAND_KINDS = "complex", "of objects", "masked", "of longdouble", "a text", "a set"


def spoilt(array, what):
    """Return an operand that every function must refuse, made from a good array."""
    return {"complex": lambda: array.astype(np.complex64), "of objects": lambda: array.astype(object),
            "masked": lambda: np.ma.array(array), "of longdouble": lambda: array.astype(np.longdouble),
            "a text": lambda: "text", "a set": lambda: {1, 2}}[what]()


class Losses(Fuzzer):
    """Cases of a loss's evaluate and value_and_gradient."""

    def check(self, rng):
        dtype, name = FLOATS[rng.integers(2)], LOSSES[rng.integers(len(LOSSES))].__name__
        loss, outputs = getattr(fastbp, name)(), int(rng.choice(SIZES[1:25])) if rng.random() < 0.8 else 1
        rows = int(rng.choice(SIZES[1:])) if rng.random() < 0.9 else int(rng.integers(1000, 5000 // outputs + 1001))
        given = numbers(rng, (rows, outputs), draw_dtype(rng, dtype, rng.random() < 0.2), ("normal", "whole")[rng.integers(2)])
        if given.dtype.kind == "f":
            given *= given.dtype.type(rng.choice([1, 1, 8, 60]))
        scores = self.placed(rng, given)
        targets, weights = self.targets(rng, name, rows, outputs), self.weights(rng, rows)
        self.case = f"{name} {described(scores=scores, targets=targets, sample_weight=weights)}"
        if rng.random() < 0.2:
            return self._refused(rng, loss, name, scores, targets, weights)
        (value, right, gradient), faults = self.on_threads(lambda: loss.evaluate(scores, targets, weights))
        result = result_dtype(scores)
        t = as_table(targets, outputs, name, result)
        w = np.ones(rows) if weights is None else np.asarray(weights, np.float64)
        exact, exact_right, exact_gradient, size, sizes = formulas.loss(name, scores.astype(np.float64), t, w)
        info = np.finfo(result)
        unit = (outputs + 32) * float(info.eps)
        faults += differing("the gradient", gradient, exact_gradient, unit * sizes + float(info.tiny), result)
        faults += differing("the loss", value, exact, unit * size + 1e-12 * rows, FLOATS[1])
        faults += [] if right == exact_right else [f"{right} answers are right, expected {exact_right}"]
        return faults

    def targets(self, rng, name, rows, outputs):
        """Return good targets of a loss, in any layout or as a list."""
        if name == "SoftmaxCrossEntropy" and rng.random() < 0.6:
            values = rng.integers(0, min(outputs, 127), rows).astype(LABELS[rng.integers(len(LABELS))])
        else:
            shape = (rows,) if outputs == 1 and name != "SoftmaxCrossEntropy" and rng.random() < 0.5 else (rows, outputs)
            dtype = FLOATS[rng.integers(2)]
            values = rng.random(shape) if name != "MeanSquaredError" else rng.standard_normal(shape)
            values = np.rint(values).astype(np.bool_) if rng.random() < 0.2 else values.astype(dtype)
        if values.size < 50 and rng.random() < 0.1:
            return values.tolist()
        return self.placed(rng, values)

    def weights(self, rng, rows):
        """Return weights of the rows, or None."""
        if rng.random() < 0.6:
            return None
        weights = self.placed(rng, rng.uniform(0.1, 2, rows).astype(FLOATS[rng.integers(2)]))
        return weights.tolist() if rows < 50 and rng.random() < 0.1 else weights

    def _refused(self, rng, loss, name, scores, targets, weights):
        """Call the loss with one argument that must be refused; return the faults."""
        rows, outputs = scores.shape
        argument = ("scores", "targets", "sample_weight")[rng.integers(3)]
        operands = {"scores": scores, "targets": targets, "sample_weight": weights}
        what, operands[argument] = {"scores": lambda: spoilt_scores(rng, scores),
                                    "targets": lambda: spoilt_targets(rng, name, rows, outputs),
                                    "sample_weight": lambda: spoilt_weights(rng, rows)}[argument]()
        self.case += f" with {argument} {what}"
        method = (loss.evaluate, loss.value_and_gradient)[rng.integers(2)]
        return self.refused(lambda: method(*operands.values()), [argument])


def as_table(targets, outputs, name, dtype):
    """Return targets (rows, outputs) in float64, rounded first to `dtype`, in which the loss reads them."""
    targets = np.asarray(targets)
    if name == "SoftmaxCrossEntropy" and targets.ndim == 1:
        return np.eye(outputs, dtype=np.float64)[targets.astype(np.int64)]
    return targets.reshape(len(targets), outputs).astype(dtype).astype(np.float64)


def spoilt_scores(rng, scores):
    """Return (what is wrong, scores) that a loss must refuse."""
    what = (*OPERAND_KINDS, "of three dimensions")[rng.integers(len(OPERAND_KINDS) + 1)]
    return what, scores[np.newaxis] if what == "of three dimensions" else spoilt(scores, what)


def spoilt_targets(rng, name, rows, outputs):
    """Return (what is wrong, targets) that a loss of that name must refuse."""
    good = np.zeros((rows, outputs))
    wrong = {what: spoilt(good, what) for what in OPERAND_KINDS}
    wrong["of a row more"], wrong["of a column more"] = np.zeros((rows + 1, outputs)), np.zeros((rows, outputs + 1))
    place = int(rng.integers(rows))
    if name == "SoftmaxCrossEntropy":
        for label in (-1, outputs, 2**62, -2**63):
            wrong[f"with a class {label}"] = np.zeros(rows, np.int64)
            wrong[f"with a class {label}"][place] = label
        wrong["with a class 2**64 - 1"] = np.zeros(rows, np.uint64)
        wrong["with a class 2**64 - 1"][place] = 2**64 - 1
        wrong["of classes that are floats"] = np.zeros(rows)
    if name == "BinaryCrossEntropy":
        for number in (-1e-3, 1.001, np.nan, np.inf, -np.inf):
            wrong[f"with {number}"] = np.zeros((rows, outputs), FLOATS[rng.integers(2)])
            wrong[f"with {number}"][place, -1] = number
    what = str(rng.choice(list(wrong)))
    return what, wrong[what]


def spoilt_weights(rng, rows):
    """Return (what is wrong, sample weights) that a loss must refuse."""
    wrong = {what: spoilt(np.ones(rows), what) for what in OPERAND_KINDS}
    wrong |= {"of a row more": np.ones(rows + 1), "of two dimensions": np.ones((rows, 1)), "of zeros": np.zeros(rows)}
    for number in (-1.0, np.nan, np.inf):
        wrong[f"with {number}"] = np.ones(rows)
        wrong[f"with {number}"][int(rng.integers(rows))] = number
    what = str(rng.choice(list(wrong)))
    return what, wrong[what]


def optimizers(rng, epsilon=1e-8):
    """Return (make, settings): a function that makes an optimiser, and the arguments of formulas.Optimizer for the same one."""
    rate, decay = float(rng.choice([0.001, 0.01])), float(rng.choice([0, 0, 0.1]))
    which = int(rng.integers(5))
    if which < 3:
        momentum = float(rng.choice([0.5, 0.9])) if which else 0.0
        settings = {"kind": ("sgd", "momentum", "nesterov")[which], "rate": rate, "decay": decay, "beta": momentum}
        return lambda: fastbp.SGD(rate, decay=decay, momentum=momentum, nesterov=which == 2), settings
    settings = {"kind": "adam", "rate": rate, "decay": decay, "beta": 0.9, "beta2": 0.999, "epsilon": epsilon}
    if which == 3:
        return lambda: fastbp.Adam(rate, decay=decay, epsilon=epsilon), settings
    return lambda: fastbp.AdamW(rate, decay=decay, epsilon=epsilon, weight_decay=0.1), settings | {"weight_decay": 0.1}


class Updates(Fuzzer):
    """Cases of one to three steps of an optimiser."""

    def check(self, rng):
        dtype, (make, settings) = FLOATS[rng.integers(2)], optimizers(rng)
        shapes = [self._shape(rng) for _ in range(rng.integers(1, 5))]
        parameters = [self._written(rng, shape, dtype) for shape in shapes]
        gradients = [self._gradient(rng, parameters, i, dtype) for i in range(len(shapes))]
        self.case = (f"{make()} {described(**{f'parameters[{i}]': p for i, p in enumerate(parameters)})}, "
                     f"{described(**{f'gradients[{i}]': g for i, g in enumerate(gradients)})}")
        steps, is_restored = int(rng.integers(1, 4)), bool(rng.random() < 0.2)
        if rng.random() < 0.25:
            return self._refused(rng, make(), parameters, gradients)
        exact = self._expected(formulas.Optimizer(**settings), parameters, gradients, steps)

        def call():
            optimizer, given = make(), [g.copy() for g in gradients]
            for k in range(steps):          # gradients that overlap parameters have changed after the first step
                optimizer.update(parameters, gradients if k == 0 else given)
                optimizer = restored(optimizer) if is_restored else optimizer
            return parameters

        results, faults = self.on_threads(call)
        for i, (result, (w, size)) in enumerate(zip(results, exact, strict=True)):
            faults += differing(f"parameters[{i}]", result, w, 64 * float(np.finfo(dtype).eps) * size, dtype)
        return faults

    def _shape(self, rng):
        draw = rng.random()
        if draw < 0.02:                     # enough elements for two threads
            return 300, 450
        if draw < 0.1:                      # about as many elements as a task takes
            return int(rng.choice([1, 2])), CHUNK + int(rng.integers(-9, 10))
        if draw < 0.2:
            return (int(rng.choice([1, 2])) * CHUNK + int(rng.integers(-1, 2)),)
        return tuple(int(n) for n in rng.choice(SIZES[:20], rng.integers(0, 4)))

    def _written(self, rng, shape, dtype):
        """Return a parameter that the optimiser may write, in a room of its own."""
        room, view = self.view(rng, shape, dtype)
        view[...] = numbers(rng, shape, dtype, "normal")
        room.let_change(view)
        return view

    def _gradient(self, rng, parameters, i, dtype):
        """Return a gradient of parameter i, in memory of its own or in that of a parameter."""
        shape, draw = parameters[i].shape, rng.random()
        if draw < 0.08:
            return parameters[i]
        other = parameters[rng.integers(len(parameters))]
        if draw < 0.14 and other.size >= parameters[i].size and other.flags.c_contiguous:
            count = parameters[i].size
            start = int(rng.integers(other.size - count + 1))
            return other.reshape(-1)[start:start + count].reshape(shape)
        view = self.placed(rng, numbers(rng, shape, dtype, ("normal", "whole")[rng.integers(2)]), may_swap=False)
        return view

    def _expected(self, optimizer, parameters, gradients, steps):
        """Return (exact array, size) of each parameter after the steps."""
        given = [g.astype(np.float64) for g in gradients]
        pairs = [(p.astype(np.float64), abs(p.astype(np.float64))) for p in parameters]
        for _ in range(steps):
            pairs = [optimizer.step(i, *pair, g, g.ndim > 1 and len(g) > 1)
                     for i, (pair, g) in enumerate(zip(pairs, given, strict=True))]
            optimizer.iterations += 1
        return pairs

    def _refused(self, rng, optimizer, parameters, gradients):
        """Update with arrays that must be refused, or after a wrong state was restored; return the faults."""
        for room in self.rooms.used():
            room.clear_changes()
        i, parameters, gradients = int(rng.integers(len(parameters))), list(parameters), list(gradients)
        p, g = parameters[i], gradients[i]
        other = FLOATS[p.dtype == FLOATS[0]]
        ways = {"too few gradients": lambda: gradients.pop(), "too many gradients": lambda: gradients.append(g),
                "a gradient of another shape": lambda: gradients.__setitem__(i, np.zeros((*g.shape, 2), g.dtype)),
                "a read-only parameter": lambda: parameters.__setitem__(i, _read_only(p))}
        for name, arrays, array in (("parameters", parameters, p), ("gradients", gradients, g)):
            wrong = {"a list": array.tolist(), "complex": array.astype(np.complex64), "masked": np.ma.array(array),
                     "of objects": array.astype(object), "integers": array.astype(np.int64),
                     "float16": array.astype(np.float16), "a text": "text", "None": None,
                     "of another byte order": array.astype(array.dtype.newbyteorder())}
            if len(parameters) > 1 or name == "gradients":
                wrong[f"of {other}"] = array.astype(other)
            for what, value in wrong.items():
                ways[f"{name} {what}"] = lambda arrays=arrays, value=value: arrays.__setitem__(i, value)
        if p.size and p.ndim:
            ways["a parameter twice"] = lambda: (parameters.append(p), gradients.append(g))
            ways["a view of a parameter"] = lambda: (parameters.append(p[..., :1]), gradients.append(g[..., :1]))
            ways["a parameter in other dimensions"] = lambda: (parameters.append(p.T), gradients.append(g.T))
        for what, wrong in _wrong_states(p).items():
            ways[f"{what} remembered"] = lambda wrong=wrong: optimizer.remember(
                [[wrong if k == i else np.zeros((1, q.size), q.dtype)] * max(1, STATES[optimizer._kind])
                 for k, q in enumerate(parameters)])
        what = str(rng.choice(list(ways)))
        ways[what]()
        self.case += f" with {what}"
        faults = self.refused(lambda: optimizer.update(parameters, gradients),
                              ["parameters", "gradients", "what the optimiser remembers", "the optimiser remembers"])
        return faults + ([] if optimizer.iterations == 0 else ["a step was counted"])


def _wrong_states(p):
    """Return {what is wrong: an array} that cannot be an optimiser's state for the parameter p."""
    good = np.zeros((1, p.size), p.dtype)
    wrong = {"another dtype": good.astype(FLOATS[p.dtype == FLOATS[0]]), "an element more": np.zeros((1, p.size + 1), p.dtype),
             "read-only": _read_only(good), "a list": good.tolist()}
    return wrong | ({"every second element": np.zeros((1, 2 * p.size), p.dtype)[:, ::2]} if p.size > 1 else {})


def _read_only(array):
    """Return a view of an array that cannot be written."""
    view = array[...]
    view.flags.writeable = False
    return view
