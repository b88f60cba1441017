"""The operands of a dense layer's passes, as all units take them, and whether they fit each other."""
from typing import NamedTuple

from numba import types

from ..._compile.compiler import kernel
from ..matrix import Matrix, any_overlap, overlap
from ..schedule.records import record_type


class ForwardOperands(NamedTuple):
    """The operands of y = activation(x @ weights + biases). One that is missing has the address 0."""

    x: Matrix                   # (M, K)
    weights: Matrix             # (K, N)
    biases: Matrix              # (1, N); may be missing
    y: Matrix                   # (M, N), the result
    saved: Matrix               # (M, N), for gelu's dy/dz; may be missing
    activation: int


class BackwardOperands(NamedTuple):
    """The operands of dinputs, dweights and dbiases from dvalues. One that is missing has the address 0."""

    dvalues: Matrix             # (M, N)
    saved: Matrix               # (M, N), what the activation keeps for its derivative; missing for the identity
    x: Matrix                   # (M, K)
    weights: Matrix             # (K, N)
    dinputs: Matrix             # (M, K), a result; may be missing
    dweights: Matrix            # (K, N), a result
    dbiases: Matrix             # (1, N), a result
    activation: int


# The signature of units for a forward pass: (ForwardOperands, most threads) -> status.
FORWARD = types.intp(record_type(ForwardOperands), types.intp)

# The signature of units for a backward pass: (BackwardOperands, most threads) -> status.
BACKWARD = types.intp(record_type(BackwardOperands), types.intp)


@kernel
def fits(result, rows, cols, itemsize):
    """Return whether a result has that shape, and contiguous rows."""
    return result.rows == rows and result.cols == cols and result.col_step == itemsize


@kernel
def forward_fits(operands, itemsize):
    """Return whether the operands of a forward pass have shapes that fit, and no result overlaps anything."""
    x, weights, biases, y, saved = operands.x, operands.weights, operands.biases, operands.y, operands.saved
    if x.cols != weights.rows or not fits(y, x.rows, weights.cols, itemsize):
        return False
    if biases.data != 0 and (biases.rows != 1 or biases.cols != weights.cols or overlap(y, biases, itemsize)):
        return False
    if saved.data != 0 and not fits(saved, y.rows, y.cols, itemsize):
        return False
    if saved.data != 0 and any_overlap((x, weights, biases), (saved, y), itemsize):
        return False
    return not overlap(y, x, itemsize) and not overlap(y, weights, itemsize)


@kernel
def backward_fits(operands, itemsize):
    """Return whether the operands of a backward pass have shapes that fit, and no result overlaps anything."""
    dvalues, saved, x, weights = operands.dvalues, operands.saved, operands.x, operands.weights
    dinputs, dweights, dbiases = operands.dinputs, operands.dweights, operands.dbiases
    rows, inputs, neurons = x.rows, weights.rows, weights.cols
    if x.cols != inputs or not fits(dvalues, rows, neurons, itemsize) or not fits(dweights, inputs, neurons, itemsize):
        return False
    if not fits(dbiases, 1, neurons, itemsize) or (dinputs.data != 0 and not fits(dinputs, rows, inputs, itemsize)):
        return False
    if saved.data != 0 and not fits(saved, rows, neurons, itemsize):
        return False
    return not any_overlap((dvalues, saved, x, weights), (dinputs, dweights, dbiases), itemsize)


@kernel
def is_contiguous(x, itemsize):
    """Return whether the rows of x are contiguous, or its columns."""
    return x.col_step == itemsize or x.row_step == itemsize
