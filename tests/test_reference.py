"""kernels/reference.py: its formulas beside textbooks and compiled kernels, and in place of these with NUMBA_DISABLE_JIT=1."""
import operator
import os
import pickle
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import numba
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import calls
import fastbp
import textbook
from fastbp._compile import compiler
from fastbp._runtime import cpu
from fastbp.kernels import reference
from fastbp.kernels.elementwise.activations import GELU, IDENTITY, NAMES, RELU
from fastbp.kernels.simd.tile import BFLOAT16
from fastbp.kernels.train import losses
from fastbp.kernels.train.optimizers import Settings

ROOT = Path(__file__).parents[1]
WIDE = np.longdouble
NAN, INF = np.nan, np.inf

needs_jit = pytest.mark.skipif(compiler.DISABLED, reason="NUMBA_DISABLE_JIT is 1: there is nothing to compare with")


def run(*command):
    """What a process prints in which Numba's JIT is disabled; it must succeed."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "scripts", ROOT / "tests")))
    answer = subprocess.run([sys.executable, *command], cwd=ROOT, text=True, capture_output=True, timeout=300, check=False,
                            env=os.environ | {"PYTHONPATH": paths, "NUMBA_DISABLE_JIT": "1"})
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


# ---- the formulas


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_the_textbooks(name):
    function, derivative = textbook.ACTIVATIONS[name]
    z, dvalues = np.linspace(-6, 6, 101, dtype=WIDE), np.linspace(1, 2, 101, dtype=WIDE)
    y, s = reference.activated(NAMES.index(name), z)
    assert y.dtype == s.dtype == WIDE
    assert_allclose(y, function(z), rtol=1e-15, atol=1e-16)
    assert_allclose(reference.passed_back(NAMES.index(name), dvalues, s), dvalues * derivative(z), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("name, least", [("identity", -INF), ("relu", 0), ("leaky_relu", -INF), ("sigmoid", 0), ("tanh", -1),
                                         ("gelu", 0)])
def test_activations_at_the_ends(name, least):
    with np.errstate(over="ignore"):
        y, s = reference.activated(NAMES.index(name), np.array([-INF, NAN, -1e9]))
    assert_array_equal(y, [least, NAN, {-INF: y[2]}.get(least, least)])
    assert np.isnan(s[1])


def test_the_rule_of_the_relu():
    z = np.array([2.0, 0.0, -0.0, -2.0, NAN, 1.0, -1.0])
    dvalues = np.array([3.0, 3.0, 3.0, 3.0, 3.0, INF, NAN])
    assert_array_equal(reference.relu(dvalues, z), [3, 0, 0, 0, 3, INF, 0])


def test_a_dense_layer_is_sums_of_products(rng):
    x, w, b, dvalues = (rng.standard_normal(shape).astype(WIDE) for shape in ((3, 4), (4, 5), (1, 5), (3, 5)))
    y, s = reference.dense_forward(x, w, b, RELU)
    z = np.array([[sum(x[i, k] * w[k, j] for k in range(4)) + b[0, j] for j in range(5)] for i in range(3)])
    assert y.dtype == WIDE
    assert_allclose(y, np.maximum(z, 0), rtol=1e-17, atol=1e-18)
    dz = dvalues * (z > 0)
    dinputs, dweights, dbiases = reference.dense_backward(dvalues, s, x, w, RELU)
    assert_allclose(dinputs, [[sum(dz[i, j] * w[k, j] for j in range(5)) for k in range(4)] for i in range(3)], rtol=1e-17,
                    atol=1e-18)
    assert_allclose(dweights, [[sum(x[i, k] * dz[i, j] for i in range(3)) for j in range(5)] for k in range(4)], rtol=1e-17,
                    atol=1e-18)
    assert_allclose(dbiases, [[sum(dz[i, j] for i in range(3)) for j in range(5)]], rtol=1e-17, atol=1e-18)


def test_only_factors_are_rounded():
    x, w, b = np.array([[1 + 2**-9]]), np.array([[1 + 2**-9]]), np.array([[2.0**-9]])
    assert reference.dense_forward(x, w, b, factor=reference.rounded)[0] == 1 + 2**-9
    results = reference.dense_backward(x, None, x, w, factor=reference.rounded)
    assert [a.item() for a in results] == [1, 1, 1 + 2**-9]


def test_rounding_takes_the_nearest_and_of_two_the_even_one():
    below = np.random.default_rng(0).integers(0, 0x7F7F, 1000, np.uint32)                       # of positive finite numbers
    lower, upper = ((bits << 16).view(np.float32).astype(np.float64) for bits in (below, below + 1))
    even = np.where(below % 2, upper, lower)
    for share, expected in ((0.25, lower), (0.5, even), (0.75, upper)):
        between = lower + share * (upper - lower)
        assert_array_equal(reference.rounded(between), expected)
        assert_array_equal(reference.rounded(-between), -expected)
    assert_array_equal(reference.rounded(np.array([NAN, INF, -INF, 3.4e38])), [NAN, INF, -INF, INF])
    assert np.isnan(reference.rounded(np.array([0x7FFFFFFF], np.uint32).view(np.float32)))       # which a carry makes -0


@pytest.mark.parametrize("name, kind", list(zip(textbook.LOSSES, range(len(losses.NAMES)), strict=True)))
def test_losses_are_the_textbooks(rng, name, kind):
    z = rng.standard_normal((20, 3))
    targets = [rng.integers(0, 3, 20)] if kind == losses.SOFTMAX else []
    targets.append(rng.integers(0, 2, (20, 3)) if kind == losses.BINARY else rng.dirichlet([1, 1, 1], 20))
    gradient_factor, loss_factor = getattr(fastbp, name)().factors(3)
    for t in targets:
        values, right, gradient = reference.loss(kind, z, t)
        expected, expected_gradient, expected_right = textbook.LOSSES[name](z, t)
        assert_allclose(values * loss_factor, expected, rtol=1e-13)
        assert_allclose(gradient * gradient_factor, expected_gradient, rtol=1e-13, atol=1e-16)
        share = loss_factor if kind == losses.BINARY else 1
        assert expected_right is None or right.sum() * share == pytest.approx(expected_right)


def test_the_bounds_of_a_loss():
    z, labels, answers = np.array([[9.0, 0.0], [0.0, 0.0], [0.0, 9.0]]), np.zeros(3, int), np.array([[1.0, 0.0]] * 3)
    assert_allclose(reference.loss(losses.SOFTMAX, z, labels, 0.5, 2)[0], [0.5, np.log(2), 2])
    assert_allclose(reference.loss(losses.BINARY, z, answers, 0.5, 2)[0], [0.5 + np.log(2), 2 * np.log(2), np.log(2) + 2])


@pytest.mark.parametrize("name", textbook.OPTIMIZERS)
@pytest.mark.parametrize("decays", [True, False])
def test_steps_are_the_textbooks(rng, name, decays):
    make, update, learning_rate, decay = textbook.OPTIMIZERS[name]
    optimizer, w, state = make(), rng.standard_normal((4, 3)), {}
    expected, v, square = w.copy(), 0.0, 0.0
    for steps in range(5):
        g = np.sin(expected)
        update(expected, g, state, learning_rate / (1 + decay * steps), steps, decays)
        w, v, square = reference.step(optimizer._kind, Settings(*optimizer._settings), steps, decays, w, g, v, square)
        assert_allclose(w, expected, rtol=1e-13)


# ---- in the places of compiled functions


@needs_jit
@pytest.mark.parametrize("dtype", [numba.float32, *[BFLOAT16] * cpu.multiplies_bfloat16(), numba.float64], ids=str)
@pytest.mark.parametrize("activation", NAMES)
def test_beside_the_compiled_passes(rng, dtype, activation):
    from fastbp.kernels import entry

    kind, kept = "float64" if dtype is numba.float64 else "float32", []
    m, k, n = (250, 270, 290) if dtype is BFLOAT16 else (50, 20, 30)         # so many are rounded
    shapes = (m, k), (k, n), (1, n), (m, n)
    x, w, b, dvalues = (rng.standard_normal(shape).astype(kind) for shape in shapes)
    for passes in (entry, reference):
        y, slope, dinputs, dweights, dbiases = (np.full_like(a, NAN) for a in (dvalues, dvalues, x, w, b))
        at, gelu = NAMES.index(activation), activation == "gelu"
        made = fastbp.functional.run(passes.forward(dtype), x, w, b, y, slope, at)
        s = slope if gelu else y
        assert made[0] is y and made[1] is s
        gradients = dinputs, dweights, dbiases
        made = fastbp.functional.run(passes.backward(dtype), dvalues, s if at else None, x, w, *gradients, True, at)
        assert all(map(operator.is_, made, gradients))
        kept.append((y, s, dinputs, dweights, dbiases))
    for values, expected in zip(*kept, strict=True):
        eps = 2**-9 if dtype is BFLOAT16 else np.finfo(kind).eps            # of dz, too, a last bit may be rounded
        assert_allclose(values, expected, rtol=0, atol=16 * eps * abs(expected).max())


class Subclass(np.ndarray):
    """Arrays that are no ndarrays to compiled code."""


def strange(array):
    """Return what compiled code must not take in the place of an array of float64."""
    return [array.tolist(), array.view(Subclass), array.astype("f4"), array.astype(">f8"), array.astype("i8"), array[0],
            array[np.newaxis], np.float64(1), 1.0, "float64", np.float64]


def passes_of(name):
    """Return the passes (forward, backward) of a module, for float64; the kernels that small layers need are bound."""
    module, x, none = import_module(f"fastbp.kernels.{name}"), np.ones((2, 2)), (None, None, None)
    forward, backward = module.forward(numba.float64), module.backward(numba.float64)
    fastbp.functional.run(forward, x, x, None, None, None, RELU)
    fastbp.functional.run(backward, x, x, x, x, *none, True, RELU)
    return forward, backward


MODULES = pytest.mark.parametrize("name", ["reference", pytest.param("entry", marks=needs_jit)])


@MODULES
def test_operands_that_do_not_fit_are_refused_unwritten(name):
    forward, backward = passes_of(name)
    x, w, b, y = np.ones((2, 3)), np.ones((3, 4)), np.ones((1, 4)), np.zeros((2, 4))
    right = x, w, b, y, None, RELU
    wrong = [(0, x[:, :2]), (0, y[:, :3]), (0, None), (1, w[:2]), (1, w[:, :3]), (1, None), (2, b[:, :3]), (2, y[:1]),
             *((k, a) for k in range(3) for a in strange(right[k]))]
    for k, one in wrong:
        assert forward(*right[:k], one, *right[k + 1:]) == reference.REFUSED
    right = y + 1, y, x, w, np.zeros((2, 3)), np.zeros((3, 4)), np.zeros((1, 4)), True, RELU
    wrong = [(0, y[:1]), (0, None), (1, y[:1]), (2, x[:, :2]), (2, None), (3, w[:2]), (3, None),
             (4, x), (4, y[:, :3]), (5, w), (6, y[:1]), *((k, a) for k in range(4) for a in strange(right[k]))]
    for k, one in wrong:
        assert backward(*right[:k], one, *right[k + 1:]) == reference.REFUSED
    assert not y.any() and (x == 1).all() and (w == 1).all() and not any(a.any() for a in right[4:7])


@MODULES
def test_results_are_written_where_they_fit_and_else_made(name):
    forward, backward = passes_of(name)
    x, w, b, dvalues = np.ones((2, 3)), np.ones((3, 4)), np.ones((1, 4)), np.ones((2, 4))
    y, saved = x @ w + b, np.ones((2, 4))
    expected = y, dvalues @ w.T, x.T @ dvalues, np.full((1, 4), 2.0)

    def computed(k, room):
        if k == 0:
            return forward(x, w, b, room, None, RELU)[0]
        rooms = [room if i == k else None for i in (1, 2, 3)]
        return backward(dvalues, saved, x, w, *rooms, True, RELU)[k - 1]

    for k, values in enumerate(expected):
        room, read_only = np.zeros_like(values), np.zeros_like(values)
        assert computed(k, room) is room
        assert_array_equal(room, values)
        read_only.flags.writeable = False
        rooms = [np.zeros((values.shape[0] + 1, values.shape[1])), np.zeros((values.shape[0], values.shape[1] + 1))]
        for room in (None, read_only, *rooms, *strange(np.zeros_like(values))):
            result = computed(k, room)
            assert result is not room and type(result) is np.ndarray and result.flags.carray
            assert result.dtype == np.float64 and result.flags.owndata
            assert_array_equal(result, values)
            assert not isinstance(room, np.ndarray) or not room.any()
    assert backward(dvalues, saved, x, w, room, None, None, False, RELU)[0] is None


@needs_jit
def test_compiled_passes_lose_no_reference_and_keep_none():
    forward, backward = passes_of("entry")
    x, w, b, y, dvalues = np.ones((2, 3)), np.ones((3, 4)), np.ones((1, 4)), np.ones((2, 4)), np.ones((2, 4))
    gradients = [np.ones((2, 3)), np.ones((3, 4)), np.ones((1, 4))]
    watched = [x, w, b, y, dvalues, *gradients, x.dtype, None, np.ndarray]

    def counts():
        return [sys.getrefcount(a) for a in watched]

    before = counts()
    for _ in range(1000):
        forward(x, w, b, y, None, RELU)
        forward(x, w, None, None, None, GELU)
        forward(x, x, None, y, None, RELU)                              # refused
        backward(dvalues, y, x, w, *gradients, True, RELU)
        backward(dvalues, None, x, w, None, None, None, False, IDENTITY)
        backward(dvalues, y, x, x, None, *gradients[1:], True, RELU)    # refused
    assert all(abs(now - then) < 500 for now, then in zip(counts(), before, strict=True))


@needs_jit
def test_passes_take_the_arrays_of_a_pickle(rng):
    forward, _ = passes_of("entry")
    x, w = rng.standard_normal((2, 3)), pickle.loads(pickle.dumps(rng.standard_normal((3, 4))))
    assert x.dtype is not w.dtype
    assert_allclose(forward(x, w, None, None, None, RELU)[0], np.maximum(x @ w, 0), rtol=1e-14)


@needs_jit
def test_interpreted_results_are_the_compiled_ones(tmp_path):
    run("-W", "error", "tests/calls.py", str(tmp_path / "results.npz"))
    expected = calls.results()
    with np.load(tmp_path / "results.npz") as found:
        assert list(found) == list(expected)
        for what, compiled in expected.items():
            values = found[what]
            assert (values.dtype, values.shape) == (compiled.dtype, compiled.shape), what
            is_wide = compiled.dtype == np.float64 and "float32" not in what
            finite = abs(compiled[np.isfinite(compiled)]).max(initial=0)
            assert_allclose(values, compiled, rtol=0, atol=(1e-14 if is_wide else 5e-7) * finite, err_msg=what)


def test_the_tests_of_the_functions_hold():
    """Layouts of `out`, errors, and what is not a number: as they stand."""
    files = [f"tests/test_{name}.py" for name in ("functional", "errors", "semantics", "bfloat16", "jitted")]
    without = "not fit_does and not cache_a_network"                       # which are about compiled code
    assert " passed" in run("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", without, *files)


REFUSED = """
    import copy, pickle, sys
    import numpy as np
    import calls, fastbp
    from numba.core import event

    with event.install_recorder("numba:compile") as recorder:
        network, rng, optimizer = calls.network(), np.random.default_rng(0), fastbp.Adam()
        network.layers[0].weights = network.layers[0].weights.tolist()
        before = [pickle.dumps(a) for a in (network.layers, optimizer, rng)]
        x, y = np.ones((4, calls.INPUTS), "f4"), np.zeros(4, int)
        for name, call in {
                "fit": lambda: network.fit(x, y, epochs=1, batch_size=2, optimizer=optimizer, rng=rng),
                "check_gradients": lambda: network.check_gradients(x, y, rng=rng),
                "profile": lambda: fastbp.profile()}.items():
            try:
                call()
            except RuntimeError as error:
                assert str(error).startswith(f"NUMBA_DISABLE_JIT is 1, expected 0 for {name}: "), error
            else:
                raise AssertionError(name)
        assert [pickle.dumps(a) for a in (network.layers, optimizer, rng)] == before
        fastbp.warmup()
        fastbp.show_config()
    assert not recorder.buffer
"""


def test_what_needs_compiled_code_says_so_and_changes_nothing():
    lines = dict(line.split(maxsplit=1) for line in run("-c", textwrap.dedent(REFUSED)).splitlines())
    assert lines["jit"] == "disabled: NUMBA_DISABLE_JIT is 1, NumPy computes"


def test_scikit_learn_trains_itself():
    code = """
        import numpy as np
        from sklearn.neural_network import MLPClassifier
        from fastbp.sklearn import MLPClassifier as Ours

        x = np.random.default_rng(0).standard_normal((60, 4))
        ours, theirs = (kind((5,), max_iter=9, random_state=0).fit(x, x[:, 0] > 0) for kind in (Ours, MLPClassifier))
        assert all((a == b).all() for a, b in zip(ours.coefs_, theirs.coefs_))
        assert (ours.predict_proba(x) == theirs.predict_proba(x)).all()
    """
    run("-W", "ignore", "-c", textwrap.dedent(code))


@needs_jit
def test_a_switch_that_is_set_later_is_for_the_users_functions(monkeypatch, rng):
    """fastbp goes on with compiled code, also with what it compiles from then on, and gives plain functions to plain ones."""
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    monkeypatch.setattr(compiler.disk_cache, "folder", lambda: None)
    arrays = rng.standard_normal(5), rng.standard_normal(5), np.empty(5)
    build = fastbp.kernels.entry.elementwise.__wrapped__
    assert build(numba.float64)(*arrays) == 0
    assert_array_equal(arrays[2], np.where(arrays[1] <= 0, 0, arrays[0]))
    assert numba.config.DISABLE_JIT == 1
    net = calls.network()
    x, parameters = rng.standard_normal((4, calls.INPUTS)).astype("f4"), tuple(net.parameters())
    assert_array_equal(numba.njit(net.jitted().forward)(parameters, x), net.forward(x))
