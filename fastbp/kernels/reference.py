"""The definition of what each kernel computes, in NumPy. These functions compute where NUMBA_DISABLE_JIT is 1.

A layer with K inputs and N neurons takes a batch of M rows. The first part of this file holds the formulas, for arrays of any
float dtype. The second part replaces compiled functions: it computes in float64 and rounds each result once.
"""
from functools import partial

import numpy as np

from .._compile.link import OK, REFUSED
from .._runtime import sigint
from . import blocking
from .dense import select
from .elementwise.activations import GELU, IDENTITY, LEAK, LEAKY_RELU, RELU, SIGMOID, TANH
from .simd.tile import BFLOAT16
from .train.losses import BINARY, SOFTMAX
from .train.optimizers import ADAM, NESTEROV, SGD

_GELU_SCALE = np.sqrt(2 / np.pi)        # This factor scales the argument u of the GELU's tanh.
_GELU_CUBE = 0.044715                   # This is the coefficient of z³ in that argument.
_GELU_IS_0 = -30.0                      # Below this z the GELU is 0 to the last bit. -inf times its sigmoid, 0, would be NaN.


# ---- activations


def relu(dvalues, z):
    """Return dvalues where z is above 0 or NaN, and 0 elsewhere. relu(z, z) is the ReLU.

    The 0 is assigned, not multiplied, so that it also replaces an inf or a NaN in dvalues.
    """
    return np.where(z <= 0, 0, dvalues)


def sigmoid(z):
    """Return 1 / (1 + exp(-z)), which is 0 where exp(-z) is inf."""
    return 1 / (1 + np.exp(-z))


def softmax(z):                                                         # (M, N)
    """Return exp(z) / Σ exp(z) of each row."""
    powers = np.exp(z - z.max(axis=1, keepdims=True))                   # the largest is 1: no sum overflows
    return powers / powers.sum(axis=1, keepdims=True)


def activated(kind, z):
    """Return (y, saved): the activation of z, and what `passed_back` needs for its derivative (y; for gelu dy/dz)."""
    if kind == GELU:
        return _gelu(z)
    if kind == RELU:
        y = relu(z, z)
    elif kind == LEAKY_RELU:
        y = np.where(z > 0, z, LEAK * z)
    elif kind == SIGMOID:
        y = sigmoid(z)
    elif kind == TANH:
        y = np.tanh(z)
    else:
        y = z
    return y, y


def _gelu(z):
    """Return (y, dy/dz) of y = z (1 + tanh(u)) / 2 = z sigmoid(2 u), u = sqrt(2/π) (z + 0.044715 z³)."""
    near = np.clip(z, _GELU_IS_0, -_GELU_IS_0)
    gate = sigmoid(2 * _GELU_SCALE * (near + _GELU_CUBE * near**3))
    derivative = gate + near * gate * (1 - gate) * 2 * _GELU_SCALE * (1 + 3 * _GELU_CUBE * near**2)
    return np.maximum(z, _GELU_IS_0) * gate, derivative


def passed_back(kind, dvalues, saved):
    """Return dz = dvalues * dy/dz. `saved` is what `activated` returned beside y."""
    if kind == RELU:
        return relu(dvalues, saved)
    if kind == LEAKY_RELU:
        return np.where(saved > 0, dvalues, LEAK * dvalues)
    if kind == SIGMOID:
        return dvalues * (saved * (1 - saved))
    if kind == TANH:
        return dvalues * (1 - saved * saved)
    if kind == GELU:
        return dvalues * saved
    return dvalues


# ---- a dense layer


def dense_forward(x, weights, biases=None, activation=IDENTITY, factor=np.asarray):
    """Return (y, saved) as `activated` does. `factor` converts the factors of the product first: `rounded` for bfloat16."""
    z = factor(x) @ factor(weights)                                     # (M, N) = (M, K) @ (K, N)
    return activated(activation, z if biases is None else z + biases)   # biases (1, N)


def dense_backward(dvalues, saved, x, weights, activation=IDENTITY, factor=np.asarray):
    """Return (dinputs, dweights, dbiases) from dvalues, the gradient with respect to y."""
    dz = passed_back(activation, dvalues, saved)                        # (M, N)
    dinputs = factor(dz) @ factor(weights).T                            # (M, K) = (M, N) @ (N, K)
    dweights = factor(x).T @ factor(dz)                                 # (K, N) = (K, M) @ (M, N)
    return dinputs, dweights, dz.sum(axis=0, keepdims=True)             # dbiases (1, N) sum dz before rounding


def rounded(a):
    """Return float32 numbers rounded to bfloat16, their upper 16 bits: to the nearest, ties to even."""
    a = np.array(a, np.float32)
    bits = a.view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(a), a, nearest.view(np.float32)).astype(np.float64)


# ---- losses


def loss(kind, z, t, lower=0.0, upper=np.inf):
    """Return (losses (M,), right (M,), gradient (M, N)) for scores z (M, N). `right` counts the right answers in each row.

    t: labels (M,), or numbers (M, N). lower, upper: the bounds of each loss of a cross-entropy. The gradient is not bounded.
    """
    if kind == SOFTMAX:
        t = np.eye(z.shape[1], dtype=z.dtype)[t] if t.ndim == 1 else t
        total, highest, answers = t.sum(axis=1), z.max(axis=1), z.argmax(axis=1)
        log_sum = np.log(np.exp(z - highest[:, np.newaxis]).sum(axis=1))
        weighted = np.where(t != 0, t * z, 0).sum(axis=1)               # a class masked by z = -inf, t = 0 counts as 0
        losses = total * log_sum + (total * highest - weighted)         # Σ t (log(Σ exp(z)) - z)
        right = (answers == t.argmax(axis=1)) & ~np.isnan(highest)
        return np.clip(losses, lower, upper), right, softmax(z) * total[:, np.newaxis] - t
    if kind == BINARY:
        losses = np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))        # log(1 + exp(z)) - t z
        return np.clip(losses, lower, upper).sum(axis=1), ((z > 0) == (t > 0.5)).sum(axis=1), sigmoid(z) - t
    # The derivative is 2 (z - t): Loss.factors has the 2, as it multiplies every gradient by a factor in any case.
    return ((z - t)**2).sum(axis=1), np.zeros(len(z), z.dtype), z - t


# ---- optimisers


def step(kind, settings, steps, decays, w, g, v=None, square=None):
    """Return (w, v, square) after a step with the gradient g. `steps` steps came before it.

    v, square: what the optimiser remembers of w; for Adam these are m and v in the formulas of kernels/train/optimizers.py.
    settings: Settings of that file. decays: whether weight decay applies to w.
    """
    rate = settings.learning_rate / (1 + settings.decay * steps)
    if kind == SGD:
        return w - rate * g, v, square
    if kind == ADAM:
        v = settings.beta * v + (1 - settings.beta) * g
        square = settings.beta2 * square + (1 - settings.beta2) * g * g
        mean, mean_square = v / (1 - settings.beta**(steps + 1)), square / (1 - settings.beta2**(steps + 1))
        decay = settings.weight_decay * w if decays else 0
        return w - rate * (mean / (np.sqrt(mean_square) + settings.epsilon) + decay), v, square
    v = settings.beta * v - rate * g
    return w + (settings.beta * v - rate * g if kind == NESTEROV else v), v, square


# ---- replacements of compiled functions


def _exactly(formula, *arrays):
    """Return the results of a formula for these arrays in float64; an array may be None. Results may be inf or NaN."""
    with np.errstate(all="ignore"):
        return formula(*(None if a is None else a.astype(np.float64) for a in arrays))


def _write(targets, results):
    """Round the results into the targets, all of them or none. A target that is None is left out."""
    with np.errstate(all="ignore"), sigint.defer_sigint():
        for target, result in zip(targets, results, strict=True):
            if target is not None:
                target[...] = result


def _overlap(targets, operands):
    """Return whether a target may share memory with an operand. None counts as no array."""
    return any(np.may_share_memory(a, b) for a in targets if a is not None for b in operands if b is not None)


def _are_matrices(dtype, *arrays):
    """Return whether arrays are ndarrays of two dimensions and of that Numba type; one may be None."""
    return all(a is None or type(a) is np.ndarray and a.ndim == 2 and a.dtype == dtype for a in arrays)


def _results(rooms, shapes, dtype):
    """Return the arrays to write results of these shapes to: those of `rooms` that fit, else new ones."""
    return [room if _are_matrices(dtype, room) and room is not None and room.shape == shape and room.flags.writeable
            else np.empty(shape, dtype) for room, shape in zip(rooms, shapes, strict=True)]


def _factor_of(dtype):
    """Return the function (batch, inputs, neurons) -> the function that converts the factors of a layer's products."""
    limit = blocking.rounded_limit()
    return lambda m, k, n: rounded if dtype is BFLOAT16 and select.is_rounded(limit, m, k, n) else np.asarray


def forward(dtype):
    """Return the function that replaces kernels/entry.py's forward."""
    factor_of = _factor_of(dtype)
    kind = np.dtype(np.float32 if dtype is BFLOAT16 else dtype.name)

    def forward(x, weights, biases, y, saved, activation):
        if x is None or weights is None or not _are_matrices(kind, x, weights, biases):
            return REFUSED
        (m, k), n, count = x.shape, weights.shape[1], 2 if activation == GELU else 1
        if len(weights) != k or (biases is not None and biases.shape != (1, n)):
            return REFUSED
        results = _results((y, saved)[:count], [(m, n)] * count, kind)
        if _overlap(results, (x, weights, biases)):
            return REFUSED
        formula = partial(dense_forward, activation=activation, factor=factor_of(m, k, n))
        _write(results, _exactly(formula, x, weights, biases)[:count])
        return results[0], results[-1]

    return forward


def backward(dtype):
    """Return the function that replaces kernels/entry.py's backward."""
    factor_of = _factor_of(dtype)
    kind = np.dtype(np.float32 if dtype is BFLOAT16 else dtype.name)

    def backward(dvalues, saved, x, weights, dinputs, dweights, dbiases, need_dinputs, activation):
        if dvalues is None or x is None or weights is None or not _are_matrices(kind, dvalues, saved, x, weights):
            return REFUSED
        (m, k), n = x.shape, weights.shape[1]
        if len(weights) != k or dvalues.shape != (m, n) or (saved is not None and saved.shape != (m, n)):
            return REFUSED
        results = _results((dinputs, dweights, dbiases), ((m, k), (k, n), (1, n)), kind)
        if _overlap(results, (dvalues, saved, x, weights)):
            return REFUSED
        if not need_dinputs:
            results[0] = None
        formula = partial(dense_backward, activation=activation, factor=factor_of(m, k, n))
        _write(results, _exactly(formula, dvalues, saved, x, weights))
        return tuple(results)

    return backward


def elementwise(dtype):
    """Return the function that replaces kernels/entry.py's elementwise."""
    def elementwise(dvalues, z, out):
        _write([out], [relu(dvalues, z)])
        return OK

    return elementwise


def run_loss(kind, scores, targets, weights, numbers, sums):
    """Write the gradient over the scores, and the sums of losses and right answers to sums[0], as losses._run does.

    numbers: Factors of kernels/train/losses.py. Without targets, write the softmax or the sigmoid over the scores.
    """
    if targets is None:
        _write([scores], [_exactly(softmax if kind == SOFTMAX else sigmoid, scores)])
        return
    weights = np.ones(len(scores), np.float64) if weights is None else weights * numbers.scale
    targets = targets if targets.ndim == 1 else targets.astype(np.float64)
    losses, right, gradient = _exactly(lambda z: loss(kind, z, targets, numbers.least, numbers.most), scores)
    with np.errstate(all="ignore"):
        results = gradient * (numbers.factor * weights)[:, np.newaxis], ((weights * losses).sum(), right.sum())
    _write([scores, sums[0]], results)


def run_step(kind, settings, steps, parameters, gradients, states, decay):
    """Change parameters, states and steps in place, as optimizers.Step.make does without a penalty."""
    targets, results = [steps], [steps + 1]
    for w, g, arrays, decays in zip(parameters, gradients, states, decay, strict=True):
        state = [a.reshape(w.shape) for a in arrays]
        formula = partial(step, kind, settings, int(steps[0]), decays)
        targets += [w, *state]
        results += _exactly(formula, w, g, *state)[:1 + len(state)]     # SGD returns None for v and square
    _write(targets, results)
