"""fastbp.sklearn beside scikit-learn's own classes: scikit-learn's tests, and the same fits with the same seed in both."""
import _thread
import copy
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is in the extra 'sklearn'")

import joblib  # noqa: E402
from scipy import sparse  # noqa: E402
from sklearn import neural_network as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from fastbp import sklearn as ours  # noqa: E402
from fastbp.training import TrainingSession  # noqa: E402

ROWS = 107                      # no multiple of a batch
NAMES = {"binary": "MLPClassifier", "classes": "MLPClassifier", "labels": "MLPClassifier", "number": "MLPRegressor",
         "numbers": "MLPRegressor"}
SOLVERS = {
    "adam": dict(solver="adam", learning_rate_init=0.01),
    "adam of other settings": dict(solver="adam", learning_rate_init=0.02, beta_1=0.8, beta_2=0.95, epsilon=1e-3, alpha=0.1),
    "constant": dict(solver="sgd", learning_rate_init=0.05),
    "plain momentum": dict(solver="sgd", learning_rate_init=0.05, nesterovs_momentum=False),
    "no momentum": dict(solver="sgd", learning_rate_init=0.1, momentum=0, nesterovs_momentum=False),
    "no momentum, nesterov": dict(solver="sgd", learning_rate_init=0.1, momentum=0),
    "invscaling": dict(solver="sgd", learning_rate_init=0.5, learning_rate="invscaling", power_t=0.3),
    "adaptive": dict(solver="sgd", learning_rate_init=0.1, learning_rate="adaptive", tol=0.02, n_iter_no_change=1),
}
UNTIL_THE_END = dict(max_iter=60, tol=0, n_iter_no_change=np.inf)


def data(task, dtype=np.float64, rows=ROWS):
    """(X, y) of some numbers that a small network can learn, and a little noise."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, 6))
    scores = np.tanh(x) @ rng.standard_normal((6, 3)) + 0.1 * rng.standard_normal((rows, 3))
    y = {"binary": np.where(scores[:, 0] > 0, "yes", "no"), "classes": scores.argmax(axis=1) * 10,
         "labels": (scores > 0).astype(int), "number": scores[:, 0].astype(dtype), "numbers": scores.astype(dtype)}[task]
    return x.astype(dtype), y


def pair(task, **parameters):
    """(fastbp's estimator, scikit-learn's), with the same parameters."""
    parameters = dict(hidden_layer_sizes=(11, 5), batch_size=20, max_iter=5, random_state=3) | parameters
    return tuple(getattr(module, NAMES[task])(**parameters) for module in (ours, theirs))


def did(call):
    """What a call returns or raises, with its warnings, as text and types."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            result = error
    noted = [(w.category, str(w.message)) for w in caught if not issubclass(w.category, RuntimeWarning)]    # NumPy's arithmetic
    return result, noted


def both(pair, method, *arguments, **options):
    """Call a method of each of a pair, which has to warn and raise the same; returns what they return."""
    (mine, my_warnings), (other, other_warnings) = (did(lambda e=e: getattr(e, method)(*arguments, **options)) for e in pair)
    assert my_warnings == other_warnings
    if isinstance(other, Exception):
        assert (type(mine), str(mine)) == (type(other), str(other))
    assert isinstance(mine, Exception) == isinstance(other, Exception), mine
    return mine, other


def assert_alike(mine, other, rtol=1e-9, name="estimator"):
    """Attributes of the same names, types and, up to rounding, values, all the way down."""
    if isinstance(other, np.ndarray):
        assert mine.dtype == other.dtype, name
        assert_allclose(mine, other, rtol, rtol, err_msg=name) if other.dtype.kind == "f" else assert_array_equal(mine, other)
    elif isinstance(other, np.random.RandomState):
        assert_array_equal(mine.get_state()[1], other.get_state()[1])
        assert mine.get_state()[2] == other.get_state()[2]
    elif isinstance(other, float):
        assert type(mine) is type(other), name
        assert mine == pytest.approx(other, rel=rtol, abs=rtol, nan_ok=True), name
    elif isinstance(other, list | tuple):
        assert type(mine) is type(other) and len(mine) == len(other), name
        for i, (a, b) in enumerate(zip(mine, other, strict=True)):
            assert_alike(a, b, rtol, f"{name}[{i}]")
    elif hasattr(other, "__dict__"):
        assert list(vars(mine)) == list(vars(other)), name
        for key, value in vars(other).items():
            assert_alike(vars(mine)[key], value, rtol, f"{name}.{key}")
    else:
        assert type(mine) is type(other) and mine == other, name


def assert_predict_alike(pair, x, rtol=1e-9):
    methods = ["predict", "predict_proba", "predict_log_proba"] if hasattr(pair[1], "classes_") else ["predict"]
    for method in methods:
        with np.errstate(divide="ignore"):                          # log(0)
            mine, other = (getattr(e, method)(x) for e in pair)
        assert_alike(mine, other, rtol, method)


@pytest.fixture
def epochs(monkeypatch):
    """A list that grows with each epoch that is compiled."""
    done, start = [], TrainingSession.start

    def noted(self, *arguments):
        done.append(self)
        start(self, *arguments)

    monkeypatch.setattr(TrainingSession, "start", noted)
    return done


def test_scikit_learns_own_tests(tmp_path, capsys):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")              # and not that of a project around scikit-learn
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    path = [Path(__file__).parent, Path(ours.__file__).parents[1], *filter(None, [environment.get("PYTHONPATH")])]
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


BAD_PARAMETERS = dict(hidden_layer_sizes=-1, activation="gelu", solver="rmsprop", alpha=-1, batch_size=0, learning_rate="fast",
                      learning_rate_init=0, power_t=-1, max_iter=0, shuffle="no", random_state="x", tol=-1.0, momentum=2,
                      validation_fraction=1.0, beta_1=1.0, beta_2=-1, epsilon=0, n_iter_no_change=0, max_fun=0)


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters_are_the_same_errors(name):
    for task in "classes", "number":
        error, _ = both(pair(task, **{name: BAD_PARAMETERS[name]}), "fit", *data(task))
        assert isinstance(error, ValueError)


def test_bad_data_are_the_same_errors():
    x, y = data("classes")
    missing, narrow = x.copy(), x[:, 1:]
    missing[3, 2] = np.nan
    for method, arguments in {"fit": (missing, y), "partial_fit": (x, y), "predict": (x,), "predict_proba": (x,),
                              "score": (x, y)}.items():
        assert isinstance(both(pair("classes"), method, *arguments)[0], Exception)
    fitted = pair("classes")
    both(fitted, "fit", x, y)
    for method, arguments in [("predict", (missing,)), ("predict", (narrow,)), ("partial_fit", (narrow, y)),
                              ("fit", (x, y[1:])), ("partial_fit", (x, y + 1)), ("predict", (x[0],)), ("fit", (x[:0], y[:0])),
                              ("fit", ("a", y)), ("partial_fit", (x, y, None, [1, 2]))]:
        assert isinstance(both(fitted, method, *arguments)[0], Exception)
    early = pair("classes", early_stopping=True)
    assert isinstance(both(early, "partial_fit", x, y, classes=np.unique(y))[0], ValueError)
    assert isinstance(both(pair("number", early_stopping=True, validation_fraction=0.001), "fit", x[:5], y[:5])[0], ValueError)


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_diverging_is_the_same_error(task, early_stopping):
    estimators = pair(task, solver="sgd", learning_rate_init=1e200, early_stopping=early_stopping)
    error, _ = both(estimators, "fit", *data(task))
    if not early_stopping:                                          # which may put back the weights of the best epoch
        assert "Solver produced non-finite parameter weights" in str(error)
    assert estimators[0].n_iter_ == estimators[1].n_iter_
    assert_array_equal(np.isfinite(estimators[0].loss_curve_), np.isfinite(estimators[1].loss_curve_))


def test_verbose_prints_the_same(capsys):
    printed = []
    for e in pair("classes", verbose=True, max_iter=30, tol=0.1, n_iter_no_change=2):
        did(lambda e=e: e.fit(*data("classes")))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "Stopping." in printed[0]


@pytest.mark.parametrize("early_stopping", [False, True])
def test_ctrl_c(early_stopping):
    x, y = data("classes")
    fit_options = dict(max_iter=10**6, tol=0, n_iter_no_change=np.inf, early_stopping=early_stopping)
    estimator, _ = pair("classes", **fit_options)
    did(lambda: clone(estimator).set_params(max_iter=1).fit(x, y))                  # compiled
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    with pytest.warns(UserWarning, match="^Training interrupted by user.$"):
        estimator.fit(x, y)
    timer.join()
    assert estimator.n_iter_ == len(estimator.loss_curve_) > 0
    assert estimator.t_ == estimator.n_iter_ * (ROWS if not early_stopping else 96)
    assert estimator.score(x, y) > 0.5
    pickle.dumps(estimator)
    did(lambda: estimator.set_params(max_iter=2, early_stopping=False).partial_fit(x, y))
    assert estimator.n_iter_ == 1


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("steps", [0, 2])
def test_ctrl_c_within_an_epoch(solver, steps, monkeypatch):
    def finish(run):
        for _ in range(steps):
            run.advance(1)
        raise KeyboardInterrupt

    gradients, calls = theirs.MLPRegressor._backprop, []

    def backprop(self, *arguments):
        calls.append(self)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return gradients(self, *arguments)

    x, y = data("number")
    estimators = pair("number", solver=solver)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingSession, "finish", finish)
        patch.setattr(estimators[1], "_backprop", MethodType(backprop, estimators[1]), raising=False)
        both(estimators, "fit", x, y)
    assert len(calls) == steps + 1
    assert_alike(*estimators)
    both(estimators, "partial_fit", x, y)
    assert_alike(*estimators)


def loaded(estimator, path, **options):
    joblib.dump(estimator, path)
    return joblib.load(path, **options)


COPIES = {
    "deepcopy": lambda e, path: copy.deepcopy(e),
    "pickle": lambda e, path: pickle.loads(pickle.dumps(e)),
    "joblib": lambda e, path: loaded(e, path),
    "joblib, mapped": lambda e, path: loaded(e, path, mmap_mode="r"),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_copies_go_on_as_scikit_learns(how, solver, tmp_path):
    x, y = data("labels")
    estimators = pair("labels", solver=solver)
    both(estimators, "fit", x, y)
    before = copy.deepcopy(vars(estimators[0]))
    copies = tuple(COPIES[how](e, tmp_path / type(e).__module__) for e in estimators)
    assert_predict_alike(copies, x)
    mine, other = both(copies, "partial_fit", x, y)             # mapped, the arrays are read-only
    assert isinstance(other, Exception) == (how == "joblib, mapped")
    assert_alike(*copies)
    assert list(vars(estimators[0])) == list(before)
    assert_array_equal(estimators[0].coefs_[0], before["coefs_"][0])
    assert_array_equal(np.stack([a.sum() for a in vars(estimators[0]._optimizer).get("ms", [])] or [0]),
                       np.stack([a.sum() for a in vars(before["_optimizer"]).get("ms", [])] or [0]))


def test_parameters_are_scikit_learns():
    for task in "classes", "number":
        mine, other = (type(e)() for e in pair(task))
        assert mine.get_params() == other.get_params()
        assert repr(mine.set_params(alpha=0.5)) == repr(other.set_params(alpha=0.5))
        assert isinstance(mine, type(other)) and type(mine).__doc__ == type(other).__doc__
        cloned = clone(mine)
        assert type(cloned) is type(mine) and cloned.get_params() == mine.get_params()
        fitted, _ = pair(task)
        did(lambda e=fitted, task=task: e.fit(*data(task)))
        assert not [name for name in vars(clone(fitted)) if name.endswith("_")]


def test_pipeline_and_cross_validation():
    x, y = data("classes")
    pipelines = tuple(make_pipeline(StandardScaler(), e) for e in pair("classes"))
    both(pipelines, "fit", 100 * x + 3, y)
    assert_alike(pipelines[0][-1], pipelines[1][-1])
    assert_predict_alike(pipelines, 100 * x + 3)
    scores = [did(lambda p=p: cross_val_score(p, x, y, cv=3))[0] for p in pipelines]
    assert_array_equal(*scores)


@pytest.mark.parametrize("task", ["classes", "number"])
def test_grid_search_in_processes_and_in_threads(task):
    estimator, other = pair(task, max_iter=15)
    grid = {"hidden_layer_sizes": [(3,), (40, 10)], "alpha": [1e-4, 1.0]}

    def search(estimator, jobs, backend):
        with joblib.parallel_backend(backend):
            return GridSearchCV(estimator, grid, cv=3, n_jobs=jobs).fit(*data(task))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = search(other, 1, "threading")
        for jobs, backend in (1, "threading"), (2, "threading"), (2, "loky"):
            found = search(estimator, jobs, backend)
            assert found.best_params_ == expected.best_params_
            assert_allclose(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], 1e-6)
            assert_array_equal(found.cv_results_["rank_test_score"], expected.cv_results_["rank_test_score"])
