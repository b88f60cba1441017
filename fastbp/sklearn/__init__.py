"""scikit-learn's multi-layer perceptrons, trained by fastbp: the same classes, but compiled code makes the steps of an epoch.

Parameters, checks, random stream, learning-rate schedules, early stopping, warnings and attributes are scikit-learn's own code.
Its training loop runs with five of its global names replaced, so that it sees each epoch as one batch. Its call of
backpropagation for that batch makes all steps of the epoch in compiled code.

scikit-learn's code computes everything in three cases. The solver is lbfgs. Or fastbp has no kernel: sparse data, the Poisson
loss, sample weights below 0, or arrays that have another dtype than the data, have other shapes, share memory or cannot be
written. Or compiled code would ignore somebody's own code (sklearn/functions.py): a method that a subclass overrides, that was
set on an instance or patched, or another activation, loss or optimiser.
"""
from itertools import chain, pairwise
from numbers import Real
from operator import is_
from types import FunctionType

import numpy as np

from .. import functional
from .._arrays.operands import FLOATS
from .._compile import compiler
from .._training.session import LayerSpec, TrainingSession
from ..kernels.elementwise.activations import NAMES as ACTIVATIONS
from ..kernels.train import losses
from ..losses import Loss, softmax
from . import functions as originals
from .functions import LOOP, REPLACED, holds, validate_data
from .optimizers import IN_PLACE, aligned, is_plain, settings_of, states_of
from .optimizers import SGD as _SGD  # estimators that were pickled earlier know the classes by these names
from .optimizers import Adam as _Adam

__all__ = ["MLPClassifier", "MLPRegressor"]

# fastbp's name for each of scikit-learn's activations.
_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
# (kernel, name of scikit-learn's function) of each loss, by (activation of the output, parameter `loss`).
_LOSSES = {("softmax", "log_loss"): (losses.SOFTMAX, "log_loss"), ("logistic", "log_loss"): (losses.BINARY, "binary_log_loss"),
           ("identity", "squared_error"): (losses.SQUARED, "squared_error")}
# The output of an estimator that fastbp computes has one of these activations.
_OUTPUTS = {output for output, _ in _LOSSES}
# fastbp computes with arrays of these classes only: a masked array or a matrix has an arithmetic of its own.
_ARRAYS = np.ndarray, np.memmap


class _Loss(Loss):
    """A loss as scikit-learn defines it: cross-entropies of clipped probabilities, summed over the outputs."""

    def __init__(self, kind, dtype):
        self._kind = kind
        epsilon = float(np.finfo(dtype).eps)
        self._bounds = -np.log(1 - epsilon), -np.log(epsilon)

    def factors(self, outputs):
        return 1.0, 0.5 / outputs if self._kind == losses.SQUARED else 1.0

    def as_targets(self, targets, rows, outputs, dtype):
        """Return targets (rows, outputs) of booleans or numbers in the form that the kernel takes."""
        return _labels(targets) if self._kind == losses.SOFTMAX else np.ascontiguousarray(targets, dtype)


def _labels(targets):
    """Return (rows,) columns, of the one True in each row of targets (rows, outputs); None if a row has none or several."""
    rows, outputs = targets.shape
    places = np.flatnonzero(targets)
    if len(places) != rows:
        return None
    labels = places - np.arange(0, targets.size, outputs, np.int64)
    return labels if labels.min() >= 0 and labels.max() < outputs else None


def _shuffled(order, random_state):
    """Return an array shuffled as scikit-learn does it, without its checks of the data, which take 0.15 ms.

    An epoch may take only 1 ms.
    """
    permutation = np.arange(0, len(order), 1, np.int64)
    random_state.shuffle(permutation)
    return order[permutation]


class _Rows:
    """An array and an order of its rows. Only indexing copies rows."""

    def __init__(self, data, order):
        self.data, self.order = data, np.ascontiguousarray(order, np.int64)

    def __getitem__(self, batch):
        return self.data[self.order[batch]]


class _Uncopied:
    """An array that gives _Rows when it is indexed, and copies nothing."""

    def __init__(self, data):
        self._data = data

    def __getitem__(self, rows):
        return self._data if isinstance(rows, slice) else _Rows(self._data, rows)     # a slice is of all rows: _one_batch


def _data_and_order(rows):
    return (rows.data, rows.order) if isinstance(rows, _Rows) else (rows, None)


class _Epochs:
    """The epochs of one fit: replaces five global names of scikit-learn's loop, and its backpropagation."""

    def __init__(self, estimator, layer_units, *lists):
        self._estimator, self._layer_units, self._lists = estimator, layer_units, lists     # activations, deltas, gradients
        self._parameters = estimator.coefs_ + estimator.intercepts_         # the loop's, even if the estimator gets others
        self._run, self._built_of, self._targets_of = None, None, None
        self.names = dict(zip(REPLACED, (_shuffled, self._one_batch, _Rows, _SGD, _Adam), strict=True))
        self.is_due = False             # whether the loop calls the next backpropagation, which then is an epoch

    def _one_batch(self, rows, batch_size):
        """Yield one slice of all rows, so that the loop sees the epoch as one batch."""
        self._batch_size = int(batch_size)
        self.is_due = True
        yield slice(0, rows)

    def steps(self, x, y, sample_weight):
        """Make all steps of an epoch. Return (mean loss over its batches, coef_grads, intercept_grads).

        The gradients are those of the last step if the loop still has to make its update, else empty lists. scikit-learn's code
        makes the steps if something that compiled code does not see has changed since the last epoch. It also makes them if a
        batch has no weight, because it raises an error for that batch.
        """
        self.is_due = False
        (data, order), (targets, targets_order) = _data_and_order(x), _data_and_order(y)
        if self._has_weight(sample_weight) and self._is_built(data):
            return self._compiled_steps(data, order, targets, targets_order, sample_weight), [], []
        return self._own_steps(x, y, sample_weight)

    def _compiled_steps(self, x, order, y, y_order, sample_weight):
        optimizer = self._estimator._optimizer
        optimizer.before(self._optimizer)
        if y is not self._targets_of or sample_weight is not None:      # x is the same array in all epochs
            weights = None if sample_weight is None else np.ascontiguousarray(sample_weight, np.float64)
            self._run.use(x, self._run.loss.as_targets(y, len(x), self._run.outputs, x.dtype), weights)
            self._targets_of = y
        self._run.start(order, y_order)
        try:
            for _ in self._run.finish():
                pass
        finally:
            optimizer.after(self._optimizer)
        return np.float64(self._run.mean_loss)

    def _own_steps(self, x, y, sample_weight):
        """Make the same steps with scikit-learn's code, but for the update of the last one; return as `steps` does."""
        estimator, total, end = self._estimator, 0.0, 0
        activations, deltas, coef_grads, intercept_grads = self._lists
        rows = len(x.order if isinstance(x, _Rows) else x)
        while end < rows:
            if end:
                estimator._optimizer.update_params(self._parameters, coef_grads + intercept_grads)
            batch = slice(end, min(end + self._batch_size, rows))
            activations[0] = x[batch]
            loss, coef_grads, intercept_grads = estimator._backprop(
                activations[0], y[batch], None if sample_weight is None else sample_weight[batch], activations, deltas,
                coef_grads, intercept_grads)
            total += loss * (batch.stop - batch.start)
            end = batch.stop
        return total / rows, coef_grads, intercept_grads

    def _has_weight(self, sample_weight):
        """Return whether the weights of each batch have a sum above 0. None of them is below 0."""
        if sample_weight is None:
            return True
        starts = np.arange(0, len(sample_weight), self._batch_size, np.int64)
        return np.add.reduceat(sample_weight, starts).min() > 0

    def _is_built(self, x):
        """Return whether compiled code can make the epoch's steps; build it anew if what it was built from has changed."""
        estimator = self._estimator
        arrays = [*estimator.coefs_, *estimator.intercepts_]
        if not (len(arrays) == len(self._parameters) and all(map(is_, arrays, self._parameters)) and estimator._is_original()):
            return False
        optimizer = estimator._optimizer
        if not is_plain(optimizer):
            return False
        if self._run is not None and self._built_of == self._parts_of(optimizer) and all(a.flags.writeable for a in arrays):
            return True
        if not estimator._has_steps(x, self._layer_units, optimizer):
            return False
        optimizer.__class__ = IN_PLACE[type(optimizer)]      # a fit by scikit-learn's own code may have made the optimiser
        self._begin(optimizer, x.shape[1])
        self._built_of = self._parts_of(optimizer)
        return True

    def _parts_of(self, optimizer):
        """Return what compiled steps are built from, beside the parameters. The steps keep the objects of the ids alive."""
        e = self._estimator
        return (id(optimizer), *map(id, chain(*states_of(optimizer))), *settings_of(optimizer),
                e.activation, e.out_activation_, e.loss, e.alpha, e.n_layers_)

    def _begin(self, optimizer, inputs):
        estimator = self._estimator
        *hidden, last = _specs(estimator.coefs_, estimator.intercepts_)
        specs = [*(spec._replace(activation=_activation(estimator.activation)) for spec in hidden), last]
        self._kept_alive, self._optimizer, self._targets_of = optimizer, optimizer.compiled(), None
        loss = _Loss(_LOSSES[estimator.out_activation_, estimator.loss][0], estimator.coefs_[0].dtype)
        self._run = TrainingSession(specs, inputs, loss, self._optimizer, self._batch_size, l2=estimator.alpha, shared=True,
                                    check=False)


def _activation(name):
    return ACTIVATIONS.index(_ACTIVATIONS[name])


def _specs(coefs, intercepts):
    """Return the LayerSpec of each layer. They share memory with the arrays."""
    return [LayerSpec(weights, biases.reshape(1, -1)) for weights, biases in zip(coefs, intercepts, strict=True)]


def _are_apart(arrays):
    """Return whether no two of these arrays, which are in C order, share memory."""
    owners = {id(owner): owner for owner in (a if a.base is None else a.base for a in arrays)}.values()
    if len(owners) == len(arrays) and all(isinstance(owner, np.ndarray) and owner.flags.owndata for owner in owners):
        return True                                             # this takes 1 µs; to read one address takes 3
    extents = sorted((a.__array_interface__["data"][0], a.nbytes) for a in arrays)
    return all(start + size <= following for (start, size), (following, _) in pairwise(extents))


def _are_summable(weights, rows, dtype):
    """Return whether each weight is 0 or in a range whose sums, products and quotients neither underflow nor overflow."""
    if type(weights) not in _ARRAYS or weights.shape != (rows,) or weights.dtype not in FLOATS:
        return False
    least = np.sqrt(np.finfo(min(dtype, weights.dtype)).tiny)
    return bool(np.all((weights == 0) | (weights >= least) & (weights <= 1 / least)))


# {id of an estimator: its epochs} while fastbp trains it. An attribute would be copied if the estimator is copied in a fit.
_running: dict[int, _Epochs] = {}


class _Compiled:
    """A mixin that computes parts of an estimator with fastbp."""

    def _init_coef(self, fan_in, fan_out, dtype):
        weights, biases = super()._init_coef(fan_in, fan_out, dtype)
        return aligned(weights), biases

    def _fit_stochastic(self, X, y, sample_weight, activations, deltas, coef_grads, intercept_grads, layer_units, incremental):
        optimizer = getattr(self, "_optimizer", None) if incremental else None
        lists = activations, deltas, coef_grads, intercept_grads
        if not (self._is_original() and self._has_steps(X, layer_units, optimizer)
                and self._has_targets(y, len(X), layer_units[-1])
                and (sample_weight is None or _are_summable(sample_weight, len(X), X.dtype))):
            return super()._fit_stochastic(X, y, sample_weight, *lists, layer_units, incremental)
        epochs = _Epochs(self, layer_units, *lists)
        loop = FunctionType(LOOP.__code__, LOOP.__globals__ | epochs.names)
        if sample_weight is None and not self.early_stopping:           # with either, the loop indexes y in other ways, too
            y = _Uncopied(y)
        outer, _running[id(self)] = _running.get(id(self)), epochs      # outer: code between the epochs of a fit may call fit
        try:
            return loop(self, np.ascontiguousarray(X, X.dtype), y, sample_weight, *lists, layer_units, incremental)
        finally:
            if outer is None:
                del _running[id(self)]
            else:
                _running[id(self)] = outer

    def _backprop(self, X, y, sample_weight, *lists):
        epochs = _running.get(id(self))
        if epochs is None or not epochs.is_due:
            return super()._backprop(X, y, sample_weight, *lists)
        return epochs.steps(X, y, sample_weight)

    def _forward_pass_fast(self, X, check_input=True):
        if not (originals.have(originals.PREDICTION) and originals.has(super(), originals.OVERRIDDEN_PREDICTION)):
            return super()._forward_pass_fast(X, check_input)
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        coefs, intercepts = self.coefs_, self.intercepts_
        if not self._has_kernels(X, coefs, intercepts):
            return super()._forward_pass_fast(X, check_input=False)
        *hidden, last = _specs(coefs, intercepts)
        for spec in hidden:
            X, _ = functional._forward(X, spec.weights, spec.biases, None, _activation(self.activation))
        output = _activation("identity" if self.out_activation_ == "softmax" else self.out_activation_)
        scores, _ = functional._forward(X, last.weights, last.biases, None, output)
        return softmax(scores) if self.out_activation_ == "softmax" else scores

    def _is_original(self):
        """Return whether all functions that compiled steps replace are scikit-learn's own."""
        return (originals.has(self, originals.UNCALLED) and originals.has(self, _BACKPROP)
                and originals.has(super(), originals.OVERRIDDEN) and originals.have(originals.STEPS))

    def _has_kernels(self, X, coefs, intercepts):
        """Return whether fastbp can compute the outputs for X with the estimator's arrays."""
        if compiler.DISABLED:
            return False
        if not (type(coefs) in (list, tuple) and type(intercepts) in (list, tuple)
                and len(coefs) == len(intercepts) == self.n_layers_ - 1
                and type(X) in _ARRAYS and X.dtype in FLOATS and X.ndim == 2 and self.out_activation_ in _OUTPUTS
                and holds("ACTIVATIONS", self.activation) and holds("ACTIVATIONS", self.out_activation_)):
            return False
        arrays = [*coefs, *intercepts]
        if not all(type(a) in _ARRAYS and a.dtype == X.dtype and a.flags.c_contiguous for a in arrays):
            return False
        sizes = [X.shape[1], *(b.size for b in intercepts)]
        return [a.shape for a in arrays] == [*pairwise(sizes), *((size,) for size in sizes[1:])]

    def _has_steps(self, X, layer_units, optimizer):
        """Return whether fastbp can train a network of layer_units on X, with this optimiser or, for None, a new one."""
        coefs, intercepts = self.coefs_, self.intercepts_
        if not (self._has_kernels(X, coefs, intercepts) and type(coefs) is type(intercepts)
                and [X.shape[1], *(b.size for b in intercepts)] == layer_units
                and (self.out_activation_, self.loss) in _LOSSES
                and holds("LOSS_FUNCTIONS", _LOSSES[self.out_activation_, self.loss][1])
                and holds("DERIVATIVES", self.activation) and isinstance(self.alpha, Real)
                and type(self).__getattribute__ is object.__getattribute__
                and not any(hasattr(getattr(type(self), name, None), "__get__") for name in originals.ATTRIBUTES)):
            return False
        lists = [[*coefs, *intercepts]]
        if optimizer is not None:
            if not (is_plain(optimizer) and all(isinstance(number, Real) for number in settings_of(optimizer))):
                return False
            lists += states_of(optimizer)
        arrays = [*chain(*lists)]
        return (all(type(a) in _ARRAYS and a.dtype == X.dtype and a.flags.carray for a in arrays)
                and all([a.shape for a in of] == [a.shape for a in lists[0]] for of in lists)
                and _are_apart([*arrays, X] if X.flags.c_contiguous else arrays))

    def _has_targets(self, y, rows, outputs):
        """Return whether fastbp has a kernel for y: numbers, or booleans; for a softmax, one True in each row."""
        if type(y) not in _ARRAYS or y.shape != (rows, outputs):
            return False
        if self.out_activation_ == "identity":
            return y.dtype.kind in "biuf" and y.dtype.itemsize <= 8
        return y.dtype == np.bool_ and (self.out_activation_ == "logistic" or outputs > 1 and _labels(y) is not None)


# Compiled steps start in this method of _Compiled, which a subclass or an instance may have overridden.
_BACKPROP = {"_backprop": _Compiled._backprop}


class MLPClassifier(_Compiled, originals.CLASSIFIER):
    __doc__ = originals.CLASSIFIER.__doc__


class MLPRegressor(_Compiled, originals.REGRESSOR):
    __doc__ = originals.REGRESSOR.__doc__
