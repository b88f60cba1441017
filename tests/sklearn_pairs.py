"""Pairs of an estimator of fastbp.sklearn and scikit-learn's, data for them, and what has to be alike after a call of both."""
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import neural_network as theirs

from fastbp import sklearn as ours

ROWS = 107                      # This is no multiple of a batch.
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


def data(task, dtype=np.float64, rows=ROWS):
    """Return (X, y) that a small network can learn, with a little noise."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, 6))
    scores = np.tanh(x) @ rng.standard_normal((6, 3)) + 0.1 * rng.standard_normal((rows, 3))
    y = {"binary": np.where(scores[:, 0] > 0, "yes", "no"), "classes": scores.argmax(axis=1) * 10,
         "labels": (scores > 0).astype(int), "number": scores[:, 0].astype(dtype), "numbers": scores.astype(dtype)}[task]
    return x.astype(dtype), y


def pair(task, **parameters):
    """Return (fastbp's estimator, scikit-learn's) with the same parameters."""
    parameters = dict(hidden_layer_sizes=(11, 5), batch_size=20, max_iter=5, random_state=3) | parameters
    return tuple(getattr(module, NAMES[task])(**parameters) for module in (ours, theirs))


def did(call):
    """Return what a call returns or raises, and its warnings as (type, text)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            result = error
    noted = [(w.category, str(w.message)) for w in caught if not issubclass(w.category, RuntimeWarning)]    # NumPy's arithmetic
    return result, noted


def both(pair, method, *arguments, **options):
    """Call a method of both estimators. Both have to warn and raise the same. Return the two results."""
    (mine, my_warnings), (other, other_warnings) = (did(lambda e=e: getattr(e, method)(*arguments, **options)) for e in pair)
    assert my_warnings == other_warnings
    if isinstance(other, Exception):
        assert (type(mine), str(mine)) == (type(other), str(other))
    assert isinstance(mine, Exception) == isinstance(other, Exception), mine
    return mine, other


def assert_alike(mine, other, rtol=1e-9, name="estimator"):
    """Check that attributes have the same names, types and, up to rounding, values, all the way down."""
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
