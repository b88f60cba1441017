"""Layers. Each keeps the state of its passes and checks the order of calls; functional.py does the arithmetic.

Every layer has `forward(inputs, training=...)`, which returns its output, and `backward(dvalues)`, which returns the gradient
with respect to the last inputs. `training` is passed by name; only a Dropout computes something else in training.
"""
import operator
from numbers import Real
from sys import getrefcount
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import functional
from ._arrays.memory import empty
from ._arrays.operands import BFLOAT16, FLOATS, as_array, as_biases, check_shape, is_lazy, multiplied
from ._training import summary
from ._training.session import LayerSpec
from .functional import FloatArray
from .kernels.elementwise.activations import IDENTITY, NAMES, RELU

# An array that is None before a layer's first pass, or that a layer may be without. `Any` spares a user's type-checked code an
# assertion in each line that uses it.
_ArrayOrNone: TypeAlias = FloatArray | Any


class _Holder:
    """An object that one attribute holds, to count its references."""

    def __init__(self):
        self.held = object()

    def references(self):
        """Return the object's reference count. No local variable holds the object, which a debugger could look at."""
        return getrefcount(self.held)


# The reference count of an array that only one attribute holds. It is measured, as versions of Python differ.
_HELD_ONCE = _Holder().references()


class Dense:
    """A dense layer: output = activation(inputs @ weights + biases), with the gradients of all three.

    weights   (n_inputs, n_neurons), He initialisation: normal with variance 2 / n_inputs (He, Zhang, Ren and Sun,
              Delving Deep into Rectifiers, ICCV 2015). Weights and biases may be assigned or changed in place at any time.
    biases    (1, n_neurons), zeros; None with bias=False
    inputs, output                  of the last forward, None before it
    dinputs, dweights, dbiases      of the last backward, None before it; dinputs stays None with need_dinputs=False, for a
                                    first layer, whose inputs need no gradient

    activation: "identity", "relu", "leaky_relu" (0.01 z below 0: Maas, Hannun and Ng, Rectifier nonlinearities, ICML 2013),
    "sigmoid", "tanh" or "gelu" (with tanh: Hendrycks and Gimpel, arXiv:1606.08415).
    dtype: float32 or float64. rng: a numpy.random.Generator, a seed, or None for fresh entropy.
    precision: that of the multiplications: the dtype's name or None, which mean the same, or "bfloat16" for float32
    (fastbp.dense_forward says what is rounded then).

    The next call overwrites a result that nobody but the layer holds any more, so that a training loop allocates nothing.
    Whoever keeps a result, or a view of it, keeps it unchanged.

    Raises TypeError for another dtype or sizes that are not integers, ValueError for negative sizes, another activation or
    another precision.
    """

    _differs_in_training: ClassVar[bool] = False
    biases: _ArrayOrNone
    inputs: Any
    output: _ArrayOrNone
    dinputs: _ArrayOrNone
    dweights: _ArrayOrNone
    dbiases: _ArrayOrNone

    def __init__(self, n_inputs: int, n_neurons: int, *, activation: str = "identity", bias: bool = True,
                 dtype: DTypeLike = np.float32, rng: np.random.Generator | int | None = None, need_dinputs: bool = True,
                 precision: str | None = None):
        n_inputs, n_neurons = _size("n_inputs", n_inputs), _size("n_neurons", n_neurons)
        self._kind = _activation(activation)
        dtype = _dtype(dtype)
        multiplied(dtype, precision)                    # refuses a precision that the dtype does not have
        scale = np.sqrt(2 / max(n_inputs, 1), dtype=dtype)
        weights = np.random.default_rng(rng).standard_normal((n_inputs, n_neurons), dtype)
        self.weights: FloatArray = np.multiply(weights, scale, out=empty(weights.shape, dtype))
        self.biases = np.zeros((1, n_neurons), dtype) if bias else None
        self.need_dinputs, self.precision = need_dinputs, BFLOAT16 if precision == BFLOAT16 else None
        self.inputs = self.output = None
        self.dinputs = self.dweights = self.dbiases = None
        # _slope: gelu's dy/dz of the last forward pass. The others are results that this layer may overwrite.
        self._made_output = self._previous_output = self._made_gradients = self._slope = None

    def __repr__(self) -> str:
        return summary.layer_line(self)

    @property
    def activation(self) -> str:
        """The name of the function that is applied to inputs @ weights + biases."""
        return NAMES[self._kind]

    def forward(self, inputs: ArrayLike, out: np.ndarray | None = None, *, training: bool = False) -> FloatArray:
        """Return the output (batch, n_neurons) for inputs (batch, n_inputs) or one sample (n_inputs,).

        out: an array to write the output to. training: as every layer takes it; it changes nothing here.
        """
        if type(inputs) is not np.ndarray:
            if is_lazy(inputs):
                return self._forward_lazily(inputs, out)
            inputs = as_array("inputs", inputs)
        spare = None
        if out is None:     # Two outputs are used in turn: the next layer may still hold the last one.
            is_free = getrefcount(self._made_output) <= _HELD_ONCE + (self._made_output is self.output)
            spare = self._made_output if is_free else self._other_output()
        try:
            output, saved = functional._forward(
                inputs, self.weights, self.biases, out, self._kind, spare, self.precision,
                None if self._slope is None or getrefcount(self._slope) > _HELD_ONCE else self._slope)
            self.inputs, self.output, self._slope = inputs, output, saved if saved is not output else None
            self._made_output = output if out is None else None
        except BaseException as error:
            # A signal may have interrupted this after the kernel had overwritten the last results: then they are forgotten.
            # A call that was refused, or that had no memory for a new output, has overwritten nothing.
            is_accepted = functional.accepts(functional.check_forward, inputs, self.weights, self.biases, out, self.precision)
            if is_accepted and (not isinstance(error, MemoryError) or self._fits_again(spare, inputs)):
                self._forget()
            raise
        return output

    def backward(self, dvalues: ArrayLike) -> _ArrayOrNone:
        """Return dinputs (batch, n_inputs), or None with need_dinputs=False, and set dinputs, dweights and dbiases.

        dvalues: the gradient (batch, n_neurons) with respect to the last output. dbiases has the shape of biases.

        Raises RuntimeError before the first forward, ValueError for dvalues that do not fit the last output.
        """
        if self.output is None:
            raise RuntimeError(f"backward of {type(self).__name__} was called before forward, expected forward first")
        saved = self._slope if self._slope is not None else self.output if self._kind != IDENTITY else None
        if type(self.output) is not np.ndarray and is_lazy(self.output):
            return self._backward_lazily(dvalues, saved)
        spare = self._made_gradients if self._may_reuse_gradients() else None
        try:
            gradients = functional._backward(dvalues, saved, self.inputs, self.weights, None, self._kind, self.need_dinputs,
                                             spare, self.precision)
            self._made_gradients = gradients
            self._take(*gradients)
        except BaseException as error:
            is_accepted = functional.accepts(functional.check_backward, dvalues, saved, self.inputs, self.weights,
                                             self.precision)
            if is_accepted and (not isinstance(error, MemoryError) or spare is not None):
                self._forget_gradients()
            raise
        return self.dinputs

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickle or of another layer; the next call overwrites none of its results.

        The results may lie in memory that somebody else holds.
        """
        vars(self).update(state)
        self._made_output = self._previous_output = self._made_gradients = None
        self._slope = None if self._slope is None else self._slope.copy()

    def _spec(self):
        """Return the layer as compiled steps take it; raise ValueError for biases that do not fit the weights."""
        biases = None if self.biases is None else as_biases(self.biases, self.weights.shape[1])
        return LayerSpec(self.weights, biases, activation=self._kind, precision=self.precision)

    def _take(self, dinputs, dweights, dbiases):
        self.dinputs, self.dweights, biases = dinputs, dweights, self.biases
        if biases is None:
            self.dbiases = None
        else:
            is_table = type(biases) is np.ndarray and biases.ndim == 2
            self.dbiases = dbiases if is_table or np.ndim(biases) == 2 else dbiases.reshape(-1)

    def _fits_again(self, spare, inputs):
        """Return whether the result for these inputs overwrites an earlier one, and so needs no new memory."""
        shape = len(np.atleast_2d(inputs)), np.shape(self.weights)[1]
        return any(room is not None and room.shape == shape for room in (spare, self._slope))

    def _forget(self):
        """Forget the last forward, which may have been interrupted."""
        self.inputs = self.output = self._made_output = self._previous_output = self._slope = None

    def _forget_gradients(self):
        """Forget the last backward, which may have been interrupted."""
        self.dinputs = self.dweights = self.dbiases = self._made_gradients = None

    def _forward_lazily(self, inputs, out):
        output, saved = _lazily(out).forward(inputs, self.weights, self.biases, self._kind, self.precision)
        self.inputs, self.output, self._slope = inputs, output, saved if saved is not output else None
        self._made_output = None
        return output

    def _backward_lazily(self, dvalues, saved):
        self._take(*_lazily().backward(dvalues, saved, self.inputs, self.weights, self._kind, self.need_dinputs,
                                       self.precision))
        self._made_gradients = None
        return self.dinputs

    def _other_output(self):
        """Return the output before the last one if only this layer holds it, else None. The next layer holds the last one."""
        self._made_output, self._previous_output = self._previous_output, self._made_output
        is_free = getrefcount(self._made_output) <= _HELD_ONCE + (self._made_output is self.output)
        return self._made_output if is_free else None

    def _may_reuse_gradients(self):
        """Return whether only this layer holds the last gradients."""
        made = self._made_gradients
        return (made is not None
                and (made[0] is None or getrefcount(made[0]) <= _HELD_ONCE + (made[0] is self.dinputs))
                and getrefcount(made[1]) <= _HELD_ONCE + (made[1] is self.dweights)
                and getrefcount(made[2]) <= _HELD_ONCE + (made[2] is self.dbiases))


class DenseReLU(Dense):
    """A dense layer with a ReLU: Dense with activation="relu", with its other arguments and its state."""

    def __init__(self, n_inputs: int, n_neurons: int, *, bias: bool = True, dtype: DTypeLike = np.float32,
                 rng: np.random.Generator | int | None = None, need_dinputs: bool = True, precision: str | None = None):
        super().__init__(n_inputs, n_neurons, activation="relu", bias=bias, dtype=dtype, rng=rng, need_dinputs=need_dinputs,
                         precision=precision)


class ReLU:
    """A rectified linear unit: output = inputs where they are above 0, else 0, for arrays of any shape.

    inputs and output of the last forward and dinputs of the last backward are None before these.
    """

    _differs_in_training: ClassVar[bool] = False
    inputs: Any
    output: np.ndarray | Any
    dinputs: np.ndarray | Any

    def __init__(self) -> None:
        self.inputs = self.output = self.dinputs = None

    def __repr__(self) -> str:
        return summary.layer_line(self)

    def forward(self, inputs: ArrayLike, out: np.ndarray | None = None, *, training: bool = False) -> np.ndarray:
        """Return the output, of the shape and dtype of inputs.

        out: an array to write the output to. training: as every layer takes it; it changes nothing here.
        """
        if is_lazy(inputs):
            output = _lazily(out).relu_forward(inputs)
        else:
            inputs = as_array("inputs", inputs)
            output = functional.relu_forward(inputs, out=out)
        self.inputs, self.output = inputs, output
        return output

    def backward(self, dvalues: ArrayLike) -> np.ndarray:
        """Return dinputs = dvalues where the last inputs were above 0, else 0. Raises RuntimeError before the first forward."""
        if self.inputs is None:
            raise RuntimeError("backward of ReLU was called before forward, expected forward first")
        relu_backward = _lazily().relu_backward if is_lazy(self.inputs) else functional.relu_backward
        self.dinputs = relu_backward(dvalues, self.inputs)
        return self.dinputs

    def _spec(self):
        """Return the layer as compiled steps take it: an activation of the layer before it."""
        return LayerSpec(None, activation=RELU)

    def _forget(self):
        self.inputs = self.output = None

    def _forget_gradients(self):
        self.dinputs = None


class Dropout:
    """A dropout: of the inputs, a part of `rate` at random places becomes 0, and the others are divided by 1 - rate.

    (Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, JMLR 15, 2014.) output of the last forward and dinputs of the
    last backward are None before these.

    rng: a numpy.random.Generator, a seed, or None for fresh entropy. It is for calls of this layer's forward alone: a network's
    fit draws from its own rng. Raises ValueError for a rate outside [0, 1).
    """

    _differs_in_training: ClassVar[bool] = True
    output: np.ndarray | Any
    dinputs: np.ndarray | Any
    _rate: float
    _stays: Any

    def __init__(self, rate: float, *, rng: np.random.Generator | int | None = None):
        self.rate, self._rng = rate, np.random.default_rng(rng)
        self.output = self.dinputs = self._stays = self._factor = None

    def __repr__(self) -> str:
        return summary.layer_line(self)

    @property
    def rate(self) -> float:
        """The part of the inputs that becomes 0. It may be assigned; ValueError is raised as by the constructor."""
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        if not isinstance(value, Real) or not 0 <= value < 1:
            raise ValueError(f"rate is {value!r}, expected a number from 0 and below 1")
        self._rate = float(value)

    def forward(self, inputs: ArrayLike, training: bool = True) -> np.ndarray:
        """Return the output, of the shape and float dtype of inputs; with training=False, the inputs themselves.

        training is True unless said, so that a call of this layer alone drops; a network's forward passes its own.
        """
        stays = factor = None
        if is_lazy(inputs):
            stays = int(self._rng.integers(1 << 62)) if training else None      # the seed of what stays
            output = self._passed_lazily(inputs, stays)
        else:
            inputs = as_array("inputs", inputs)
            if training:
                stays, factor = functional._draw_dropout(inputs, self.rate, self._rng)
            output = _passed(inputs, stays, factor)
        self.output, self._stays, self._factor = output, stays, factor
        return output

    def backward(self, dvalues: ArrayLike) -> np.ndarray:
        """Return dinputs: dvalues * 1 / (1 - rate) where the last forward let the inputs pass, else 0.

        After a forward with training=False they are dvalues themselves.

        Raises RuntimeError before the first forward, ValueError for dvalues of another shape than the last output's.
        """
        if self.output is None:
            raise RuntimeError("backward of Dropout was called before forward, expected forward first")
        if is_lazy(self.output):
            self.dinputs = self._passed_lazily(_lazily().cut_as(self.output, "dvalues", dvalues), self._stays)
            return self.dinputs
        dvalues = as_array("dvalues", dvalues)
        check_shape("dvalues", dvalues, self.output.shape, "that is the shape of the output")
        self.dinputs = _passed(dvalues, self._stays, self._factor)
        return self.dinputs

    def _spec(self):
        """Return the layer as compiled steps take it."""
        return LayerSpec(None, rate=self.rate)

    def _passed_lazily(self, values, seed):
        return values if seed is None else _lazily().dropped(values, self.rate, seed)

    def _forget(self):
        self.output = self._stays = self._factor = None

    def _forget_gradients(self):
        self.dinputs = None


def _passed(values, stays, factor):
    """Return the values after a dropout, or the values themselves if none has been drawn."""
    return values if stays is None else functional._apply_dropout(values, stays, factor)


def _lazily(out=None):
    """Return the module for Dask arrays, which imports Dask: whoever passes such an array has imported it already."""
    from .dask import arrays

    if out is not None:
        raise TypeError(f"out is of type {type(out).__name__}, expected None: inputs is a Dask array, which is computed later")
    return arrays


# A layer that Sequential takes.
AnyLayer: TypeAlias = Dense | Dropout | ReLU


def _activation(name):
    """Return the number of an activation; raise ValueError for a name that is none."""
    if name not in NAMES:
        raise ValueError(f"activation is {name!r}, expected one of {', '.join(NAMES)}")
    return NAMES.index(name)


def _dtype(value):
    """Return the dtype of weights; raise TypeError for another than float32 and float64."""
    dtype = np.dtype(value)
    if dtype not in FLOATS:
        raise TypeError(f"dtype is {dtype}, expected float32 or float64")
    return dtype


def _size(name, value):
    """Return a size as an int. Raise TypeError unless it is an integer, ValueError if it is below 0."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None
    if size < 0:
        raise ValueError(f"{name} is {size}, expected 0 or more")
    return size
