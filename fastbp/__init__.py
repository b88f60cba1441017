"""Dense layers with backpropagation, compiled by Numba, on NumPy arrays."""
from ._njit import functions as _compiled  # noqa: F401  (makes the functions callable from @njit code)
from ._runtime.threads import get_num_threads, set_num_threads
from ._training.loop import History
from ._version import __version__ as __version__
from .cli.config import show_config
from .frozen import Frozen
from .functional import (
    dense_backward,
    dense_forward,
    dense_relu_backward,
    dense_relu_forward,
    relu_backward,
    relu_forward,
    warmup,
)
from .layers import Dense, DenseReLU, Dropout, ReLU
from .losses import BinaryCrossEntropy, Loss, MeanSquaredError, SoftmaxCrossEntropy, softmax
from .network import Sequential, load
from .optimizers import SGD, Adam, AdamW, Optimizer
from .profiler import profile

__all__ = ["Adam", "AdamW", "BinaryCrossEntropy", "Dense", "DenseReLU", "Dropout", "Frozen", "History", "Loss",
           "MeanSquaredError", "Optimizer", "ReLU", "SGD", "Sequential", "SoftmaxCrossEntropy", "dense_backward",
           "dense_forward", "dense_relu_backward", "dense_relu_forward", "get_num_threads", "load", "profile", "relu_backward",
           "relu_forward", "set_num_threads", "show_config", "softmax", "warmup"]

# Pickles and Numba's cache files of older versions ask for modules under names that they have no longer.
__path__.append(f"{__path__[0]}/_before")
