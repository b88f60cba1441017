"""Changes by users' code between two epochs of a fit: they count in fastbp.sklearn as in scikit-learn."""
import copy
import pickle
from types import MethodType

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is in the extra 'sklearn'")

from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from sklearn_pairs import assert_alike, both, data, ours, theirs
from test_sklearn_overrides import BASE, OPTIONS, SlowAdam, doubled


class Calling:
    """A function that is called after each epoch."""

    def _update_no_improvement_count(self, *arguments):
        super()._update_no_improvement_count(*arguments)
        if len(self.loss_curve_) == 2:
            type(self).after(self)


def backpropagate(e):
    x, y = data("numbers")
    shapes = [a.shape for a in e.coefs_]
    empty = [[np.empty(0) for _ in shapes] for _ in range(3)]
    e.seen_ = e._backprop(x, y, None, [x, *empty[0]], *empty)[0]


def put(name, change):
    return lambda e: setattr(e, name, change(getattr(e, name)))


def anew(optimizer):
    return lambda e: setattr(e, "_optimizer", optimizer(e.coefs_ + e.intercepts_, 0.02))


# What somebody's code may do between two epochs, and how many of the four are compiled.
BETWEEN_EPOCHS = {
    "penalty": (put("alpha", lambda alpha: 1e4 * alpha), 4),
    "activation": (put("activation", lambda _: "tanh"), 4),
    "rate": (lambda e: put("learning_rate_init", lambda rate: 9 * rate)(e._optimizer), 4),
    "moments' rate": (lambda e: put("beta_1", lambda _: 0.5)(e._optimizer), 4),
    "new optimiser": (anew(AdamOptimizer), 4),
    "another optimiser": (anew(SlowAdam), 2),
    "SGD": (anew(SGDOptimizer), 4),
    "new moments": (lambda e: put("ms", lambda ms: [np.zeros_like(m) for m in ms])(e._optimizer), 4),
    "moments by columns": (lambda e: put("ms", lambda ms: [np.asfortranarray(m) for m in ms])(e._optimizer), 3),
    "weights in place": (lambda e: e.coefs_[0].fill(0.1), 4),
    "new weights": (put("coefs_", lambda coefs: [c.copy() for c in coefs]), 2),
    "one new matrix": (lambda e: e.coefs_.__setitem__(1, 2 * e.coefs_[1]), 2),
    "method": (lambda e: setattr(e, "_compute_loss_grad", MethodType(doubled(BASE._compute_loss_grad), e)), 2),
    "read-only": (lambda e: e.coefs_[0].setflags(write=False), 2),
    "backpropagation": (backpropagate, 4),
    "order of rows": (put("shuffle", lambda _: False), 4),
    "copy": (lambda e: setattr(e, "copies_", [c.coefs_ for c in (copy.deepcopy(e), pickle.loads(pickle.dumps(e)))]), 4),
}


class CallingRegressor(Calling, ours.MLPRegressor):
    pass


class CallingTheirs(Calling, theirs.MLPRegressor):
    pass


@pytest.mark.parametrize("change", BETWEEN_EPOCHS)
def test_changes_between_epochs_count_as_in_scikit_learn(change, monkeypatch, epochs):
    apply, compiled = BETWEEN_EPOCHS[change]
    monkeypatch.setattr(Calling, "after", apply, raising=False)
    estimators = CallingRegressor(**OPTIONS), CallingTheirs(**OPTIONS)
    both(estimators, "fit", *data("numbers"))
    for e in estimators:
        vars(e).pop("_compute_loss_grad", None)
    assert_alike(*estimators)
    assert len(epochs) == compiled


def test_an_epoch_within_an_epochs_end(monkeypatch, epochs):
    def more(e):
        if not hasattr(e, "more_"):
            e.more_ = True
            e.partial_fit(x[:30], y[:30])
            del e.loss_curve_[-1]

    x, y = data("numbers")
    monkeypatch.setattr(Calling, "after", more, raising=False)
    estimators = CallingRegressor(**OPTIONS), CallingTheirs(**OPTIONS)
    both(estimators, "fit", x, y)
    assert len(epochs) >= 5
    assert_alike(*estimators)
