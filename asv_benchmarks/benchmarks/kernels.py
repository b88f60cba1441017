"""The kernels of a layer of 1024 rows, 512 inputs and 256 neurons, one by one and fused."""
from functools import partial

import numpy as np

from .base import PRECISIONS, THREADS, Benchmark, function, multiplying, normal

# The sizes of the layer.
ROWS, N_INPUTS, N_NEURONS = 1024, 512, 256


class _Layer(Benchmark):
    """The layer's operands; `precision` is that of the multiplications."""

    params = [PRECISIONS, THREADS]
    param_names = ["precision", "threads"]

    def operands(self, precision):
        """Return inputs, weights, biases, dvalues, output, and the keywords that select the precision."""
        dtype, options = multiplying(precision)
        shapes = (ROWS, N_INPUTS), (N_INPUTS, N_NEURONS), (1, N_NEURONS), (ROWS, N_NEURONS), (ROWS, N_NEURONS)
        return *(normal(*shape, dtype=dtype) for shape in shapes), options


class Products(_Layer):
    """The products alone: inputs @ weights, dvalues @ weights.T and inputs.T @ dvalues."""

    def prepare(self, precision, threads):
        inputs, weights, biases, dvalues, _, options = self.operands(precision)
        product = function("dense_forward", **options)
        self.forward = partial(product, inputs, weights, biases)
        self.dinputs = partial(product, dvalues, weights.T)
        self.dweights = partial(product, inputs.T, dvalues)
        return self.forward, self.dinputs, self.dweights

    def time_forward(self, precision, threads):
        self.forward()

    def time_dinputs(self, precision, threads):
        self.dinputs()

    def time_dweights(self, precision, threads):
        self.dweights()


class NotRounded(_Layer):
    """The kernels that bfloat16 does not change: column sums of dvalues, and the backward pass of a ReLU alone."""

    params = [["float32", "float64"], THREADS]
    param_names = ["dtype", "threads"]

    def prepare(self, dtype, threads):
        *_, dvalues, output, _ = self.operands(dtype)
        ones = np.ones((1, ROWS), dtype)
        self.dbiases = partial(function("dense_forward"), ones, dvalues)
        self.mask = partial(function("relu_backward"), dvalues, output)
        return self.dbiases, self.mask

    def time_dbiases(self, dtype, threads):
        self.dbiases()

    def time_mask(self, dtype, threads):
        self.mask()


class Fused(_Layer):
    """The passes through the layer and a ReLU: one kernel forward, and one backward with all three gradients."""

    def prepare(self, precision, threads):
        inputs, weights, biases, dvalues, output, options = self.operands(precision)
        self.forward = partial(function("dense_relu_forward", **options), inputs, weights, biases)
        self.backward = partial(function("dense_relu_backward", **options), dvalues, output, inputs, weights)
        return self.forward, self.backward

    def time_forward(self, precision, threads):
        self.forward()

    def time_backward(self, precision, threads):
        self.backward()
