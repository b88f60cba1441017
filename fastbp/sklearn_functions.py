"""The functions of scikit-learn that fastbp.sklearn's compiled code stands for, and whether they are what would run now.

A function counts as scikit-learn's own if it is the one that its module defines. One that was patched before this module was
imported is replaced in the tables below by an object that is found nowhere, so that scikit-learn's code runs.
"""
from operator import attrgetter
from types import FunctionType

import numpy as np
from scipy.special import expit, xlogy

try:
    from sklearn.neural_network import MLPClassifier, MLPRegressor, _base, _stochastic_optimizers
    from sklearn.neural_network import _multilayer_perceptron as _mlp
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    from sklearn.utils import _chunking, _indexing
    from sklearn.utils.extmath import safe_sparse_dot
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError("fastbp.sklearn needs scikit-learn 1.7 or later: pip install 'fastbp[sklearn]'") from error

# The classes that fastbp.sklearn derives its own from.
CLASSIFIER, REGRESSOR = MLPClassifier, MLPRegressor


def _own(module, *names):
    """Return {last part of a name: function or method} of some that a module of scikit-learn defines."""
    found = {}
    for name in names:
        function = attrgetter(name)(module)
        is_own = getattr(function, "__globals__", None) is vars(module) and function.__qualname__ == name
        found[name.rpartition(".")[2]] = function if is_own else object()
    return found


def _own_methods(*names):
    return _own(_mlp, *(f"BaseMultilayerPerceptron.{name}" for name in names))


# Methods of an estimator that compiled steps do in another way and never call.
UNCALLED = _own_methods("_forward_pass", "_compute_loss_grad")
# Methods that fastbp.sklearn overrides for steps.
OVERRIDDEN = _own_methods("_fit_stochastic", "_backprop")
# The method that fastbp.sklearn overrides for predictions.
OVERRIDDEN_PREDICTION = _own_methods("_forward_pass_fast")
# What scikit-learn reads of an estimator in each step. A class that computes one of them may say something else each time.
ATTRIBUTES = "coefs_", "intercepts_", "n_layers_", "activation", "out_activation_", "loss", "alpha", "_optimizer"
# The methods of an optimiser that compiled steps never call.
OPTIMIZER_METHODS = "update_params", "_get_updates"
# The training loop of scikit-learn, and the names in it that fastbp.sklearn replaces.
LOOP = OVERRIDDEN["_fit_stochastic"]
REPLACED = "shuffle", "gen_batches", "_safe_indexing", "SGDOptimizer", "AdamOptimizer"
if isinstance(LOOP, FunctionType) and not (set(REPLACED) <= set(LOOP.__code__.co_names)
                                           and "sample_weight" in LOOP.__code__.co_varnames):
    raise ImportError("scikit-learn's training loop is not as expected: this fastbp is for scikit-learn 1.7 to 1.9")

_FORWARD = (_mlp, dict(np=np, safe_sparse_dot=safe_sparse_dot)), (_base, dict(np=np, logistic_sigmoid=expit))
# Pairs (module, {name: object}) of what scikit-learn finds under its names in a prediction.
PREDICTION = *_FORWARD, (_mlp, dict(validate_data=validate_data))
# Pairs (module or class, {name: object}) of what scikit-learn finds under its names in an epoch.
STEPS = (
    *_FORWARD, (_base, dict(xlogy=xlogy)), (_stochastic_optimizers, dict(np=np)),
    (_mlp, dict(shuffle=_indexing.shuffle, _safe_indexing=_indexing._safe_indexing, gen_batches=_chunking.gen_batches,
                SGDOptimizer=SGDOptimizer, AdamOptimizer=AdamOptimizer)),
    (SGDOptimizer, _own(_stochastic_optimizers, "BaseOptimizer.update_params", "SGDOptimizer._get_updates")),
    (AdamOptimizer, _own(_stochastic_optimizers, "BaseOptimizer.update_params", "AdamOptimizer._get_updates")))

_HIDDEN = "identity", "logistic", "tanh", "relu"
# The functions in scikit-learn's tables, by the table's name and the key.
_TABLES = {
    "ACTIVATIONS": {key: _own(_base, f"inplace_{key}")[f"inplace_{key}"] for key in (*_HIDDEN, "softmax")},
    "DERIVATIVES": {key: _own(_base, f"inplace_{key}_derivative")[f"inplace_{key}_derivative"] for key in _HIDDEN},
    "LOSS_FUNCTIONS": {"squared_error": _own(_base, "squared_loss")["squared_loss"],
                       **_own(_base, "log_loss", "binary_log_loss")},
}


def has(owner: object, known: dict[str, object]) -> bool:
    """Return whether the attributes of an object are those of {name: object}; a bound method counts as its function."""
    try:
        for name, expected in known.items():
            value = getattr(owner, name)
            if value is not expected and value.__func__ is not expected:
                return False
    except AttributeError:                      # a name that is gone, or what is not a method
        return False
    return True


def have(pairs: tuple[tuple[object, dict[str, object]], ...]) -> bool:
    """Return whether `has` is true of each pair (owner, {name: object})."""
    return all(has(owner, known) for owner, known in pairs)


def holds(table: str, key: str) -> bool:
    """Return whether scikit-learn's ACTIVATIONS, DERIVATIVES or LOSS_FUNCTIONS holds its own function for a key."""
    functions, known = getattr(_mlp, table), _TABLES[table]
    return key in known and key in functions and functions[key] is known[key]
