"""A dense layer's passes as functions without state: they check and allocate, then call one kernel.

Each first takes the short way: ndarrays of one float dtype that fit each other go straight to the kernel. Whatever else
it is, lists, other dtypes, one sample as a 1-D array, or an error, takes the long way (`_operands.py`).

dtypes  float32 and float64 are computed as they are, float16 as float32; of mixed dtypes NumPy's promotion
        (`np.result_type`) decides; integers and booleans alone become float64.
layout  any: C or Fortran order, strided, reversed, unaligned, read-only. Inputs are never changed.
out     is always overwritten, never added to; it may overlap an input.
"""
from itertools import chain

import numpy as np
from numba import types
from numpy import ndarray
from numpy.typing import ArrayLike, DTypeLike

from . import _jit, _link, _notice, reference
from . import _operands as operands
from ._memory import empty, is_room, overlapping
from .kernels import entry, tile
from .kernels.activations import GELU, IDENTITY, RELU
from .kernels.dinputs import backward_inputs

Gradients = tuple[np.ndarray | None, np.ndarray, np.ndarray]

_NUMBA_TYPE = dict(zip((*operands.FLOATS, operands.BFLOAT16), (types.float32, types.float64, tile.BFLOAT16), strict=True))


class _Entries(dict):
    """The compiled function for a NumPy dtype or "bfloat16", compiled when it is first asked for; None where there is none."""

    def __init__(self, build, title):
        super().__init__()
        self._build, self._title = build, title

    def __missing__(self, dtype):
        if dtype not in _NUMBA_TYPE:
            return None
        with _notice.compiling(f"{self._title} for {dtype}"):
            self[dtype] = self._build(_NUMBA_TYPE[dtype])
        return self[dtype]


_passes_of = reference if _jit.DISABLED else entry
_FORWARD, _BACKWARD = _Entries(_passes_of.forward, "the forward pass"), _Entries(_passes_of.backward, "the backward pass")
_RELU, TRAIN = _Entries(_passes_of.elementwise, "the ReLU"), _Entries(entry.train, "training steps")
OPTIMIZE, LOSS = _Entries(entry.optimize, "the optimizers"), _Entries(entry.loss, "the losses")


def dense_forward(inputs: ArrayLike, weights: ArrayLike, biases: ArrayLike | None = None,
                  out: np.ndarray | None = None, *, precision: str | None = None) -> np.ndarray:
    """inputs @ weights + biases.

    inputs (batch, n_inputs), or one sample (n_inputs,); weights (n_inputs, n_neurons); biases (1, n_neurons) or
    (n_neurons,). Returns (batch, n_neurons), written into `out` if given.

    `precision` is that of the multiplications: the dtype's name, as is None, or "bfloat16" for float32. Then both factors
    are rounded to bfloat16, 8 bits, to the nearest, and their products summed in float32. An element of the result is off
    from the exact one by at most (2**-7 + (n_inputs + 2) * 2**-23) times the sum of the products' absolute values: 2**-8
    for each factor and the rest for the sums (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
    Subnormal numbers may count as 0. Without instructions for it (AMX, AVX512-BF16) it is no faster, which a warning says once.

    Raises ValueError for shapes that do not fit or another precision, TypeError for dtypes that are not real numbers or an
    `out` of another dtype than the result's, MemoryError.
    """
    return _forward(inputs, weights, biases, out, IDENTITY, precision=precision)[0]


def dense_relu_forward(inputs: ArrayLike, weights: ArrayLike, biases: ArrayLike | None = None,
                       out: np.ndarray | None = None, *, precision: str | None = None) -> np.ndarray:
    """relu(inputs @ weights + biases) in one pass: arguments and errors as for `dense_forward`."""
    return _forward(inputs, weights, biases, out, RELU, precision=precision)[0]


def dense_backward(dvalues: ArrayLike, inputs: ArrayLike, weights: ArrayLike,
                   out: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None] | None = None, *,
                   precision: str | None = None) -> Gradients:
    """The gradients of a loss with respect to inputs, weights and biases, from dvalues, that with respect to the output.

    dinputs = dvalues @ weights.T (batch, n_inputs), dweights = inputs.T @ dvalues (n_inputs, n_neurons), dbiases = column
    sums of dvalues (1, n_neurons): the chain rule (Kinsley and Kukieła, Neural Networks from Scratch in Python, ch. 9).

    dvalues (batch, n_neurons), inputs (batch, n_inputs), weights (n_inputs, n_neurons). `out` is a tuple
    (dinputs, dweights, dbiases), each an array to write into or None. `precision` and errors as for `dense_forward`;
    dbiases is never rounded.
    """
    return _backward(dvalues, None, inputs, weights, out, IDENTITY, True, precision=precision)


def dense_relu_backward(dvalues: ArrayLike, output: ArrayLike, inputs: ArrayLike, weights: ArrayLike,
                        out: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None] | None = None, *,
                   precision: str | None = None) -> Gradients:
    """`dense_backward` through a ReLU: dvalues counts where `output`, of `dense_relu_forward`, is above 0 (or NaN).

    output (batch, n_neurons); anything with the same sign will do, so also the sums before the ReLU. Where the gradient
    is stopped it is 0, even if dvalues is inf or NaN there.
    """
    if output is None:
        raise TypeError("output is None, expected an array of the shape of dvalues")
    return _backward(dvalues, output, inputs, weights, out, RELU, True, precision=precision)


def relu_forward(z: ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
    """0 where z <= 0, else z; a NaN stays a NaN. Any shape; the dtype of z is kept, integers and float16 too.

    Raises TypeError for a dtype that is not real, ValueError for an `out` of another shape.
    """
    z = operands.as_array("z", z)
    operands.check_out("out", out, z.shape, z.dtype)
    return _relu(z, z, out)


def relu_backward(dvalues: ArrayLike, z: ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
    """0 where z <= 0, else dvalues: z > 0 passes the gradient, z == 0 stops it, a NaN in z passes it.

    The 0 is assigned, not multiplied: inf and NaN gradients are stopped as well. Any shape, the same for both; the dtype
    of dvalues is kept. Raises as `relu_forward`.
    """
    dvalues, z = operands.as_array("dvalues", dvalues), operands.as_array("z", z)
    operands.check_shape("dvalues", dvalues, z.shape, "that is the shape of z")
    operands.check_out("out", out, z.shape, dvalues.dtype)
    return _relu(dvalues, z, out)


def _draw_dropout(inputs, rate, rng):
    """Return (kept, factor) of a dropout: which inputs it keeps, drawn from rng, and the factor by which it multiplies them."""
    dtype = operands.float_dtype(inputs)
    return rng.random(inputs.shape, dtype) >= rate, dtype.type(1 / (1 - rate))


def _apply_dropout(values, kept, factor):
    """Return values times the factor where they are kept, else 0. The 0 is assigned, so that an inf becomes 0, not NaN."""
    return np.where(kept, values * factor, 0)


def warmup(*dtypes: DTypeLike) -> None:
    """Compile all kernels for these dtypes, float32 and float64 unless said, or read them from the disk cache.

    Otherwise the first call of a function does that for its dtype, in 5 to 20 seconds or a fraction of one. With
    NUMBA_DISABLE_JIT=1 there is nothing to compile. Raises TypeError for another dtype.
    """
    wanted = [np.dtype(dtype) for dtype in dtypes] or operands.FLOATS
    for dtype in wanted:
        if dtype not in operands.FLOATS:
            raise TypeError(f"dtypes holds {dtype}, expected float32 or float64")
    if _jit.DISABLED:
        return
    for dtype in wanted:
        for in_blocks in (False, True):
            training(dtype, [dtype], in_blocks)
        for entries in (_FORWARD, _BACKWARD, _RELU, OPTIMIZE, LOSS):
            _ = entries[dtype]
        with _notice.compiling(f"kernels that are rarely needed for {dtype}"):
            _link.bind_rare(_NUMBA_TYPE[dtype])


def run(compiled, *arguments):
    """Call a compiled function, after compiling what it turns out to need; returns its status."""
    status = compiled(*arguments)
    while status >= _link.UNBOUND:
        _link.bind_needed(status)
        status = compiled(*arguments)
    if status == _link.NO_MEMORY:
        raise MemoryError("no memory for the workspace of a kernel")
    return status


def training(dtype, kinds, in_blocks):
    """(train, {kind: the addresses of its passes}): the compiled steps for a dtype of networks with products of these kinds.

    in_blocks: dweights are not for the backward pass to compute. All of it is bound at once, for another process to be at work
    on as much as it can: what that is (_ahead.py) depends on the first unit.
    """
    _jit.check_enabled("training")
    passes = {kind: _passes(_NUMBA_TYPE[kind], in_blocks) for kind in kinds}
    units = [entry.training.train[_NUMBA_TYPE[dtype]], *chain(*passes.values())]
    with _notice.compiling(f"training steps for {dtype}"):
        _link.bind(*(reversed(units) if in_blocks else units))
    return TRAIN[dtype], {kind: [unit.bound_address() for unit in units] for kind, units in passes.items()}


def _passes(kind, in_blocks):
    """The units of the forward and the backward pass, for other kernels to call."""
    module = entry.dense_of(kind)
    return module.forward[kind], backward_inputs[kind] if in_blocks else module.backward[kind]


def _forward(inputs, weights, biases, out, activation, spare=None, precision=None, spare_slope=None):
    """(output, s), s as `_backward` takes it. The short way.

    `spare` and `spare_slope` are arrays to write to in place of new ones, if they fit: a layer's last results, that it made.
    """
    row = weights if biases is None else biases
    if type(inputs) is ndarray and type(weights) is ndarray and type(row) is ndarray and out is None:
        dtype = inputs.dtype
        if weights.dtype is dtype is row.dtype and inputs.ndim == weights.ndim == row.ndim == 2:
            compiled = _FORWARD[dtype if precision is None else operands.multiplied(dtype, precision)]
            if compiled is not None:
                shape = len(inputs), weights.shape[1]
                output = spare      # of which the kernel itself looks at the shape
                if spare is None or spare.dtype is not dtype or len(spare) != len(inputs):
                    output = empty(shape, dtype)
                s = output
                if activation == GELU:
                    s = spare_slope if is_room(spare_slope, shape, dtype) else empty(shape, dtype)
                if not compiled(inputs, weights, row, biases is not None, output, s, s is not output, activation):
                    return output, s
    return _forward_any(inputs, weights, biases, out, activation, precision)


def _forward_any(inputs, weights, biases, out, activation, precision):
    inputs, weights, biases, dtype = check_forward(inputs, weights, biases)
    compiled = _FORWARD[operands.multiplied(dtype, precision)]
    shape = len(inputs), weights.shape[1]
    operands.check_out("out", out, shape, dtype)
    row = weights if biases is None else biases
    arguments = [a.astype(dtype, copy=False) for a in (*operands.as_factors(inputs, weights, precision), row)]
    output = operands.result(out, shape, dtype, arguments)
    s = output if activation != GELU else empty(shape, dtype)
    run(compiled, *arguments, biases is not None, output, s, s is not output, activation)
    delivered = operands.deliver(output, out)
    return delivered, delivered if s is output else s


def check_forward(inputs, weights, biases):
    """(inputs, weights, biases, dtype of the result), arrays of two dimensions, or None for no biases; or what is raised."""
    inputs, weights = operands.as_array("inputs", inputs), operands.as_array("weights", weights)
    biases = operands.as_array("biases", biases) if biases is not None else None
    dtype = operands.float_dtype(*(a for a in (inputs, weights, biases) if a is not None))
    inputs = operands.as_rows("inputs", inputs)
    operands.check_weights(inputs, weights)
    return inputs, weights, operands.as_biases(biases, weights.shape[1]) if biases is not None else None, dtype


def _backward(dvalues, s, inputs, weights, out, activation, need_dinputs, spare=None, precision=None):
    """The short way. `s` is what the derivative of the activation follows from (kernels/activations.py), None for the identity.

    `spare` are three arrays to write to in place of new ones, if they fit.
    """
    mask = dvalues if s is None else s
    if (type(dvalues) is ndarray and type(mask) is ndarray and type(inputs) is ndarray and type(weights) is ndarray
            and out is None):
        dtype = dvalues.dtype
        if (mask.dtype is dtype is inputs.dtype and weights.dtype is dtype
                and dvalues.ndim == mask.ndim == inputs.ndim == weights.ndim == 2):
            compiled = _BACKWARD[dtype if precision is None else operands.multiplied(dtype, precision)]
            if compiled is not None:
                dinputs, dweights, dbiases = spare if spare is not None else (None, None, None)
                if not need_dinputs:
                    dinputs = None
                elif dinputs is None or dinputs.dtype is not dtype or len(dinputs) != len(inputs):
                    dinputs = empty(inputs.shape, dtype)
                if dweights is None or dweights.dtype is not dtype or dbiases.dtype is not dtype:
                    shape = weights.shape
                    dweights, dbiases = empty(shape, dtype), empty((1, shape[1]), dtype)
                if not compiled(dvalues, mask, s is not None, inputs, weights, dinputs if need_dinputs else dweights,
                                need_dinputs, dweights, dbiases, activation):
                    return dinputs, dweights, dbiases
    return _backward_any(dvalues, s, inputs, weights, out, activation, need_dinputs, precision)


def _backward_any(dvalues, s, inputs, weights, out, activation, need_dinputs, precision):
    dvalues, mask, inputs, weights, dtype = check_backward(dvalues, s, inputs, weights)
    compiled = _BACKWARD[operands.multiplied(dtype, precision)]
    n_inputs, n_neurons = weights.shape
    shapes = inputs.shape, (n_inputs, n_neurons), (1, n_neurons)
    outs = _check_outs(out, shapes, dtype)

    def prepared(array):
        return None if array is None else array.astype(dtype, copy=False)

    dvalues, mask = (operands.with_contiguous_rows(prepared(a)) if a is not None else None for a in (dvalues, mask))
    inputs, weights = operands.as_factors(prepared(inputs), prepared(weights), precision)
    results = [operands.result(o, shape, dtype, (dvalues, mask, inputs, weights))
               for o, shape in zip(outs, shapes, strict=True)]
    dinputs, dweights, dbiases = results
    run(compiled, dvalues, dvalues if mask is None else mask, mask is not None, inputs, weights,
         dinputs, need_dinputs, dweights, dbiases, activation)
    if not need_dinputs:
        return None, dweights, dbiases
    return tuple(operands.deliver(r, o) for r, o in zip(results, outs, strict=True))


def accepts_forward(inputs, weights, biases, out, precision):
    """Return whether a forward pass refuses none of these, so that it has not raised before it computed something."""
    try:
        inputs, weights, _, dtype = check_forward(inputs, weights, biases)
        operands.multiplied(dtype, precision)
        operands.check_out("out", out, (len(inputs), weights.shape[1]), dtype)
    except (ValueError, TypeError):
        return False
    return True


def accepts_backward(dvalues, s, inputs, weights, precision):
    """Return whether a backward pass refuses none of these, as `accepts_forward`."""
    try:
        *_, dtype = check_backward(dvalues, s, inputs, weights)
        operands.multiplied(dtype, precision)
    except (ValueError, TypeError):
        return False
    return True


def check_backward(dvalues, s, inputs, weights):
    """(dvalues, s, inputs, weights, dtype of the results), arrays of two dimensions, or None for no s; or what is raised."""
    dvalues, inputs = operands.as_array("dvalues", dvalues), operands.as_array("inputs", inputs)
    weights = operands.as_array("weights", weights)
    s = operands.as_array("output", s) if s is not None else None
    dtype = operands.float_dtype(*(a for a in (dvalues, inputs, weights, s) if a is not None))
    dvalues, inputs = operands.as_rows("dvalues", dvalues), operands.as_rows("inputs", inputs)
    operands.check_weights(inputs, weights)
    operands.check_shape("dvalues", dvalues, (len(inputs), weights.shape[1]), "a row of inputs and a column of weights each")
    if s is not None:
        s = operands.as_rows("output", s)
        operands.check_shape("output", s, dvalues.shape, "that is the shape of dvalues")
    return dvalues, s, inputs, weights, dtype


def _check_outs(out, shapes, dtype):
    """The three arrays of `out`, each of its shape, none overlapping another."""
    if out is None:
        return None, None, None
    if not isinstance(out, tuple | list) or len(out) != 3:
        raise TypeError(f"out is of type {type(out).__name__}, expected a tuple (dinputs, dweights, dbiases)")
    for name, array, shape in zip(("dinputs", "dweights", "dbiases"), out, shapes, strict=True):
        operands.check_out(f"out: {name}", array, shape, dtype)
    if overlapping([a for a in out if a is not None]) is not None:
        raise ValueError("out: two of dinputs, dweights and dbiases overlap, expected memory of their own")
    return tuple(out)


def _relu(dvalues, z, out):
    compiled = _RELU[z.dtype] if dvalues.dtype == z.dtype else None
    if compiled is None:                                # integers, float16 and mixed dtypes: one pass more, by NumPy
        stopped = z <= 0
        output = np.copy(dvalues)
        output[stopped] = 0
        return operands.deliver(output, out)
    values = np.ascontiguousarray(dvalues)
    mask = values if dvalues is z else np.ascontiguousarray(z)
    usable = out is not None and out.flags.c_contiguous and not any(np.may_share_memory(out, a) for a in (values, mask))
    output = out if usable else np.empty(z.shape, z.dtype)
    run(compiled, values.reshape(-1), mask.reshape(-1), output.reshape(-1))
    return operands.deliver(output, out)
