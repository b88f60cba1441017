"""The functions of scikit-learn that fastbp.sklearn's compiled code replaces, and checks that nobody has changed them.

A function counts as scikit-learn's own if it is the one that its module defines. If a function was patched before this module
was imported, the tables below hold a new object in its place, which equals nothing, so that scikit-learn's code runs.
"""
from operator import attrgetter
from types import FunctionType

import numpy as np

try:
    from scipy.special import expit, xlogy
    from sklearn.neural_network import MLPClassifier, MLPRegressor, _base, _stochastic_optimizers
    from sklearn.neural_network import _multilayer_perceptron as _mlp
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    from sklearn.utils import _chunking, _indexing
    from sklearn.utils.extmath import safe_sparse_dot
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError("fastbp.sklearn needs scikit-learn 1.7 or later: pip install 'fastbp[sklearn]'") from error

# fastbp.sklearn derives its classes from these two.
CLASSIFIER, REGRESSOR = MLPClassifier, MLPRegressor


def _own(module, *names):
    """Return {last part of the name: function} for functions or methods ("Class.method") that a module defines."""
    found = {}
    for name in names:
        function = attrgetter(name)(module)
        is_own = getattr(function, "__globals__", None) is vars(module) and function.__qualname__ == name
        found[name.rpartition(".")[2]] = function if is_own else object()
    return found


def _own_methods(*names):
    return _own(_mlp, *(f"BaseMultilayerPerceptron.{name}" for name in names))


# Compiled steps replace these methods of an estimator and never call them.
UNCALLED = _own_methods("_forward_pass", "_compute_loss_grad")
# fastbp.sklearn overrides these methods for training steps.
OVERRIDDEN = _own_methods("_fit_stochastic", "_backprop")
# fastbp.sklearn overrides this method for predictions.
OVERRIDDEN_PREDICTION = _own_methods("_forward_pass_fast")
# scikit-learn reads these attributes of an estimator in each step. A class that computes one of them, as a property, may
# return another value each time.
ATTRIBUTES = "coefs_", "intercepts_", "n_layers_", "activation", "out_activation_", "loss", "alpha", "_optimizer"
# Compiled steps never call these methods of an optimiser.
OPTIMIZER_METHODS = "update_params", "_get_updates"
# This is scikit-learn's training loop.
LOOP = OVERRIDDEN["_fit_stochastic"]
# fastbp.sklearn replaces these global names in the loop.
REPLACED = "shuffle", "gen_batches", "_safe_indexing", "SGDOptimizer", "AdamOptimizer"
if isinstance(LOOP, FunctionType) and not (set(REPLACED) <= set(LOOP.__code__.co_names)
                                           and "sample_weight" in LOOP.__code__.co_varnames):
    raise ImportError("scikit-learn's training loop is not as expected: this fastbp is for scikit-learn 1.7 to 1.9")

# A forward pass of scikit-learn uses these objects: pairs (module, {name: object}).
_FORWARD = (_mlp, dict(np=np, safe_sparse_dot=safe_sparse_dot)), (_base, dict(np=np, logistic_sigmoid=expit))
# A prediction by scikit-learn uses these objects: pairs (module, {name: object}).
PREDICTION = *_FORWARD, (_mlp, dict(validate_data=validate_data))
# An epoch of scikit-learn uses these objects: pairs (module or class, {name: object}).
STEPS = (
    *_FORWARD, (_base, dict(xlogy=xlogy)), (_stochastic_optimizers, dict(np=np)),
    (_mlp, dict(shuffle=_indexing.shuffle, _safe_indexing=_indexing._safe_indexing, gen_batches=_chunking.gen_batches,
                SGDOptimizer=SGDOptimizer, AdamOptimizer=AdamOptimizer)),
    (SGDOptimizer, _own(_stochastic_optimizers, "BaseOptimizer.update_params", "SGDOptimizer._get_updates")),
    (AdamOptimizer, _own(_stochastic_optimizers, "BaseOptimizer.update_params", "AdamOptimizer._get_updates")))

# A hidden layer may have these activations.
_HIDDEN = "identity", "logistic", "tanh", "relu"
# scikit-learn's own functions in its tables: {name of the table: {key: function}}.
_TABLES = {
    "ACTIVATIONS": {key: _own(_base, f"inplace_{key}")[f"inplace_{key}"] for key in (*_HIDDEN, "softmax")},
    "DERIVATIVES": {key: _own(_base, f"inplace_{key}_derivative")[f"inplace_{key}_derivative"] for key in _HIDDEN},
    "LOSS_FUNCTIONS": {"squared_error": _own(_base, "squared_loss")["squared_loss"],
                       **_own(_base, "log_loss", "binary_log_loss")},
}


def has(owner: object, known: dict[str, object]) -> bool:
    """Return whether `owner` has the attributes {name: object}. A bound method counts as its function."""
    try:
        for name, expected in known.items():
            value = getattr(owner, name)
            if value is not expected and value.__func__ is not expected:
                return False
    except AttributeError:                      # the name is missing, or the value is no method
        return False
    return True


def have(pairs: tuple[tuple[object, dict[str, object]], ...]) -> bool:
    """Return whether `has` is true for each pair (owner, {name: object})."""
    return all(has(owner, known) for owner, known in pairs)


def holds(table: str, key: str) -> bool:
    """Return whether scikit-learn's ACTIVATIONS, DERIVATIVES or LOSS_FUNCTIONS holds its own function for a key."""
    functions, known = getattr(_mlp, table), _TABLES[table]
    return key in known and key in functions and functions[key] is known[key]
