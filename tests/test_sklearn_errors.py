"""fastbp.sklearn where something goes wrong: the errors, warnings and texts of scikit-learn, and Ctrl-C during a fit."""
import _thread
import importlib
import pickle
import sys
import threading
from types import MethodType

import numpy as np
import pytest
from numpy.testing import assert_array_equal

pytest.importorskip("sklearn", reason="scikit-learn is in the extra 'sklearn'")

from sklearn.base import clone

from fastbp._training.session import TrainingSession
from sklearn_pairs import NAMES, ROWS, assert_alike, both, data, did, pair, theirs

BAD_PARAMETERS = dict(hidden_layer_sizes=-1, activation="gelu", solver="rmsprop", alpha=-1, batch_size=0, learning_rate="fast",
                      learning_rate_init=0, power_t=-1, max_iter=0, shuffle="no", random_state="x", tol=-1.0, momentum=2,
                      validation_fraction=1.0, beta_1=1.0, beta_2=-1, epsilon=0, n_iter_no_change=0, max_fun=0)


@pytest.mark.parametrize("missing", ["scipy.special", "sklearn.neural_network"])
def test_without_scikit_learn_the_error_names_the_extra(monkeypatch, missing):
    for name in [name for name in sys.modules if name.startswith("fastbp.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"fastbp\.sklearn needs scikit-learn .*: pip install 'fastbp\[sklearn\]'"):
        importlib.import_module("fastbp.sklearn")


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
