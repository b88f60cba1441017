"""Steps of optimisers, losses, trainings, predictions and compiled networks with arrays at walls, for scripts/check walls.

All arrays of a call lie in rooms, also the optimiser's state, the arrays that a training keeps between its passes, and the
copies that a frozen network makes. The results must have the same bits as with arrays that lie anywhere.
"""
import itertools
from unittest import mock

import numba
import numpy as np

import fastbp
import oracle
from fastbp import frozen, inference, losses
from fastbp._training import session
from fastbp.kernels import blocking
from fastbp.kernels.infer import blocks as infer_blocks
from fastbp.kernels.sizes import PRESENT
from fastbp.kernels.train import blocks
from fastbp.kernels.train import losses as loss_kernels
from fastbp.kernels.train import optimizers as optimizer_kernels

# The optimisers, made anew for each case, and the losses.
OPTIMIZERS = (lambda: fastbp.SGD(0.1), lambda: fastbp.SGD(0.1, momentum=0.9),
              lambda: fastbp.SGD(0.1, momentum=0.9, nesterov=True), lambda: fastbp.AdamW(0.1))
LOSSES = fastbp.SoftmaxCrossEntropy(), fastbp.BinaryCrossEntropy(), fastbp.MeanSquaredError()

# A few cases, each a kind and its sizes. "update": elements. "loss": rows, outputs. "fit": batch, rows, inputs, neurons,
# outputs (with one part of the batch or two, transposed or, from 300 inputs on, not, dweights in blocks or not, and a last
# batch that is not full). "jitted": inputs, neurons. "predict": rows, and the sizes of the network.
SOME = (*(("update", count) for count in (1, 15, 17, 4095, 4097)), *(("loss", *sizes) for sizes in ((1, 1), (33, 17), (64, 7))),
        ("fit", 16, 50, 13, 9, 3), ("fit", 127, 200, 7, 33, 1), ("fit", 130, 300, 5, 17, 2), ("fit", 40, 90, 300, 33, 3),
        ("fit", 130, 300, 300, 17, 2), ("jitted", 5, 9), ("predict", 1, 300, 70, 3), ("predict", 7, 65, 130, 9, 66),
        ("predict", 40, 70, 100, 65), ("predict", 130, 9, 67, 2))


def cases(dtype):
    """Yield cases on both sides of each size of a task and of a vector, and for each way to compute a training step."""
    lanes, chunk, rows = blocking.tiles(numba.from_dtype(dtype)).row.lanes, optimizer_kernels.CHUNK, loss_kernels.ROWS
    vectors = range(1, 2 * lanes + 2)
    ends = range(-lanes - 1, lanes + 2)
    yield from (("update", count) for count in (*vectors, *(n * chunk + end for n in (1, 2, 3) for end in ends)))
    yield from (("loss", *sizes) for sizes in itertools.product((1, 2, rows - 1, rows, rows + 1, 2 * rows + 1, 1000), vectors))
    shard = blocks.SHARDS * blocks.SHARD_ROWS
    for batch in (1, 2, 31, 32, 33, shard - 1, shard, shard + 1, 3 * shard):
        for rows, neurons in itertools.product((batch, 2 * batch + 1), (1, lanes - 1, lanes, lanes + 1, 3 * lanes + 1, 130)):
            yield "fit", batch, rows, neurons % 7 + 1, neurons, 1 + neurons % 3
            yield "fit", batch, rows, 2 * lanes + 1, neurons, lanes + 1
            yield "fit", batch, rows, 300, neurons, lanes + 1
    yield from (("jitted", inputs, neurons) for inputs, neurons in ((1, 1), (lanes, lanes), (lanes + 1, 2 * lanes + 1)))
    yield from (("predict", *sizes) for sizes in predictions(lanes))


def predictions(lanes):
    """Yield rows and sizes of networks on both sides of the sizes by which a prediction computes a layer in another way."""
    width, few, chain = 4 * lanes, infer_blocks.FEW_ROWS, blocking.CHAIN
    ends = [1, 3, lanes, width - 1, width, width + 1, width + lanes + 1, 2 * width, 2 * width + 1, 3 * width - 1]
    for rows in (1, 2, 3, 4, 5, few - 1, few, few + 1, PRESENT.sizes.few_rows, PRESENT.sizes.few_rows + 1):
        for neurons in ends:
            yield rows, PRESENT.sizes.streamed_inputs, neurons, neurons
            yield rows, PRESENT.sizes.streamed_inputs - 1, neurons, 2
    for rows, inputs in itertools.product((1, 2, few, few + 1), (chain - 1, chain, chain + 1, blocking.KC, blocking.KC + 1)):
        yield rows, inputs, width + 1, 5
        yield rows, inputs, 2 * width, width - 1
    for rows in (blocking.TASK_ROWS - 1, blocking.TASK_ROWS + 1, infer_blocks.UNIT_ROWS - 1, infer_blocks.UNIT_ROWS + 1):
        yield rows, 9, width + 1, 3


class Training:
    """The checks of cases. `walled` places arrays at walls."""

    def __init__(self, walled, dtype):
        self._walled, self._dtype = walled, dtype

    def check(self, what, *sizes, rng):
        """Check a case. Raise AssertionError if walls change a result; the process dies if a wall is touched."""
        for variant in getattr(self, f"_{what}")(rng, *sizes):
            free, at_walls = variant(np.copy), variant(self._walled.placed)
            self._walled.give_back()
            assert free == at_walls, f"{what} of {sizes} {self._dtype} differs"

    # Each generator below yields functions to be called with place(array), which returns a copy of an array. They return bytes
    # and numbers.

    def _update(self, rng, count):
        w, g = (rng.standard_normal((2, count, 1)).astype(self._dtype) for _ in range(2))
        for make in OPTIMIZERS:
            def step(place, make=make):
                optimizer = make()
                states = optimizer_kernels.STATES[optimizer._kind]
                optimizer.remember([[place(np.full((1, count), 0.25, self._dtype)) for _ in range(states)] for _ in w])
                parameters = [place(a) for a in w]
                for _ in range(2):
                    optimizer.update(parameters, [place(a) for a in g])
                return [a.tobytes() for a in (*parameters, *itertools.chain(*optimizer._states))]

            yield step

    def _loss(self, rng, rows, outputs):
        scores, weights = rng.standard_normal((rows, outputs)).astype(self._dtype), rng.random(rows)
        for loss in LOSSES:
            for targets in _targets(rng, loss, rows, outputs, self._dtype):
                def evaluate(place, loss=loss, targets=targets):
                    with mock.patch.object(losses, "_as_scores", place):        # the copy that the gradient is written over
                        *values, gradient = loss.evaluate(scores, place(targets), place(weights))
                    return *values, gradient.tobytes()

                yield evaluate

    def _fit(self, rng, batch, rows, inputs, neurons, outputs):
        x, weights = rng.standard_normal((rows, inputs)).astype(self._dtype), rng.uniform(0.5, 1, rows)
        for loss, activation, make in zip(LOSSES, ("gelu", "relu", "tanh"), OPTIMIZERS[1:], strict=True):
            targets = _targets(rng, loss, rows, outputs, self._dtype)[0]

            def fit(place, loss=loss, activation=activation, make=make, targets=targets):
                layers = [fastbp.Dense(inputs, neurons, activation=activation, dtype=self._dtype, rng=0), fastbp.Dropout(0.1),
                          fastbp.Dense(neurons, outputs, dtype=self._dtype, rng=1)]
                network = fastbp.Sequential(layers, loss, l2=0.01)
                for layer in network.dense:
                    layer.weights, layer.biases = place(layer.weights), place(layer.biases)
                given, optimizer = network.parameters(), make()
                states = optimizer_kernels.STATES[optimizer._kind]
                optimizer.remember([[place(np.zeros((1, p.size), self._dtype)) for _ in range(states)] for p in given])
                with mock.patch.object(session, "empty", lambda shape, dtype: place(np.empty(shape, dtype))):
                    network.fit(place(x), place(targets), epochs=2, batch_size=batch, optimizer=optimizer,
                                sample_weight=place(weights), rng=0, progress=False)
                assert all(a is b for a, b in zip(network.parameters(), given, strict=True)), "parameters were copied"
                return [a.tobytes() for a in (*given, network.predict(place(x)))]

            yield fit

    def _predict(self, rng, rows, *sizes):
        """A network and a frozen one, with x in C order and in Fortran order. All memory but the kernels' own is at walls."""
        x = rng.standard_normal((rows, sizes[0])).astype(self._dtype)

        def predict(place):
            layers = [fastbp.Dense(n, m, activation="relu" if k < len(sizes) - 2 else "identity", dtype=self._dtype,
                                   rng=0) for k, (n, m) in enumerate(itertools.pairwise(sizes))]
            network = fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy())
            for layer in layers:
                layer.weights, layer.biases = place(layer.weights), place(layer.biases + 1)

            def empty(shape, dtype):
                return place(np.zeros(shape, dtype))

            with mock.patch.object(inference, "empty", empty), mock.patch.object(frozen, "empty", empty):
                given, kept = place(x), network.frozen()
                predictors = [inference.Predictor(network._specs(), network.loss), kept._predictor]
                by_columns = place(x.T.copy()).T
                results = [predictor(inputs) for inputs in (given, by_columns) for predictor in predictors]
            assert all(np.array_equal(a, b) for a, b in (results[:2], results[2:])), "a frozen network has other bits"
            return [a.tobytes() for a in results]

        yield predict

    def _jitted(self, rng, inputs, neurons):
        layers = [fastbp.Dense(inputs, neurons, activation="gelu", dtype=self._dtype, rng=0),
                  fastbp.Dense(neurons, 3, dtype=self._dtype, rng=1)]
        network = fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy())
        _, value_and_gradient = network.jitted()
        for rows in (1, 2, 33):
            x, y = oracle.integers(rng, (rows, inputs), self._dtype), rng.integers(0, 3, rows)

            def call(place, x=x, y=y):
                value, gradients = value_and_gradient(tuple(place(p) for p in network.parameters()), place(x), place(y))
                return [value, *(g.tobytes() for g in gradients)]

            yield call


def _targets(rng, loss, rows, outputs, dtype):
    """Return targets in each form that the loss's kernel reads."""
    table = rng.random((rows, outputs)).astype(dtype)
    return [rng.integers(0, outputs, rows), table] if loss is LOSSES[0] else [table]
