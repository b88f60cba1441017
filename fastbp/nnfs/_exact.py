"""The choice between the book's own products and sums, equal to the last digit, and the fast kernels."""
import numpy as np

_NUMPY_FUNCTION = type(np.vdot)     # NumPy's own np.dot has this type. A Python function or object in its place has another.


def wanted() -> bool:
    """Return fastbp.nnfs.exact or, if it is None, whether another package has replaced np.dot, as nnfs.init() does.

    Each call looks at np.dot anew, because a script may import the two packages in any order.
    """
    from .. import nnfs

    return type(np.dot) is not _NUMPY_FUNCTION if nnfs.exact is None else bool(nnfs.exact)
