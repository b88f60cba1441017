"""The terms that L1 and L2 regularisation of a layer's parameters add to the loss and to the gradients, as in chapter 14.

A layer has the factors weight_regularizer_l1, weight_regularizer_l2, bias_regularizer_l1 and bias_regularizer_l2. A factor of 0
leaves its term out.
"""
import numpy as np


def penalties(layer):
    """Yield the terms of the loss one by one: l1 * sum(|p|) and l2 * sum(p**2), first for p = weights, then for p = biases."""
    for values, (l1, l2) in zip((layer.weights, layer.biases), _factors(layer), strict=True):
        if l1 > 0:
            yield l1 * np.abs(values).sum()
        if l2 > 0:
            yield l2 * np.square(values).sum()


def add_gradients(layer):
    """Add the derivatives of the penalties to dweights and dbiases. As in the book, the derivative of |p| at 0 is 1."""
    parameters = (layer.weights, layer.dweights), (layer.biases, layer.dbiases)
    for (values, gradient), (l1, l2) in zip(parameters, _factors(layer), strict=True):
        values = np.asarray(values)
        if l1 > 0:
            gradient += l1 * _signs(values)
        if l2 > 0:
            gradient += 2 * l2 * values


def _signs(values):
    """Return -1 where a value is negative, else 1, in the dtype of the values, so that factors are rounded to it first."""
    signs = np.ones_like(values)
    signs[values < 0] = -1
    return signs


def _factors(layer):
    """Return (l1, l2) of the weights, and (l1, l2) of the biases."""
    return ((layer.weight_regularizer_l1, layer.weight_regularizer_l2),
            (layer.bias_regularizer_l1, layer.bias_regularizer_l2))
