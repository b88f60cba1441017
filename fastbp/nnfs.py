"""The layers of "Neural Networks from Scratch in Python" (Kinsley and Kukieła, 2020) under the book's names.

A script of the book runs with `from fastbp.nnfs import Layer_Dense, Activation_ReLU` in place of its own classes: the same
constructors, attributes, random stream and dtypes.
"""
import numpy as np
from numpy.typing import ArrayLike

from . import functional


class Layer_Dense:
    """A dense layer as in chapter 9: weights of 0.01 * np.random.randn, from NumPy's global generator, and zero biases."""

    def __init__(self, n_inputs: int, n_neurons: int):
        self.weights = 0.01 * np.random.randn(n_inputs, n_neurons)
        self.biases = np.zeros((1, n_neurons))

    def forward(self, inputs: ArrayLike) -> None:
        """Sets output = inputs @ weights + biases, (batch, n_neurons)."""
        self.inputs = inputs
        self.output = functional.dense_forward(inputs, self.weights, self.biases)

    def backward(self, dvalues: ArrayLike) -> None:
        """Sets dweights, dbiases and dinputs, from the gradient with respect to the output."""
        self.dinputs, self.dweights, self.dbiases = functional.dense_backward(dvalues, self.inputs, self.weights)


class Activation_ReLU:
    """The rectified linear unit as in chapter 9."""

    def forward(self, inputs: ArrayLike) -> None:
        """Sets output = inputs where they are above 0, else 0."""
        self.inputs = inputs
        self.output = functional.relu_forward(inputs)

    def backward(self, dvalues: ArrayLike) -> None:
        """Sets dinputs = dvalues where the inputs were above 0, else 0."""
        self.dinputs = functional.relu_backward(dvalues, self.inputs)
