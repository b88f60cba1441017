"""fastbp.sklearn beside scikit-learn's own classes: scikit-learn's tests, and the same fits with the same seed in both."""
import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

pytest.importorskip("sklearn", reason="scikit-learn is in the extra 'sklearn'")

import sklearn
from scipy import sparse
from sklearn.utils.estimator_checks import check_estimator

from sklearn_pairs import NAMES, ROWS, SOLVERS, assert_alike, assert_predict_alike, both, data, ours, pair

UNTIL_THE_END = dict(max_iter=60, tol=0, n_iter_no_change=np.inf)


def test_scikit_learns_own_tests(tmp_path, capsys):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")              # and not that of a project around scikit-learn
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    path = [Path(__file__).parent, Path(ours.__file__).parents[2], *filter(None, [environment.get("PYTHONPATH")])]
    run = subprocess.run([sys.executable, "-m", "pytest", "-c", "pytest.ini", "--rootdir", tmp_path, "-rs", "-p",
                          "no:cacheprovider", "-p", "in_sklearns_place", "--pyargs", "sklearn.neural_network.tests.test_mlp"],
                         cwd=tmp_path, env=environment | {"PYTHONPATH": os.pathsep.join(map(str, path))}, text=True,
                         capture_output=True)
    closing = run.stdout.rstrip().rpartition("\n")[2]
    with capsys.disabled():
        print(f"\nscikit-learn {sklearn.__version__}: {closing}")
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.fullmatch(r"=+ \d+ passed(, \d+ warnings?)? in .*", closing), run.stdout      # none was skipped
    assert int(re.search(r"compiled epochs: (\d+)", run.stdout)[1]) > 1000


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ours.__all__)
def test_check_estimator(name):
    results = check_estimator(getattr(ours, name)(max_iter=100), on_fail=None, on_skip=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert len(results) > 50
    assert not failed


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", NAMES)
def test_a_fit_is_scikit_learns(task, solver, epochs):
    x, y = data(task)
    estimators = pair(task, **SOLVERS[solver])
    both(estimators, "fit", x, y)
    assert len(epochs) == 5
    assert_alike(*estimators)
    assert_predict_alike(estimators, x)
    assert estimators[0].score(x, y) == pytest.approx(estimators[1].score(x, y))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_a_long_fit_ends_like_scikit_learns(task, solver):
    estimators = pair(task, **UNTIL_THE_END | SOLVERS[solver])
    both(estimators, "fit", *data(task))
    assert estimators[0].n_iter_ == estimators[1].n_iter_ > 10
    assert estimators[0].loss_ == pytest.approx(estimators[1].loss_, rel=0.02)


@pytest.mark.parametrize("sizes", [(), 4, (8, 130, 3)])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_activations_and_sizes(activation, solver, sizes):
    x, y = data("classes")
    estimators = pair("classes", activation=activation, solver=solver, hidden_layer_sizes=sizes)
    both(estimators, "fit", x, y)
    assert_alike(*estimators)
    assert_predict_alike(estimators, x)


@pytest.mark.parametrize("parameters", [
    dict(shuffle=False), dict(batch_size=1), dict(batch_size=ROWS), dict(batch_size=ROWS + 1), dict(batch_size="auto"),
    dict(batch_size=np.int32(30)), dict(max_iter=40, early_stopping=True, n_iter_no_change=3), dict(alpha=0),
    dict(early_stopping=True, shuffle=False), dict(early_stopping=True, validation_fraction=0.01),
    dict(max_iter=100, tol=0.05, n_iter_no_change=2), dict(random_state=np.random.RandomState(8)), dict(alpha=5.0),
    dict(solver="sgd", learning_rate="invscaling", learning_rate_init=1e-300, power_t=20), dict(loss="poisson"),
], ids=lambda parameters: re.sub(" at 0x[0-9A-F]+", "", str(parameters)))
@pytest.mark.parametrize("task", ["classes", "labels", "number"])
def test_parameters(task, parameters):
    x, y = data(task)
    if "loss" in parameters:
        if task != "number":
            return
        y = abs(y)
    estimators = pair(task, **copy.deepcopy(parameters))
    estimators[1].set_params(**copy.deepcopy(parameters))           # a random state of its own
    both(estimators, "fit", x, y)
    assert_alike(*estimators, rtol=1e-8)


@pytest.mark.parametrize("task", ["binary", "classes", "labels"])
def test_losses_are_of_clipped_probabilities(task):
    x, y = data(task)
    estimators = pair(task, activation="identity", hidden_layer_sizes=(), learning_rate_init=1.0, solver="sgd", alpha=0)
    both(estimators, "fit", 1000 * x, y)
    assert_alike(*estimators, rtol=1e-3)                            # log(1 - p) is rough where p is nearly 1
    at_most = {"binary": 1, "classes": 1, "labels": 3}[task] * -np.log(np.finfo(float).eps)
    assert 1 < estimators[0].loss_curve_[0] < at_most


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_sample_weight(task, early_stopping):
    x, y = data(task)
    weights = np.random.default_rng(2).random(ROWS)
    weights[::5] = 0
    estimators = pair(task, early_stopping=early_stopping)
    both(estimators, "fit", x, y, sample_weight=weights)
    assert_alike(*estimators)
    assert estimators[0].score(x, y, weights) == pytest.approx(estimators[1].score(x, y, weights))
    if not early_stopping:
        both(estimators, "partial_fit", x, y, sample_weight=weights.astype(np.float32))
        assert_alike(*estimators, rtol=1e-6)                        # there their sum is of float32, too


def test_a_batch_without_weight_is_the_same_error():
    error, _ = both(pair("number", shuffle=False), "fit", *data("number"), sample_weight=np.arange(ROWS) > 40)
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("task", NAMES)
def test_float32_stays_float32(task, epochs):
    x, y = data(task, np.float32)
    estimators = pair(task)
    both(estimators, "fit", x, y)
    assert epochs
    for e in estimators:
        e.loss_curve_, e.loss_, e.best_loss_ = list(map(float, e.loss_curve_)), float(e.loss_), float(e.best_loss_)
    assert_alike(*estimators, rtol=1e-4)
    assert_predict_alike(estimators, x, 1e-4)
    assert {a.dtype for a in estimators[0].coefs_ + estimators[0].intercepts_} == {x.dtype}


def test_float32_with_targets_of_float64():
    x, y = data("number")
    estimators = pair("number", **UNTIL_THE_END)
    both(estimators, "fit", x.astype(np.float32), y)
    assert_allclose(estimators[0].loss_curve_[:5], estimators[1].loss_curve_[:5], 1e-5)
    assert estimators[0].loss_ == pytest.approx(estimators[1].loss_, rel=0.02)
    assert estimators[0].predict(x.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("task", NAMES)
def test_partial_fit_alone_and_after_a_fit(task, solver, epochs):
    x, y = data(task)
    first = {"binary": dict(classes=["no", "yes"]), "classes": dict(classes=[0, 10, 20]), "labels": dict(classes=range(3))}
    for begin in "partial_fit", "fit":
        estimators = pair(task, solver=solver)
        both(estimators, begin, x, y, **first.get(task, {}) if begin == "partial_fit" else {})
        for rows in (ROWS, 50, 1):
            both(estimators, "partial_fit", x[:rows], y[:rows])
        assert_alike(*estimators)
    assert len(epochs) == 4 + 5 + 3


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("task", ["binary", "numbers"])
def test_warm_start(task, solver):
    x, y = data(task)
    estimators = pair(task, solver=solver, warm_start=True)
    for early_stopping in (False, True, False):
        for e in estimators:
            e.set_params(early_stopping=early_stopping, validation_fraction=0.2)
            e.validation_scores_, e.best_validation_score_ = [], -np.inf        # scikit-learn makes them in the first fit only
        both(estimators, "fit", x, y)
        assert_alike(*estimators)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("format", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_and_dense_in_turns(solver, format, epochs):
    x, y = data("classes")
    x = x * (x > 0)
    for kinds in (format, np.asarray, format), (np.asarray, format, np.asarray):
        estimators = pair("classes", solver=solver)
        both(estimators, "fit", kinds[0](x), y)
        for kind in kinds[1:]:
            both(estimators, "partial_fit", kind(x), y)
            assert_predict_alike(estimators, kind(x))
        assert estimators[0].coefs_[0].sum() == pytest.approx(estimators[1].coefs_[0].sum())
        assert_alike(*estimators)
    assert len(epochs) == 1 + 5 + 1


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_dtypes_in_turns(solver):
    x, y = data("classes")
    for dtypes in "fdfd", "dfdf":
        estimators = pair("classes", solver=solver)
        for dtype in dtypes:
            both(estimators, "partial_fit", x.astype(dtype), y, classes=np.unique(y))
            assert_allclose(estimators[0].loss_, estimators[1].loss_, 1e-5)
            assert_predict_alike(estimators, x.astype(dtype), 1e-4)
        assert [a.dtype for a in estimators[0].coefs_] == [a.dtype for a in estimators[1].coefs_]


@pytest.mark.parametrize("lay_out", [
    np.asfortranarray, lambda a: np.repeat(a, 2, axis=0)[::2], lambda a: a[::-1], lambda a: a.astype(">f8"),
    lambda a: a.astype(np.float32), lambda a: a.astype(np.float16), lambda a: a.tolist(),
], ids=["Fortran", "strided", "reversed", "big-endian", "float32", "float16", "list"])
def test_layouts_of_data_and_of_the_estimators_arrays(lay_out):
    x, y = data("classes")
    estimators = pair("classes")
    both(estimators, "fit", lay_out(x), y)
    assert_predict_alike(estimators, lay_out(x), 1e-5)
    for method in "partial_fit", "predict":
        for e in estimators:
            e.coefs_ = [np.asarray(lay_out(a)) for a in e.coefs_]
        arguments = (x, y) if method == "partial_fit" else (x,)
        both(estimators, method, *arguments)
        assert_predict_alike(estimators, lay_out(x), 1e-5)
    assert_alike(*estimators, rtol=1e-5)


def test_lbfgs():
    for task in NAMES:
        x, y = data(task)
        estimators = pair(task, solver="lbfgs", max_iter=20)
        both(estimators, "fit", x, y)
        assert_alike(*estimators)
        for dtype in np.float32, np.float64:
            assert_predict_alike(estimators, x.astype(dtype), 1e-5)
        both(estimators, "fit", x.astype(np.float32), y)
        assert_predict_alike(estimators, x.astype(np.float32), 1e-3)
        both(estimators, "partial_fit" if task == "numbers" else "fit", x[:1], y[:1])


@pytest.mark.parametrize("change", [
    lambda e: [a.setflags(write=False) for a in e.coefs_],
    lambda e: [a.setflags(write=False) for a in e._optimizer.ms],
    lambda e: vars(e._optimizer).update(vs=[np.asfortranarray(a) for a in e._optimizer.vs]),
    lambda e: vars(e._optimizer).update(vs=[a.astype(np.float32) for a in e._optimizer.vs]),
    lambda e: vars(e._optimizer).update(ms=[a[:1] for a in e._optimizer.ms]),
    lambda e: vars(e).update(intercepts_=[a[:1] for a in e.intercepts_]),
    lambda e: vars(e).update(coefs_=[a[:, :2] for a in e.coefs_]),
    lambda e: e.set_params(loss="poisson"),
], ids=["read-only weights", "read-only moments", "moments by columns", "float32 moments", "other moments", "one bias",
        "other weights", "another loss"])
def test_arrays_that_compiled_steps_cannot_have(change, epochs):
    x, y = data("numbers")
    estimators = pair("numbers")
    both(estimators, "fit", x, y)
    for e in estimators:
        change(e)
    both(estimators, "partial_fit", x, abs(y))
    both(estimators, "predict", x)
    assert len(epochs) == 5
    assert_alike(*estimators, rtol=1e-6)


@pytest.mark.parametrize("y", [data("number")[1], data("numbers")[1][:, :2], np.tile(data("numbers")[1], 2)],
                         ids=["fewer", "two", "more"])
def test_other_outputs_than_before(y):
    x, first = data("numbers")
    estimators = pair("numbers")
    both(estimators, "fit", x, first)
    both(estimators, "partial_fit", x, y)
    assert_alike(estimators[0].coefs_, estimators[1].coefs_)


@pytest.mark.parametrize("sizes", [(11,), (11, 5, 2), (5, 11), (11, 5)], ids=str)
def test_other_sizes_in_a_warm_start(sizes):
    estimators = pair("number", warm_start=True)
    both(estimators, "fit", *data("number"))
    for e in estimators:
        e.set_params(hidden_layer_sizes=sizes)
    both(estimators, "fit", *data("number"))
    assert_alike(*estimators)
