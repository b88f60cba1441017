"""The name under which users' Numba caches ask for units of ABI 9 and before, whose functions must be compiled again."""
from fastbp._compile.link import _bind

__all__ = ["_bind"]
