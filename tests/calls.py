"""Calls of everything that also computes without compiled code; `python calls.py FILE.npz` writes their results.

test_reference.py runs this file with NUMBA_DISABLE_JIT=1, and calls results() itself for the results of compiled code.
"""
import sys
import warnings

import numba
import numpy as np

import fastbp
import oracle
from fastbp.kernels.elementwise.activations import NAMES

BATCH, INPUTS, NEURONS = 9, 7, 5
DTYPES = "float32", "float64", "float16", "int64"
LAYOUTS = {"Fortran": np.asfortranarray, "reversed": lambda a: a[::-1].copy()[::-1],
           "strided": lambda a: a.repeat(2, 1)[:, ::2]}
LOSSES = {"SoftmaxCrossEntropy": lambda rng: rng.integers(0, 3, BATCH),
          "BinaryCrossEntropy": lambda rng: rng.integers(0, 2, (BATCH, 3)),
          "MeanSquaredError": lambda rng: rng.standard_normal((BATCH, 3))}
OPTIMIZERS = {"SGD": lambda: fastbp.SGD(0.1, decay=0.1), "momentum": lambda: fastbp.SGD(0.1, momentum=0.9),
              "Nesterov": lambda: fastbp.SGD(0.1, momentum=0.9, nesterov=True), "Adam": lambda: fastbp.Adam(0.01),
              "AdamW": lambda: fastbp.AdamW(0.01, weight_decay=0.1, decay=0.1)}


@numba.njit
def into(inputs, weights, biases, out):
    """Call two functions in compiled code, the first with `out` by position."""
    fastbp.dense_relu_forward(inputs, weights, biases, out)
    return fastbp.dense_relu_backward(out, out, inputs, weights)


def numbers(rng, name, dtype):
    """Return arguments of the function `name`: numbers of both signs, and zeros for the ReLU."""
    arguments = oracle.operands(rng, name, BATCH, INPUTS, NEURONS, dtype)
    return {key: (a * rng.uniform(1, 2, a.shape)).astype(dtype) for key, a in arguments.items()}


def results():
    """Make all calls; return {call and number of the result: array}."""
    rng, found = np.random.default_rng(0), {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "precision 'bfloat16' is not faster here")
        for part in (_functions, _layers, _losses, _optimizers, _networks):
            found |= part(rng)
    return {f"{what} {i}": np.asarray(a) for what, arrays in found.items() for i, a in enumerate(arrays) if a is not None}


def _functions(rng):
    found = {}
    for name in oracle.ARGUMENTS:
        function = getattr(fastbp, name)
        for dtype in DTYPES:
            arguments = numbers(rng, name, dtype)
            found[f"{name} {dtype}"] = oracle.results(function(**arguments))
            for argument in arguments:
                mixed = arguments | {argument: arguments[argument].astype("float64")}
                found[f"{name} {dtype}, {argument} float64"] = oracle.results(function(**mixed))
        arguments = numbers(rng, name, "float32")
        for layout, moved in LAYOUTS.items():
            found[f"{name} {layout}"] = oracle.results(function(**{key: moved(a) for key, a in arguments.items()}))
        for value in (np.nan, np.inf, -0.0):
            for argument, a in arguments.items():
                odd = a.copy()
                odd[0, 0] = value
                found[f"{name}, {argument} {value}"] = oracle.results(function(**arguments | {argument: odd}))
        if name.startswith("dense"):
            found[f"{name} bfloat16"] = oracle.results(function(**arguments, precision="bfloat16"))
    arguments = numbers(rng, "dense_relu_forward", "float32")
    out = np.empty((BATCH, NEURONS), "float32")
    found["compiled code"] = *into(*arguments.values(), out), out
    return found


def _layers(rng):
    found, x, dvalues = {}, rng.standard_normal((BATCH, INPUTS)), rng.standard_normal((BATCH, NEURONS))
    for activation in NAMES:
        for dtype, settings in (("float32", {}), ("float64", {"bias": False}), ("float32", {"need_dinputs": False}),
                                ("float32", {"precision": "bfloat16"})):
            layer = fastbp.Dense(INPUTS, NEURONS, activation=activation, dtype=dtype, rng=1, **settings)
            for _ in range(2):                                                          # the second pass uses the same memory
                layer.forward(x.astype(dtype))
                layer.backward(dvalues.astype(dtype))
            found[f"{activation} {dtype} {settings}"] = layer.output, layer.dinputs, layer.dweights, layer.dbiases
    for layer in (fastbp.ReLU(), fastbp.Dropout(0.5, rng=2), fastbp.DenseReLU(INPUTS, INPUTS, rng=3)):
        found[type(layer).__name__] = layer.forward(x), layer.backward(x)
    return found


def _losses(rng):
    scores, weights = 3 * rng.standard_normal((BATCH, 3)), rng.uniform(0, 1, BATCH)
    found = {"softmax": [fastbp.softmax(scores)]}
    for name, targets in LOSSES.items():
        loss, y = getattr(fastbp, name)(), targets(rng)
        for dtype in ("float32", "float64"):
            z = scores.astype(dtype)
            found[f"{name} {dtype}"] = *loss.evaluate(z, y), *loss.value_and_gradient(z, y, weights), loss.predictions(z)
    shares = rng.uniform(0, 1, (BATCH, 3))
    found["shares"] = fastbp.SoftmaxCrossEntropy().evaluate(scores, shares)
    masked, labels = scores.copy(), LOSSES["SoftmaxCrossEntropy"](rng)
    masked[np.arange(BATCH), (labels + 1) % 3] = -np.inf
    found["masked"] = fastbp.SoftmaxCrossEntropy().evaluate(masked, labels)
    return found


def _optimizers(rng):
    found = {}
    for name, make in OPTIMIZERS.items():
        for dtype in ("float32", "float64"):
            optimizer = make()
            parameters = [rng.standard_normal(shape).astype(dtype) for shape in ((4, 3), (1, 3), (2, 2, 2))]
            parameters[0] = np.asfortranarray(parameters[0])
            for _ in range(3):
                optimizer.update(parameters, [np.sin(a) for a in parameters])
            found[f"{name} {dtype}"] = *parameters, optimizer.iterations, optimizer.current_learning_rate
    return found


def network(dtype="float32", loss=None):
    return fastbp.Sequential([fastbp.Dense(INPUTS, NEURONS, activation="gelu", dtype=dtype, rng=1), fastbp.Dropout(0.5),
                              fastbp.Dense(NEURONS, 4, dtype=dtype, rng=2, bias=False), fastbp.ReLU(),
                              fastbp.Dense(4, 3, dtype=dtype, rng=3)], loss or fastbp.SoftmaxCrossEntropy(), l2=0.1)


def _networks(rng):
    found = {}
    for dtype in ("float32", "float64"):
        x, y, net = rng.standard_normal((BATCH, INPUTS)).astype(dtype), rng.integers(0, 3, BATCH), network(dtype)
        value, gradient = net.loss.value_and_gradient(net.forward(x), y)
        found[f"network {dtype}"] = value, net.backward(gradient), *net.gradients(), net.predict(x), *net.evaluate(x, y)
    forward, value_and_gradient = net.jitted()
    parameters = tuple(net.parameters())
    value, gradients = value_and_gradient(parameters, x, y)
    found["jitted"] = forward(parameters, x), value, *gradients
    return found


if __name__ == "__main__":
    np.savez(sys.argv[1], **results())
