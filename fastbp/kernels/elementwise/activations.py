"""Activations, which a layer applies to its sums z, and what each saves for its derivative.

    name            y                                       dy/dz from what is saved            saved
    identity        z                                       1
    relu            z where z > 0, else 0                   1 where saved > 0, else 0           y
    leaky_relu      z where z > 0, else 0.01 z              1 where saved > 0, else 0.01        y
    sigmoid         1 / (1 + exp(-z))                       saved (1 - saved)                   y
    tanh            tanh(z)                                 1 - saved²                          y
    gelu            z (1 + tanh(u)) / 2,                    saved                               dy/dz
                    u = sqrt(2/π) (z + 0.044715 z³)
                    (1 + tanh(u)) / 2 is sigmoid(2 u), which has no difference to lose digits in

(Maas, Hannun and Ng, Rectifier nonlinearities, ICML 2013, for leaky_relu; Hendrycks and Gimpel, Gaussian error linear units,
arXiv:1606.08415, section 2, for gelu, in the form that needs no error function.)

Identity and relu are applied to a tile in registers. The others take dozens of instructions and as many registers: they go
over the rows of y that a task has just computed, while these are in its core's cache.
"""
import math
from functools import cache

from numba import types

from ..._compile import link
from ..._compile.compiler import inlined
from .. import blocking
from ..matrix import MATRIX
from ..simd import tile
from ..simd.arithmetic import clamped, magnitude, mask, parted, polynomial, times_power, where_above, with_sign

# The names of the activations, and the numbers by which compiled code knows them.
NAMES = "identity", "relu", "leaky_relu", "sigmoid", "tanh", "gelu"
IDENTITY, RELU, LEAKY_RELU, SIGMOID, TANH, GELU = range(len(NAMES))

# The factor of z in leaky_relu where z <= 0.
LEAK = 0.01

# The constants of gelu's u.
_GELU_SCALE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715

# The binary logarithm of e.
_LOG2_E = 1 / math.log(2)

# The constants of a dtype's exp: two bounds, below and above which it is 0 and inf; ln 2 in two parts, the first with so few
# bits that n times it is exact (Cody and Waite, Software Manual for the Elementary Functions, 1980); how many terms of the
# series count up to ln(2) / 2; and a number that, added to a smaller one, leaves the integer part of that in its last bits.
_EXP = {
    types.float32: (-104.0, 89.0, 0.693359375, -2.12194440054690582767e-4, 7, 1.5 * 2**23),
    types.float64: (-746.0, 710.0, 0.693145751953125, 1.42860682030941723212e-6, 13, 1.5 * 2**52),
}

# How many terms of the series of 2 atanh(s) count, for log with |s| up to 3 - 2 sqrt(2), and for log1p with |s| up to 1/3.
_LOG = {types.float32: (5, 8), types.float64: (11, 17)}

# From these |z| on tanh is 1 and gelu is z or 0, to the last bit.
_TANH_IS_1, _GELU_IS_LINEAR = 20.0, 30.0


@cache
def exponentials(dtype):
    """Return (exp, expm1) for tiles of a Numba float type, off by at most 2 units in the last place (expm1: 3).

    expm1 is inf from half the largest number on.
    """
    least, most, ln2_high, ln2_low, terms, magic = _EXP[dtype]
    series = tuple(1 / math.factorial(k + 1) for k in range(terms))

    @inlined
    def reduced(x):
        """Return exp(r) - 1 and n, as times_power takes it, of x = n ln(2) + r."""
        x = clamped(x, least, most)
        shifted = x * _LOG2_E + magic
        n = shifted - magic
        r = (x - n * ln2_high) - n * ln2_low
        return r * polynomial(r, series), shifted

    @inlined
    def exp(x):
        p, n = reduced(x)
        return times_power(p + 1.0, n)

    @inlined
    def expm1(x):
        p, n = reduced(x)
        return times_power(p, n) + (times_power(p - p + 1.0, n) - 1.0)

    return exp, expm1


@cache
def logarithms(dtype):
    """Return (log, log1p) for tiles of a Numba float type: log of normal numbers above 0, log1p of numbers from 0 to 1.

    They are off by at most 3 units in the last place. A NaN stays a NaN. Both are 2 atanh(s) = 2 (s + s³/3 + s⁵/5 + …).
    """
    log_terms, log1p_terms = _LOG[dtype]
    log_series, log1p_series = (tuple(2 / (2 * k + 1) for k in range(terms)) for terms in (log_terms, log1p_terms))
    _, _, ln2_high, ln2_low, _, _ = _EXP[dtype]

    @inlined
    def log(x):
        m, n = parted(x)
        s = (m - 1.0) / (m + 1.0)
        return n * ln2_high + (s * polynomial(s * s, log_series) + n * ln2_low) + (x - x)     # x - x is 0, or NaN for a NaN

    @inlined
    def log1p(x):
        s = x / (x + 2.0)
        return s * polynomial(s * s, log1p_series)

    return log, log1p


@cache
def functions(dtype):
    """Return (sigmoid, tanh) for tiles of a Numba float type."""
    exp, expm1 = exponentials(dtype)

    @inlined
    def sigmoid(z):
        return 1.0 / (1.0 + exp(0.0 - z))

    @inlined
    def tanh(z):
        e = expm1(2.0 * clamped(magnitude(z), 0.0, _TANH_IS_1))
        return with_sign(e / (e + 2.0), z)

    return sigmoid, tanh


def _build(dtype):
    row = blocking.tiles(dtype).row
    sigmoid, tanh = functions(dtype)

    def activate(kind, y, saved):
        """Write the activation of y over y, both Matrix, and for gelu its derivative to `saved`, unless that is missing."""
        size, width = tile.itemsize(row), tile.width(row)
        rows, cols = y.rows, y.cols
        if y.row_step == cols * size and (saved.data == 0 or saved.row_step == cols * size):
            rows, cols = 1, rows * cols
        for i in range(rows):
            address, derivatives = y.data + i * y.row_step, saved.data + i * saved.row_step
            for j in range(0, cols, width):
                z = tile.load(row, address + j * size, 0, 1, cols - j)
                result = z
                if kind == SIGMOID:
                    result = sigmoid(z)
                elif kind == TANH:
                    result = tanh(z)
                elif kind == LEAKY_RELU:
                    result = where_above(z, 0.0, z, LEAK * z)
                else:
                    near = clamped(z, -_GELU_IS_LINEAR, _GELU_IS_LINEAR)
                    square = near * near
                    gate = sigmoid(2.0 * _GELU_SCALE * near * (1.0 + _GELU_CUBE * square))
                    result = clamped(z, -_GELU_IS_LINEAR, math.inf) * gate      # -inf * 0 would be a NaN
                    if saved.data != 0:
                        inner = 2.0 * _GELU_SCALE * (1.0 + 3.0 * _GELU_CUBE * square)       # d(2 u)/dz
                        derivative = gate + near * gate * (1.0 - gate) * inner
                        tile.store(derivative, derivatives + j * size, 0, 1, cols - j)
                tile.store(result, address + j * size, 0, 1, cols - j)
        return link.OK

    return activate


activate = link.units("activate", types.intp(types.intp, MATRIX, MATRIX), _build, lazy=True)


@inlined
def passed_back(kind, dvalues, saved):
    """Return dvalues * dy/dz, all tiles. The ReLU's 0 is assigned, so that an inf there becomes 0."""
    if kind == RELU:
        return mask(dvalues, saved)
    if kind == LEAKY_RELU:
        return where_above(saved, 0.0, dvalues, LEAK * dvalues)
    if kind == SIGMOID:
        return dvalues * (saved * (1.0 - saved))
    if kind == TANH:
        return dvalues * (1.0 - saved * saved)
    return dvalues * saved
