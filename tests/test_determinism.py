"""The same bits on any number of threads, repeatedly, from many Python threads at once, and after a fork."""
import hashlib
import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastbp

# what a shape is there for: (batch, n_inputs, n_neurons)
SHAPES = {
    "one sample": (1, 1000, 900),
    "small": (7, 5, 9),
    "dot products": (30, 400, 300),
    "rows of one task": (300, 200, 100),
    "several tasks": (1500, 130, 70),
    "deep": (450, 800, 200),
    "fused": (4100, 33, 65),
    "fused, all partitions": (20_000, 20, 40),
}
TOO_WIDE_FOR_ONE_PASS = 4100, 540, 500
PATIENCE = 120                  # seconds until a process that hangs is given up


def step_bits(shape, dtype):
    """A digest of all that the functions return for numbers that depend on the shape alone."""
    rng = np.random.default_rng(0)
    batch, n_inputs, n_neurons = shape
    x, w, b, dvalues = (rng.standard_normal(size).astype(dtype)
                        for size in ((batch, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (batch, n_neurons)))
    y = fastbp.dense_relu_forward(x, w, b)
    results = [y, fastbp.dense_forward(x, w), fastbp.relu_forward(dvalues), fastbp.relu_backward(dvalues, y)]
    results += [*fastbp.dense_backward(dvalues, x, w), *fastbp.dense_relu_backward(dvalues, y, x, w)]
    return hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()


def all_bits():
    return [step_bits(shape, dtype) for shape in SHAPES.values() for dtype in (np.float32, np.float64)]


@pytest.mark.parametrize("shape", [*SHAPES.values(), TOO_WIDE_FOR_ONE_PASS], ids=[*SHAPES, "too wide for one pass"])
def test_any_number_of_threads(dtype, shape):
    found = set()
    for threads in (1, 2, 7, 2, 1):
        fastbp.set_num_threads(threads)
        found.add(step_bits(shape, dtype))
    assert len(found) == 1


@pytest.mark.parametrize("shape", [(12, 4800, 20), (4, 3000, 50), (30, 4800, 20), (60, 20, 4800)])
def test_threads_are_at_two_products_of_a_backward_pass_at_once(rng, dtype, shape):
    """The last task of dweights lasts while the first ones of dinputs run: no thread has memory of another's."""
    batch, n_inputs, n_neurons = shape
    x, w, dvalues = (rng.standard_normal(size).astype(dtype)
                     for size in ((batch, n_inputs), (n_inputs, n_neurons), (batch, n_neurons)))
    fastbp.set_num_threads(1)
    expected = [result.tobytes() for result in fastbp.dense_backward(dvalues, x, w)]
    fastbp.set_num_threads(2)
    for _ in range(200):                # one in eleven failed when products shared their scratch memory
        assert [result.tobytes() for result in fastbp.dense_backward(dvalues, x, w)] == expected


def test_python_threads_at_once():
    fastbp.set_num_threads(1)
    expected = all_bits()
    for threads in (1, 2):
        fastbp.set_num_threads(threads)
        with ThreadPoolExecutor(8) as pool:
            assert all(bits == expected for bits in pool.map(lambda _: all_bits(), range(8), timeout=PATIENCE))


def test_layers_of_python_threads_at_once():
    """Each thread trains a network of its own."""
    def train(_):
        rng = np.random.default_rng(0)
        x, layer = rng.standard_normal((300, 40), np.float32), fastbp.DenseReLU(40, 50, rng=1)
        for _ in range(50):
            layer.backward(layer.forward(x))
            layer.weights -= np.float32(1e-4) * layer.dweights
            layer.biases -= np.float32(1e-4) * layer.dbiases
        return layer.weights.tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(train, range(16), timeout=PATIENCE))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_computes_the_same(threads):
    """After its parent has computed on several threads, none of which lives in the child."""
    fastbp.set_num_threads(2)
    expected = all_bits()
    fastbp.set_num_threads(threads)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, "".join(all_bits()).encode())
        finally:
            os._exit(0)                                     # without pytest's own end
    os.close(writing)
    answered, _, _ = select.select([reading], [], [], PATIENCE)
    if not answered:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        bits = pipe.read()
    assert answered, "the child hangs"
    assert status == 0, f"the child ended with status {status}"
    assert bits == "".join(expected)
    assert all_bits() == expected, "the parent no longer computes the same"


@pytest.mark.parametrize("threads", ["1", "2"])
def test_another_process_computes_the_same(threads):
    source = "from test_determinism import *; print(fastbp.get_num_threads(), *all_bits())"
    answer = subprocess.run([sys.executable, "-c", source], cwd=os.path.dirname(__file__), text=True, timeout=PATIENCE,
                            capture_output=True, check=False, env=os.environ | {
                                "FASTBP_NUM_THREADS": threads,
                                "PYTHONPATH": os.path.dirname(os.path.dirname(fastbp.__file__))})
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == [threads, *all_bits()]
