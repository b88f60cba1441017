"""Sample weights that scikit-learn accepts and others refuse, in fastbp.sklearn: below 0, with a sum of 0, tiny, huge."""
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is in the extra 'sklearn'")

from sklearn_pairs import ROWS, assert_alike, both, data, pair

RANDOM = np.random.default_rng(2).random(ROWS) + 0.1
FIRST_BATCH = np.arange(ROWS) < 20


def at(values, i, value):
    values = values.copy()
    values[i] = value
    return values


# Weights, and whether scikit-learn's code makes all of the steps.
WEIGHTS = {
    "one below 0": (at(RANDOM, 3, -0.5), True),
    "many below 0": (RANDOM - 0.4, True),
    "all below 0": (-RANDOM, True),
    "sums below 0": (RANDOM - 0.9, True),
    "sum 0": (np.where(np.arange(ROWS) % 2, 1.0, -1.0), True),
    "-0.0": (at(RANDOM, slice(0, 99, 2), -0.0), False),
    "a batch of zeros": (np.where(FIRST_BATCH, 0.0, RANDOM), False),
    "a later batch of zeros": (np.where((np.arange(ROWS) >= 40) & (np.arange(ROWS) < 60), 0.0, RANDOM), False),
    "the last batch of zeros": (np.where(np.arange(ROWS) >= 100, 0.0, RANDOM), False),
    "all zeros": (np.zeros(ROWS, np.float64), False),
    "a row": (at(np.zeros(ROWS, np.float64), 5, 1.0), False),
    "1e-310": (np.full(ROWS, 1e-310, np.float64), True),
    "one of 1e-310": (at(RANDOM, 4, 1e-310), True),
    "batch of 1e-310": (np.where(FIRST_BATCH, 1e-310, RANDOM), True),
    "5e-324": (np.full(ROWS, 5e-324, np.float64), True),
    "1e-150": (RANDOM * 1e-150, False),
    "1e150": (RANDOM * 1e150, False),
    "1e308": (np.full(ROWS, 1e308, np.float64), True),
    "one of 1e308": (at(RANDOM, 4, 1e308), True),
    "nan": (at(RANDOM, 4, np.nan), False),
    "inf": (at(RANDOM, 4, np.inf), False),
    "integers": (np.arange(1, ROWS + 1, 1, np.int64), False),
    "integers below 0": (np.arange(-3, ROWS - 3, 1, np.int64), True),
    "booleans": (RANDOM > 0.3, False),
    "float32": (RANDOM.astype(np.float32), False),
    "number": (2.5, False),
    "negative number": (-2.5, True),
    "columns": (RANDOM[:, np.newaxis], False),
    "fewer": (RANDOM[:-1], False),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("task", "options"), [
    ("classes", dict()), ("numbers", dict(solver="sgd", learning_rate_init=0.05)), ("binary", dict(shuffle=False)),
    ("numbers", dict(shuffle=False)), ("labels", dict(solver="sgd", shuffle=False, alpha=0)),
    ("classes", dict(early_stopping=True, validation_fraction=0.3)), ("number", dict(early_stopping=True, solver="sgd")),
], ids=str)
def test_weights(task, options, weights, epochs):
    x, y = data(task)
    values, is_own = WEIGHTS[weights]
    estimators = pair(task, max_iter=3, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        both(estimators, "fit", x, y, sample_weight=values)
        assert not (is_own and epochs)
        # With weights of float32 scikit-learn adds them up in float32.
        rtol = 1e-6 if weights == "float32" else 1e-8
        assert_alike(*estimators, rtol)
        if hasattr(estimators[1], "loss_curve_") and "early_stopping" not in options:
            both(estimators, "partial_fit", x, y, sample_weight=values)
            assert not (is_own and epochs)
            assert_alike(*estimators, rtol)


@pytest.mark.parametrize("weights", ["one below 0", "a later batch of zeros", "1e-310", "1e308", "integers"])
@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_weights_of_float32_data(task, weights, epochs):
    x, y = data(task, np.float32)
    estimators = pair(task, shuffle=False, max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        both(estimators, "fit", x, y, sample_weight=WEIGHTS[weights][0])
    assert not (WEIGHTS[weights][1] and epochs)
    for mine, other in zip(*(e.coefs_ + e.intercepts_ for e in estimators), strict=True):
        np.testing.assert_allclose(mine, other, 1e-3, 1e-4)
    np.testing.assert_allclose(*(e.loss_curve_ for e in estimators), 1e-4)


def test_a_batch_without_weight_ends_where_scikit_learn_ends(epochs):
    """The batches before the one without weight have made their steps, those of epochs before in compiled code."""
    x, y = data("numbers")
    weights = np.where(np.arange(ROWS) % 27 == 0, 1.0, 0.0)
    estimators = pair("numbers", batch_size=54, max_iter=100, random_state=1)
    error, _ = both(estimators, "fit", x, y, sample_weight=weights)
    assert isinstance(error, ZeroDivisionError)
    assert epochs
    assert_alike(*estimators)
