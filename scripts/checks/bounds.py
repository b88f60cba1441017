"""Proven bounds for the rounding errors of a product, beside its exact result in a wider type.

In whatever order n products are added up, and whether or not multiplications and additions are fused, the computed sum is off
by at most gamma_n = n u / (1 - n u) times the sum of the absolute values (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, sections 3.1 and 3.4), where u is half the distance from 1 to the next number. Each product that underflows
adds half the smallest subnormal number (section 2.1, equation 2.8). If the sum of the absolute values may exceed the largest
number, a partial sum may overflow, and the result may be infinite or NaN: the bound is infinite there.
"""
import numpy as np

# The type in which results of a dtype count as exact.
WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
_BFLOAT16_MOST = (2 - 2.0**-7) * 2.0**127       # The largest number of bfloat16.


def product(left, right, extra, dtype, rounded=False):
    """Return (exact, bound) of left @ right + extra computed in `dtype`; rounded: whether factors are rounded to bfloat16."""
    dtype = np.dtype(dtype)
    wide = WIDER[dtype]
    given = left, right
    special = not (np.isfinite(left).all() and np.isfinite(right).all() and (extra is None or np.isfinite(extra).all()))
    # NumPy computes longdouble without a BLAS, which may treat inf and NaN in its own way.
    exact = _product(left, right, extra, np.longdouble if special else wide)
    left, right, extra = (None if a is None else np.abs(np.where(np.isfinite(a), a, 0)).astype(np.float64)
                          for a in (left, right, extra))
    size = _product(left, right, extra, np.float64)
    terms = left.shape[1] + (extra is not None)
    info = np.finfo(dtype)
    if _is_whole(left, right, extra) and size.max(initial=0) < 2.0 ** (info.nmant + 1 if not rounded else 8):
        return exact, np.zeros(size.shape)
    unit = float(info.eps) / 2 + float(np.finfo(wide).eps) / 2
    gamma = terms * unit / (1 - terms * unit)
    bound = gamma * size + terms * float(info.smallest_subnormal)
    if rounded:
        bound += _rounding_to_bfloat16(left, right, size, terms, float(info.tiny))
        bound[_rounded_to_special(*given, float(info.tiny))] = np.inf
    bound[size >= float(info.max) * (1 - gamma - 2.0**-7 * rounded)] = np.inf
    return exact, bound


def _product(left, right, extra, wide):
    with np.errstate(all="ignore"):
        z = left.astype(wide) @ right.astype(wide)
        return z if extra is None else z + extra.astype(wide)


def _is_whole(*arrays):
    return all(a is None or (a == np.rint(a)).all() for a in arrays)


def _rounding_to_bfloat16(left, right, size, terms, tiny):
    """Return what the bound grows by if both factors are rounded to 8 bits, and subnormal numbers may count as 0."""
    lost = _product(np.where(left < tiny, left, 0), right, None, np.float64)
    lost += _product(left, np.where(right < tiny, right, 0), None, np.float64)
    return (2.0**-7 + 2.0**-16) * size + lost + 2 * terms * tiny


def _rounded_to_special(left, right, tiny):
    """Return where a factor above bfloat16's largest number becomes inf, or a factor that counts as 0 is multiplied by inf."""
    too_large = [np.isfinite(a) & (abs(a) > _BFLOAT16_MOST) for a in (left, right)]
    left_none, right_none = (((a != 0) & (abs(a) < tiny)).astype(np.float64) for a in (left, right))
    meet = np.isinf(left).astype(np.float64) @ right_none + left_none @ np.isinf(right).astype(np.float64)
    return (meet > 0) | too_large[0].any(axis=1)[:, np.newaxis] | too_large[1].any(axis=0)


def differences(result, exact, bound):
    """Return where a result is wrong: off by more than the bound, or not the infinity or NaN that it must be."""
    with np.errstate(all="ignore"):
        off = abs(result.astype(exact.dtype) - exact)
    right = np.where(np.isfinite(exact), off <= bound, np.where(np.isnan(exact), np.isnan(result), result == exact))
    return ~(right | (bound == np.inf))
