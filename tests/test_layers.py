"""The attributes of a layer: what it keeps, when it changes them, and what it leaves to the caller."""
import copy
import pickle
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
import oracle
from fastbp import layers

RESULTS = ("inputs", "output", "dinputs", "dweights", "dbiases")


@pytest.fixture(params=[fastbp.Dense, fastbp.DenseReLU])
def layer_type(request):
    return request.param


def forward_of(layer):
    """The function's name that `layer.forward` stands for."""
    return "dense_relu_forward" if isinstance(layer, fastbp.DenseReLU) else "dense_forward"


def integer_layer(rng, layer_type, n_inputs, n_neurons, dtype, **options):
    layer = layer_type(n_inputs, n_neurons, dtype=dtype, **options)
    layer.weights = oracle.integers(rng, layer.weights.shape, dtype)
    if layer.biases is not None:
        layer.biases = oracle.integers(rng, layer.biases.shape, dtype)
    return layer


def expected_output(layer, x):
    return oracle.expected(forward_of(layer), {"inputs": x, "weights": layer.weights, "biases": layer.biases})[0]


def expected_gradients(layer, dvalues, x):
    if isinstance(layer, fastbp.DenseReLU):
        dvalues = oracle.relu_backward(np.atleast_2d(dvalues), expected_output(layer, x))
    return oracle.dense_backward(dvalues, x, layer.weights)


@pytest.mark.parametrize("make, drops", [
    (lambda: fastbp.Dense(4, 4, activation="gelu", rng=0), False), (lambda: fastbp.DenseReLU(4, 4, rng=0), False),
    (fastbp.ReLU, False), (lambda: fastbp.Dropout(0.5, rng=0), True)])
def test_every_layer_runs_in_one_way(rng, make, drops):
    x = rng.standard_normal((32, 4)).astype("f4")
    layer, in_training, by_default = make(), make().forward(x, training=True), make().forward(x)
    output = layer.forward(x, training=False)
    assert (output is x) == drops
    assert np.array_equal(output, in_training) != drops
    assert_array_equal(by_default, in_training)             # a Dropout drops unless it is told not to
    assert layer.backward(x).shape == x.shape


def test_a_new_layer(layer_type, dtype):
    layer = layer_type(4, 3, dtype=dtype)
    assert [getattr(layer, name) for name in RESULTS] == [None] * 5
    assert layer.weights.shape == (4, 3)
    assert layer.weights.dtype == layer.biases.dtype == dtype
    assert_array_equal(layer.biases, np.zeros((1, 3)), strict=False)
    assert layer_type(4, 3).weights.dtype == np.float32
    relu = fastbp.ReLU()
    assert relu.inputs is relu.output is relu.dinputs is None


def test_initial_weights_are_those_of_he(layer_type):
    """Normal, of mean 0 and variance 2 / n_inputs: 5 standard errors of either are far off."""
    weights = layer_type(800, 500, rng=0).weights.astype(np.float64)
    deviation = np.sqrt(2 / 800)
    assert abs(weights.mean()) < 5 * deviation / np.sqrt(weights.size)
    assert abs(weights.std() - deviation) < 5 * deviation / np.sqrt(2 * weights.size)
    assert abs((abs(weights) < deviation).mean() - 0.6827) < 5 * np.sqrt(0.6827 * 0.3173 / weights.size)


def test_initial_weights_are_reproducible(layer_type, dtype):
    weights = layer_type(5, 6, dtype=dtype, rng=3).weights
    assert_array_equal(layer_type(5, 6, dtype=dtype, rng=3).weights, weights)
    assert_array_equal(layer_type(5, 6, dtype=dtype, rng=np.random.default_rng(3)).weights, weights)
    assert not np.array_equal(layer_type(5, 6, dtype=dtype, rng=4).weights, weights)
    assert not np.array_equal(layer_type(5, 6).weights, layer_type(5, 6).weights)
    generator = np.random.default_rng(3)
    assert not np.array_equal(layer_type(5, 6, rng=generator).weights, layer_type(5, 6, rng=generator).weights)


def test_numpys_global_generator_is_left_alone(layer_type):
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    layer_type(5, 6, rng=1)
    assert np.random.rand() == expected


@pytest.mark.parametrize("batch", [0, 1, 7, 300, 4200])
def test_a_step(rng, layer_type, dtype, batch):
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x, dvalues = oracle.integers(rng, (batch, 5), dtype), oracle.integers(rng, (batch, 9), dtype)
    y = layer.forward(x)
    assert y is layer.output
    assert y.dtype == dtype
    assert_array_equal(y, expected_output(layer, x))
    assert_array_equal(layer.inputs, x)
    assert layer.dinputs is layer.dweights is layer.dbiases is None
    assert layer.backward(dvalues) is layer.dinputs
    for name, values in zip(("dinputs", "dweights", "dbiases"), expected_gradients(layer, dvalues, x), strict=True):
        assert getattr(layer, name).dtype == dtype
        assert_array_equal(getattr(layer, name), values, name)
        assert getattr(layer, name).shape == values.shape


def test_relu_layer(rng, dtype):
    layer = fastbp.ReLU()
    z, dvalues = oracle.integers(rng, (3, 4, 5), dtype), oracle.integers(rng, (3, 4, 5), dtype)
    assert layer.forward(z) is layer.output
    assert_array_equal(layer.output, oracle.relu_forward(z))
    assert layer.backward(dvalues) is layer.dinputs
    assert_array_equal(layer.dinputs, oracle.relu_backward(dvalues, z))
    out = np.full_like(z, np.nan)
    assert layer.forward(-z, out=out) is out is layer.output
    assert_array_equal(out, oracle.relu_forward(-z))


def test_one_sample(rng, layer_type, dtype):
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x, dvalues = oracle.integers(rng, 5, dtype), oracle.integers(rng, 9, dtype)
    assert layer.forward(x).shape == (1, 9)
    assert_array_equal(layer.output, expected_output(layer, x))
    layer.backward(dvalues)
    for name, values in zip(("dinputs", "dweights", "dbiases"), expected_gradients(layer, dvalues, x), strict=True):
        assert getattr(layer, name).shape == values.shape
        assert_array_equal(getattr(layer, name), values, name)


def test_parameters_may_change_at_any_time(rng, layer_type, dtype):
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x, dvalues = oracle.integers(rng, (7, 5), dtype), oracle.integers(rng, (7, 9), dtype)

    def in_place():
        layer.weights *= 2
        layer.biases[0, 3] -= 5

    def assigned():
        layer.weights = oracle.integers(rng, (5, 9), dtype)
        layer.biases = oracle.integers(rng, (1, 9), dtype)

    def as_a_vector():
        layer.biases = oracle.integers(rng, 9, dtype)

    def in_fortran_order():
        layer.weights = np.asfortranarray(oracle.integers(rng, (5, 9), dtype))

    def of_another_width():
        layer.weights, layer.biases = oracle.integers(rng, (5, 9), dtype) * 2, np.zeros((1, 9), dtype)

    for change in (in_place, assigned, as_a_vector, in_fortran_order, of_another_width):
        change()
        assert_array_equal(layer.forward(x), expected_output(layer, x), change.__name__)
        layer.backward(dvalues)
        for name, values in zip(("dinputs", "dweights", "dbiases"), expected_gradients(layer, dvalues, x), strict=True):
            values = values.reshape(layer.biases.shape) if name == "dbiases" else values
            assert getattr(layer, name).shape == values.shape
            assert_array_equal(getattr(layer, name), values, f"{change.__name__} {name}")


def test_backward_uses_the_weights_of_its_own_time(rng, layer_type, dtype):
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x, dvalues = oracle.integers(rng, (7, 5), dtype), oracle.integers(rng, (7, 9), dtype)
    gradients = expected_gradients(layer, dvalues, x)
    layer.forward(x)
    layer.weights = layer.weights * 2
    assert_array_equal(layer.backward(dvalues), 2 * gradients[0])


def test_assigned_parameters_are_not_copied_or_changed(rng, layer_type, dtype):
    layer = layer_type(5, 9, dtype=dtype)
    weights = oracle.integers(rng, (5, 9), dtype)
    layer.weights = weights
    assert layer.weights is weights
    weights += 1
    x = oracle.integers(rng, (7, 5), dtype)
    layer.biases = oracle.integers(rng, (1, 9), dtype)
    before = weights.copy(), layer.biases.copy()
    assert_array_equal(layer.forward(x), expected_output(layer, x))
    layer.backward(layer.output)
    assert_array_equal(weights, before[0])
    assert_array_equal(layer.biases, before[1])


@pytest.mark.parametrize("batch", [7, 4200])
def test_backward_uses_the_inputs_of_the_last_forward(rng, layer_type, dtype, batch):
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x, later = oracle.integers(rng, (batch, 5), dtype), oracle.integers(rng, (batch - 1, 5), dtype)
    dvalues = oracle.integers(rng, (batch, 9), dtype)
    layer.forward(x)
    layer.backward(dvalues)
    layer.forward(later)
    layer.backward(dvalues[1:])
    for name, values in zip(("dinputs", "dweights", "dbiases"), expected_gradients(layer, dvalues[1:], later), strict=True):
        assert_array_equal(getattr(layer, name), values, name)


def test_no_dinputs(rng, layer_type, dtype):
    layer = integer_layer(rng, layer_type, 5, 9, dtype, need_dinputs=False)
    for batch in (7, 4200):
        x, dvalues = oracle.integers(rng, (batch, 5), dtype), oracle.integers(rng, (batch, 9), dtype)
        layer.forward(x)
        assert layer.backward(dvalues) is None
        assert layer.dinputs is None
        _, dweights, dbiases = expected_gradients(layer, dvalues, x)
        assert_array_equal(layer.dweights, dweights)
        assert_array_equal(layer.dbiases, dbiases)


def test_no_bias(rng, layer_type, dtype):
    layer = integer_layer(rng, layer_type, 5, 9, dtype, bias=False)
    x, dvalues = oracle.integers(rng, (7, 5), dtype), oracle.integers(rng, (7, 9), dtype)
    assert_array_equal(layer.forward(x), expected_output(layer, x))
    assert layer.biases is None
    assert_array_equal(layer.backward(dvalues), expected_gradients(layer, dvalues, x)[0])
    assert_array_equal(layer.dweights, expected_gradients(layer, dvalues, x)[1])
    assert layer.dbiases is None


def test_out(rng, layer_type, dtype):
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x, out = oracle.integers(rng, (7, 5), dtype), np.full((7, 9), np.nan, dtype)
    assert layer.forward(x, out=out) is out is layer.output
    assert_array_equal(out, expected_output(layer, x))
    again = np.full((7, 9), np.nan, dtype)
    assert layer.forward(-x, again) is again
    assert_array_equal(out, expected_output(layer, x))


@pytest.mark.parametrize("batch", [1, 7, 300, 4200])
def test_results_that_are_held_are_not_overwritten(rng, layer_type, dtype, batch):
    """By name, in a view, or in another layer: whoever holds a result of a step keeps it."""
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    kept, expected, views, tops = [], [], [], []
    for _ in range(4):
        x, dvalues = oracle.integers(rng, (batch, 5), dtype), oracle.integers(rng, (batch, 9), dtype)
        kept.append((layer.forward(x), layer.backward(dvalues), layer.dweights, layer.dbiases))
        expected.append((expected_output(layer, x), *expected_gradients(layer, dvalues, x)))
    for results, values in zip(kept, expected, strict=True):
        for result, exact in zip(results, values, strict=True):
            assert_array_equal(result, exact)
    del kept, results, result
    expected.clear()
    for _ in range(4):
        x = oracle.integers(rng, (batch, 5), dtype)
        views.append(layer.forward(x)[:, ::2].T)            # holds the result through a view of a view
        expected.append(expected_output(layer, x))
        tops.append(fastbp.ReLU())
        tops[-1].forward(layer.output)                      # holds it as its inputs
    for view, top, exact in zip(views, tops, expected, strict=True):
        assert_array_equal(view.T, exact[:, ::2])
        assert_array_equal(top.inputs, exact)
        assert_array_equal(top.backward(np.ones((batch, 9), dtype)), exact > 0)


@pytest.mark.parametrize("name", ["output", "dinputs", "dweights", "dbiases"])
@pytest.mark.parametrize("n_inputs, n_neurons", [(5, 9), (130, 150)], ids=["small", "large"])
def test_a_view_alone_holds_a_result(rng, layer_type, dtype, name, n_inputs, n_neurons):
    """Large results lie in memory of their own making, of which NumPy must not take a view for one."""
    layer = integer_layer(rng, layer_type, n_inputs, n_neurons, dtype)
    x, dvalues = oracle.integers(rng, (200, n_inputs), dtype), oracle.integers(rng, (200, n_neurons), dtype)
    layer.forward(x)
    layer.backward(dvalues)
    view = getattr(layer, name)[:, 1:4]
    values = view.copy()
    for _ in range(3):
        layer.forward(x + 1)
        layer.backward(dvalues + 1)
    assert_array_equal(view, values)


@pytest.mark.parametrize("name", ["output", "dinputs", "dweights", "dbiases"])
def test_a_result_is_the_holders_even_if_the_layer_lets_go_of_it(rng, layer_type, dtype, name):
    """As in `grads = layer.dweights; layer.dweights = None`."""
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x, dvalues = oracle.integers(rng, (7, 5), dtype), oracle.integers(rng, (7, 9), dtype)
    layer.forward(x)
    layer.backward(dvalues)
    held = getattr(layer, name)
    values = held.copy()
    setattr(layer, name, None)
    layer.forward(x + 1)
    layer.backward(dvalues + 1)
    assert_array_equal(held, values)


def test_results_that_nobody_holds_are_reused(rng, layer_type, dtype):
    """A training loop allocates nothing: the arrays of the last step are those of the next."""
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x = oracle.integers(rng, (7, 5), dtype)
    layer.backward(layer.forward(x).copy())
    names = ("output", "dinputs", "dweights", "dbiases")
    references = [weakref.ref(getattr(layer, name)) for name in names]
    layer.backward(layer.forward(-x).copy())
    assert all(reference() is getattr(layer, name) for reference, name in zip(references, names, strict=True))


def test_results_that_nobody_holds_leave_no_trace(rng, layer_type, dtype):
    """A step of the same shape that reuses memory must not see what was in it."""
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    for batch in (7, 7, 7, 3, 3, 7, 0, 7):
        x, dvalues = oracle.integers(rng, (batch, 5), dtype), oracle.integers(rng, (batch, 9), dtype)
        assert_array_equal(layer.forward(x), expected_output(layer, x))
        assert_array_equal(layer.backward(dvalues), expected_gradients(layer, dvalues, x)[0])
        assert_array_equal(layer.dweights, expected_gradients(layer, dvalues, x)[1])
        for array in (layer.output, layer.dinputs, layer.dweights, layer.dbiases):
            array[...] = np.nan
        del array


def test_a_network_allocates_nothing_in_the_steady_state(rng, layer_type):
    """The upper layer holds the lower one's last output, as its inputs, while the lower one computes the next."""
    lower, upper = layer_type(8, 64, rng=rng), layer_type(64, 32, rng=rng)
    x, dvalues = np.ones((512, 8), np.float32), np.ones((512, 32), np.float32)

    def step():
        upper.forward(lower.forward(x))
        lower.backward(upper.backward(dvalues))

    for _ in range(3):
        step()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(3):
        step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < min(a.nbytes for a in (lower.output, lower.dinputs, upper.output, upper.dinputs)) // 2


def test_a_layer_fed_with_its_own_output(rng, layer_type, dtype):
    layer = integer_layer(rng, layer_type, 5, 5, dtype)
    layer.weights = np.sign(layer.weights)
    x = oracle.integers(rng, (7, 5), dtype)
    for _ in range(4):
        expected = expected_output(layer, x)
        x_before = x.copy()
        y = layer.forward(x)
        assert_array_equal(y, expected)
        assert_array_equal(layer.inputs, x_before)
        x = y
        del y


def test_two_layers_against_the_oracle(rng, dtype):
    first, last = integer_layer(rng, fastbp.DenseReLU, 20, 30, dtype), integer_layer(rng, fastbp.Dense, 30, 10, dtype)
    x, dvalues = oracle.integers(rng, (65, 20), dtype), oracle.integers(rng, (65, 10), dtype)
    hidden = expected_output(first, x)
    assert_array_equal(last.forward(first.forward(x)), expected_output(last, hidden))
    dhidden, dweights, dbiases = expected_gradients(last, dvalues, hidden)
    dinputs = first.backward(last.backward(dvalues))
    assert_array_equal(last.dweights, dweights)
    assert_array_equal(last.dbiases, dbiases)
    for result, values in zip((dinputs, first.dweights, first.dbiases), expected_gradients(first, dhidden, x), strict=True):
        assert_array_equal(result, values)


def state_of(layer):
    """Which object each attribute is, and its bits; this holds none of them, so that the layer may reuse its results."""
    values = {name: getattr(layer, name) for name in ("weights", "biases", *RESULTS)}
    return {name: (id(value), None if value is None else value.tobytes()) for name, value in values.items()}


@pytest.mark.parametrize("steps", [0, 1])
def test_a_failed_call_leaves_the_layer_as_it_was(rng, layer_type, dtype, steps):
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x, dvalues = oracle.integers(rng, (7, 5), dtype), oracle.integers(rng, (7, 9), dtype)
    for _ in range(steps):
        layer.forward(x)
        layer.backward(dvalues)
    before = state_of(layer)
    for wrong in (lambda: layer.forward(x[:, :-1]), lambda: layer.forward(x * 1j), lambda: layer.forward(None),
                  lambda: layer.forward(-x, out=np.zeros((7, 8), dtype)), lambda: layer.forward(-x, out=[1]),
                  lambda: layer.forward(-x[:3], out=layer.weights),
                  lambda: layer.backward(np.ones((7, 8), dtype)), lambda: layer.backward(np.ones((6, 9), dtype)),
                  lambda: layer.backward(np.full((7, 9), "1")), lambda: layer.backward(None)):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            wrong()
        assert state_of(layer) == before
    if steps:
        layer.backward(dvalues)
        for name, values in zip(("dinputs", "dweights", "dbiases"), expected_gradients(layer, dvalues, x), strict=True):
            assert_array_equal(getattr(layer, name), values)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("steps", [0, 1])
def test_copies_are_independent(rng, layer_type, dtype, duplicate, steps):
    layer = integer_layer(rng, layer_type, 5, 9, dtype)
    x, dvalues = oracle.integers(rng, (7, 5), dtype), oracle.integers(rng, (7, 9), dtype)
    for _ in range(steps):
        layer.forward(x)
    twin = duplicate(layer)
    weights = layer.weights.copy()
    assert not np.shares_memory(twin.weights, layer.weights)
    layer.weights += 1
    layer.forward(-x)
    assert_array_equal(twin.weights, weights)
    if not steps:
        assert twin.output is None
        twin.forward(x)
    twin.backward(dvalues)
    for name, values in zip(("dinputs", "dweights", "dbiases"), expected_gradients(twin, dvalues, x), strict=True):
        assert_array_equal(getattr(twin, name), values, name)


def test_copies_of_a_relu(dtype):
    layer = fastbp.ReLU()
    layer.forward(np.array([1, -1], dtype))
    assert_array_equal(pickle.loads(pickle.dumps(layer)).backward(np.array([5, 5], dtype)), [5, 0])


def test_training_lowers_the_loss(rng, layer_type):
    """A layer learns the weights of another from its outputs."""
    teacher, student = (layer_type(8, 4, dtype=np.float64, rng=seed, need_dinputs=False) for seed in (1, 2))
    x = rng.standard_normal((200, 8))
    target = teacher.forward(x)
    losses = []
    for _ in range(300):
        difference = student.forward(x) - target
        losses.append((difference**2).mean())
        student.backward(difference / len(x))
        student.weights -= 0.3 * student.dweights
        student.biases -= 0.3 * student.dbiases
    assert losses[-1] < 1e-3 * losses[0]
    assert_allclose(student.weights, teacher.weights, atol=0.1)


def test_gradients_that_are_no_longer_asked_for_are_not_kept(rng, layer_type, dtype):
    layer, x, dvalues = integer_layer(rng, layer_type, 5, 9, dtype), *(np.ones((7, n), dtype) for n in (5, 9))
    layer.forward(x)
    assert layer.backward(dvalues) is not None
    layer.need_dinputs = False
    assert layer.backward(dvalues) is None is layer.dinputs
    layer.biases = None
    layer.backward(dvalues)
    assert layer.dbiases is None
    layer.need_dinputs, layer.biases = True, np.zeros(9, dtype)
    assert layer.backward(dvalues).shape == (7, 5) and layer.dbiases.shape == (9,)


def test_results_that_are_held_stay_as_they_are_under_a_debugger(rng):
    """A tracer that looks at local variables holds what they hold, when fastbp is imported and later."""
    def trace(frame, event, argument):
        _ = frame.f_locals
        return trace

    before, layer, x = sys.gettrace(), fastbp.Dense(5, 9, activation="gelu", rng=0), rng.standard_normal((2, 7, 5), np.float32)
    sys.settrace(trace)
    try:
        assert layers._Holder().references() == layers._HELD_ONCE
        held = layer.forward(x[0])
        kept = held.copy()
        layer.forward(x[1])
        layer.forward(x[1])
    finally:
        sys.settrace(before)
    assert_array_equal(held, kept)


@pytest.mark.parametrize("array", [np.ma.masked_array(np.ones((7, 5)), np.eye(7, 5)), [np.ma.masked_array(np.ones(5))] * 7])
def test_masked_arrays_are_refused(array, layer_type):
    layer = layer_type(5, 9, dtype=np.float64)
    for call in (layer.forward, fastbp.ReLU().forward, fastbp.Dropout(0.5).forward, fastbp.softmax, fastbp.relu_forward,
                 lambda x: fastbp.dense_forward(x, layer.weights), lambda x: fastbp.dense_forward(np.ones((3, 7)), x),
                 lambda x: fastbp.dense_relu_backward(np.ones((7, 9)), np.ones((7, 9)), x, layer.weights)):
        with pytest.raises(TypeError, match="is a masked array, expected one without a mask"):
            call(array)
    assert layer.output is None


def test_lists_may_stand_for_weights_and_biases(layer_type):
    layer = layer_type(2, 3, rng=0)
    layer.weights, layer.biases = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [0.0, 1.0, 2.0]
    assert_array_equal(layer.forward([[1.0, 1.0]]), [[5.0, 8.0, 11.0]])
    assert_array_equal(layer.backward([[1.0, 1.0, 1.0]]), [[6.0, 15.0]])
    assert_array_equal(layer.dbiases, [1.0, 1.0, 1.0])


@pytest.mark.parametrize("rate", [-0.01, 1, 1.5, float("nan"), float("inf"), "0.1", None])
def test_the_rate_of_a_dropout_is_checked_when_it_is_assigned(rate):
    layer = fastbp.Dropout(0.5)
    with pytest.raises(ValueError, match="rate is .*, expected a number from 0 and below 1"):
        layer.rate = rate
    layer.rate = 0.25
    assert layer.rate == 0.25
