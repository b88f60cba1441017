"""The choice between the book's own products and sums, equal to the last digit, and the fast kernels."""
import sys

import numpy as np

_NUMPY_FUNCTION = type(np.vdot)     # NumPy's own np.dot has this type. A Python function or object in its place has another.


def wanted() -> bool:
    """Return fastbp.nnfs.exact or, if it is None, whether another package has replaced np.dot, as nnfs.init() does.

    Each call looks at np.dot anew, because a script may import the two packages in any order.
    """
    exact = sys.modules[__package__].exact
    return type(np.dot) is not _NUMPY_FUNCTION if exact is None else bool(exact)
