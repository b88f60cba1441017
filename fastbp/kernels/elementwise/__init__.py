"""Kernels over elements."""
