"""Whether products and sums are computed as the book's own classes compute them, to the last digit, or by the fast kernels."""
import numpy as np

_NUMPYS_TYPE = type(np.vdot)        # NumPy's own np.dot is of this type, a Python function or object in its place is not


def wanted() -> bool:
    """Return fastbp.nnfs.exact; where that is None, whether another package has replaced np.dot, as nnfs.init() does.

    np.dot is looked at in each call, because a script may import the two packages in any order.
    """
    from .. import nnfs

    return type(np.dot) is not _NUMPYS_TYPE if nnfs.exact is None else bool(nnfs.exact)
