"""Networks: layers one after another, and a loss."""
import os
import sys
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from . import functional
from ._arrays import operands
from ._compile import compiler
from ._files import network_format
from ._njit import network
from ._njit.network import Jitted
from ._training import gradient_check, summary
from ._training.loop import Callback, History, fit
from ._training.session import LayerSpec
from .frozen import Frozen
from .functional import FloatArray
from .inference import Predictor, as_inputs, scores
from .kernels.elementwise.activations import IDENTITY
from .layers import AnyLayer, Dense, Dropout, ReLU
from .losses import Loss
from .optimizers import Optimizer, check_apart


class _Seen(NamedTuple):
    """A dense layer as a Predictor saw it."""

    layer: Dense
    weights: FloatArray
    biases: FloatArray | None
    activation: int
    precision: str | None


class _Memo(NamedTuple):
    """A Predictor, and what it was made from."""

    predictor: Predictor
    layers: list[AnyLayer]
    loss: Loss | None
    dense: list[_Seen]


class Sequential:
    """A network: layers one after another, and the loss that it is trained for.

    layers: Dense, DenseReLU, Dropout, and a ReLU after a Dense without an activation. The last one, but for a ReLU, is a Dense.
    All are of one dtype, and each takes as many inputs as the one before has neurons.
    loss: SoftmaxCrossEntropy(), BinaryCrossEntropy() or MeanSquaredError(); None for a network that is only to predict.
    l2: the factor of a penalty l2 / 2 * Σ w² that is added to the loss, w being all weights, without biases.

    Weights and biases may be assigned later. When the network uses them, it replaces by a copy whatever is not an aligned,
    writeable array of its dtype in C order.

    Raises TypeError for what is no such layer or loss, ValueError for layers that do not fit each other, for one that is there
    twice, or for a last layer whose activation the loss brings with it.
    """

    _l2: float
    _memo: _Memo | None = None      # for _predictor

    def __init__(self, layers: Iterable[AnyLayer], loss: Loss | None = None, *, l2: float = 0.0):
        self.layers = list(layers)
        self.loss, self.l2 = loss, l2
        self._replace_arrays(None)
        _check(self.layers, loss)
        self.dtype = _dtype(self.dense)

    @property
    def l2(self) -> float:
        """The factor of the penalty. It may be assigned; ValueError is raised as by the constructor."""
        return self._l2

    @l2.setter
    def l2(self, value: float) -> None:
        if not isinstance(value, Real) or not 0 <= value <= sys.float_info.max:
            raise ValueError(f"l2 is {value!r}, expected a number of 0 or more")
        self._l2 = float(value)

    @property
    def dense(self) -> list[Dense]:
        """The dense layers."""
        return [layer for layer in self.layers if isinstance(layer, Dense)]

    @property
    def n_inputs(self) -> int:
        """The number of inputs of the first layer."""
        return len(self.dense[0].weights)

    @property
    def n_outputs(self) -> int:
        """The number of neurons of the last layer."""
        return int(np.shape(self.dense[-1].weights)[1])

    def __repr__(self) -> str:
        return summary.line(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_memo"}

    def parameters(self) -> list[FloatArray]:
        """Return the arrays that are trained, not copies of them: weights and biases of each dense layer."""
        self._replace_arrays(self.dtype)
        return [a for layer in self.dense for a in (layer.weights, layer.biases) if a is not None]

    def gradients(self) -> list[FloatArray]:
        """Return the gradients of the last backward, in the order of parameters()."""
        pairs = [pair for layer in self.dense
                 for pair in ((layer.weights, layer.dweights), (layer.biases, layer.dbiases))]
        return [gradient for values, gradient in pairs if values is not None]

    def forward(self, x: ArrayLike, training: bool = False) -> FloatArray:
        """Return the scores (rows, n_outputs) of x (rows, n_inputs), layer by layer, for a training loop of your own.

        training: whether a Dropout drops.
        """
        h: Any = x
        try:
            for layer in self.layers:
                # A subclass's own forward may take the inputs alone, so `training` goes only where it changes something.
                h = layer.forward(h, training=training) if getattr(layer, "_differs_in_training", False) else layer.forward(h)
        except BaseException:
            if functional.accepts(self._as_inputs, "x", x):    # else some layers would hold this x, others the one before
                for layer in self.layers:
                    layer._forget()
            raise
        return h

    def backward(self, dvalues: ArrayLike) -> Any:
        """Return the gradient with respect to the last forward's x, and set the gradients of the layers.

        dvalues: the gradient (rows, n_outputs) with respect to the scores. Returns None if the first layer has
        need_dinputs=False.
        """
        dinputs: Any = dvalues
        try:
            for layer in reversed(self.layers):
                dinputs = layer.backward(dinputs)
        except BaseException:
            if functional.accepts(self._check_dvalues, dvalues):    # gradients of two calls do not fit each other
                for layer in self.layers:
                    layer._forget_gradients()
            raise
        return dinputs

    def fit(self, x: ArrayLike, y: ArrayLike, *, epochs: int, batch_size: int, optimizer: Optimizer,
            sample_weight: ArrayLike | None = None, validation_data: Sequence[Any] | None = None, shuffle: bool = True,
            rng: np.random.Generator | int | None = None, progress: bool = True, check_finite: bool = True,
            callbacks: Callback | Iterable[Callback] = ()) -> History:
        """Train on x (rows, n_inputs) and targets y, as the loss takes them, in batches. Whole steps run in compiled code.

        optimizer: SGD, Adam or AdamW. One that was used before goes on where it stopped.
        sample_weight: (rows,), the weights of the rows in the loss.
        validation_data: (x, y) or (x, y, sample_weight), whose loss is computed after each epoch.
        shuffle: take the rows in another order each epoch. The data are not copied, unless their dtype is not the network's,
        or rows of x are not contiguous or go backwards.
        rng: for the order and for a Dropout: a numpy.random.Generator, a seed, or None for fresh entropy.
        progress: show a bar, on a terminal or in a notebook.
        check_finite: whether to stop at a loss, a gradient or a penalty that is not finite, before its step.
        callbacks: one or several functions, called after each epoch with the network and the History so far. One that returns
        True ends the training. They may change weights in place, but the training does not see arrays that they assign.

        Ctrl-C ends the training after the batch at hand, with a RuntimeWarning; what was learnt stays.

        Raises FloatingPointError for a loss, a gradient or a penalty that is not finite. It says which one, and in which batch
        of which epoch; weights and optimiser are as they were before that batch. Raises ValueError or TypeError for arguments
        that do not fit, and RuntimeError where Numba's JIT is disabled, before anything is changed.
        """
        compiler.check_enabled("fit")
        return fit(self, x, y, epochs=epochs, batch_size=batch_size, optimizer=optimizer, sample_weight=sample_weight,
                   validation_data=validation_data, shuffle=shuffle, rng=rng, progress=progress, check_finite=check_finite,
                   callbacks=callbacks)

    def predict(self, x: ArrayLike) -> FloatArray:
        """Return predictions (rows, n_outputs) for x (rows, n_inputs).

        By the loss, these are the probabilities of the classes or of yes, or else the scores. The layers' inputs and outputs
        stay as they are, and a Dropout drops nothing. For a Dask array x the result is one, too, cut along the rows as x is.
        """
        memo = self._memo
        if memo is not None and type(x) is ndarray and self._is_as(memo):
            predicted = memo.predictor.direct(x)
            if predicted is not None:
                return predicted
        if operands.is_lazy(x):
            from .dask import arrays

            return arrays.predict(self, x)
        predictor = self._predictor()
        return predictor(as_inputs("x", x, predictor.n_inputs))

    def frozen(self) -> Frozen:
        """Return a function of x that returns what predict(x) returns now, and whose weights never change.

        It copies weights and biases, so that calls need not, and can be called inside @njit code; Frozen says more. Raises
        ValueError as predict does.
        """
        return Frozen(self._specs(), self.loss)

    def evaluate(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, float | None]:
        """Return (loss, accuracy) on x (rows, n_inputs) and targets y; accuracy is None where the loss has none.

        sample_weight: (rows,), the weights of the rows in the loss.
        """
        loss = self._require_loss("evaluate")
        predicted = scores(self._specs(), self._as_inputs("x", x))
        value, right, _ = loss.evaluate(predicted, y, sample_weight)
        return value + self._penalty(), loss.accuracy(right, *predicted.shape) if len(predicted) else None

    def check_gradients(self, x: ArrayLike, y: ArrayLike, *, places: int = 100,
                        rng: np.random.Generator | int | None = 0) -> float:
        """Return the largest error of the gradients, compared with central differences, relative to the largest gradient.

        Up to `places` random places of each array of weights and biases are changed by ±1e-5, in a float64 copy of the network,
        for the samples of x (rows, n_inputs) and targets y. Where all is well, the result is about 1e-7 or less.
        Raises ValueError where each sample is too near the kink of a ReLU, RuntimeError where Numba's JIT is disabled.
        """
        compiler.check_enabled("check_gradients")
        self._require_loss("check_gradients")
        return gradient_check.check_gradients(self, x, y, places=places, rng=rng)

    def jitted(self) -> Jitted:
        """Return the functions forward and value_and_gradient for @njit code, which take the network's parameters.

        They compute the network's layers and loss as these are now; _njit.network.Jitted says more. Raises ValueError without a
        loss.
        """
        return network.jitted(self)

    def summary(self) -> str:
        """Return a table of the layers, with the shape of each one's output and how many numbers are trained."""
        return summary.table(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the layers with their weights, biases and settings, the loss and l2 to a file that fastbp.load reads.

        The suffix of `path` chooses the format: .safetensors (which other programs read, too) or .npz. The file is written
        beside it and then renamed, so that a crash leaves the old file. Raises ValueError for another suffix, OSError where
        the file cannot be written.
        """
        network_format.save(self, path)

    # ---- for the modules that train, save and check a network

    def _specs(self) -> list[LayerSpec]:
        """Return the layers as compiled steps take them; raise ValueError if an assigned array does not fit any more."""
        self._replace_arrays(self.dtype)
        _check(self.layers, self.loss)
        specs: list[LayerSpec] = []
        for layer in self.layers:
            spec = layer._spec()
            if spec.weights is None and spec.activation != IDENTITY:    # a ReLU: the activation of the layer before it
                specs[-1] = specs[-1]._replace(activation=spec.activation)
            else:
                specs.append(spec)
        return specs

    def _predictor(self) -> Predictor:
        """Return the Predictor of the network as it is now: the last one, if nothing has been assigned since.

        Raises ValueError as _specs.
        """
        memo = self._memo
        if memo is None or not self._is_as(memo) or not memo.predictor.is_current():
            specs, dense = self._specs(), [_Seen(layer=layer, weights=layer.weights, biases=layer.biases,
                                                 activation=layer._kind, precision=layer.precision) for layer in self.dense]
            arrays = [array for seen in dense for array in (seen.weights, seen.biases) if array is not None]
            memo = _Memo(predictor=Predictor(specs, self.loss, arrays=arrays), layers=list(self.layers), loss=self.loss,
                         dense=dense)
            self._memo = memo
        return memo.predictor

    def _is_as(self, memo):
        """Return whether the layers have the arrays and settings that a Predictor saw."""
        if self.loss is not memo.loss or self.layers != memo.layers:
            return False
        for layer, weights, biases, activation, precision in memo.dense:
            if (layer.weights is not weights or layer.biases is not biases or layer._kind != activation
                    or layer.precision is not precision):
                return False
        return True

    def _as_inputs(self, name: str, x: ArrayLike) -> np.ndarray:
        """Return x as an array (rows, n_inputs); raise ValueError for another shape."""
        return as_inputs(name, x, self.n_inputs)

    def _check_dvalues(self, dvalues: ArrayLike) -> None:
        """Raise ValueError or TypeError unless the last layer takes the gradient with respect to its output."""
        output, dvalues = self.layers[-1].output, operands.as_array("dvalues", dvalues)
        if output is None or np.shape(np.atleast_2d(dvalues)) != output.shape:
            raise ValueError("dvalues does not fit the last output")

    def _replace_arrays(self, dtype: np.dtype | None) -> None:
        """Replace the layers' arrays that cannot be trained by copies.

        dtype: the dtype that the arrays must have; None for any float dtype. Raises ValueError if an array that is not in C
        order shares memory with another one: a copy would separate the two without a word.
        """
        arrays = [array for layer in self.dense for array in (layer.weights, layer.biases) if isinstance(array, np.ndarray)]
        if not all(array.flags.c_contiguous for array in arrays):
            self._check_apart()
        for layer in self.dense:
            for name in ("weights", "biases"):
                array = getattr(layer, name)
                is_array = type(array) is np.ndarray and array.dtype in ((dtype,) if dtype is not None else operands.FLOATS)
                if (array is not None or name == "weights") and not (is_array and array.flags.carray):
                    array = operands.as_array(name, array)
                    kind: Any = dtype or operands.float_dtype(array)
                    setattr(layer, name, np.require(array, kind, ["C", "W", "A"]))

    def _check_apart(self) -> None:
        """Raise ValueError if two arrays that are trained have memory in common."""
        named = {f"layers[{i}].{name}": getattr(layer, name) for i, layer in enumerate(self.layers)
                 if isinstance(layer, Dense) for name in ("weights", "biases")}
        arrays = {name: array for name, array in named.items() if isinstance(array, np.ndarray)}
        check_apart(list(arrays.values()), list(arrays))

    def _penalty(self) -> float:
        """Return l2 / 2 * Σ w²."""
        return 0.5 * self.l2 * sum(float(np.vdot(layer.weights, layer.weights)) for layer in self.dense) if self.l2 else 0.0

    def _require_loss(self, caller: str) -> Loss:
        """Return the loss; raise ValueError if there is none. caller: the name of the method that needs it."""
        if self.loss is None:
            raise ValueError(f"loss is None, expected one for {caller}, as in Sequential(layers, SoftmaxCrossEntropy())")
        return self.loss


def load(path: str | os.PathLike[str]) -> Sequential:
    """Return the network that `Sequential.save` wrote: the same layers, bit for bit, loss and l2.

    The file may come from anybody: nothing in it is run, and reading it takes a few times its size of memory.

    Raises ValueError, with the reason, for a file that is damaged or holds no network of fastbp; OSError for what is no regular
    file or a link to one; FileNotFoundError and other kinds of OSError where the file cannot be read.
    """
    return network_format.load(path, Sequential)


def _dtype(dense):
    """Return the dtype of all weights. Raise ValueError if they differ in it, or if it is not float32 or float64."""
    dtype = dense[0].weights.dtype
    if dtype not in operands.FLOATS:
        raise ValueError(f"the layers' weights are of {dtype}, expected float32 or float64")
    for layer in dense:
        if layer.weights.dtype != dtype:
            raise ValueError(f"a layer's weights are of {layer.weights.dtype}, expected {dtype}: as those of the first")
    return dtype


def _check(layers, loss):
    """Raise TypeError or ValueError, as Sequential does, for layers that make no network or that do not fit the loss."""
    seen = set()
    for i, layer in enumerate(layers):
        if not isinstance(layer, AnyLayer):
            raise TypeError(f"layers[{i}] is {layer!r}, expected a Dense, DenseReLU, Dropout or ReLU")
        if id(layer) in seen:
            raise ValueError(f"layers[{i}] is there before, expected a layer of its own")
        seen.add(id(layer))
    if not layers or isinstance(layers[-1], Dropout) or not any(isinstance(layer, Dense) for layer in layers):
        raise ValueError("layers ends with no Dense, expected one: its output are the scores")
    if loss is not None and not isinstance(loss, Loss):
        raise TypeError(f"loss is {loss!r}, expected a loss such as SoftmaxCrossEntropy(), or None")
    before = None
    for i, layer in enumerate(layers):
        if isinstance(layer, Dense):
            if layer.weights.ndim != 2:
                raise ValueError(f"layers[{i}] has weights of shape {layer.weights.shape}, expected (n_inputs, n_neurons)")
            if before is not None and len(layer.weights) != before.weights.shape[1]:
                raise ValueError(f"layers[{i}] has {len(layer.weights)} inputs, expected {before.weights.shape[1]}: the layer "
                                 "before has as many neurons")
            before = layer
        elif isinstance(layer, ReLU):
            previous = layers[i - 1] if i else None
            if not isinstance(previous, Dense) or previous._kind != IDENTITY:
                raise ValueError(f"layers[{i}] is a ReLU, expected it after a Dense without an activation")
    if not before.weights.shape[1]:
        raise ValueError("the last Dense has 0 neurons, expected at least one")
    brought = {"SoftmaxCrossEntropy": "softmax", "BinaryCrossEntropy": "sigmoid"}.get(type(loss).__name__)
    if brought is not None and (before._kind != IDENTITY or isinstance(layers[-1], ReLU)):
        activation = "relu" if before._kind == IDENTITY else before.activation
        raise ValueError(f"the last layer has activation {activation!r}, expected 'identity': {type(loss).__name__} brings its "
                         f"{brought} with it")
