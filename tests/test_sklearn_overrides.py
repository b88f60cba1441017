"""Subclasses and patches of scikit-learn's MLP: their changes count in fastbp.sklearn, too, and as in scikit-learn."""
import functools
from functools import partial
from types import MethodType

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is in the extra 'sklearn'")

from sklearn.neural_network import _base, _stochastic_optimizers
from sklearn.neural_network import _multilayer_perceptron as mlp
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, BaseOptimizer, SGDOptimizer
from sklearn.utils._param_validation import StrOptions

from sklearn_pairs import NAMES, assert_alike, assert_predict_alike, both, data, ours, theirs

OPTIONS = dict(hidden_layer_sizes=(11, 5), batch_size=20, max_iter=4, random_state=3, learning_rate_init=0.01)
BASE = mlp.BaseMultilayerPerceptron


class Dropout:
    """Inverted dropout of hidden layers while they train."""

    def _forward_pass(self, activations):
        self._masks = []
        activations = super()._forward_pass(activations)
        rng = np.random.RandomState(len(self.loss_curve_))
        for i in range(1, self.n_layers_ - 1):
            self._masks.append((rng.uniform(size=activations[i].shape) < 0.8) / 0.8)
            activations[i] = activations[i] * self._masks[-1]
            z = activations[i] @ self.coefs_[i] + self.intercepts_[i]
            mlp.ACTIVATIONS[self.activation if i < self.n_layers_ - 2 else self.out_activation_](z)
            activations[i + 1] = z
        return activations

    def _compute_loss_grad(self, layer, sw_sum, activations, deltas, *grads):
        if layer < len(self._masks):
            deltas[layer] = deltas[layer] * self._masks[layer]
        super()._compute_loss_grad(layer, sw_sum, activations, deltas, *grads)


class Asymmetric:
    """A loss gradient in which an output that is too high counts three times."""

    def _compute_loss_grad(self, layer, sw_sum, activations, deltas, *grads):
        if layer == self.n_layers_ - 2:
            deltas[layer] = np.where(deltas[layer] > 0, 3, 1) * deltas[layer]
        super()._compute_loss_grad(layer, sw_sum, activations, deltas, *grads)


class Elu:
    """A hidden activation that scikit-learn has not."""

    _parameter_constraints = {**theirs.MLPClassifier._parameter_constraints, "activation": [StrOptions({"elu"})]}

    def __init__(self, *, activation="elu", hidden_layer_sizes=(100,), batch_size="auto", max_iter=200, random_state=None,
                 learning_rate_init=0.001):
        super().__init__(activation=activation, hidden_layer_sizes=hidden_layer_sizes, batch_size=batch_size,
                         max_iter=max_iter, random_state=random_state, learning_rate_init=learning_rate_init)

    @staticmethod
    def function(x):
        np.copyto(x, np.where(x > 0, x, np.expm1(x)))

    @staticmethod
    def derivative(z, delta):
        delta *= np.where(z > 0, 1, z + 1)


class Clipped:
    """Gradients whose norm is at most 0.05."""

    def _backprop(self, *arguments):
        loss, *grads = super()._backprop(*arguments)
        norm = np.sqrt(sum((g**2).sum() for g in grads[0] + grads[1]))
        return loss, *([g * min(1, 0.05 / norm) for g in of] for of in grads)


class Frozen:
    """Initial weights of another scale, a first layer that stays as it is, and a record of the others."""

    def _init_coef(self, fan_in, fan_out, dtype):
        coefs, intercepts = super()._init_coef(fan_in, fan_out, dtype)
        coefs *= 0.5
        if not hasattr(self, "first"):
            self.first, self.record = (coefs, coefs.copy()), []
        return coefs, np.zeros_like(intercepts)

    def _update_no_improvement_count(self, *arguments):
        super()._update_no_improvement_count(*arguments)
        self.first[0][:] = self.first[1]
        self.record.append(np.linalg.norm(self.coefs_[1]))


# The subclasses, and whether their epochs are compiled.
SUBCLASSES = {Dropout: False, Asymmetric: False, Elu: False, Clipped: False, Frozen: True}


def derived(mixin, task="classes", **options):
    """Return an estimator of fastbp's and one of scikit-learn's, both with a mixin before their class."""
    bases = [getattr(module, NAMES[task]) for module in (ours, theirs)]
    return tuple(type(mixin.__name__, (mixin, base), {"__init__": vars(mixin).get("__init__", base.__init__)})(
        **OPTIONS | options) for base in bases)


def plain(task="classes", **options):
    return tuple(getattr(module, NAMES[task])(**OPTIONS | options) for module in (ours, theirs))


def differ(coefs, others):
    return any(not np.allclose(a, b, 1e-6, 1e-6) for a, b in zip(coefs, others, strict=True))


@pytest.mark.parametrize("mixin", SUBCLASSES, ids=lambda mixin: mixin.__name__)
def test_a_subclass_is_scikit_learns(mixin, monkeypatch, epochs):
    if mixin is Elu:
        monkeypatch.setitem(_base.ACTIVATIONS, "elu", Elu.function)
        monkeypatch.setitem(_base.DERIVATIVES, "elu", Elu.derivative)
    x, y = data("classes")
    estimators = derived(mixin)
    both(estimators, "fit", x, y)
    assert bool(epochs) == SUBCLASSES[mixin]
    assert_alike(*estimators)
    assert_predict_alike(estimators, x)
    both(estimators, "partial_fit", x[:50], y[:50])
    assert_alike(*estimators)
    usual = plain()
    both(usual, "fit", x, y)
    assert differ(estimators[1].coefs_, usual[1].coefs_)


def doubled(method):
    """Return a method that doubles what another does to the gradients that it returns or is given."""
    def changed(self, *arguments):
        result = method(self, *arguments)
        if result is None:
            arguments[-2][arguments[0]] *= 2            # the coef_grads of a layer
            return None
        return result[0], [2 * g for g in result[1]], result[2]
    return changed


def leaky(x):
    np.maximum(x, 0.1 * x, out=x)


def leaky_derivative(z, delta):
    delta[z < 0] *= 0.1


def halved(function, *arguments, **options):
    return function(*arguments, **options) / 2


def slower(method, self, *arguments):
    return [0.3 * update for update in method(self, *arguments)]


class SlowAdam(AdamOptimizer):
    def _get_updates(self, grads):
        return slower(AdamOptimizer._get_updates, self, grads)


def patched(owner, name, value):
    return lambda patch, _: patch.setattr(owner, name, value)


def held(table, key, value):
    return lambda patch, _: patch.setitem(getattr(mlp, table), key, value)


def on_instances(name, method):
    def change(patch, estimators):
        for e in estimators:
            patch.setattr(e, name, MethodType(method, e), raising=False)
    return change


def noted(method):
    return lambda self, *arguments, **options: method(self, *arguments, **options)


# A change of scikit-learn's own modules or of an instance, and whether epochs stay compiled.
CHANGES = {
    "instance: _backprop": (on_instances("_backprop", doubled(BASE._backprop)), False),
    "instance: _compute_loss_grad": (on_instances("_compute_loss_grad", doubled(BASE._compute_loss_grad)), False),
    "base: _backprop": (patched(BASE, "_backprop", doubled(BASE._backprop)), False),
    "classifier: _backprop": (patched(theirs.MLPClassifier, "_backprop", doubled(BASE._backprop)), False),
    "base: _compute_loss_grad": (patched(BASE, "_compute_loss_grad", doubled(BASE._compute_loss_grad)), False),
    "base: _forward_pass": (patched(BASE, "_forward_pass", noted(BASE._forward_pass)), False),
    "base: _fit_stochastic": (patched(BASE, "_fit_stochastic", noted(BASE._fit_stochastic)), False),
    "base: _update_no_improvement_count": (
        patched(BASE, "_update_no_improvement_count", noted(BASE._update_no_improvement_count)), True),
    "base: _init_coef": (patched(BASE, "_init_coef", lambda self, *sizes: tuple(
        2 * a for a in original_init_coef(self, *sizes))), True),
    "classifier: _validate_input": (
        patched(theirs.MLPClassifier, "_validate_input", noted(theirs.MLPClassifier._validate_input)), True),
    "activation": (held("ACTIVATIONS", "relu", leaky), False),
    "output's activation": (held("ACTIVATIONS", "softmax", lambda x: _base.inplace_logistic(x)), False),
    "derivative": (held("DERIVATIVES", "relu", leaky_derivative), False),
    "loss": (held("LOSS_FUNCTIONS", "log_loss", partial(halved, _base.log_loss)), False),
    "another activation": (held("ACTIVATIONS", "tanh", leaky), True),
    "another loss": (held("LOSS_FUNCTIONS", "poisson", partial(halved, _base.poisson_loss)), True),
    "table": (patched(mlp, "ACTIVATIONS", {**_base.ACTIVATIONS, "relu": leaky}), False),
    "equal table": (patched(mlp, "ACTIVATIONS", {**_base.ACTIVATIONS, "elu": leaky}), True),
    "logarithm": (patched(_base, "xlogy", partial(halved, _base.xlogy)), False),
    "product": (patched(mlp, "safe_sparse_dot", partial(halved, mlp.safe_sparse_dot)), False),
    "shuffle": (patched(mlp, "shuffle", lambda order, random_state: order[::-1]), False),
    "batches": (patched(mlp, "gen_batches", lambda n, size: [slice(0, 9), slice(9, n)]), False),
    "optimiser": (patched(mlp, "AdamOptimizer", SlowAdam), False),
    "optimiser's updates": (
        patched(AdamOptimizer, "_get_updates", lambda self, grads: slower(original_updates, self, grads)), False),
    "base optimiser's step": (patched(BaseOptimizer, "update_params", noted(BaseOptimizer.update_params)), False),
    "optimiser's end of an epoch": (
        patched(AdamOptimizer, "iteration_ends", lambda self, step: setattr(self, "learning_rate_init", 0.3 / step)), True),
}
original_init_coef, original_updates = BASE._init_coef, AdamOptimizer._get_updates


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_counts_as_in_scikit_learn(change, monkeypatch, epochs):
    apply, is_compiled = CHANGES[change]
    x, y = data("classes")
    estimators = plain()
    with monkeypatch.context() as patch:
        apply(patch, estimators)
        both(estimators, "fit", x, y)
        assert bool(epochs) == is_compiled
        assert_predict_alike(estimators, x)
        both(estimators, "partial_fit", x, y)
        assert bool(epochs) == is_compiled
    assert_alike(*estimators)
    del epochs[:]
    both(estimators, "fit", x, y)
    assert len(epochs) == 4                                 # all is as before


@pytest.mark.parametrize("optimizer", ["class", "instance"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_an_optimiser_of_another_kind_goes_on(optimizer, solver, epochs):
    known = {"adam": AdamOptimizer, "sgd": SGDOptimizer}[solver]
    mine = type("Slow", (known,), {"_get_updates": lambda self, grads: slower(known._get_updates, self, grads)})
    x, y = data("classes")
    estimators = plain(solver=solver)
    for e in estimators:
        both((e, e), "partial_fit", x, y, classes=np.unique(y))
        if optimizer == "class":
            e._optimizer = mine(e.coefs_ + e.intercepts_, 0.1)
        else:
            e._optimizer._get_updates = MethodType(partial(slower, known._get_updates), e._optimizer)
    done = len(epochs)
    both(estimators, "partial_fit", x, y)
    assert len(epochs) == done
    assert_alike(estimators[0].coefs_, estimators[1].coefs_)


class Between(BASE):
    """A mixin that stands between an estimator's class and scikit-learn's base class."""

    def _backprop(self, *arguments):
        return doubled(BASE._backprop)(self, *arguments)

    def _forward_pass_fast(self, *arguments, **options):
        return super()._forward_pass_fast(*arguments, **options) ** 2


def test_a_mixin_between_the_classes(epochs):
    x, y = data("numbers")
    estimators = tuple(type("Derived", (module.MLPRegressor, Between), {"__init__": module.MLPRegressor.__init__})(**OPTIONS)
                       for module in (ours, theirs))
    both(estimators, "fit", x, y)
    assert not epochs
    assert_alike(*estimators)
    assert_predict_alike(estimators, x)
    assert estimators[0].predict(x).min() >= 0


class Pruned:
    """Weights that are computed whenever they are read."""

    @property
    def coefs_(self):
        return [np.where(abs(c) > 0.1, c, 0) for c in self._all_coefs] if hasattr(self, "_mask_is_on") else self._all_coefs

    @coefs_.setter
    def coefs_(self, coefs):
        self._all_coefs = coefs


def test_weights_that_a_class_computes(epochs):
    x, y = data("numbers")
    estimators = derived(Pruned, "numbers")
    both(estimators, "fit", x, y)
    for e in estimators:
        e._mask_is_on = True
    assert_predict_alike(estimators, x)
    both(estimators, "partial_fit", x, y)
    assert not epochs
    assert_alike(*estimators)


class Smoothed:
    """Targets that are no longer 0 and 1."""

    def _validate_input(self, *arguments, **options):
        x, y = super()._validate_input(*arguments, **options)
        return x, np.where(y, 0.9, 0.1 / max(1, y.shape[1] - 1))


class Unlabelled:
    """A class that has no output."""

    def _validate_input(self, *arguments, **options):
        x, y = super()._validate_input(*arguments, **options)
        return x, y & (np.arange(y.shape[1]) > 0)


@pytest.mark.parametrize(("mixin", "task", "compiled"), [(Smoothed, "classes", 0), (Smoothed, "labels", 0),
                                                         (Unlabelled, "classes", 0), (Unlabelled, "labels", 4)])
def test_targets_of_a_subclass(mixin, task, compiled, epochs):
    estimators = derived(mixin, task)
    both(estimators, "fit", *data(task))
    assert len(epochs) == compiled
    assert_alike(*estimators)


@pytest.mark.parametrize("change", [
    patched(BASE, "_forward_pass_fast", lambda self, X, check_input=True: X[:, :3] * 2.0),
    on_instances("_forward_pass_fast", lambda self, X, check_input=True: X[:, :3] * 2.0),
    held("ACTIVATIONS", "relu", leaky), held("ACTIVATIONS", "identity", leaky),
    patched(mlp, "safe_sparse_dot", partial(halved, mlp.safe_sparse_dot)),
    patched(mlp, "validate_data", lambda estimator, X, **options: np.tanh(X)),
    lambda patch, estimators: [patch.setattr(e, "out_activation_", "logistic") for e in estimators],
    lambda patch, estimators: [patch.setattr(e, "out_activation_", "relu") for e in estimators],
    lambda patch, estimators: [patch.setattr(e, "n_layers_", 3) for e in estimators],
    lambda patch, estimators: [patch.setattr(e, "activation", "tanh") for e in estimators],
], ids=["method", "instance", "activation", "output's activation", "product", "checks", "logistic", "relu", "layers", "tanh"])
def test_changes_of_predictions(change, monkeypatch):
    x, y = data("numbers")
    estimators = plain("numbers")
    both(estimators, "fit", x, y)
    before = estimators[1].predict(x)
    with monkeypatch.context() as patch:
        change(patch, estimators)
        assert_predict_alike(estimators, x)
        assert differ([estimators[1].predict(x)[:, :3]], [before]) or estimators[1].predict(x).shape[1] > 3
    assert_predict_alike(estimators, x)


@pytest.mark.parametrize(("module", "name", "replacement"), [
    (mlp, "BaseMultilayerPerceptron._backprop", doubled(BASE._backprop)),
    (mlp, "BaseMultilayerPerceptron._fit_stochastic", functools.wraps(BASE._fit_stochastic)(noted(BASE._fit_stochastic))),
    (_stochastic_optimizers, "AdamOptimizer._get_updates", SlowAdam._get_updates),
    (_base, "inplace_relu", leaky), (_base, "inplace_tanh", _base.inplace_relu), (_base, "log_loss", partial(_base.log_loss)),
])
def test_what_was_patched_before_the_import_is_not_scikit_learns_own(module, name, replacement, monkeypatch):
    *owners, last = name.split(".")
    owner = getattr(module, owners[0]) if owners else module
    assert ours.originals.has(owner, ours.originals._own(module, name))
    monkeypatch.setattr(owner, last, replacement)
    assert not ours.originals.has(owner, ours.originals._own(module, name))


def test_an_optimiser_that_is_none_is_the_same_error():
    x, y = data("number")
    estimators = plain("number")
    both(estimators, "fit", x, y)
    for e in estimators:
        e._optimizer = None
    assert isinstance(both(estimators, "partial_fit", x, y)[0], AttributeError)
