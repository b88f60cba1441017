"""Steps of every kind, for other checks. All that a step computes follows from its number, and is returned as a digest."""
import hashlib

import numpy as np

import fastbp
from fastbp.kernels.elementwise.activations import NAMES

BATCHES = (1, 2), (3, 70), (70, 1500), (4096, 9000)     # A batch is drawn from one of these ranges, end excluded.
# The dtypes that steps draw from.
DTYPES = "float32", "float64"
MOST = 1 << 22                  # A product has at most this many multiplications.


def digest(*arrays):
    """Return a digest of the bytes of arrays in C order."""
    return hashlib.blake2b(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays), digest_size=12).hexdigest()


def step(number):
    """Return the digest of all that step `number` computes."""
    rng = np.random.default_rng(number)
    return KINDS[number % len(KINDS)](rng)


def _one(rng, choices):
    """Return a random element. Generator.choice would lose a KeyboardInterrupt that comes within it, one in a thousand here."""
    return choices[rng.integers(len(choices))]


def _shape(rng):
    """Return a random (batch, n_inputs, n_neurons)."""
    batch = int(rng.integers(*_one(rng, BATCHES)))
    most = max(2, min(400, int((MOST / batch) ** 0.5)))
    return batch, *map(int, rng.integers(1, most + 1, 2))


def _operands(rng, dtype=None):
    """Return x, weights, biases and dvalues of a random shape."""
    batch, n_inputs, n_neurons = _shape(rng)
    dtype = dtype or _one(rng, DTYPES)
    return [rng.standard_normal(shape).astype(dtype)
            for shape in ((batch, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (batch, n_neurons))]


# ---- the kinds of steps: each returns a digest


def functions(rng):
    x, w, b, dvalues = _operands(rng)
    y = fastbp.dense_relu_forward(x, w, b)
    return digest(y, fastbp.dense_forward(x, w), *fastbp.dense_relu_backward(dvalues, y, x, w),
                  *fastbp.dense_backward(dvalues, x, w))


def relu(rng):
    dtype = _one(rng, DTYPES)
    z, dvalues = (rng.standard_normal(size).astype(dtype) for size in [int(rng.integers(1, 300_000))] * 2)
    return digest(fastbp.relu_forward(z), fastbp.relu_backward(dvalues, z))


def bfloat16(rng):
    x, w, b, dvalues = _operands(rng, "float32")
    y = fastbp.dense_forward(x, w, b, precision="bfloat16")
    return digest(y, *fastbp.dense_backward(dvalues, x, w, precision="bfloat16"))


def layers(rng):
    """Take three steps of two layers, which write over their results."""
    x, w, _, _ = _operands(rng)
    first = fastbp.Dense(*w.shape, activation=_one(rng, NAMES), dtype=x.dtype, rng=rng)
    last = fastbp.DenseReLU(w.shape[1], 5, dtype=x.dtype, rng=rng)
    for _ in range(3):
        first.backward(last.backward(last.forward(first.forward(x)) - 1))
        for layer in (first, last):
            layer.weights -= x.dtype.type(1e-4) * layer.dweights
    return digest(last.output, first.dinputs, first.weights, first.dbiases, last.weights)


def network(rng, neurons=(4, 60)):
    """Return a Sequential, x, and labels of three classes; neurons: the range of its layers' sizes."""
    n_inputs, first, second = map(int, rng.integers(*neurons, 3))
    dtype = _one(rng, DTYPES)
    layers = [fastbp.Dense(n_inputs, first, activation=_one(rng, NAMES), dtype=dtype, rng=rng), fastbp.Dropout(0.2),
              fastbp.DenseReLU(first, second, dtype=dtype, rng=rng), fastbp.Dense(second, 3, dtype=dtype, rng=rng)]
    x = rng.standard_normal((int(rng.integers(100, 600)), n_inputs)).astype(dtype)
    return fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy(), l2=1e-4), x, rng.integers(0, 3, len(x))


def _fit(rng, neurons, most_rows):
    trained, x, y = network(rng, neurons)
    optimizer = _one(rng, [fastbp.Adam(), fastbp.SGD(0.01, momentum=0.9), fastbp.AdamW()])
    history = trained.fit(x, y, epochs=2, batch_size=int(rng.integers(8, most_rows)), optimizer=optimizer,
                          rng=int(rng.integers(1 << 30)), progress=False)
    return digest(*trained.parameters(), history.loss, trained.predict(x[:50]))


def small_fit(rng):
    """Fit a network so small that two threads take a part of each batch."""
    return _fit(rng, (4, 60), 128)


def large_fit(rng):
    """Fit a network so large that threads share the work within each pass."""
    return _fit(rng, (100, 300), 400)


def predict(rng):
    """Predict up to 10,000 rows, more than go through the layers at once."""
    trained, x, _ = network(rng)
    return digest(trained.predict(np.resize(x, (int(rng.integers(1, 10_000)), x.shape[1]))))


# The kinds of steps: the number of a step chooses one.
KINDS = functions, layers, small_fit, relu, bfloat16, functions, large_fit, layers, predict
