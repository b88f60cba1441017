"""Batches on Dask: more than fits in memory."""
from .arrays import dense_backward, dense_forward, dense_relu_backward, dense_relu_forward

__all__ = ["dense_backward", "dense_forward", "dense_relu_backward", "dense_relu_forward"]
