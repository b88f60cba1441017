"""Networks: layers one after another, and a loss."""
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from . import _jit, gradients, jitted, saving, summary
from . import _operands as operands
from .fit import History, fit
from .inference import predictions, scores
from .jitted import Jitted
from .kernels.activations import IDENTITY, RELU
from .layers import Dense, Dropout, ReLU
from .losses import Loss
from .optimizers import Optimizer, check_apart
from .training import Part


class Sequential:
    """Layers one after another: Dense, DenseReLU, Dropout, and a ReLU after a Dense without an activation.

    layers: the last is a Dense; all are of one dtype, and each takes as many inputs as the one before has neurons.
    loss: what to train for, SoftmaxCrossEntropy(), BinaryCrossEntropy() or MeanSquaredError(); None: only to predict.
    l2: of a penalty l2 / 2 * Σ w² of all weights, without biases, that is added to the loss.

    Raises TypeError for what is no such layer or loss, ValueError for layers that do not fit each other, for one that is there
    twice, or for a last layer whose activation the loss brings with it. Weights and biases may be assigned later: what is not
    an array of the network's dtype, in C order, that can be written, is replaced by a copy that is, when it is used.
    """

    def __init__(self, layers: Iterable[Dense | Dropout | ReLU], loss: Loss | None = None, *, l2: float = 0.0):
        self.layers = list(layers)
        self.loss, self.l2 = loss, l2
        self._own(None)
        _check(self.layers, loss)
        self.dtype = _dtype(self.dense)

    @property
    def l2(self) -> float:
        """The factor of the penalty; it may be assigned, and raises as the constructor."""
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
        return len(self.dense[0].weights)

    @property
    def n_outputs(self) -> int:
        return np.shape(self.dense[-1].weights)[1]

    def __repr__(self) -> str:
        return summary.line(self)

    def parameters(self) -> list[np.ndarray]:
        """The arrays that are trained: weights and biases of each dense layer, themselves."""
        self._own(self.dtype)
        return [a for layer in self.dense for a in (layer.weights, layer.biases) if a is not None]

    def gradients(self) -> list[np.ndarray]:
        """Of the last backward, in the order of parameters()."""
        pairs = [pair for layer in self.dense
                 for pair in ((layer.weights, layer.dweights), (layer.biases, layer.dbiases))]
        return [gradient for values, gradient in pairs if values is not None]

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        """The scores (rows, n_outputs) of x (rows, n_inputs), layer by layer, for a training loop of one's own.

        training: whether a Dropout drops.
        """
        h = x
        try:
            for layer in self.layers:
                h = layer.forward(h, training=training) if isinstance(layer, Dropout) else layer.forward(h)
        except BaseException:
            if self._accepts(x):                        # some layers know this x then, and others the one before
                for layer in self.layers:
                    layer._forget()
            raise
        return h

    def backward(self, dvalues: ArrayLike) -> np.ndarray | None:
        """The gradient with respect to the last forward's x, from that with respect to its scores; sets those of the layers."""
        dinputs = dvalues
        try:
            for layer in reversed(self.layers):
                dinputs = layer.backward(dinputs)
        except BaseException:
            if self._accepts_gradient(dvalues):         # a gradient of this call fits none of another one
                for layer in self.layers:
                    layer._forget_gradients()
            raise
        return dinputs

    def fit(self, x: ArrayLike, y: ArrayLike, *, epochs: int, batch_size: int, optimizer: Optimizer,
            sample_weight: ArrayLike | None = None, validation_data: Sequence[ArrayLike] | None = None, shuffle: bool = True,
            rng: np.random.Generator | int | None = None, progress: bool = True, check_finite: bool = True,
            callbacks: Callable[["Sequential", History], object] | Sequence[Callable] = ()) -> History:
        """Train on x (rows, n_inputs) and targets y, as the loss takes them, in batches; whole steps in compiled code.

        optimizer: SGD, Adam or AdamW, which goes on where it stopped if it was used before.
        sample_weight: (rows,), of the rows in the loss.
        validation_data: (x, y) or (x, y, sample_weight), whose loss is computed after each epoch.
        shuffle: take the rows in another order each epoch; the data are not copied, unless their dtype is not the network's,
        or rows of x are not contiguous or go backwards.
        rng: a numpy.random.Generator, a seed, or None for fresh entropy, of the order and of a Dropout.
        progress: show a bar, on a terminal or in a notebook.
        check_finite: whether to stop at a loss, a gradient or a penalty that is not finite, before its step.
        callbacks: one or several, called after each epoch with the network and the History so far; one that returns True ends
        the training. They may change weights in place, but the training does not see arrays that they assign.

        Ctrl-C ends the training after the batch that it meets, with a RuntimeWarning; what was learnt stays.
        Raises FloatingPointError where one of these is not finite, saying which, and in which batch of which epoch: weights and
        optimiser are as they were before that batch. ValueError or TypeError for what does not fit, and RuntimeError where
        Numba's JIT is disabled, before anything is changed.
        """
        _jit.check_enabled("fit")
        return fit(self, x, y, epochs=epochs, batch_size=batch_size, optimizer=optimizer, sample_weight=sample_weight,
                   validation_data=validation_data, shuffle=shuffle, rng=rng, progress=progress, check_finite=check_finite,
                   callbacks=callbacks)

    def predict(self, x: ArrayLike) -> np.ndarray:
        """What the network says of x (rows, n_inputs): the probabilities of classes or of yes, by its loss, else the scores.

        (rows, n_outputs). The layers' inputs and outputs stay as they are, and a Dropout drops nothing. Of a Dask array the
        answer is one, too, cut along the rows as x is.
        """
        if operands.is_lazy(x):
            from .dask import arrays

            return arrays.predict(self, x)
        return predictions(self.parts(), self.loss, self.as_inputs("x", x))

    def evaluate(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, float | None]:
        """(loss, accuracy) on x (rows, n_inputs) and targets y; accuracy is None where the loss has none."""
        self.needs_loss("evaluate")
        predicted = scores(self.parts(), self.as_inputs("x", x))
        loss, right, _ = self.loss.evaluate(predicted, y, sample_weight)
        return loss + self.penalty(), self.loss.accuracy(right, *predicted.shape) if len(predicted) else None

    def check_gradients(self, x: ArrayLike, y: ArrayLike, *, places: int = 100,
                        rng: np.random.Generator | int | None = 0) -> float:
        """The largest error of the gradients against central differences: gradients.check_gradients."""
        _jit.check_enabled("check_gradients")
        self.needs_loss("check_gradients")
        return gradients.check_gradients(self, x, y, places=places, rng=rng)

    def jitted(self) -> Jitted:
        """The network as functions forward and value_and_gradient for @njit code, which take its parameters: jitted.Jitted.

        They know the network's layers and loss as they are now. Raises ValueError without a loss.
        """
        return jitted.jitted(self)

    def summary(self) -> str:
        """A table of the layers and how many numbers each has."""
        return summary.table(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write the layers with their weights, biases and settings, the loss and l2 to `path`, which fastbp.load reads.

        The suffix says how: .safetensors (which other programs read, too) or .npz. The file is written next to it and then
        renamed, so that a crash leaves what was there. Raises ValueError for another suffix, OSError where it cannot be
        written.
        """
        saving.save(self, path)

    # ---- what the network is to training.py and gradients.py

    def parts(self) -> list[Part]:
        """The layers as training.py takes them; ValueError if what was assigned does not fit any more."""
        self._own(self.dtype)
        _check(self.layers, self.loss)
        parts = []
        for layer in self.layers:
            if isinstance(layer, ReLU):
                parts[-1] = parts[-1]._replace(activation=RELU)
            elif isinstance(layer, Dropout):
                parts.append(Part(None, rate=layer.rate))
            else:
                biases = None if layer.biases is None else operands.as_biases(layer.biases, layer.weights.shape[1])
                parts.append(Part(layer.weights, biases, layer._kind, layer.precision))
        return parts

    def as_inputs(self, name: str, x: ArrayLike) -> np.ndarray:
        """x as an array (rows, n_inputs); ValueError for another shape."""
        x = operands.as_rows(name, operands.as_array(name, x))
        if x.shape[1] != self.n_inputs:
            raise ValueError(f"{name} has shape {x.shape}, expected (rows, {self.n_inputs}): the first layer has "
                             f"{self.n_inputs} inputs")
        return x

    def _accepts(self, x):
        """Return whether the first layer takes x."""
        try:
            self.as_inputs("x", x)
        except (ValueError, TypeError):
            return False
        return True

    def _accepts_gradient(self, dvalues):
        """Return whether the last layer takes the gradient with respect to its output."""
        try:
            output, dvalues = self.layers[-1].output, operands.as_array("dvalues", dvalues)
        except (ValueError, TypeError):
            return False
        return output is not None and np.shape(np.atleast_2d(dvalues)) == output.shape

    def _own(self, dtype):
        """Put copies in the places of layers' arrays that cannot be trained; dtype: what they have to be, None for any float.

        A view in another order of another layer's array is refused, as a copy would part them without a word.
        """
        arrays = [array for layer in self.dense for array in (layer.weights, layer.biases) if isinstance(array, np.ndarray)]
        if not all(array.flags.c_contiguous for array in arrays):
            self.check_apart()
        for layer in self.dense:
            for name in ("weights", "biases"):
                array = getattr(layer, name)
                is_array = type(array) is np.ndarray and array.dtype in ((dtype,) if dtype is not None else operands.FLOATS)
                if (array is not None or name == "weights") and not (is_array and array.flags.carray):
                    array = operands.as_array(name, array)
                    setattr(layer, name, np.require(array, dtype or operands.float_dtype(array), "CWA"))

    def check_apart(self) -> None:
        """Raise ValueError if two arrays that are trained have memory in common."""
        named = {f"layers[{i}].{name}": getattr(layer, name) for i, layer in enumerate(self.layers)
                 if isinstance(layer, Dense) for name in ("weights", "biases")}
        arrays = {name: array for name, array in named.items() if isinstance(array, np.ndarray)}
        check_apart(list(arrays.values()), list(arrays))

    def penalty(self) -> float:
        """l2 / 2 * Σ w²."""
        return 0.5 * self.l2 * sum(float(np.vdot(layer.weights, layer.weights)) for layer in self.dense) if self.l2 else 0.0

    def needs_loss(self, what: str) -> None:
        """ValueError if there is none."""
        if self.loss is None:
            raise ValueError(f"loss is None, expected one for {what}, as in Sequential(layers, SoftmaxCrossEntropy())")


def load(path: str | os.PathLike) -> Sequential:
    """The network that `Sequential.save` wrote: the same layers, bit for bit, loss and l2.

    The file may come from anybody: nothing in it is run, and reading it takes memory for a few times its size.

    Raises ValueError for a file that is damaged or no network of fastbp, with the reason; OSError for what is no regular file
    or a link to one, FileNotFoundError and other OSError as they come.
    """
    return saving.load(path, Sequential)


def _dtype(dense):
    """That of all weights."""
    dtype = dense[0].weights.dtype
    if dtype not in operands.FLOATS:
        raise ValueError(f"the layers' weights are of {dtype}, expected float32 or float64")
    for layer in dense:
        if layer.weights.dtype != dtype:
            raise ValueError(f"a layer's weights are of {layer.weights.dtype}, expected {dtype}: as those of the first")
    return dtype


def _check(layers, loss):
    seen = set()
    for i, layer in enumerate(layers):
        if not isinstance(layer, Dense | Dropout | ReLU):
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
