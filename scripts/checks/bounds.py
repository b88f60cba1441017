"""What a product must be, up to proven bounds: exact results in a wider type, and how far rounding may lead from them.

However the sum of n products is ordered, and whether or not products and sums are fused, the computed sum is off by at most
gamma_n = n u / (1 - n u) times the sum of the absolute values (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
sections 3.1 and 3.4), u half the distance from 1 to the next number; and by half the smallest subnormal number for each
product that underflows (section 2.1, equation 2.8). Where that sum of absolute values may exceed the largest number, a
partial sum may overflow, and what comes out then is no number: there the bound is infinite.
"""
import numpy as np

WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
_BFLOAT16_MOST = (2 - 2.0**-7) * 2.0**127


def product(left, right, extra, dtype, rounded=False):
    """(exact, bound) of left @ right + extra computed in `dtype`; rounded: of factors rounded to bfloat16."""
    dtype = np.dtype(dtype)
    wide = WIDER[dtype]
    given = left, right
    special = not (np.isfinite(left).all() and np.isfinite(right).all() and (extra is None or np.isfinite(extra).all()))
    exact = _product(left, right, extra, np.longdouble if special else wide)        # a BLAS is not asked about inf and NaN
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
        bound += _of_rounding(left, right, size, terms, float(info.tiny))
        bound[_rounded_to_special(*given, float(info.tiny))] = np.inf
    bound[size >= float(info.max) * (1 - gamma - 2.0**-7 * rounded)] = np.inf
    return exact, bound


def _product(left, right, extra, wide):
    with np.errstate(all="ignore"):
        z = left.astype(wide) @ right.astype(wide)
        return z if extra is None else z + extra.astype(wide)


def _is_whole(*arrays):
    return all(a is None or (a == np.rint(a)).all() for a in arrays)


def _of_rounding(left, right, size, terms, tiny):
    """What rounding both factors to 8 bits adds, and that subnormal numbers may count as 0."""
    lost = _product(np.where(left < tiny, left, 0), right, None, np.float64)
    lost += _product(left, np.where(right < tiny, right, 0), None, np.float64)
    return (2.0**-7 + 2.0**-16) * size + lost + 2 * terms * tiny


def _rounded_to_special(left, right, tiny):
    """Where a factor beyond bfloat16's largest number counts as inf, or one that counts as 0 meets an inf."""
    too_large = [np.isfinite(a) & (abs(a) > _BFLOAT16_MOST) for a in (left, right)]
    left_none, right_none = (((a != 0) & (abs(a) < tiny)).astype(np.float64) for a in (left, right))
    meet = np.isinf(left).astype(np.float64) @ right_none + left_none @ np.isinf(right).astype(np.float64)
    return (meet > 0) | too_large[0].any(axis=1)[:, np.newaxis] | too_large[1].any(axis=0)


def differences(result, exact, bound):
    """Where a result is not what it must be: off by more than the bound, or no number where it must be one, or another one."""
    with np.errstate(all="ignore"):
        off = abs(result.astype(exact.dtype) - exact)
    right = np.where(np.isfinite(exact), off <= bound, np.where(np.isnan(exact), np.isnan(result), result == exact))
    return ~(right | (bound == np.inf))
