"""scikit-learn's multi-layer perceptrons, trained by fastbp: the same classes, but for the inside of an epoch.

Parameters, checks, random stream, learning-rate schedules, early stopping, warnings and attributes are scikit-learn's own code:
its training loop runs with five of the names that it uses replaced, so that it meets an epoch as one batch, and what it takes
for backpropagation of that batch are the epoch's steps in compiled code. Where fastbp has no kernel (sparse data, the Poisson
loss, arrays of another dtype than the data's, of other shapes, or that cannot be written) and for lbfgs it is scikit-learn's
code throughout.
"""
from itertools import chain, pairwise
from types import FunctionType

import numpy as np

try:
    from sklearn.neural_network import MLPClassifier as _Classifier
    from sklearn.neural_network import MLPRegressor as _Regressor
    from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError("fastbp.sklearn needs scikit-learn 1.7 or later: pip install 'fastbp[sklearn]'") from error

from . import _jit, functional
from ._operands import FLOATS, empty
from .kernels import losses, optimizers
from .kernels.activations import NAMES as ACTIVATIONS
from .losses import Loss, softmax
from .optimizers import Optimizer
from .training import Part, Run

__all__ = ["MLPClassifier", "MLPRegressor"]

_LOOP = BaseMultilayerPerceptron._fit_stochastic
_REPLACED = "shuffle", "gen_batches", "_safe_indexing", "SGDOptimizer", "AdamOptimizer"
if not (set(_REPLACED) <= set(_LOOP.__code__.co_names) and "sample_weight" in _LOOP.__code__.co_varnames):
    raise ImportError("scikit-learn's training loop is not as expected: this fastbp is for scikit-learn 1.7 to 1.9")

_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
_LOSSES = {("softmax", "log_loss"): losses.SOFTMAX, ("logistic", "log_loss"): losses.BINARY,     # by the output's activation,
           ("identity", "squared_error"): losses.SQUARED}                               # and what the parameters say
_OUTPUTS = {output for output, _ in _LOSSES}


class _Loss(Loss):
    """A loss as scikit-learn counts it: cross-entropies of probabilities that are clipped, summed over the outputs."""

    def __init__(self, kind, dtype):
        self._kind = kind
        epsilon = float(np.finfo(dtype).eps)
        self._bounds = -np.log(1 - epsilon), -np.log(epsilon)

    def factors(self, outputs):
        return 1.0, 0.5 / outputs if self._kind == losses.SQUARED else 1.0

    def as_targets(self, targets, rows, outputs, dtype):
        """From a row of booleans or numbers for each sample."""
        if self._kind == losses.SOFTMAX:
            return np.flatnonzero(targets) - np.arange(0, targets.size, outputs)
        return np.ascontiguousarray(targets, dtype)


def _align(arrays):
    """Put copies in the places of a list's matrices that begin with a cache line: a step of 50 000 weights takes 3 % less."""
    for i, array in enumerate(arrays):
        if array.ndim == 2:
            arrays[i] = empty(array.shape, array.dtype)
            arrays[i][:] = array


class _InPlace:
    """An optimiser of scikit-learn whose arrays compiled steps change in place."""

    def __init__(self, params, *settings):
        super().__init__(params, *settings)
        for arrays in _states(self):
            _align(arrays)

    def update_params(self, params, grads):
        """There are no gradients where an epoch has made its own steps."""
        if grads:
            super().update_params(params, grads)

    def _on_arrays(self, kind, **settings):
        """An Optimizer that remembers in this one's arrays."""
        states = list(zip(*_states(self), strict=True))         # of each array, all weights first, then all biases
        layers = len(states) // 2
        optimizer = Optimizer(kind, learning_rate=self.learning_rate_init, decay=0.0, weight_decay=0.0, corrected=0.0,
                              **settings)
        return optimizer.remember([states[i] for k in range(layers) for i in (k, layers + k)])


class _SGD(_InPlace, SGDOptimizer):
    def compiled(self):
        """The Optimizer of this one's arrays and settings."""
        kind = optimizers.NESTEROV if self.nesterov else optimizers.MOMENTUM
        return self._on_arrays(kind, beta=self.momentum, beta2=0.0, epsilon=0.0)

    def before(self, optimizer):
        """An epoch: tell the other one what the loop may have changed."""
        optimizer._settings[0] = self.learning_rate         # unchecked: as it shrinks it may come to 0

    def after(self, optimizer):
        """An epoch: take over what it counted."""


class _Adam(_InPlace, AdamOptimizer):
    def compiled(self):
        """The Optimizer of this one's arrays and settings."""
        return self._on_arrays(optimizers.ADAM, beta=self.beta_1, beta2=self.beta_2, epsilon=self.epsilon)

    def before(self, optimizer):
        """An epoch: tell the other one what the loop may have changed."""
        optimizer.iterations = self.t

    def after(self, optimizer):
        """An epoch: take over what it counted."""
        if self.t != optimizer.iterations:
            self.t = optimizer.iterations
            self.learning_rate = self.learning_rate_init * np.sqrt(1 - self.beta_2**self.t) / (1 - self.beta_1**self.t)


def _states(optimizer):
    """What an optimiser of scikit-learn remembers: lists with an array for each array of the parameters."""
    return [optimizer.velocities] if isinstance(optimizer, SGDOptimizer) else [optimizer.ms, optimizer.vs]


def _shuffled(order, random_state):
    """scikit-learn's shuffle of an array, without looking what kind of data it is: 0.15 ms in an epoch that may take 1."""
    permutation = np.arange(len(order))
    random_state.shuffle(permutation)
    return order[permutation]


class _Rows:
    """Rows of data in some order, not yet copied."""

    def __init__(self, data, order):
        self.data, self.order = data, np.ascontiguousarray(order, np.int64)


class _Uncopied:
    """An array of which rows in some order are not copied."""

    def __init__(self, data):
        self._data = data

    def __getitem__(self, rows):
        return self._data if isinstance(rows, slice) else _Rows(self._data, rows)     # the slice of all rows: _one_batch


def _data_and_order(rows):
    return (rows.data, rows.order) if isinstance(rows, _Rows) else (rows, None)


class _Epochs:
    """What takes the place of five names in scikit-learn's loop during one fit, and of backpropagation."""

    def __init__(self, estimator):
        self._estimator, self._run, self._targets_of = estimator, None, None
        self.names = dict(zip(_REPLACED, (_shuffled, self._one_batch, _Rows, _SGD, _Adam), strict=True))

    def _one_batch(self, rows, batch_size):
        """An epoch is one batch to the loop."""
        self._batch_size = int(batch_size)
        return [slice(0, rows)]

    def steps(self, x, y, sample_weight):
        """All steps of an epoch; returns its loss, the mean over its batches."""
        (x, order), (y, y_order) = _data_and_order(x), _data_and_order(y)
        optimizer = self._estimator._optimizer
        if self._run is None:
            self._begin(optimizer, x.shape[1])
        optimizer.before(self._optimizer)
        if y is not self._targets_of or sample_weight is not None:      # x is the same in all epochs
            weights = None if sample_weight is None else self._as_weights(sample_weight)
            self._run.use(x, self._run.loss.as_targets(y, len(x), self._run.outputs, x.dtype), weights)
            self._targets_of = y
        self._run.start(order, y_order)
        try:
            for _ in self._run.finish():
                pass
        finally:
            optimizer.after(self._optimizer)
        return np.float64(self._run.mean_loss)

    def _as_weights(self, sample_weight):
        """In float64; NumPy's error for a batch of no weight, as the means of scikit-learn's losses raise it."""
        weights = np.ascontiguousarray(sample_weight, np.float64)
        batches = np.add.reduceat(weights, np.arange(0, len(weights), self._batch_size))[np.newaxis]
        np.average(batches, axis=0, weights=batches)
        return weights

    def _begin(self, optimizer, inputs):
        estimator = self._estimator
        if not isinstance(optimizer, _InPlace):         # it began in a fit that fastbp has no kernel for
            optimizer.__class__ = _SGD if isinstance(optimizer, SGDOptimizer) else _Adam
        *hidden, last = _parts(estimator)
        parts = [*(part._replace(activation=_activation(estimator.activation)) for part in hidden), last]
        self._optimizer = optimizer.compiled()
        loss = _Loss(_LOSSES[estimator.out_activation_, estimator.loss], estimator.coefs_[0].dtype)
        self._run = Run(parts, inputs, loss, self._optimizer, self._batch_size, l2=estimator.alpha, shared=True, check=False)


def _activation(name):
    return ACTIVATIONS.index(_ACTIVATIONS[name])


def _parts(estimator):
    """The layers, on the estimator's own arrays."""
    return [Part(weights, biases.reshape(1, -1))
            for weights, biases in zip(estimator.coefs_, estimator.intercepts_, strict=True)]


class _Compiled:
    """The parts of an estimator that fastbp computes."""

    _epochs = None

    def _fit_stochastic(self, X, y, sample_weight, *others):
        if not self._has_steps(X, *others[-2:]):
            return super()._fit_stochastic(X, y, sample_weight, *others)
        if not others[-1]:              # no partial_fit, whose arrays stay the same
            _align(self.coefs_)
        self._epochs = _Epochs(self)
        loop = FunctionType(_LOOP.__code__, _LOOP.__globals__ | self._epochs.names)
        if sample_weight is None and not self.early_stopping:           # of which the loop takes rows of y in other ways
            y = _Uncopied(y)
        try:
            return loop(self, np.ascontiguousarray(X), y, sample_weight, *others)
        finally:
            del self._epochs

    def _backprop(self, X, y, sample_weight, *others):
        if self._epochs is None:
            return super()._backprop(X, y, sample_weight, *others)
        return self._epochs.steps(X, y, sample_weight), [], []

    def _forward_pass_fast(self, X, check_input=True):
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        if not self._has_kernels(X):
            return super()._forward_pass_fast(X, check_input=False)
        *hidden, last = _parts(self)
        for part in hidden:
            X, _ = functional._forward(X, part.weights, part.biases, None, _activation(self.activation))
        output = _activation("identity" if self.out_activation_ == "softmax" else self.out_activation_)
        scores, _ = functional._forward(X, last.weights, last.biases, None, output)
        return softmax(scores) if self.out_activation_ == "softmax" else scores

    def _has_kernels(self, X):
        """Whether fastbp computes the outputs for that X with the estimator's arrays."""
        if _jit.DISABLED:
            return False
        arrays = self.coefs_ + self.intercepts_
        if not (isinstance(X, np.ndarray) and X.dtype in FLOATS and X.ndim == 2 and self.out_activation_ in _OUTPUTS
                and all(isinstance(a, np.ndarray) and a.dtype == X.dtype and a.flags.c_contiguous for a in arrays)):
            return False
        sizes = [X.shape[1], *(b.size for b in self.intercepts_)]
        return [a.shape for a in arrays] == [*pairwise(sizes), *((size,) for size in sizes[1:])]

    def _has_steps(self, X, layer_units, incremental):
        """Whether fastbp trains the estimator with that X: a network of these sizes, or going on with one."""
        if not (self._has_kernels(X) and (self.out_activation_, self.loss) in _LOSSES
                and [X.shape[1], *(b.size for b in self.intercepts_)] == layer_units):
            return False
        lists = [self.coefs_ + self.intercepts_]
        if incremental and hasattr(self, "_optimizer"):
            lists += _states(self._optimizer)
        return (all([a.shape for a in arrays] == [a.shape for a in lists[0]] for arrays in lists)
                and all(a.dtype == X.dtype and a.flags.carray for a in chain(*lists)))


class MLPClassifier(_Compiled, _Classifier):
    __doc__ = _Classifier.__doc__


class MLPRegressor(_Compiled, _Regressor):
    __doc__ = _Regressor.__doc__
