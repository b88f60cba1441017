"""Compiling: Numba policy, units, the cache of compiled code."""
