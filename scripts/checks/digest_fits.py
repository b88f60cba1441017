"""Trainings for digests.py: of networks, of scikit-learn's classes and the book's. Each follows from its number alone."""
import contextlib
import io

import numpy as np
from numba import njit, types

import fastbp
from fastbp import nnfs

from .digest_arrays import SEED, Case, between, numbers, one, threads_of
from .digest_calls import ACTIVATIONS, FLOATS, LOSSES, optimizer_of, targets_of


def case(number):
    """Return a Case of any kind."""
    rng = np.random.default_rng([SEED, 1, number])
    kind, threads = KINDS[number % len(KINDS)], threads_of(rng)
    name, run = _TRAININGS[kind](rng)
    return Case(f"fit {number:03} {kind}: {name}, on {threads}", run, threads)


# ---- networks


class _Network:
    """A random description of a network, which makes it and data for it."""

    def __init__(self, rng, sizes, precisions=(None,), dtype=None):
        self.dtype = dtype or ("float32" if precisions != (None,) else one(rng, FLOATS))
        self.loss, self.l2 = one(rng, LOSSES), one(rng, [0.0, 0.0, 1e-3])
        self.sizes = [*sizes, 1 if self.loss is not fastbp.SoftmaxCrossEntropy and rng.random() < 0.3 else between(rng, 2, 9)]
        self.layers, self.seed = [], between(rng, 0, 999)
        for i, n in enumerate(self.sizes[:-1]):
            last = i == len(self.sizes) - 2
            self.layers.append((n, self.sizes[i + 1], "identity" if last else one(rng, ACTIVATIONS), bool(rng.random() < 0.85),
                                one(rng, precisions), 0.0 if last or rng.random() < 0.6 else one(rng, [0.2, 0.5])))
        self.first_dropout = one(rng, [0.0] * 7 + [0.1])

    def make(self):
        layers = [fastbp.Dropout(self.first_dropout, rng=0)] if self.first_dropout else []
        for i, (n, m, activation, bias, precision, rate) in enumerate(self.layers):
            layers.append(fastbp.Dense(n, m, activation=activation, bias=bias, dtype=self.dtype, rng=self.seed + i,
                                       precision=precision))
            layers += [fastbp.Dropout(rate, rng=i)] if rate else []
        return fastbp.Sequential(layers, self.loss(), l2=self.l2)

    def data(self, rng, rows):
        """Return (x, targets)."""
        return (numbers(rng, (rows, self.sizes[0]), self.dtype),
                targets_of(rng, self.loss, rows, self.sizes[-1], self.dtype)[0])

    def __str__(self):
        layers = [f"{m} {activation}{'' if bias else ' without biases'}{f' {precision}' if precision else ''}"
                  f"{f' dropout {rate}' if rate else ''}" for _, m, activation, bias, precision, rate in self.layers]
        return (f"{self.dtype} {self.loss.__name__} l2 {self.l2} "
                f"{f'dropout {self.first_dropout} ' if self.first_dropout else ''}{self.sizes[0]} inputs, {', '.join(layers)}")


def _fit(rng, network, rows, batch, epochs=2):
    """Return (name, run) of a fit with random options."""
    (x, y), (new, said) = network.data(rng, rows), optimizer_of(rng)
    weights = rng.random(rows) if rng.random() < 0.3 else None
    shuffle, seed, check = bool(rng.random() < 0.6), between(rng, 0, 999), bool(rng.random() < 0.8)
    validation = network.data(rng, between(rng, 1, 90)) if rng.random() < 0.4 and not network.l2 else None
    if rng.random() < 0.2:
        x = np.asfortranarray(x)

    def run():
        trained, optimizer = network.make(), new()
        history = trained.fit(x, y, epochs=epochs, batch_size=batch, optimizer=optimizer, sample_weight=weights, rng=seed,
                              validation_data=validation, shuffle=shuffle, progress=False, check_finite=check)
        network_results = trained.parameters(), vars(history), optimizer.iterations, trained.predict(x[:70])
        if network.l2:                  # NumPy computes the penalty of an evaluation, by a product
            return network_results
        return network_results, trained.evaluate(x, y, weights)

    return (f"{network}; {said} {rows} rows in batches of {batch}{', shuffled' if shuffle else ''}"
            f"{'' if weights is None else ', weights'}{', validated' if validation else ''}"
            f"{'' if check else ', unchecked'}"), run


def _hidden(rng, most=60):
    """Return the sizes of a network's inputs and of up to three hidden layers."""
    return [between(rng, 1, most) for _ in range(between(rng, 1, 4))]


def _shards(rng):
    """Return (name, run) of a fit whose batches are cut into two shards."""
    return _fit(rng, _Network(rng, _hidden(rng)), between(rng, 128, 700), between(rng, 128, 300))


def _blocks(rng):
    """Return (name, run) of a fit whose dweights are computed in blocks, as the optimiser needs them."""
    return _fit(rng, _Network(rng, _hidden(rng, 150)), between(rng, 20, 300), between(rng, 1, 127))


def _wide_blocks(rng):
    """Return (name, run) of a fit in blocks of dweights, with layers that are large for their batches."""
    return _fit(rng, _Network(rng, [between(rng, 300, 500), between(rng, 450, 600)]), between(rng, 150, 200),
                between(rng, 128, 140), 1)


def _large(rng):
    """Return (name, run) of a fit of a layer so wide that its dz leaves a second-level cache."""
    network = _Network(rng, [between(rng, 3, 9), between(rng, 5300, 5600)])
    return _fit(rng, network, between(rng, 60, 120), between(rng, 50, 100), 1)


def _bfloat16(rng):
    """Return (name, run) of a fit of layers that multiply bfloat16."""
    network = _Network(rng, _hidden(rng, 90), ("bfloat16", "bfloat16", None))
    return _fit(rng, network, between(rng, 60, 400), between(rng, 20, 250))


def _diverging(rng):
    """Return (name, run) of a fit that stops at a number which is not finite."""
    network, rows = _Network(rng, _hidden(rng)), between(rng, 60, 200)
    x, y = network.data(rng, rows)
    x[between(rng, 0, rows - 1)] *= np.inf
    rows_of_batch, kept = between(rng, 5, 100), []

    def run():
        trained, optimizer = network.make(), fastbp.SGD(0.1)
        try:
            trained.fit(x, y, epochs=1, batch_size=rows_of_batch, optimizer=optimizer, shuffle=False, rng=0, progress=False)
        except FloatingPointError as error:
            kept.append(str(error))
        return kept, trained.parameters(), optimizer.iterations

    return f"{network}; {rows} rows in batches of {rows_of_batch}, of which one is infinite", run


def _by_hand(rng):
    """Return (name, run) of steps of a user's own loop, and of check_gradients."""
    precisions = one(rng, [(None,), (None,), ("bfloat16", None)])
    network, rows = _Network(rng, _hidden(rng, 80), precisions), between(rng, 3, 200)
    (x, y), (new, said) = network.data(rng, rows), optimizer_of(rng)

    def run():
        trained, optimizer, results = network.make(), new(), []
        for _ in range(3):
            loss, dvalues = trained.loss.value_and_gradient(trained.forward(x, training=True), y)
            results += [loss, trained.backward(dvalues)]
            optimizer.update(trained.parameters(), trained.gradients())
        error = trained.check_gradients(x[:9], y[:9], places=5, rng=0)
        return results, trained.parameters(), trained.gradients(), error

    return f"{network}; 3 steps of {said} on {rows} rows", run


def _predicted(rng):
    """Return (name, run) of predictions of more rows than go through the layers at once."""
    network, rows = _Network(rng, _hidden(rng, 40), one(rng, [(None,), (None,), ("bfloat16",)])), between(rng, 4000, 9000)
    x, y = network.data(rng, rows)
    network.l2 = 0.0

    def run():
        trained = network.make()
        return trained.predict(x), trained.evaluate(x, y)

    return f"{network}; {rows} rows", run


def _frozen(rng):
    """Return (name, run) of predictions of few rows and of many, by a network and by a frozen one, with layers of all sizes."""
    widths = [1, 2, 4, 5, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70, 127, 128, 129, 192, 255, 256, 257, 300, 513, 600]
    network = _Network(rng, [one(rng, widths) for _ in range(between(rng, 1, 4))])
    batches = [one(rng, [1, 1, 2, 3, 4, 5, 6, 8, 11, 12, 13, 15, 16, 17, 23, 32, 63, 64, 65, 130, 385]) for _ in range(4)]
    x, _ = network.data(rng, max(batches))
    if rng.random() < 0.2:
        x = np.asfortranarray(x)

    def run():
        whole = network.make()
        frozen = whole.frozen()
        return [(whole.predict(x[:rows]), frozen(x[:rows])) for rows in batches]

    return f"{network}; {batches} rows{'' if x.flags.c_contiguous else ' in Fortran order'}", run


# ---- the classes of others


def _sklearn(rng):
    """Return (name, run) of a fit of one of scikit-learn's classes."""
    task, dtype, rows = one(rng, ["classes", "yes or no", "labels", "numbers"]), one(rng, FLOATS), between(rng, 60, 300)
    x = numbers(rng, (rows, between(rng, 2, 20)), dtype)
    y = {"classes": rng.integers(0, 4, rows), "yes or no": rng.integers(0, 2, rows), "labels": rng.integers(0, 2, (rows, 3)),
         "numbers": numbers(rng, (rows, 2), dtype)}[task]
    settings = one(rng, [{"solver": "adam"}, {"solver": "adam", "beta_1": 0.8, "epsilon": 1e-4}, {"solver": "sgd"},
                         {"solver": "sgd", "momentum": 0}, {"solver": "sgd", "nesterovs_momentum": False},
                         {"solver": "sgd", "learning_rate": "invscaling"}, {"solver": "sgd", "learning_rate": "adaptive"}])
    settings |= {"activation": one(rng, ["identity", "relu", "logistic", "tanh"]), "alpha": one(rng, [0.0, 1e-4, 0.1]),
                 "hidden_layer_sizes": tuple(_hidden(rng, 40)), "batch_size": between(rng, 5, 200), "max_iter": 4,
                 "random_state": between(rng, 0, 99), "shuffle": bool(rng.random() < 0.7),
                 "early_stopping": task != "labels" and bool(rng.random() < 0.2)}

    def run():
        from fastbp import sklearn  # here, as it takes a second, and a short run has no use for it

        estimator = sklearn.MLPRegressor if task == "numbers" else sklearn.MLPClassifier
        fitted = estimator(**settings).fit(x, y)
        said = fitted.predict(x) if task == "numbers" else fitted.predict_proba(x)
        return fitted.coefs_, fitted.intercepts_, fitted.loss_curve_, said

    return f"{task} {dtype} {x.shape[0]} rows {x.shape[1]} inputs {settings}", run


def _book(rng):
    """Return (name, run) of the training of a Model of nnfs."""
    task, rows, inputs = one(rng, ["classes", "yes or no", "numbers"]), between(rng, 40, 300), between(rng, 2, 30)
    dtype, batch, hidden, seed = one(rng, FLOATS), one(rng, [None, 16, 50]), between(rng, 3, 70), between(rng, 0, 999)
    x = numbers(rng, (rows, inputs), dtype)
    y = {"classes": rng.integers(0, 3, rows), "yes or no": rng.integers(0, 2, (rows, 1)),
         "numbers": numbers(rng, (rows, 1), dtype)}[task]
    outputs, last, loss, accuracy = {
        "classes": (3, nnfs.Activation_Softmax, nnfs.Loss_CategoricalCrossentropy, nnfs.Accuracy_Categorical),
        "yes or no": (1, nnfs.Activation_Sigmoid, nnfs.Loss_BinaryCrossentropy, lambda: nnfs.Accuracy_Categorical(binary=True)),
        "numbers": (1, nnfs.Activation_Linear, one(rng, [nnfs.Loss_MeanSquaredError, nnfs.Loss_MeanAbsoluteError]),
                    nnfs.Accuracy_Regression)}[task]
    optimizer = one(rng, [nnfs.Optimizer_SGD, nnfs.Optimizer_Adagrad, nnfs.Optimizer_RMSprop, nnfs.Optimizer_Adam])
    penalty = one(rng, [0, 0, 5e-4])

    def run():
        np.random.seed(seed)
        model = nnfs.Model()
        model.add(nnfs.Layer_Dense(inputs, hidden, weight_regularizer_l2=penalty, bias_regularizer_l1=penalty))
        model.add(nnfs.Activation_ReLU())
        model.add(nnfs.Layer_Dropout(0.1))
        model.add(nnfs.Layer_Dense(hidden, outputs))
        model.add(last())
        model.set(loss=loss(), optimizer=optimizer(decay=1e-3), accuracy=accuracy())
        model.finalize()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            model.train(x, y, epochs=3, batch_size=batch, print_every=2, validation_data=(x, y))
        return model.get_parameters(), model.predict(x), printed.getvalue()

    return (f"{task} {dtype} {rows} rows in batches of {batch}, {inputs} to {hidden}, {optimizer.__name__}, "
            f"penalty {penalty}"), run


# The function of each kind of training, and a kind for each of 22 numbers, the frequent ones more often.
_TRAININGS = {"shards": _shards, "blocks": _blocks, "wide blocks": _wide_blocks, "large": _large, "bfloat16": _bfloat16,
              "diverging": _diverging, "by hand": _by_hand, "predicted": _predicted, "frozen": _frozen,
              "scikit-learn": _sklearn, "book": _book}
KINDS = ("shards", "blocks", "bfloat16", "by hand", "scikit-learn", "shards", "blocks", "book", "wide blocks", "predicted",
         "shards", "blocks", "bfloat16", "by hand", "scikit-learn", "shards", "blocks", "book", "large", "diverging",
         "frozen", "frozen")


# ---- what takes seconds to begin


def slow():
    """Return Cases in @njit code and on Dask. There are only a few, as each takes seconds to compile or to start a client."""
    rng, cases = np.random.default_rng([SEED, 2]), []
    for precision in (*FLOATS, "bfloat16"):
        step, dtype = _compiled_step(precision), "float32" if precision == "bfloat16" else precision
        for number, (batch, inputs, neurons) in enumerate((
                (2, 3, 4), (5, 70, 150), (9, 90, 3), (100, 4, 2), (300, 40, 50), (600, 33, 65), (4200, 30, 30), (0, 5, 5))):
            shapes = (batch, inputs), (inputs, neurons), (1, neurons), (batch, neurons)
            operands = [numbers(rng, shape, dtype) for shape in shapes]
            if number % 3 == 0:
                operands[number % 2] = np.asfortranarray(operands[number % 2])
            cases.append(Case(f"njit {precision} {batch} rows {inputs} to {neurons}",
                              lambda step=step, operands=operands: step(*operands), threads_of(rng)))
    network = fastbp.Sequential([fastbp.Dense(5, 40, activation="gelu", rng=0), fastbp.Dense(40, 3, rng=1)],
                                fastbp.SoftmaxCrossEntropy())
    parameters, functions = tuple(network.parameters()), network.jitted()
    for rows in (1, 33, 200):
        x, y = numbers(rng, (rows, 5), "float32"), rng.integers(0, 3, rows)
        cases.append(Case(f"jitted network {rows} rows", lambda x=x, y=y: (
            functions.forward(parameters, x), functions.value_and_gradient(parameters, x, y)), threads_of(rng)))
    return [*cases, Case("dask trainings", _on_dask, 2)]


def _compiled_step(precision):
    operand = types.Array(types.float64 if precision == "float64" else types.float32, 2, "A", readonly=True, aligned=False)

    @njit([(operand,) * 4])
    def step(x, w, b, dvalues):
        y = fastbp.dense_relu_forward(x, w, b, precision=precision)
        return y, fastbp.dense_relu_backward(dvalues, y, x, w, precision=precision), fastbp.relu_backward(dvalues, y)

    return step


def _on_dask():
    """Return the results of trainings on Dask, where shares of a batch add up their gradients before each step."""
    import dask.array as da
    import distributed

    import fastbp.dask

    results, rng = [], np.random.default_rng([SEED, 3])
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        for dtype, rows, shares in (("float32", 300, 1), ("float64", 500, 2), ("float32", 90, 3)):
            layers = [fastbp.Dense(9, 40, activation="tanh", dtype=dtype, rng=0), fastbp.Dropout(0.2),
                      fastbp.Dense(40, 3, dtype=dtype, rng=1)]
            network = fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy(), l2=1e-3)
            x = da.from_array(numbers(rng, (rows, 9), dtype), chunks=(70, 9))
            y = da.from_array(rng.integers(0, 3, rows), chunks=70)
            history = fastbp.dask.fit(network, x, y, optimizer=fastbp.Adam(), epochs=2, batch_size=50, client=client,
                                      progress=False, rng=0, shares=shares)
            results += [network.parameters(), vars(history), network.predict(x).compute()]
    return results
