"""Layers and trainings on Dask, for data that no memory holds and for more than one machine."""
from .arrays import dense_backward, dense_forward, dense_relu_backward, dense_relu_forward
from .cluster import warmup
from .fit import fit

__all__ = ["dense_backward", "dense_forward", "dense_relu_backward", "dense_relu_forward", "fit", "warmup"]
