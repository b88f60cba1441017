"""Random networks, their trainings and their compiled functions, compared with formulas.py, for scripts/check fuzz."""
import numpy as np
from numba import njit, types

import fastbp

from . import formulas
from .fuzz_steps import LOSSES, Losses, as_table, optimizers, spoilt_scores, spoilt_targets, spoilt_weights
from .random_arrays import FLOATS, OTHERS, any_layout, described, differing, no_bfloat16_warning, numbers, restored

# A training may differ from that of formulas.py by this part of the largest number.
TOLERANCE = {FLOATS[0]: 2e-3, FLOATS[1]: 1e-8}
# Rounding may change the sign of a ReLU's input that is nearer to 0 than this.
KINK = {FLOATS[0]: 2e-5, FLOATS[1]: 1e-12}
# The product of two numbers from this one on may be no float32.
HUGE = 1e15


class Fits(Losses):
    """Cases of Sequential.fit, evaluate and predict."""

    def check(self, rng):
        dtype, name = FLOATS[rng.integers(2)], LOSSES[rng.integers(len(LOSSES))].__name__
        self._draw_network(rng, dtype, name)
        rows, outputs = int(rng.choice([1, 2, 3, 7, 31, 32, 33, 64, 100, 127, 130, 300])), self._sizes[-1]
        given = numbers(rng, (rows, self._sizes[0]), OTHERS[rng.integers(8)] if rng.random() < 0.15 else dtype, "normal")
        x, targets, weights = self.placed(rng, given), self.targets(rng, name, rows, outputs), self.weights(rng, rows)
        epochs, batch, seed = int(rng.integers(1, 3)), int(rng.choice([1, 7, 16, 32, 64, 128, 200])), int(rng.integers(1 << 30))
        batch, shuffle = max(batch, rows // 10), bool(rng.random() < 0.6)
        make, settings = optimizers(rng, epsilon=0.01)      # a smaller one makes large steps of mere rounding errors
        is_restored = bool(rng.random() < 0.15)             # the network comes from a pickle in read-only memory
        self.case = (f"{name} {self._described} {make()} l2 {self._l2} restored {is_restored} epochs {epochs} "
                     f"batch_size {batch} shuffle {shuffle} {described(x=x, y=targets, sample_weight=weights)}")
        options = {"epochs": epochs, "batch_size": batch, "shuffle": shuffle, "rng": seed, "sample_weight": weights}
        if rng.random() < 0.25:
            return self._refused(rng, name, make(), x, targets, options)

        def call():
            network, optimizer = restored((self._network(), make())) if is_restored else (self._network(), make())
            history = network.fit(x, targets, optimizer=optimizer, progress=False, **options)
            self._trained = network
            loss, accuracy = network.evaluate(x, targets, weights)
            return [np.array(history.loss, np.float64), np.float64(loss), np.float64(-1 if accuracy is None else accuracy),
                    network.predict(x), *network.parameters()]

        known = x.astype(np.float64), as_table(targets, outputs, name, dtype), weights, settings, options
        try:
            results, faults = self.on_threads(call)
        except FloatingPointError as error:
            return [] if self._is_rounded or self._diverges(*known) else [f"{error}; but in formulas.py nothing is as large"]
        faults += [] if is_restored else self._taken_in_place()
        return faults if self._is_rounded else faults + self._compare(results, *known)

    def _exact(self, x, t, weights, settings, options):
        """Return (network, weights of rows, losses) of the same training in formulas.py."""
        w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
        order = np.random.default_rng(options["rng"])
        order.integers(1 << 62)                             # fit draws the key of its dropouts here
        orders = [order.permutation(len(x)) if options["shuffle"] else np.arange(len(x)) for _ in range(options["epochs"])]
        network = formulas.Network([[*pair, activation] for pair, (activation, _)
                                    in zip(self._initial, self._options, strict=True)], KINK[self._dtype])
        losses = network.fit(x, t, w, loss_name=type(self._loss).__name__, optimizer=formulas.Optimizer(**settings),
                             orders=orders, batch=options["batch_size"], l2=self._l2)
        return network, w, losses

    def _diverges(self, *known):
        """Return whether numbers of the same training in formulas.py become so large that a product of two may overflow."""
        with np.errstate(all="ignore"):
            network, _, losses = self._exact(*known)
            return not all(np.abs(values).max(initial=0) < HUGE for values in (losses, *network.parameters()))

    def _compare(self, results, *known):
        """Return the faults of a training's results, compared with the same training in formulas.py."""
        losses, loss, accuracy, predicted, *parameters = results
        network, w, exact = self._exact(*known)
        x, t, *_ = known
        name, scores = type(self._loss).__name__, network.forward(x)
        if network.is_near_kink:
            return []
        value, right, _, _, _ = formulas.loss(name, scores, t, w)
        predictions = {"SoftmaxCrossEntropy": formulas.softmax(scores),
                       "BinaryCrossEntropy": formulas.sigmoid(scores)}.get(name, scores)
        faults = []
        for what, result, expected, dtype in (
                ("history.loss", losses, exact, FLOATS[1]), ("the loss", loss, value + network.penalty(self._l2), FLOATS[1]),
                ("the prediction", predicted, predictions, self._dtype),
                *((f"parameters[{i}]", p, q, self._dtype)
                  for i, (p, q) in enumerate(zip(parameters, network.parameters(), strict=True)))):
            size = 1 + abs(np.asarray(expected)).max(initial=0)
            faults += differing(what, result, expected, TOLERANCE[self._dtype] * size, dtype)
        share = {"SoftmaxCrossEntropy": right / len(x), "BinaryCrossEntropy": right / t.size}.get(name, -1)
        return faults + ([] if abs(accuracy - share) < 0.02 + 1 / t.size else [f"accuracy is {accuracy}, expected {share}"])

    def _draw_network(self, rng, dtype, name):
        """Draw the layers, options and parameters of _network(). Parameters have any layout; fit may write those it can own."""
        self._dtype, self._loss, self._l2 = dtype, getattr(fastbp, name)(), float(rng.choice([0, 0, 0.01]))
        depth, outputs = int(rng.integers(1, 5)), 1 if rng.random() < 0.2 else int(rng.choice([2, 3, 5, 9, 17]))
        sizes = [int(rng.choice([1, 2, 3, 5, 8, 9, 16, 17, 33, 40, 70])) for _ in range(depth)]
        self._sizes = [*sizes, outputs]
        self._is_rounded = dtype == FLOATS[0] and rng.random() < 0.1
        activations = [str(rng.choice(list(formulas.ACTIVATIONS))) for _ in range(depth)]
        activations[-1] = "identity"
        rate = float(rng.choice([0, 0, 0, 0.3])) if depth > 1 else 0.0
        self._dropouts = {int(rng.integers(depth - 1)): rate} if depth > 1 and rng.random() < 0.3 else {}
        self._is_rounded |= any(self._dropouts.values())    # formulas.py does not know what is dropped: nothing is compared
        self._options = [(activation, "bfloat16" if self._is_rounded and not self._dropouts and dtype == FLOATS[0] else None)
                         for activation in activations]
        self._apart = [bool(rng.random() < 0.2) for _ in activations]       # a ReLU as a layer of its own
        self._parameters = []
        for n, m in zip(self._sizes, self._sizes[1:], strict=False):
            shape = (m,) if rng.random() < 0.3 else (1, m)
            self._parameters.append([self._assigned(rng, (n, m), np.sqrt(2 / n)),
                                     None if rng.random() < 0.2 else self._assigned(rng, shape, 0.1)])
        self._initial = [[None if a is None else np.array(a, np.float64) for a in pair] for pair in self._parameters]
        self._described = (f"{self._sizes} {dtype} {self._options} dropouts {self._dropouts} " + described(
            **{f"{name}{i}": a for i, pair in enumerate(self._parameters) for name, a in zip("wb", pair, strict=True)}))

    def _assigned(self, rng, shape, scale):
        """Return weights or biases as a user may assign them. Training writes them if _is_own(), and copies them otherwise."""
        dtype = self._dtype if rng.random() < 0.8 else FLOATS[rng.integers(2)]
        values = (scale * rng.standard_normal(shape)).astype(self._dtype).astype(dtype)
        if rng.random() < 0.1:
            return values.tolist()
        view = self.placed(rng, values)
        if self._is_own(view):
            self.rooms.used()[-1].let_change(view)
        return view

    def _is_own(self, array):
        """Return whether a training must use this array itself: it is as the network would make it."""
        return isinstance(array, np.ndarray) and array.dtype == self._dtype and array.flags.carray

    def _network(self):
        """Make the network that _draw_network() drew."""
        layers = []
        for i, ((_, b), (activation, precision)) in enumerate(zip(self._parameters, self._options, strict=True)):
            n, m = self._sizes[i], self._sizes[i + 1]
            apart = activation == "relu" and self._apart[i]
            with no_bfloat16_warning():
                layers.append(fastbp.Dense(n, m, activation="identity" if apart else activation, bias=b is not None,
                                           dtype=self._dtype, rng=i, precision=precision))
            layers += [fastbp.ReLU()] if apart else []
            layers += [fastbp.Dropout(self._dropouts[i], rng=i)] if i in self._dropouts else []
        network = fastbp.Sequential(layers, self._loss, l2=self._l2)
        for layer, (w, b) in zip(network.dense, self._parameters, strict=True):
            layer.weights, layer.biases = w, b
        return network

    def _taken_in_place(self):
        """Return a fault for each array that _is_own() and that the training copied."""
        return [f"{name} of shape {given.shape} was copied"
                for layer, pair in zip(self._trained.dense, self._parameters, strict=True)
                for name, given in zip(("weights", "biases"), pair, strict=True)
                if self._is_own(given) and getattr(layer, name) is not given]

    def _refused(self, rng, name, optimizer, x, targets, options):
        """Call fit, evaluate or predict so that it must be refused; return a fault if it is not, or changes an array."""
        for room in self.rooms.used():
            room.clear_changes()
        network, (rows, outputs) = self._network(), (len(x), self._sizes[-1])
        spoilt = {"x": lambda: spoilt_scores(rng, x), "targets": lambda: spoilt_targets(rng, name, rows, outputs),
                  "sample_weight": lambda: spoilt_weights(rng, rows),
                  "x wide": lambda: ("a column wider", np.zeros((rows, x.shape[1] + 1)))}
        if rng.random() < 0.3:
            what, names = self._spoil_network(rng, network, optimizer)
        else:
            argument = str(rng.choice(list(spoilt)))
            what, value = spoilt[argument]()
            names = [argument.split()[0]]
            what = f"{argument} {what}"
            x, targets = value if names == ["x"] else x, value if names == ["targets"] else targets
            options |= {"sample_weight": value} if names == ["sample_weight"] else {}
        self.case += f" with {what}"
        given = [(a, np.array(a)) for layer in network.dense for a in (layer.weights, layer.biases) if a is not None]
        call = rng.integers(3) if names[0] in ("x", "targets", "sample_weight") else 0
        if call == 0:
            faults = self.refused(lambda: network.fit(x, targets, optimizer=optimizer, progress=False, **options), names)
        elif call == 1 or names != ["x"]:
            faults = self.refused(lambda: network.evaluate(x, targets, options["sample_weight"]), names)
        else:
            faults = self.refused(lambda: network.predict(x), names)
        faults += [] if all(np.array_equal(a, before) for a, before in given) else ["a parameter was changed"]
        return faults + ([] if optimizer.iterations in (0, 7) else ["a step was counted"])

    def _spoil_network(self, rng, network, optimizer):
        """Assign something that does not fit; return (what, the names with one of which the error must begin)."""
        layer = network.dense[rng.integers(len(network.dense))]
        n, m = self._sizes[:2]
        layer_names = ["layers[", "weights", "biases", "the last Dense", "a layer's weights"]

        def assign(name, value):
            setattr(layer, name, value)

        k, cols = np.shape(layer.weights)
        ways = {
            "weights of another shape": lambda: assign("weights", np.zeros((k + 1, cols + 1))),
            "weights of one dimension": lambda: assign("weights", np.zeros(k * cols)),
            "complex weights": lambda: assign("weights", np.zeros((k, cols), np.complex128)),
            "masked weights": lambda: assign("weights", np.ma.zeros((k, cols))),
            "no weights": lambda: assign("weights", None),
            "biases of another shape": lambda: assign("biases", np.zeros(cols + 1)),
            "biases of objects": lambda: assign("biases", np.zeros(cols, object)),
            "biases that are weights": lambda: assign_shared(),
            "an optimiser of another network": lambda: optimizer.update([np.zeros(3)], [np.zeros(3)]),
        }

        def assign_shared():
            layer.weights = np.ones((k, cols), self._dtype)
            layer.biases = layer.weights[:1]

        what = str(rng.choice([way for way in ways if k or way != "biases that are weights"]))
        ways[what]()
        if what.startswith("an optimiser"):
            optimizer.iterations = 7
            return what, ["parameters"]
        return what, layer_names + (["x"] if layer is network.dense[0] else []) + ["targets"]


class Jitted(Losses):
    """Cases of the functions of network.jitted(). There are only a few networks, as each takes seconds to compile."""

    # Each network has a loss, a dtype, sizes, activations, biases (their dimensions, or None), and y's dtype and dimensions.
    NETWORKS = (("SoftmaxCrossEntropy", "float32", (5, 9, 3), ("gelu", "identity"), (2, 2), "int64", 1),
                ("BinaryCrossEntropy", "float64", (3, 17, 8, 2), ("relu", "sigmoid", "identity"), (1, None, 2), "float64", 2),
                ("MeanSquaredError", "float32", (9, 4, 1), ("tanh", "identity"), (None, 1), "float32", 1),
                ("SoftmaxCrossEntropy", "float64", (2, 33, 4), ("leaky_relu", "identity"), (1, 2), "float32", 2))

    _compiled = {}

    def check(self, rng):
        number = int(rng.integers(len(self.NETWORKS))) if self.compiled else 0
        name, dtype, sizes, activations, biased, kind, dimensions = self.NETWORKS[number]
        dtype = np.dtype(dtype)
        network, functions, both = self._functions(number)
        parameters = []
        for shape in (p.shape for p in network.parameters()):
            values = rng.standard_normal(shape).astype(dtype) / dtype.type(np.sqrt(shape[0]))
            parameters.append(self.placed(rng, values, may_swap=False))
        rows = int(rng.choice([1, 2, 3, 7, 31, 33, 64, 100]))
        x = self.placed(rng, rng.standard_normal((rows, sizes[0])).astype(dtype), may_swap=False)
        y = rng.integers(0, sizes[-1], rows) if kind == "int64" else rng.random((rows, sizes[-1])[:dimensions])
        y = self.placed(rng, y.astype(kind), may_swap=False)
        arrays = {f"parameters[{i}]": p for i, p in enumerate(parameters)}
        self.case = f"jitted network {number} {described(**arrays, x=x, y=y)}"
        if rng.random() < 0.25:
            return self._refused(rng, functions, both, parameters, x, y)

        def call():
            scores, value, gradients = both(tuple(parameters), x, y)
            return [scores, np.float64(value), *gradients]

        (scores, value, *gradients), faults = self.on_threads(call)
        arrays = iter(p.astype(np.float64) for p in parameters)
        exact = formulas.Network([[next(arrays), None if b is None else next(arrays), activation]
                                  for activation, b in zip(activations, biased, strict=True)], KINK[dtype])
        z = exact.forward(x.astype(np.float64))
        if exact.is_near_kink:
            return faults
        loss, _, dvalues, _, _ = formulas.loss(name, z, as_table(y, sizes[-1], name, dtype), np.ones(rows))
        for what, result, expected, kind in (
                ("the scores", scores, z, dtype), ("the loss", value, loss, FLOATS[1]),
                *((f"gradients[{i}]", g, e, dtype)
                  for i, (g, e) in enumerate(zip(gradients, exact.backward(dvalues), strict=True)))):
            bound = TOLERANCE[dtype] / 20 * (1 + abs(np.asarray(expected)).max(initial=0))
            faults += differing(what, result, expected, bound, kind)
        return faults

    def _functions(self, number):
        """Return (network, its two functions, one that calls both), compiled once for arrays of any layout and alignment."""
        if number not in self._compiled:
            name, dtype, sizes, activations, biased, kind, dimensions = self.NETWORKS[number]
            layers = [fastbp.Dense(n, m, activation=activation, bias=b is not None, dtype=dtype, rng=0)
                      for n, m, activation, b in zip(sizes, sizes[1:], activations, biased, strict=False)]
            for layer, b in zip(layers, biased, strict=True):
                if b == 1:
                    layer.biases = layer.biases.reshape(-1)
            network = fastbp.Sequential(layers, getattr(fastbp, name)())
            forward, value_and_gradient = functions = network.jitted()
            parameters = types.Tuple([any_layout(dtype, p.ndim) for p in network.parameters()])

            def both(parameters, x, y):
                value, gradients = value_and_gradient(parameters, x, y)
                return forward(parameters, x), value, gradients

            both = njit([(parameters, any_layout(dtype, 2), any_layout(kind, dimensions))])(both)
            self._compiled[number] = network, functions, both
        return self._compiled[number]

    def _refused(self, rng, functions, both, parameters, x, y):
        """Call a function so that it must be refused: for shapes or numbers when it runs, or for types when it is compiled."""
        i = int(rng.integers(len(parameters)))
        p, ways = parameters[i], {}

        def replaced(value):
            return (*parameters[:i], value, *parameters[i + 1:])

        for what, shape in (("a row more", (p.shape[0] + 1, *p.shape[1:])), ("a column more", (*p.shape[:-1], p.shape[-1] + 1)),
                            ("a column less", (*p.shape[:-1], p.shape[-1] - 1)), ("no rows", (0, *p.shape[1:]))):
            ways[f"parameters {what}"] = both, replaced(np.zeros(shape, p.dtype)), x, y
        ways["x a column more"] = both, tuple(parameters), np.zeros((len(x), x.shape[1] + 1), x.dtype), y
        ways["x no column"] = both, tuple(parameters), np.zeros((len(x), 0), x.dtype), y
        for what, shape in (("a row more", (len(y) + 1, *y.shape[1:])), ("no rows", (0, *y.shape[1:]))):
            ways[f"y {what}"] = both, tuple(parameters), x, np.zeros(shape, y.dtype)
        for number in (-1, 2**40, -2**63) if y.dtype.kind == "i" else (-0.5, 1.5, np.nan) if y.dtype == FLOATS[1] else ():
            wrong = y.copy()
            wrong[int(rng.integers(len(y)))] = number
            ways[f"y with {number}"] = both, tuple(parameters), x, wrong
        if rng.random() < 0.1:
            function = functions.value_and_gradient
            ways = {f"parameters of {dtype}": (function, tuple(q.astype(dtype) for q in parameters), x, y)
                    for dtype in (*FLOATS, *OTHERS[1:], np.dtype(np.complex64)) if dtype != p.dtype}
            ways |= {"too few parameters": (function, tuple(parameters[1:]), x, y),
                     "too many parameters": (function, (*parameters, p), x, y),
                     "parameters of three dimensions": (function, replaced(np.zeros((1, 1, 1), p.dtype)), x, y),
                     "complex x": (function, tuple(parameters), x.astype(np.complex64), y),
                     "x of one dimension": (function, tuple(parameters), x[0], y),
                     "complex y": (function, tuple(parameters), x, y.astype(np.complex64)),
                     "y of three dimensions": (function, tuple(parameters), x, np.zeros((1, 1, 1), y.dtype))}
        what = str(rng.choice(list(ways)))
        function, *arguments = ways[what]
        self.case += f" with {what}"
        return self.refused(lambda: function(*arguments), ["parameters", "x", "y"])


def _any(dtype, dimensions):
    kind = {"float32": types.float32, "float64": types.float64, "int64": types.int64}[str(dtype)]
    return types.Array(kind, dimensions, "A", readonly=True, aligned=False)
