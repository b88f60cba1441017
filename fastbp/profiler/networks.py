"""The network to profile, of fastbp, NumPy and PyTorch: hidden layers with ReLU, and a last layer without.

All layers have forward(inputs) and backward(dvalues), as in the demo.
"""
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import threadpoolctl

from .. import Dense, DenseReLU
from ..demo import NumPyLayer

SEED = 0                        # The seed of weights, inputs and dvalues.


def fastbp_layers(sizes: Sequence[int], dtype: np.dtype, precision: str | None) -> list[Dense]:
    """Return fastbp's layers of these sizes, the number of inputs first."""
    rng = np.random.default_rng(SEED)
    kinds = [DenseReLU] * (len(sizes) - 2) + [Dense]
    return [kind(*pair, dtype=dtype, rng=rng, precision=precision) for kind, pair in zip(kinds, pairwise(sizes), strict=True)]


def numpy_layers(layers: Sequence[Dense], threads: int) -> list[NumPyLayer]:
    """Return layers of NumPy, with copies of fastbp's weights and biases."""
    threadpoolctl.threadpool_limits(threads, "blas")
    return [NumPyLayer(layer) for layer in layers]


def torch_layers(layers: Sequence[Dense], threads: int) -> list["TorchLayer"]:
    """Return layers of PyTorch, with copies of fastbp's weights and biases, in bfloat16 if fastbp multiplies in that."""
    import torch

    torch.set_num_threads(threads)
    return [TorchLayer(torch, layer) for layer in layers]


class TorchLayer:
    """A layer of plain PyTorch operators. Its arguments may be tensors or arrays, which are not copied."""

    def __init__(self, torch, layer: Dense):
        self.torch, self.relu = torch, isinstance(layer, DenseReLU)
        self.weights, self.biases = torch.from_numpy(layer.weights.copy()), torch.from_numpy(layer.biases[0].copy())
        if layer.precision:
            self.weights, self.biases = self.weights.bfloat16(), self.biases.bfloat16()

    def forward(self, inputs):
        """Return the output (rows, neurons) for inputs (rows, inputs)."""
        with self.torch.no_grad():
            self.inputs = self.torch.as_tensor(inputs).to(self.weights.dtype)
            self.output = self.torch.addmm(self.biases, self.inputs, self.weights)
            return self.output.relu_() if self.relu else self.output

    def backward(self, dvalues):
        """Set dweights and dbiases, and return dinputs."""
        with self.torch.no_grad():
            dvalues = self.torch.as_tensor(dvalues).to(self.weights.dtype)
            if self.relu:
                dvalues = self.torch.ops.aten.threshold_backward(dvalues, self.output, 0)
            self.dweights, self.dbiases = self.inputs.t() @ dvalues, dvalues.sum(0)
            return dvalues @ self.weights.t()
