"""The module of the functions in older pickles of network.jitted()."""
from fastbp._njit.network import Jitted

__all__ = ["Jitted"]
