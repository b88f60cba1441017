"""Optimisers: their steps beside formulas in plain NumPy, their state, and what they refuse."""
import copy
import math
import pickle
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
from fastbp import SGD, Adam, AdamW
from fastbp.kernels.train.optimizers import CHUNK

STEPS = 20
SETTINGS = {
    "SGD": lambda: SGD(0.1),
    "SGD, decay": lambda: SGD(0.1, decay=0.5),
    "momentum": lambda: SGD(0.05, momentum=0.9),
    "momentum 1, decay": lambda: SGD(0.05, momentum=1, decay=1e-2),
    "Nesterov": lambda: SGD(0.05, momentum=0.8, nesterov=True, decay=0.1),
    "Adam": lambda: Adam(),
    "Adam, decay": lambda: Adam(0.02, decay=0.3, beta_1=0.7, beta_2=0.9, epsilon=1e-3),
    "Adam without memory": lambda: Adam(0.02, beta_1=0.0, beta_2=0.0),
    "AdamW": lambda: AdamW(),
    "AdamW, decay": lambda: AdamW(0.02, weight_decay=0.5, decay=0.1, epsilon=1e-4),
}
FORMULAS = {
    "SGD": {"rate": 0.1},
    "SGD, decay": {"rate": 0.1, "decay": 0.5},
    "momentum": {"rate": 0.05, "momentum": 0.9},
    "momentum 1, decay": {"rate": 0.05, "momentum": 1, "decay": 1e-2},
    "Nesterov": {"rate": 0.05, "momentum": 0.8, "nesterov": True, "decay": 0.1},
    "Adam": {"rate": 0.001, "betas": (0.9, 0.999), "epsilon": 1e-8},
    "Adam, decay": {"rate": 0.02, "decay": 0.3, "betas": (0.7, 0.9), "epsilon": 1e-3},
    "Adam without memory": {"rate": 0.02, "betas": (0, 0), "epsilon": 1e-8},
    "AdamW": {"rate": 0.001, "betas": (0.9, 0.999), "epsilon": 1e-8, "weight_decay": 0.01},
    "AdamW, decay": {"rate": 0.02, "decay": 0.1, "betas": (0.9, 0.999), "epsilon": 1e-4, "weight_decay": 0.5},
}
SIZES = (1, 3, 7, 8, 9, 17, 33, 65, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3)


class Formulas:
    """The same in float64, written as the papers have it."""

    def __init__(self, rate, decay=0.0, momentum=0.0, nesterov=False, betas=None, epsilon=0.0, weight_decay=0.0):
        self.rate, self.decay, self.momentum, self.nesterov = rate, decay, momentum, nesterov
        self.betas, self.epsilon, self.weight_decay = betas, epsilon, weight_decay
        self.step, self.memory = 0, {}

    def update(self, parameters, gradients):
        rate = self.rate / (1 + self.decay * self.step)
        self.step += 1
        for i, (w, g) in enumerate(zip(parameters, gradients, strict=True)):
            if self.betas is not None:
                (first, second), (beta_1, beta_2) = self.memory.get(i, (0, 0)), self.betas
                self.memory[i] = first, second = beta_1 * first + (1 - beta_1) * g, beta_2 * second + (1 - beta_2) * g**2
                first, second = first / (1 - beta_1**self.step), second / (1 - beta_2**self.step)
                shrink = rate * self.weight_decay * w if w.ndim == 2 and len(w) > 1 else 0
                w -= rate * first / (np.sqrt(second) + self.epsilon) + shrink
            elif self.momentum:
                self.memory[i] = velocity = self.momentum * self.memory.get(i, 0) - rate * g
                w += self.momentum * velocity - rate * g if self.nesterov else velocity
            else:
                w -= rate * g


def arrays(rng, shapes, dtype):
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def assert_steps(optimizer, formulas, parameters, gradients_of, steps=STEPS):
    """Both take the same steps; `parameters` are changed in place."""
    exact = [w.astype(np.float64) for w in parameters]
    dtype = parameters[0].dtype
    for step in range(steps):
        gradients = gradients_of(step)
        before = [g.tobytes() for g in gradients]
        assert optimizer.update(parameters, gradients) is None
        formulas.update(exact, [g.astype(np.float64) for g in gradients])
        assert [g.tobytes() for g in gradients] == before
    assert optimizer.iterations == formulas.step
    for w, expected in zip(parameters, exact, strict=True):
        assert w.dtype == dtype
        assert_allclose(w, expected, rtol=0, atol=(64 * np.finfo(dtype).eps) * max(1, abs(expected).max(initial=0)))


@pytest.fixture(params=SETTINGS)
def name(request):
    return request.param


@pytest.mark.parametrize("size", SIZES)
def test_steps(rng, dtype, name, size):
    parameters = arrays(rng, [(1, size), (size, 1)], dtype)
    assert_steps(SETTINGS[name](), Formulas(**FORMULAS[name]), parameters, lambda _: arrays(rng, [(1, size), (size, 1)], dtype))


def test_several_arrays(rng, dtype, name):
    """Of any shapes, also none, whose ends are not those of chunks."""
    shapes = [(30, 70), (1, 70), (70, 130), (130, 1), (0, 3), (2, CHUNK), (5,), (1, 1)]
    parameters = arrays(rng, shapes, dtype)
    assert_steps(SETTINGS[name](), Formulas(**FORMULAS[name]), parameters, lambda _: arrays(rng, shapes, dtype))


def strided(a):
    larger = np.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
    larger[::2, ::3] = a
    return larger[::2, ::3]


@pytest.mark.parametrize("layout", [np.asfortranarray, strided, lambda a: a[::-1, ::-1].copy()[::-1, ::-1]],
                         ids=["Fortran", "strided", "reversed"])
def test_layouts(rng, dtype, name, layout):
    """The array itself is changed, and nothing between its elements."""
    plain = arrays(rng, [(30, 70), (5, 3)], dtype)
    parameters = [layout(w.copy()) for w in plain]
    one, other = SETTINGS[name](), SETTINGS[name]()
    for _ in range(3):
        gradients = arrays(rng, [(30, 70), (5, 3)], dtype)
        one.update(plain, gradients)
        other.update(parameters, [layout(g) for g in gradients])
    for w, expected in zip(parameters, plain, strict=True):
        assert_array_equal(w, expected)
        if w.base is not None and w.base.size > w.size:
            assert_array_equal(w.base[1::2], 0)


def test_an_array_without_dimensions(dtype):
    """Is one number."""
    w = np.array(2, dtype)
    SGD(0.5).update([w], [np.array(1, dtype)])
    assert w == 1.5


def test_a_step_changes_the_arrays_themselves(rng, dtype, name):
    w = arrays(rng, [(7, 9)], dtype)[0]
    view, before = w[2:4], w.copy()
    SETTINGS[name]().update([w], [np.ones_like(w)])
    assert (w != before).all()
    assert_array_equal(view, w[2:4])


def test_weight_decay_is_for_weights(rng, dtype):
    """Without a gradient, AdamW makes weights smaller, and leaves biases and Adam's weights as they are."""
    parameters = arrays(rng, [(3, 5), (1, 5), (5,)], dtype)
    before, zeros = [w.copy() for w in parameters], [np.zeros_like(w) for w in parameters]
    AdamW(0.1, weight_decay=0.5).update(parameters, zeros)
    assert_allclose(parameters[0], 0.95 * before[0], rtol=1e-6)
    for w, expected in zip(parameters[1:], before[1:], strict=True):
        assert_array_equal(w, expected)
    Adam(0.1).update(parameters, zeros)
    assert_allclose(parameters[0], 0.95 * before[0], rtol=1e-6)


@pytest.mark.parametrize("size", [1e-15, 1e-10, 1e10])
def test_adam_makes_steps_of_the_learning_rate(dtype, size):
    """Whatever the size of a gradient, as long as epsilon is small beside it: m / sqrt(v) is its sign in the first step."""
    w, g = np.zeros((1, 2), dtype), np.array([[size, -size]], dtype)
    Adam(0.25, epsilon=1e-22).update([w], [g])
    assert_allclose(w, [[-0.25, 0.25]], rtol=1e-5)


def test_what_is_not_finite_stays_where_it_is(dtype, name):
    w, g = np.ones((2, 40), dtype), np.full((2, 40), 0.5, dtype)
    g[1, 7] = np.nan
    SETTINGS[name]().update([w], [g])
    assert np.isnan(w[1, 7])
    assert np.isfinite(w).sum() == w.size - 1


# ---- settings and memory


def test_a_learning_rate_may_be_assigned_between_steps(rng, dtype, name):
    parameters, optimizer, formulas = arrays(rng, [(5, 7)], dtype), SETTINGS[name](), Formulas(**FORMULAS[name])
    for rate in (0.1, 0.01, 0.3):
        optimizer.learning_rate = formulas.rate = rate
        assert optimizer.learning_rate == rate
        assert_steps(optimizer, formulas, parameters, lambda _: arrays(rng, [(5, 7)], dtype), steps=3)
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match=re.escape(f"learning_rate is {wrong!r}, expected a number of 0 or more")):
            optimizer.learning_rate = wrong
    assert optimizer.learning_rate == 0.3


def test_a_learning_rate_of_0(rng, dtype, name):
    """A step of 0 that counts, as in a warm-up: moments go on, and a momentum moves what it moves."""
    assert_steps(SETTINGS[name](), Formulas(**FORMULAS[name]), parameters := arrays(rng, [(5, 7)], dtype),
                 lambda _: arrays(rng, [(5, 7)], dtype), steps=2)
    optimizer, formulas, before = SETTINGS[name](), Formulas(**FORMULAS[name]), [w.copy() for w in parameters]
    optimizer.learning_rate = formulas.rate = 0
    assert optimizer.learning_rate == optimizer.current_learning_rate == 0
    assert_steps(optimizer, formulas, parameters, lambda _: arrays(rng, [(5, 7)], dtype), steps=2)
    assert_array_equal(parameters, before)
    optimizer.learning_rate = formulas.rate = 0.01
    assert_steps(optimizer, formulas, parameters, lambda _: arrays(rng, [(5, 7)], dtype), steps=3)
    optimizer.learning_rate = formulas.rate = 0
    assert_steps(optimizer, formulas, parameters, lambda _: arrays(rng, [(5, 7)], dtype), steps=3)


def test_iterations_and_the_current_learning_rate(dtype):
    optimizer, w = SGD(0.5, decay=0.25), np.zeros((1, 3), dtype)
    for step in range(4):
        assert optimizer.iterations == step
        assert optimizer.current_learning_rate == 0.5 / (1 + 0.25 * step)
        before = w.copy()
        optimizer.update([w], [np.ones_like(w)])
        assert_allclose(before - w, 0.5 / (1 + 0.25 * step), rtol=1e-5)
    assert optimizer.learning_rate == 0.5
    assert repr(optimizer) == "<SGD learning_rate=0.5 iterations=4>"
    optimizer.iterations = 0
    optimizer.update([w], [np.zeros_like(w)])
    assert optimizer.iterations == 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))],
                         ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("steps", [0, 3])
def test_copies_go_on_where_the_optimizer_was(rng, dtype, name, duplicate, steps):
    """And each for itself."""
    shapes = [(200, 100), (1, 100)]
    optimizer, parameters = SETTINGS[name](), arrays(rng, shapes, dtype)
    for _ in range(steps):
        optimizer.update(parameters, arrays(rng, shapes, dtype))
    twin, of_twin = duplicate(optimizer), [w.copy() for w in parameters]
    later = [arrays(rng, shapes, dtype) for _ in range(3)]
    for gradients in later:
        optimizer.update(parameters, gradients)
    assert twin.iterations == steps
    for gradients in later:
        twin.update(of_twin, gradients)
    assert type(twin) is type(optimizer)
    for w, expected in zip(of_twin, parameters, strict=True):
        assert w.tobytes() == expected.tobytes()


def test_an_optimizer_is_of_its_arrays_shapes_not_of_the_arrays(rng, dtype, name):
    """Arrays that are replaced by others, as a layer's may be, change nothing."""
    shapes = [(7, 9), (1, 9)]
    one, other, parameters = SETTINGS[name](), SETTINGS[name](), arrays(rng, shapes, dtype)
    replaced = [w.copy() for w in parameters]
    for _ in range(3):
        gradients = arrays(rng, shapes, dtype)
        one.update(parameters, gradients)
        replaced = [w.copy() for w in replaced]
        other.update(replaced, gradients)
    for w, expected in zip(replaced, parameters, strict=True):
        assert_array_equal(w, expected)


def test_any_number_of_threads(dtype, name):
    found = set()
    for threads in (1, 2, 3):
        fastbp.set_num_threads(threads)
        rng = np.random.default_rng(0)
        shapes = [(700, 301), (1, 301), (301, 10)]
        optimizer, parameters = SETTINGS[name](), arrays(rng, shapes, dtype)
        for _ in range(3):
            optimizer.update(parameters, arrays(rng, shapes, dtype))
        found.add(b"".join(w.tobytes() for w in parameters))
    assert len(found) == 1


def test_it_trains_a_layer(name):
    """Its weights and biases are the parameters, as a layer holds them."""
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((200, 5), np.float32), rng.standard_normal((200, 3), np.float32)
    layer, loss, optimizer = fastbp.Dense(5, 3, rng=0), fastbp.MeanSquaredError(), SETTINGS[name]()
    optimizer.learning_rate, values = 0.01, []
    for _ in range(100):
        value, gradient = loss.value_and_gradient(layer.forward(x), target)
        values.append(value)
        layer.backward(gradient)
        optimizer.update([layer.weights, layer.biases], [layer.dweights, layer.dbiases])
    assert min(values[50:]) < values[0]


# ---- errors


def state_of(optimizer, parameters):
    return pickle.dumps(optimizer), [w.tobytes() for w in parameters]


def test_an_error_changes_nothing(rng, dtype, name):
    optimizer, parameters = SETTINGS[name](), arrays(rng, [(7, 9), (1, 9)], dtype)
    gradients = arrays(rng, [(7, 9), (1, 9)], dtype)
    w, b, (dw, db) = *parameters, gradients
    read_only, other = b.copy(), np.dtype(np.float32 if dtype == np.float64 else np.float64)
    read_only.flags.writeable = False
    wrong = [
        (ValueError, "gradients has 1 arrays, expected 2: as many as parameters", parameters, [dw]),
        (ValueError, "gradients[1] has shape (9,), expected (1, 9): that of its parameters", parameters, [dw, db[0]]),
        (ValueError, "parameters[1] is read-only", [w, read_only], gradients),
        (TypeError, f"gradients[1] is of {other}, expected arrays of one dtype", parameters, [dw, db.astype(other)]),
        (TypeError, f"parameters[1] is of {other}, expected arrays of one dtype", [w, b.astype(other)], gradients),
        (TypeError, "parameters[0] is of int64", [w.astype(np.int64)] * 2, gradients),
        (TypeError, "parameters[0] is of float16", [w.astype(np.float16)] * 2, gradients),
        (TypeError, "parameters[0] is of list", [w.tolist(), b], gradients),
        (TypeError, "gradients[0] is of NoneType", parameters, [None, db]),
        (TypeError, "parameters[1] is of >f", [w, b.astype(b.dtype.newbyteorder(">"))], gradients),
    ]
    of_steps = [
        (ValueError, "expected those of the optimiser's first step", [w], [dw]),
        (ValueError, "expected those of the optimiser's first step", [b, w], [db, dw]),
        (ValueError, f"parameters are {other} (7, 9), {other} (1, 9), expected those of the optimiser's first step, {dtype}",
         [w.astype(other), b.astype(other)], [dw.astype(other), db.astype(other)]),
    ]
    for steps in (0, 2):
        for _ in range(steps):
            optimizer.update(parameters, gradients)
        before = state_of(optimizer, parameters)
        for error, message, values, of_values in wrong + of_steps * (steps > 0):
            with pytest.raises(error, match=re.escape(message)):
                optimizer.update(values, of_values)
            assert state_of(optimizer, parameters) == before, message
    optimizer.update(parameters, gradients)
    assert optimizer.iterations == 3


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
@pytest.mark.parametrize("setting, right, wrong", [
    ("learning_rate", (0, 1e-9, 1, 7, np.float32(0.5)), (-1, np.nan, np.inf)),
    ("decay", (0, 1e-3, 5), (-1e-3, np.nan, np.inf)),
    ("momentum", (0, 0.5, 1), (-0.1, 1.1, np.nan)),
    ("beta_1", (0, 0.999), (-0.1, 1, np.nan)),
    ("beta_2", (0, 0.999), (-0.1, 1, np.nan)),
    ("epsilon", (1e-9, 1), (0, -1, np.nan, np.inf)),
    ("weight_decay", (0, 0.1, 3), (-0.1, np.nan, np.inf))])
def test_settings(kind, setting, right, wrong):
    belongs = {"momentum": [SGD], "beta_1": [Adam, AdamW], "beta_2": [Adam, AdamW], "epsilon": [Adam, AdamW],
               "weight_decay": [AdamW]}.get(setting, [SGD, Adam, AdamW])
    if kind not in belongs:
        with pytest.raises(TypeError, match=setting):
            kind(**{setting: 0.1})
        return
    for value in right:
        kind(**{setting: value})
    for value in wrong:
        with pytest.raises(ValueError, match=re.escape(f"{setting} is {value!r}, expected a number ")):
            kind(**{setting: value})
    for value in ("0.1", b"0.1", "fast", None, [0.1], 1j):
        with pytest.raises(TypeError, match=re.escape(f"{setting} is {value!r}, expected a number ")):
            kind(**{setting: value})


def test_nesterov_needs_a_momentum():
    with pytest.raises(ValueError, match="nesterov is True and momentum is 0, expected a momentum above 0"):
        SGD(nesterov=True)


@pytest.mark.parametrize("scales", [(-9, 8), (-44, 38)], ids=["usual", "extreme"])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-20, 1.0])
def test_adams_ratio_has_the_bits_of_numpys(rng, dtype, scales, epsilon):
    """Roots and ratios are correctly rounded, however they are computed, and signs of zeros and NaNs are as they were."""
    g = (rng.standard_normal((1, 5000)) * 10.0**rng.uniform(*scales, (1, 5000))).astype(dtype)
    g[0, ::7], g[0, 1::70] = 0, -0.0
    if scales[1] > 9:
        g[0, 2::500], g[0, 3::500], g[0, 4::500] = np.inf, -np.inf, np.nan
    w, root = np.zeros_like(g), math.sqrt(1 - 0.999)
    fastbp.Adam(0.001, epsilon=epsilon).update([w], [g])
    with np.errstate(all="ignore"):
        m, square = dtype.type(1 - 0.9) * g, dtype.type(1 - 0.999) * (g * g)
        expected = 0 - m * dtype.type(0.001 * (root / (1 - 0.9))) / (np.sqrt(square) + dtype.type(epsilon * root))
    near = np.abs(m) < 1e-30                            # of numbers as small as these a remainder is subnormal
    assert_array_equal(w[~near], expected[~near])
    assert_allclose(w[near], expected[near], rtol=4 * np.finfo(dtype).eps, atol=1e-37)
