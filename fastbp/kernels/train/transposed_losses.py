"""The losses of losses.py on scores that lie transposed: vectors hold a score of many rows of the batch, not of one.

The loops go over the classes. So the lanes of vectors are full for any number of classes, and nothing is added up across lanes
but the losses themselves.
"""
import math
from functools import cache
from typing import NamedTuple

from numba import types

from ..._compile.compiler import inlined, kernel
from .. import blocking
from ..elementwise.activations import exponentials, functions, logarithms
from ..simd import tile
from ..simd.arithmetic import clamped, magnitude, total, where_above, wide, within
from .losses import BINARY, SOFTMAX, Sums


class TransposedLoss(NamedTuple):
    """The losses of some rows of a batch. Addresses are of matrices with a row for each class, of whole vectors."""

    rows: int                   # rows of the batch
    classes: int                # scores of a row
    step: int                   # bytes from one class to the next
    scores: int                 # the address of the scores (classes, rows)
    gradient: int               # the address for the gradient with respect to the scores (classes, rows)
    kind: int                   # SOFTMAX … SQUARED in losses.py
    targets: int                # the address of labels, as numbers of the dtype (rows,), or of numbers (classes, rows)
    has_labels: bool            # whether the targets are labels; one out of range is -1
    weights: int                # the address of the rows' weights, float64 (rows,); 0: all are 1
    factors: int                # the address of the factors of the rows' gradients (rows,); 0: all are `factor`
    factor: float               # the factor of all gradients, where there are no weights
    least: float                # the least loss of an element
    most: float                 # the largest loss of an element
    scale: float                # the factor of the rows' weights (losses.scale_of)


@cache
def build(dtype):
    """Return the kernel for a Numba float type that computes a TransposedLoss, and returns its Sums."""
    row = blocking.tiles(dtype).vector
    wide_row = row._replace(dtype=types.float64)
    (exp, _), (log, log1p), (sigmoid, _) = exponentials(dtype), logarithms(dtype), functions(dtype)

    @inlined
    def vector(address):
        """Return the vector at an address."""
        return tile.load(row, address, 0, 1, tile.lanes(row))

    @inlined
    def put(value, address):
        """Write a vector to an address."""
        tile.store(value, address, 0, 1, tile.lanes(row))

    @inlined
    def factors_of(job, offset):
        """Return the factors of the gradients of the rows of a vector."""
        return vector(job.factors + offset) if job.factors != 0 else tile.zeros(row) + job.factor

    @inlined
    def weighted(job, losses, m):
        """Return the losses of the rows of a vector, which begins with row m, times their weights, in float64."""
        valid = wide(within(losses, job.rows - m, 0.0))
        if job.weights != 0:
            valid = valid * (tile.load(wide_row, job.weights + 8 * m, 0, 1, job.rows - m) * job.scale)
        return valid

    @inlined
    def largest(job, address):
        """Return (the largest number of each row, the first class that has it) of numbers (classes, rows) at an address."""
        most, k = vector(address), tile.zeros(row)
        for c in range(1, job.classes):
            z = vector(address + c * job.step)
            k = where_above(z, most, float(c), k)
            most = where_above(z, most, z, most)
        return most, k

    @inlined
    def powers(job, offset, most):
        """Write exp(z - max) to the gradient; return its sum over the classes."""
        exp_sum = tile.zeros(row)
        for c in range(job.classes):                                                # scores (classes, rows)
            p = exp(vector(job.scores + c * job.step + offset) - most)
            put(p, job.gradient + c * job.step + offset)
            exp_sum = exp_sum + p
        return exp_sum

    @inlined
    def are_equal(x, y):
        """Return 1 where two vectors of integers are equal, else 0."""
        return where_above(magnitude(x - y), 0.5, 0.0, tile.zeros(row) + 1.0)

    @inlined
    def of_labels(job, offset):
        """Return (losses, right) of the rows of a vector whose targets are labels, and write the gradient.

        As in losses.py a label out of range makes the loss and the gradient NaN, and the label's probability is rounded before
        1 is subtracted.
        """
        most, k = largest(job, job.scores + offset)
        exp_sum = powers(job, offset, most)
        label = vector(job.targets + offset)
        share, factor = 1.0 / exp_sum, where_above(label, -0.5, factors_of(job, offset), math.nan)
        z_label = tile.zeros(row) + math.nan
        for c in range(job.classes):                                                # scores, gradient (classes, rows)
            address = c * job.step + offset
            other, p = magnitude(label - float(c)), vector(job.gradient + address) * share
            z_label = where_above(other, 0.5, z_label, vector(job.scores + address))
            put(where_above(other, 0.5, p, p - 1.0) * factor, job.gradient + address)
        losses = log(exp_sum) - (z_label - most)
        return clamped(losses, job.least, job.most), are_equal(label, k)

    @inlined
    def of_shares(job, offset):
        """Return (losses, right) of the rows of a vector whose targets are a number for each class; write the gradient.

        The loss is t log(Σ exp(z - max)) + Σ t (max - z). A t of 0 counts for nothing, as the score may be -inf then.
        """
        most, k = largest(job, job.scores + offset)
        exp_sum = powers(job, offset, most)
        together, apart = tile.zeros(row), tile.zeros(row)
        for c in range(job.classes):
            address = c * job.step + offset
            t = vector(job.targets + address)
            together = together + t
            apart = apart + where_above(magnitude(t), 0.0, t * (most - vector(job.scores + address)), 0.0)
        share, factor = together / exp_sum, factors_of(job, offset)
        for c in range(job.classes):
            address = c * job.step + offset
            put((vector(job.gradient + address) * share - vector(job.targets + address)) * factor, job.gradient + address)
        _, label = largest(job, job.targets + offset)
        return clamped(together * log(exp_sum) + apart, job.least, job.most), are_equal(label, k)

    @inlined
    def of_numbers(job, offset, m):
        """Return (the weighted losses, right elements) of the rows of a vector, and write the gradient."""
        losses, right, factor = tile.zeros(wide_row), tile.zeros(row), factors_of(job, offset)
        for c in range(job.classes):                                                # scores, targets (classes, rows)
            address = c * job.step + offset
            z, t = vector(job.scores + address), vector(job.targets + address)
            if job.kind == BINARY:
                one = where_above(z, 0.0, z, 0.0) - z * t + log1p(exp(0.0 - magnitude(z)))
                losses = losses + weighted(job, clamped(one, job.least, job.most), m)
                right = right + are_equal(where_above(z, 0.0, tile.zeros(row) + 1.0, 0.0),
                                          where_above(t, 0.5, tile.zeros(row) + 1.0, 0.0))
                z = sigmoid(z)
            else:
                losses = losses + weighted(job, (z - t) * (z - t), m)
            put((z - t) * factor, job.gradient + address)
        return losses, right

    @kernel
    def loss(job):
        """Write the gradient of the rows of a TransposedLoss, and return their Sums."""
        losses, hits = tile.zeros(wide_row), tile.zeros(row)
        for m in range(0, job.rows, tile.lanes(row)):
            offset = m * tile.itemsize(row)
            if job.kind != SOFTMAX:
                some, right = of_numbers(job, offset, m)
                losses = losses + some
            else:
                each, right = of_labels(job, offset) if job.has_labels else of_shares(job, offset)
                losses = losses + weighted(job, each, m)
            hits = hits + within(right, job.rows - m, 0.0)
        return Sums(loss=total(losses), right=float(total(hits)))

    return loss
