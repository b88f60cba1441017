"""Batches and trainings on Dask: more than fits in memory, and more than one machine."""
from .arrays import dense_backward, dense_forward, dense_relu_backward, dense_relu_forward
from .cluster import warmup
from .fit import fit

__all__ = ["dense_backward", "dense_forward", "dense_relu_backward", "dense_relu_forward", "fit", "warmup"]
