"""New arrays, and copies into them, in compiled code that serves users' own @njit functions.

Numba finds np.empty by its name in NumPy. Another package may have replaced it there before fastbp's or a user's function is
compiled. So these arrays are made without NumPy.
"""
from functools import cache, wraps

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload


@cache
def allocator(dtype: types.Type, ndim: int):
    """Return new(shape) for compiled code, which returns an uninitialized array of that Numba type and shape in C order."""
    kind = types.Array(dtype, ndim, "C")

    @intrinsic
    def new(typing_context, shape):
        def generate(context, builder, signature, args):
            from numba.np.arrayobj import _empty_nd_impl  # here, because it takes 0.03 s to import

            sizes = cgutils.unpack_tuple(builder, args[0], ndim)
            return _empty_nd_impl(context, builder, kind, sizes)._getvalue()
        return kind(shape), generate

    return new


def by_types(choose):
    """Decorate a function of Numba types that returns the implementation for them: compiled code calls it under its name."""
    @wraps(choose)
    def function(*arguments):
        raise NotImplementedError

    overload(function)(choose)
    return function


@by_types
def copied(source, target):
    """Return the target, after copying a source of the same shape into it."""
    def of_one_dimension(source, target):
        for i in range(source.shape[0]):
            target[i] = source[i]
        return target

    def of_two(source, target):
        for i in range(source.shape[0]):
            for j in range(source.shape[1]):
                target[i, j] = source[i, j]
        return target

    return of_one_dimension if source.ndim == 1 else of_two
