"""The functions inside a user's own compiled code: @njit, prange, a disk cache."""
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.runtime import _nrt_python as runtime
from numba.core.runtime import rtsys
from numpy.testing import assert_array_equal

import fastbp
import oracle

ROOT = Path(__file__).parent.parent
PATIENCE = 300                  # seconds until a process that hangs is given up


@numba.njit
def dense_forward(inputs, weights, biases):
    return fastbp.dense_forward(inputs, weights, biases)


@numba.njit
def dense_backward(dvalues, inputs, weights):
    return fastbp.dense_backward(dvalues, inputs, weights)


@numba.njit
def relu_forward(z):
    return fastbp.relu_forward(z)


@numba.njit
def relu_backward(dvalues, z):
    return fastbp.relu_backward(dvalues, z)


@numba.njit
def dense_relu_forward(inputs, weights, biases):
    return fastbp.dense_relu_forward(inputs, weights, biases)


@numba.njit
def dense_relu_backward(dvalues, output, inputs, weights):
    return fastbp.dense_relu_backward(dvalues, output, inputs, weights)


@numba.njit
def dense_forward_into(inputs, weights, biases, out):
    return fastbp.dense_forward(inputs=inputs, weights=weights, biases=biases, out=out)


@numba.njit
def dense_backward_into(dvalues, inputs, weights, out):
    return fastbp.dense_backward(dvalues=dvalues, inputs=inputs, weights=weights, out=out)


@numba.njit
def relu_forward_into(z, out):
    return fastbp.relu_forward(z=z, out=out)


@numba.njit
def relu_backward_into(dvalues, z, out):
    return fastbp.relu_backward(dvalues=dvalues, z=z, out=out)


@numba.njit
def dense_relu_forward_into(inputs, weights, biases, out):
    return fastbp.dense_relu_forward(inputs=inputs, weights=weights, biases=biases, out=out)


@numba.njit
def dense_relu_backward_into(dvalues, output, inputs, weights, out):
    return fastbp.dense_relu_backward(dvalues=dvalues, output=output, inputs=inputs, weights=weights, out=out)


COMPILED = {name: globals()[name] for name in oracle.ARGUMENTS}
INTO = {name: globals()[f"{name}_into"] for name in oracle.ARGUMENTS}
DENSE = [name for name in oracle.ARGUMENTS if name.startswith("dense")]
FUSED = ["dense_relu_forward", "dense_relu_backward", "relu_backward"]      # the rest are these with less to do

# To compile takes a second for each function and each combination of types: so all six of them for arrays in C order, and
# the fused ones for the rest.
CASES = [*((name, "float32") for name in oracle.ARGUMENTS), *((name, "float64") for name in FUSED)]


def assert_results(results, expected, dtype):
    for result, values in zip(oracle.results(results), expected, strict=True):
        assert result.dtype == dtype
        assert result.shape == values.shape
        assert_array_equal(result, values)


@pytest.mark.parametrize("name, dtype", CASES)
def test_a_batch(rng, dtype, name):
    for shape in ((0, 4, 3), (1, 4, 3), (5, 0, 3), (13, 70, 67), (300, 20, 30), (4200, 5, 6)):
        arguments = oracle.operands(rng, name, *shape, dtype)
        assert_results(COMPILED[name](*arguments.values()), oracle.expected(name, arguments), dtype)


@pytest.mark.parametrize("name", oracle.ARGUMENTS)
def test_out(rng, name):
    dtype = np.float32
    for shape in ((0, 4, 3), (13, 70, 67), (4200, 5, 6)):
        arguments = oracle.operands(rng, name, *shape, dtype)
        expected = oracle.expected(name, arguments)
        out = tuple(np.full(values.shape, np.nan, dtype) for values in expected)
        results = oracle.results(INTO[name](*arguments.values(), out if len(out) > 1 else out[0]))
        assert_results(results, expected, dtype)
        assert_results(out, expected, dtype)
        assert all(np.shares_memory(result, array) or not array.size for result, array in zip(results, out, strict=True))


@pytest.mark.parametrize("name", ["dense_relu_forward", "dense_relu_backward"])
def test_one_sample(rng, name):
    """1-D inputs, biases, dvalues and output."""
    arguments = oracle.operands(rng, name, 1, 40, 30, np.float32)
    samples = [array if argument == "weights" else array[0] for argument, array in arguments.items()]
    assert_results(COMPILED[name](*samples), oracle.expected(name, arguments), np.float32)


@pytest.mark.parametrize("name", FUSED)
def test_any_layout(rng, name):
    """Arrays in Fortran order, and arrays of which Numba knows nothing but strides, some of them negative."""
    arguments = oracle.operands(rng, name, 13, 20, 30, np.float32)
    expected = oracle.expected(name, arguments)
    assert_results(COMPILED[name](*map(np.asfortranarray, arguments.values())), expected, np.float32)
    for steps in ((2, 1), (-1, 1), (-2, -3)):
        views = []
        for array in arguments.values():
            views.append(np.zeros([n * abs(step) for n, step in zip(array.shape, steps, strict=True)], np.float32)
                         [tuple(slice(None, None, step) for step in steps)])
            views[-1][...] = array
        assert_results(INTO[name](*views, _strided_out(expected, steps)), expected, np.float32)


def _strided_out(expected, steps):
    """NaN of the shape of each result, with these steps from element to element."""
    out = tuple(np.full([n * abs(step) for n, step in zip(values.shape, steps, strict=True)], np.nan, np.float32)
                [tuple(slice(None, None, step) for step in steps)] for values in expected)
    return out if len(out) > 1 else out[0]


@numba.njit
def read_only_weights(inputs, weights):
    return fastbp.dense_forward(inputs, weights)


def test_read_only_arrays_and_no_biases(rng, dtype):
    arguments = oracle.operands(rng, "dense_forward", 5, 4, 3, dtype)
    del arguments["biases"]
    for array in arguments.values():
        array.flags.writeable = False
    assert_results(read_only_weights(**arguments), oracle.expected("dense_forward", arguments), dtype)


def test_dtypes_follow_numpys_promotion(rng):
    for inputs, weights, result in (("f4", "f8", "f8"), ("i8", "f4", "f8"), ("i2", "f4", "f4")):
        arguments = oracle.operands(rng, "dense_forward", 5, 4, 3, "i8")
        del arguments["biases"]
        arguments = {"inputs": arguments["inputs"].astype(inputs), "weights": arguments["weights"].astype(weights)}
        assert_results(read_only_weights(**arguments), oracle.expected("dense_forward", arguments), result)


@numba.njit
def some_gradients(dvalues, output, inputs, weights, dweights):
    return fastbp.dense_relu_backward(dvalues, output, inputs, weights, out=(None, dweights, None))


def test_none_in_out_is_a_new_array(rng):
    dtype = np.float32
    arguments = oracle.operands(rng, "dense_relu_backward", 5, 4, 3, dtype)
    dweights = np.full((4, 3), np.nan, dtype)
    results = some_gradients(**arguments, dweights=dweights)
    assert_results(results, oracle.expected("dense_relu_backward", arguments), dtype)
    assert np.shares_memory(results[1], dweights)


@pytest.mark.parametrize("name", DENSE)
def test_out_may_overlap_an_argument(rng, name):
    arguments = oracle.operands(rng, name, 9, 9, 9, np.float32)
    expected = oracle.expected(name, arguments)
    over = arguments["inputs"]
    out = (over, *(np.empty(values.shape, np.float32) for values in expected[1:]))
    assert_results(INTO[name](*arguments.values(), out if len(out) > 1 else over), expected, np.float32)
    assert_array_equal(over, expected[0])


def test_what_is_not_a_number():
    z = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0]])
    assert_array_equal(relu_forward(z), [[np.nan, np.inf, 0, 0, 0, 1, 0]])
    assert_array_equal(relu_backward(np.full(z.shape, np.nan), z), [[np.nan, np.nan, 0, 0, 0, np.nan, 0]])
    _, _, dbiases = dense_relu_backward(np.full(z.shape, np.inf), z, np.ones((1, 1)), np.ones((1, 7)))
    assert_array_equal(dbiases, [[np.inf, np.inf, 0, 0, 0, np.inf, 0]])


WRONG = [("dense_forward", "inputs", (5, 6)), ("dense_forward", "weights", (6, 3)), ("dense_forward", "biases", (1, 4)),
         ("dense_forward", "biases", (1, 1)), ("dense_relu_forward", "inputs", (5, 6)),
         ("dense_relu_forward", "biases", (2, 3)), ("dense_backward", "dvalues", (4, 3)),
         ("dense_backward", "dvalues", (5, 4)), ("dense_backward", "inputs", (5, 6)),
         ("dense_relu_backward", "dvalues", (1, 3)), ("dense_relu_backward", "output", (5, 2)),
         ("dense_relu_backward", "weights", (3, 4)), ("relu_backward", "dvalues", (3, 5)), ("relu_backward", "z", (1, 3))]


@pytest.mark.parametrize("name, argument, shape", WRONG)
def test_shapes_that_do_not_fit(rng, name, argument, shape):
    """As in Python; Numba's exceptions carry no shapes, but the names."""
    arguments = oracle.operands(rng, name, 5, 4, 3, np.float32)
    arguments[argument] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=f"{argument}|expected"):
        COMPILED[name](*arguments.values())


@pytest.mark.parametrize("name", oracle.ARGUMENTS)
def test_out_that_does_not_fit(rng, name):
    arguments = oracle.operands(rng, name, 5, 4, 3, np.float32)
    shapes = [values.shape for values in oracle.expected(name, arguments)]
    for wrong in range(len(shapes)):
        out = tuple(np.full((n + 1, m) if i == wrong else (n, m), 7, np.float32) for i, (n, m) in enumerate(shapes))
        with pytest.raises(ValueError, match="out"):
            INTO[name](*arguments.values(), out if len(out) > 1 else out[0])
        assert all((array == 7).all() for array in out)


@pytest.mark.parametrize("value", [np.zeros((5, 4), np.complex64), "text", 1.0, np.zeros((2, 5, 4), np.float32)])
def test_types_that_do_not_fit(rng, value):
    """Known when the user's function is compiled, and said then."""
    with pytest.raises(numba.TypingError, match="inputs is|inputs has"):
        read_only_weights(value, np.zeros((4, 3), np.float32))


@numba.njit
def steps(count, arguments, y, gradients):
    x, weights, biases, dvalues = arguments
    for _ in range(count):
        fastbp.dense_relu_forward(x, weights, biases, out=y)
        fastbp.dense_relu_backward(dvalues, y, x, weights, out=gradients)
        fastbp.relu_forward(y, out=y)


@pytest.fixture
def allocations():
    """A function that counts the allocations of Numba's runtime so far."""
    enabled = runtime.memsys_stats_enabled()
    runtime.memsys_enable_stats()
    yield lambda: rtsys.get_allocation_stats().alloc
    if not enabled:
        runtime.memsys_disable_stats()


@pytest.mark.parametrize("shape", [(1, 30, 20), (50, 70, 90), (4200, 9, 17)])
def test_nothing_is_allocated_with_out(rng, allocations, shape):
    """Once the first call has made its workspace, 100 steps allocate what 1 step does: what it takes to call `steps`."""
    batch, n_inputs, n_neurons = shape
    arguments = tuple(rng.standard_normal(size, np.float32) for size in
                      ((batch, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (batch, n_neurons)))
    y = np.empty((batch, n_neurons), np.float32)
    gradients = tuple(np.empty(size, np.float32) for size in ((batch, n_inputs), (n_inputs, n_neurons), (1, n_neurons)))

    def count(repetitions):
        before = allocations()
        steps(repetitions, arguments, y, gradients)
        return allocations() - before

    count(1)
    assert count(100) == count(1)


@numba.njit(parallel=True)
def simulate(x, weights, biases, y):
    """Each iteration sends a batch of its own through the network."""
    for i in numba.prange(len(x)):
        fastbp.dense_relu_forward(x[i], weights, biases, out=y[i])


@pytest.mark.parametrize("count, batch", [(200, 1), (6, 4200)])
def test_inside_prange(rng, count, batch):
    """Many samples one by one; and a few batches, each of which is work enough for several threads."""
    fastbp.set_num_threads(2)
    arguments = oracle.operands(rng, "dense_relu_forward", count * batch, 60, 40, np.float32)
    expected, = oracle.expected("dense_relu_forward", arguments)
    y = np.full((count, batch, 40), np.nan, np.float32)
    simulate(arguments["inputs"].reshape(count, batch, 60), arguments["weights"], arguments["biases"], y)
    assert_array_equal(y.reshape(expected.shape), expected)


SIMULATION = """
    import numba, numpy as np, fastbp

    @numba.njit(cache=True)
    def policy(state, weights, biases):
        return fastbp.dense_relu_forward(state, weights, biases)

    @numba.njit(cache=True)
    def train(x, weights, biases):
        y = policy(x, weights, biases)
        dinputs, dweights, dbiases = fastbp.dense_relu_backward(y, y, x, weights)
        return dinputs.sum() + dweights.sum() + dbiases.sum() + fastbp.relu_forward(y).sum()

    x, weights, biases = (np.arange(n * m, dtype=np.float32).reshape(n, m) % 5 - 2 for n, m in ((50, 40), (40, 30), (1, 30)))
    result = train(x, weights, biases)
    print(result, sum(train.stats.cache_hits.values()), sum(train.stats.cache_misses.values()))
"""


def test_a_users_cached_function(tmp_path):
    """The second process loads it from the disk, and gets the same."""
    (tmp_path / "simulation.py").write_text(textwrap.dedent(SIMULATION))
    answers = [run([sys.executable, "simulation.py"], cwd=tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache")).split()
               for _ in range(2)]
    x, weights, biases = (np.arange(n * m).reshape(n, m) % 5 - 2 for n, m in ((50, 40), (40, 30), (1, 30)))
    y = oracle.dense_relu_forward(x, weights, biases)
    expected = sum(array.sum() for array in (*oracle.dense_relu_backward(y, y, x, weights), y))
    assert [float(result) for result, _, _ in answers] == [expected] * 2
    assert [(int(hits), int(misses)) for _, hits, misses in answers] == [(0, 1), (1, 0)]


def run(command, cwd, **environment):
    """What a process prints; it must succeed."""
    answer = subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=PATIENCE, check=False,
                            env=os.environ | environment | {"PYTHONPATH": str(ROOT)})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout
