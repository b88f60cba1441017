"""A dense layer's passes as functions without state. Each has its operands checked and its results allocated by one kernel.

There are two ways to the kernel. ndarrays of one float dtype that fit each other take the short way: compiled code checks and
allocates (kernels/entry.py). Everything else takes the long way, through the checks and conversions of `_arrays/operands.py`:
lists, other dtypes, one sample as a 1-D array, and what raises an error.

dtypes  float32 and float64 are computed as they are, float16 as float32. NumPy's promotion (`np.result_type`) decides for
        mixed dtypes. Integers and booleans alone become float64.
layout  may be any: C or Fortran order, strided, reversed, unaligned, read-only. Inputs are never changed.
out     is always overwritten, never added to. It may overlap an input.
"""
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba import types
from numpy import ndarray
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._arrays import operands
from ._arrays.memory import empty, is_room, overlapping
from ._compile import compiler, link, notice
from .kernels import entry, reference
from .kernels.dense.dinputs import backward_inputs
from .kernels.elementwise.activations import GELU, IDENTITY, RELU
from .kernels.gemm import loops
from .kernels.simd import tile
from .kernels.train import shard, transposed

# An array of floats; a user's (dinputs, dweights, dbiases); and the arrays to write these to, or None for a new one.
FloatArray: TypeAlias = NDArray[np.floating[Any]]
Gradients: TypeAlias = tuple[FloatArray, FloatArray, FloatArray]
Outs: TypeAlias = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]

# The Numba type by which kernels know a NumPy dtype or "bfloat16".
_NUMBA_TYPE = dict(zip((*operands.FLOATS, operands.BFLOAT16), (types.float32, types.float64, tile.BFLOAT16), strict=True))


class _Entries(dict[Any, Any]):
    """Compiled functions by NumPy dtype or "bfloat16", each compiled when it is first asked for; None for other keys.

    by_class: those that are compiled, by the class of the dtype. A dtype takes 0.1 us to be found by its value.
    """

    def __init__(self, build, title):
        super().__init__()
        self._build, self._title, self.by_class = build, title, {}

    def __missing__(self, dtype):
        if dtype not in _NUMBA_TYPE:
            return None
        with notice.compiling(f"{self._title} for {dtype}"):
            self[dtype] = self._build(_NUMBA_TYPE[dtype])
        if isinstance(dtype, np.dtype):
            self.by_class[type(dtype)] = self[dtype]
        return self[dtype]


# The compiled functions, or their NumPy twins where Numba's JIT is disabled. Those in capitals only serve other modules.
_passes_of = reference if compiler.DISABLED else entry
_FORWARD, _BACKWARD = _Entries(_passes_of.forward, "the forward pass"), _Entries(_passes_of.backward, "the backward pass")
_RELU, TRAIN = _Entries(_passes_of.elementwise, "the ReLU"), _Entries(entry.train, "training steps")
OPTIMIZE, LOSS = _Entries(entry.optimize, "the optimizers"), _Entries(entry.loss, "the losses")
INFER, KEEP = _Entries(entry.infer, "predictions"), _Entries(entry.keep, "frozen networks")


def dense_forward(inputs: ArrayLike, weights: ArrayLike, biases: ArrayLike | None = None,
                  out: np.ndarray | None = None, *, precision: str | None = None) -> np.ndarray:
    """Return inputs @ weights + biases, (batch, n_neurons), written into `out` if given.

    inputs (batch, n_inputs), or one sample (n_inputs,); weights (n_inputs, n_neurons); biases (1, n_neurons) or (n_neurons,).

    precision: of the multiplications: the dtype's name or None, which mean the same, or "bfloat16" for float32. With "bfloat16"
    both factors may be rounded to the nearest bfloat16, of 8 bits, and their products are summed in float32. An element of the
    result differs from the exact one by at most (2**-7 + (n_inputs + 2) * 2**-23) times the sum of the products' absolute
    values: 2**-8 for each factor and the rest for the sums (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
    section 3.1). Subnormal numbers may count as 0. If the batch, n_inputs or n_neurons are so few that rounding takes longer
    than it saves, results are those of float32; `python -m fastbp plan` says so. So a row may be more precise in a small batch
    than in a large one. A CPU without instructions for bfloat16 (AMX, AVX512-BF16) computes all in float32, and a warning says
    once that it is not faster there.

    Raises ValueError for shapes that do not fit or another precision, TypeError for dtypes that are not real numbers or an
    `out` of another dtype than the result's, MemoryError.
    """
    return _forward(inputs, weights, biases, out, IDENTITY, precision=precision)[0]


def dense_relu_forward(inputs: ArrayLike, weights: ArrayLike, biases: ArrayLike | None = None,
                       out: np.ndarray | None = None, *, precision: str | None = None) -> np.ndarray:
    """Return relu(inputs @ weights + biases), by one fused kernel; arguments and errors as for `dense_forward`."""
    return _forward(inputs, weights, biases, out, RELU, precision=precision)[0]


def dense_backward(dvalues: ArrayLike, inputs: ArrayLike, weights: ArrayLike,
                   out: Outs | None = None, *, precision: str | None = None) -> Gradients:
    """Return (dinputs, dweights, dbiases), the gradients of a loss with respect to inputs, weights and biases.

    dinputs = dvalues @ weights.T (batch, n_inputs), dweights = inputs.T @ dvalues (n_inputs, n_neurons), dbiases = column
    sums of dvalues (1, n_neurons): the chain rule (Kinsley and Kukieła, Neural Networks from Scratch in Python, ch. 9).

    dvalues (batch, n_neurons), the gradient with respect to the output; inputs (batch, n_inputs); weights
    (n_inputs, n_neurons). out: a tuple (dinputs, dweights, dbiases), each an array to write into, or None for a new one.
    precision and errors as for `dense_forward`; dbiases is never rounded.
    """
    return _backward(dvalues, None, inputs, weights, out, IDENTITY, True, precision=precision)


def dense_relu_backward(dvalues: ArrayLike, output: ArrayLike, inputs: ArrayLike, weights: ArrayLike,
                        out: Outs | None = None, *, precision: str | None = None) -> Gradients:
    """Return the gradients as `dense_backward` does, through a ReLU: dvalues counts where `output` is above 0 or NaN.

    output (batch, n_neurons), of `dense_relu_forward`, or any array with the same signs, such as the sums before the ReLU.
    Where the gradient is stopped it is 0, even if dvalues is inf or NaN there.
    """
    if output is None:
        raise TypeError("output is None, expected an array of the shape of dvalues")
    return _backward(dvalues, output, inputs, weights, out, RELU, True, precision=precision)


def relu_forward(z: ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
    """Return 0 where z <= 0, else z; a NaN stays a NaN. z may have any shape; its dtype is kept, integers and float16 too.

    Raises TypeError for a dtype that is not real, ValueError for an `out` of another shape.
    """
    z = operands.as_array("z", z)
    operands.check_out("out", out, z.shape, z.dtype)
    return _relu(z, z, out)


def relu_backward(dvalues: ArrayLike, z: ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
    """Return 0 where z <= 0, else dvalues: z > 0 passes the gradient, z == 0 stops it, a NaN in z passes it.

    The 0 is assigned, not multiplied, so that inf and NaN gradients are stopped as well. Both arrays have one shape, which may
    be any; the dtype of dvalues is kept. Raises as `relu_forward`.
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
    """Compile all kernels for these dtypes, by default float32 and float64, or read them from the disk cache.

    Otherwise the first call of a function does that for its dtype: 5 to 20 seconds to compile, a fraction of one to read. Each
    dtype after the first is compiled by a process of its own, unless one thread was asked for. Raises TypeError for another
    dtype. With NUMBA_DISABLE_JIT=1 there is nothing to compile.
    """
    named = [np.dtype(dtype) for dtype in dtypes] or [*operands.FLOATS]
    wanted = list(dict.fromkeys(named))
    for dtype in wanted:
        if dtype not in operands.FLOATS:
            raise TypeError(f"dtypes holds {dtype}, expected float32 or float64")
    if compiler.DISABLED:
        return
    with link.warming_up(dtype.name for dtype in wanted[1:]) as wait:
        for dtype in wanted:
            wait(dtype.name)
            for kinds, in_blocks in (([dtype], False), ([dtype], True), ([], False)):
                training(dtype, kinds, in_blocks)
            for entries in (_FORWARD, _BACKWARD, _RELU, OPTIMIZE, LOSS, INFER, KEEP):
                _ = entries[dtype]
            with notice.compiling(f"kernels that are rarely needed for {dtype}"):
                link.bind_lazy(_NUMBA_TYPE[dtype])
        _ = shuffle()


def run(compiled: Callable[..., Any], *arguments: Any) -> Any:
    """Call a compiled function and return its status, or its results; compile kernels that it needs, and call it again.

    Raises MemoryError where a kernel has no memory for its workspace.
    """
    status = compiled(*arguments)
    while type(status) is int and status >= link.REQUESTED:
        link.bind_requested(status)
        status = compiled(*arguments)
    if type(status) is int and status == link.NO_MEMORY:
        raise MemoryError("no memory for the workspace of a kernel")
    return status


@cache
def shuffle() -> Any:
    """Return the compiled function that shuffles rows (kernels/train/shuffle.py)."""
    with notice.compiling("the order of rows"):
        return entry.shuffle()


class TrainingUnits(NamedTuple):
    """The compiled code of training steps."""

    train: Any                              # the function that makes steps
    shard: int                              # the address of the unit of a shard
    multiply: int                           # the address of the unit of dweights in blocks; 0: they are not
    passes: dict[Any, list[int]]            # the addresses of the passes of a layer, by the kind of its products


def training(dtype: np.dtype[Any], kinds: Iterable[Any], in_blocks: bool) -> TrainingUnits:
    """Return the TrainingUnits for a dtype of networks with products of these kinds; without any, shards are transposed.

    in_blocks: whether another kernel than the backward pass computes dweights.

    All units are bound in one call, so that another process can compile as many of them as possible: the first unit decides
    which these are (_compile/ahead.py).
    """
    compiler.check_enabled("training")
    number = _NUMBA_TYPE[dtype]
    passes = {kind: _passes(_NUMBA_TYPE[kind], in_blocks) for kind in kinds}
    work = (shard.shard if passes else transposed.shard)[number]
    units = [entry.run.train[number], work, *chain(*passes.values())]
    with notice.compiling(f"training steps for {dtype}"):
        link.bind(*(reversed(units) if in_blocks or not passes else units))
    return TrainingUnits(train=TRAIN[dtype], shard=work.bound_address(),
                         multiply=loops.gemm[number].bound_address() if in_blocks else 0,
                         passes={kind: [unit.bound_address() for unit in units] for kind, units in passes.items()})


def forward_address(kind: Any) -> int:
    """Return the address of the forward pass with products of a kind, a dtype or "bfloat16", for other kernels to call."""
    unit = entry.passes_of(_NUMBA_TYPE[kind]).forward[_NUMBA_TYPE[kind]]
    return unit.bound_address()


def _passes(kind, in_blocks):
    """Return the units of the forward and the backward pass, for other kernels to call."""
    module = entry.passes_of(kind)
    return module.forward[kind], backward_inputs[kind] if in_blocks else module.backward[kind]


def _forward(inputs, weights, biases, out, activation, spare=None, precision=None, spare_slope=None):
    """Return (output, saved), by the short way if it can be taken. saved: what `_backward` needs of this pass.

    spare, spare_slope: a layer's last results, which it made itself; they are overwritten, if they fit, in place of new arrays.
    """
    if out is None and type(inputs) is ndarray:
        if precision is None:
            compiled = _FORWARD.by_class.get(type(inputs.dtype))
        else:
            kind = operands.multiplied(inputs.dtype, precision) if _agree(inputs, weights, biases) else None
            compiled = _FORWARD.get(kind)
        if compiled is not None:                    # else it is compiled on the long way
            # Compiled code checks the arrays. After any status but NO_ROOM the long way finds out why.
            results = compiled(inputs, weights, biases, spare, spare_slope, activation)
            if type(results) is tuple:
                return results
            if results == entry.NO_ROOM:
                shape, dtype = (len(inputs), weights.shape[1]), inputs.dtype
                output = spare if is_room(spare, shape, dtype) else empty(shape, dtype)
                saved = spare_slope if activation != GELU or is_room(spare_slope, shape, dtype) else empty(shape, dtype)
                results = compiled(inputs, weights, biases, output, saved, activation)
                if type(results) is tuple:
                    return results
    return _forward_any(inputs, weights, biases, out, activation, precision)


def _agree(first, *others):
    """Return whether arrays, or None, are ndarrays of two dimensions and one dtype."""
    return all(a is None or type(a) is ndarray and a.dtype == first.dtype and a.ndim == 2 for a in (first, *others))


def _forward_any(inputs, weights, biases, out, activation, precision):
    """Return what `_forward` does, by the long way."""
    inputs, weights, biases, dtype = check_forward(inputs, weights, biases, out, precision)
    compiled = _FORWARD[operands.multiplied(dtype, precision)]
    shape = len(inputs), weights.shape[1]
    inputs, weights = operands.as_factors(_as_dtype(inputs, dtype), _as_dtype(weights, dtype), precision)
    biases = _as_dtype(biases, dtype)
    room = operands.result(out, shape, dtype, (inputs, weights, biases))
    slope = empty(shape, dtype) if activation == GELU else None
    output, saved = run(compiled, inputs, weights, biases, room, slope, activation)
    delivered = operands.deliver(output, out)
    return delivered, delivered if saved is output else saved


def _as_dtype(array, dtype):
    """Return the array in that dtype, converted only if it must be; None for None."""
    return None if array is None else array.astype(dtype, copy=False)


def check_forward(inputs: ArrayLike, weights: ArrayLike, biases: ArrayLike | None, out: np.ndarray | None = None,
                  precision: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.dtype]:
    """Return (inputs, weights, biases, dtype of the result) as arrays of two dimensions, biases None if there are none.

    Raises ValueError and TypeError as `dense_forward`.
    """
    inputs, weights = operands.as_array("inputs", inputs), operands.as_array("weights", weights)
    biases = operands.as_array("biases", biases) if biases is not None else None
    dtype = operands.float_dtype(*(a for a in (inputs, weights, biases) if a is not None))
    inputs = operands.as_rows("inputs", inputs)
    operands.check_weights(inputs, weights)
    biases = operands.as_biases(biases, weights.shape[1]) if biases is not None else None
    operands.multiplied(dtype, precision)
    operands.check_out("out", out, (len(inputs), weights.shape[1]), dtype)
    return inputs, weights, biases, dtype


def _backward(dvalues, saved, inputs, weights, out, activation, need_dinputs, spare=None, precision=None):
    """Return (dinputs, dweights, dbiases), by the short way if it can be taken; dinputs is None unless it is needed.

    saved: what the derivative of the activation follows from (kernels/elementwise/activations.py); None for the identity.
    spare: three arrays that are overwritten, if they fit, in place of new ones; or None.
    """
    if out is None and type(dvalues) is ndarray:
        if precision is None:
            compiled = _BACKWARD.by_class.get(type(dvalues.dtype))
        else:
            kind = operands.multiplied(dvalues.dtype, precision) if _agree(dvalues, saved, inputs, weights) else None
            compiled = _BACKWARD.get(kind)
        if compiled is not None:                    # else it is compiled on the long way
            # Compiled code checks the arrays. After any status but NO_ROOM the long way finds out why.
            dinputs, dweights, dbiases = spare if spare is not None else (None, None, None)
            results = compiled(dvalues, saved, inputs, weights, dinputs, dweights, dbiases, need_dinputs, activation)
            if type(results) is tuple:
                return results
            if results == entry.NO_ROOM:
                dtype = dvalues.dtype
                if need_dinputs and not is_room(dinputs, inputs.shape, dtype):
                    dinputs = empty(inputs.shape, dtype)
                if not is_room(dweights, weights.shape, dtype):
                    dweights = empty(weights.shape, dtype)
                if not is_room(dbiases, (1, weights.shape[1]), dtype):
                    dbiases = empty((1, weights.shape[1]), dtype)
                results = compiled(dvalues, saved, inputs, weights, dinputs, dweights, dbiases, need_dinputs, activation)
                if type(results) is tuple:
                    return results
    return _backward_any(dvalues, saved, inputs, weights, out, activation, need_dinputs, precision)


def _backward_any(dvalues, saved, inputs, weights, out, activation, need_dinputs, precision):
    """Return what `_backward` does, by the long way."""
    dvalues, saved, inputs, weights, dtype = check_backward(dvalues, saved, inputs, weights, precision)
    compiled = _BACKWARD[operands.multiplied(dtype, precision)]
    n_inputs, n_neurons = weights.shape
    shapes = inputs.shape, (n_inputs, n_neurons), (1, n_neurons)
    outs = _check_outs(out, shapes, dtype)
    dvalues, saved = (operands.with_contiguous_rows(_as_dtype(a, dtype)) if a is not None else None for a in (dvalues, saved))
    inputs, weights = operands.as_factors(_as_dtype(inputs, dtype), _as_dtype(weights, dtype), precision)
    rooms = [operands.result(o, shape, dtype, (dvalues, saved, inputs, weights)) for o, shape in zip(outs, shapes, strict=True)]
    results = run(compiled, dvalues, saved, inputs, weights, *rooms, need_dinputs, activation)
    return tuple(operands.deliver(r, o) if r is not None else None for r, o in zip(results, outs, strict=True))


def check_backward(dvalues: ArrayLike, saved: ArrayLike | None, inputs: ArrayLike, weights: ArrayLike,
                   precision: str | None = None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray, np.dtype]:
    """Return (dvalues, saved, inputs, weights, dtype of the results) as arrays of two dimensions, saved None if it is.

    Raises ValueError and TypeError as `dense_backward`, but for its `out`.
    """
    dvalues, inputs = operands.as_array("dvalues", dvalues), operands.as_array("inputs", inputs)
    weights = operands.as_array("weights", weights)
    saved = operands.as_array("output", saved) if saved is not None else None
    dtype = operands.float_dtype(*(a for a in (dvalues, inputs, weights, saved) if a is not None))
    dvalues, inputs = operands.as_rows("dvalues", dvalues), operands.as_rows("inputs", inputs)
    operands.check_weights(inputs, weights)
    operands.check_shape("dvalues", dvalues, (len(inputs), weights.shape[1]), "a row of inputs and a column of weights each")
    if saved is not None:
        saved = operands.as_rows("output", saved)
        operands.check_shape("output", saved, dvalues.shape, "that is the shape of dvalues")
    operands.multiplied(dtype, precision)
    return dvalues, saved, inputs, weights, dtype


def accepts(check: Callable[..., object], *arguments: object) -> bool:
    """Return whether a check of arguments raises neither ValueError nor TypeError.

    A pass whose arguments its check accepts was not refused: what it raised may have come after it began to write results.
    """
    try:
        check(*arguments)
    except (ValueError, TypeError):
        return False
    return True


def _check_outs(out, shapes, dtype):
    """Return the three arrays of `out`; raise TypeError or ValueError for another shape or dtype, or for two that overlap."""
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
    """Return dvalues where z is above 0 or NaN, else 0, in `out` if given."""
    compiled = _RELU[z.dtype] if dvalues.dtype == z.dtype else None
    if compiled is None:                                # integers, float16 and mixed dtypes: NumPy takes one more pass
        stopped = z <= 0
        output = np.copy(dvalues)
        output[stopped] = 0
        return operands.deliver(output, out)
    values = np.ascontiguousarray(dvalues)
    signs = values if dvalues is z else np.ascontiguousarray(z)
    usable = out is not None and out.flags.c_contiguous and not any(np.may_share_memory(out, a) for a in (values, signs))
    output = out if usable else np.empty(z.shape, z.dtype)
    run(compiled, values.reshape(-1), signs.reshape(-1), output.reshape(-1))
    return operands.deliver(output, out)
