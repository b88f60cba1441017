"""Dense layers with backpropagation, compiled by Numba, on NumPy arrays."""
from . import compiled as _compiled  # noqa: F401  (makes the functions callable from @njit code)
from ._config import show_config
from ._threads import get_num_threads, set_num_threads
from .functional import (
    dense_backward,
    dense_forward,
    dense_relu_backward,
    dense_relu_forward,
    relu_backward,
    relu_forward,
    warmup,
)
from .layers import Dense, DenseReLU, ReLU
from .profiler import profile

__version__ = "0.1.0"
__all__ = ["Dense", "DenseReLU", "ReLU", "dense_backward", "dense_forward", "dense_relu_backward", "dense_relu_forward",
           "get_num_threads", "profile", "relu_backward", "relu_forward", "set_num_threads", "show_config", "warmup"]
