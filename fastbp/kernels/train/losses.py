"""Losses of a network's scores, each with what comes between scores and loss, and the gradient with respect to the scores.

    name                    loss of a row                                   gradient
    softmax_cross_entropy   log(Σ exp(z - max)) - Σ t (z - max)             softmax(z) - t
    binary_cross_entropy    Σ max(z, 0) - z t + log(1 + exp(-|z|))          sigmoid(z) - t
    squared_error           Σ (z - t)²                                      z - t

(Kinsley and Kukieła, Neural Networks from Scratch in Python, chapters 5, 9, 16 and 17, without their clipping. No probability
is ever rounded to 0 or 1, as it stays a difference of logarithms.) The kernel multiplies the gradient by the row's weight and a
factor, and writes it over the scores. Blocks of rows depend on the batch's size alone, and their sums are added up in order.
"""
import math
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import inlined, kernel
from .. import blocking
from ..elementwise.activations import exponentials, functions
from ..schedule.arena import acquire, release
from ..schedule.atomic import load
from ..schedule.queue import REGION_BYTES, TASK, run
from ..schedule.records import layout, read, write
from ..simd import tile
from ..simd.arithmetic import highest, number, total, within

NAMES = "softmax_cross_entropy", "binary_cross_entropy", "squared_error"
SOFTMAX, BINARY, SQUARED = range(len(NAMES))

# A task does this many rows.
ROWS = 32

# The work of an element: this many multiply-adds take as long.
WORK = 128


class Factors(NamedTuple):
    """The numbers that a loss is multiplied by and bounded by."""

    factor: float               # the factor of a row's gradient, beside the row's weight
    least: float                # the least loss of an element
    most: float                 # the largest loss of an element
    scale: float                # the factor of the rows' weights, where there are any (scale_of)


class Loss(NamedTuple):
    """The job of losses and gradients of a batch. A task is a block of rows."""

    tasks: int                  # blocks of ROWS rows
    rows: int                   # rows of the batch
    cols: int                   # scores of a row
    scores: int                 # the address of the scores (rows, cols), which the gradient is written over
    scores_row: int             # bytes from one row of scores to the next
    kind: int                   # SOFTMAX … SQUARED
    targets: int                # the address of labels, int64 (rows,), or of numbers (rows, cols); 0: write probabilities only
    targets_row: int            # bytes of a row of targets; 0: they are labels
    weights: int                # the address of the rows' weights, float64 (rows,); 0: all are 1
    factor: float               # this and the next three: as in Factors
    least: float                # the least loss of an element
    most: float                 # the largest loss of an element
    scale: float                # the factor of the rows' weights
    sums: int                   # the address of room for the Sums of each task


class Sums(NamedTuple):
    """The sums over a task's rows."""

    loss: float                 # the losses, times the rows' weights
    right: float                # how many rows or elements are right


# The bytes of a Sums.
SUMS_BYTES = layout(Sums).itemsize


def scale_of(largest):
    """Return the power of two by which to multiply weights up to `largest`. Only the ratios of weights count.

    It is 1 unless the sum of the weights, or 1 divided by it, might overflow.
    """
    if largest > 2.0**500:
        return 2.0**-600
    return 2.0**600 if 0.0 < largest < 2.0**-500 else 1.0


# The same function for kernels.
scale = kernel(scale_of)


def _build(dtype):
    row = blocking.tiles(dtype).row
    exp, _ = exponentials(dtype)
    sigmoid, _ = functions(dtype)

    @inlined
    def softmax_row(scores, cols):
        """Write exp(z - max) over the scores of a row; return (max, the sum of these powers)."""
        size, width = tile.itemsize(row), tile.width(row)
        z_max = tile.load_scalar(row, scores)
        for j in range(0, cols, width):                                             # scores (cols,)
            z = within(tile.load(row, scores + j * size, 0, 1, cols - j), cols - j, z_max)
            z_max = max(z_max, highest(z))
        exp_sum = tile.zero(row)
        for j in range(0, cols, width):
            powers = exp(tile.load(row, scores + j * size, 0, 1, cols - j) - z_max)
            exp_sum += total(within(powers, cols - j, 0.0))
            tile.store(powers, scores + j * size, 0, 1, cols - j)
        return z_max, exp_sum

    @inlined
    def scale_row(scores, cols, factor):
        """Multiply the scores of a row by a factor."""
        size = tile.itemsize(row)
        for j in range(0, cols, tile.width(row)):                                   # scores (cols,)
            part = tile.load(row, scores + j * size, 0, 1, cols - j)
            tile.store(part * factor, scores + j * size, 0, 1, cols - j)

    @inlined
    def beats_those_before(scores, label):
        """Return whether the score of a label is above those of all lower labels: the first of equal scores is the answer."""
        size, k = tile.itemsize(row), 0
        z = tile.load_scalar(row, scores + label * size)
        while k < label and tile.load_scalar(row, scores + k * size) < z:
            k += 1
        return k == label

    @kernel
    def loss_of_label(job, scores, target, weight):
        """Return (loss, right) of a row whose target is a label, and write the gradient over the scores.

        The loss is NaN for a label out of range: the user's code may have written it after the check. The label's probability
        is rounded before 1 is subtracted, so that the gradient is 0 where the probability rounds to 1.
        """
        cols, size = job.cols, tile.itemsize(row)
        label = load(target)
        if label < 0 or label >= cols:
            scale_row(scores, cols, math.nan)
            return math.nan, False
        z, is_first = tile.load_scalar(row, scores + label * size), beats_those_before(scores, label)
        z_max, exp_sum = softmax_row(scores, cols)
        p = scores + label * size
        gradient = (tile.load_scalar(row, p) / exp_sum - 1.0) * weight
        scale_row(scores, cols, weight / exp_sum)
        tile.store_scalar(row, p, gradient)
        loss = math.log(exp_sum) - (z - z_max)
        return min(max(loss, job.least), job.most), is_first and z == z_max

    @kernel
    def loss_of_shares(job, scores, target, weight):
        """Return (loss, right) of a row whose targets are a number for each class, and write the gradient over the scores."""
        cols, size = job.cols, tile.itemsize(row)
        together, weighted, label = 0.0, 0.0, 0
        for j in range(cols):                                                       # scores, target (cols,)
            t = tile.load_scalar(row, target + j * size)
            together += t
            if t != 0:                                  # t is 0 for a class that is masked by a score of -inf
                weighted += types.float64(t) * tile.load_scalar(row, scores + j * size)
            if t > tile.load_scalar(row, target + label * size):
                label = j
        z, is_first = tile.load_scalar(row, scores + label * size), beats_those_before(scores, label)
        z_max, exp_sum = softmax_row(scores, cols)
        factor = together / exp_sum
        for j in range(0, cols, tile.width(row)):
            part = tile.load(row, scores + j * size, 0, 1, cols - j)
            t = tile.load(row, target + j * size, 0, 1, cols - j)
            tile.store((part * factor - t) * weight, scores + j * size, 0, 1, cols - j)
        loss = together * math.log(exp_sum) + (together * z_max - weighted)
        return min(max(loss, job.least), job.most), is_first and z == z_max

    @kernel
    def loss_of_numbers(job, scores, target, weight):
        """Return (loss, right elements) of a row of independent targets, and write the gradient over the scores."""
        cols, size, loss, right = job.cols, tile.itemsize(row), 0.0, 0
        for j in range(cols):                                                       # scores, target (cols,)
            z, t = tile.load_scalar(row, scores + j * size), tile.load_scalar(row, target + j * size)
            if job.kind == BINARY:
                one = max(z, 0.0) - z * t + math.log1p(math.exp(-abs(z)))
                loss += min(max(one, job.least), job.most)
                right += int((z > 0) == (t > 0.5))
            else:
                loss += float(z - t) ** 2
        for j in range(0, cols, tile.width(row)):
            z = tile.load(row, scores + j * size, 0, 1, cols - j)
            if job.kind == BINARY:
                z = sigmoid(z)
            tile.store((z - tile.load(row, target + j * size, 0, 1, cols - j)) * weight, scores + j * size, 0, 1, cols - j)
        return loss, right

    @kernel
    def write_probabilities(kind, scores, cols):
        """Write the softmax or the sigmoid of the scores of a row over them."""
        if kind == SOFTMAX:
            _, exp_sum = softmax_row(scores, cols)
            scale_row(scores, cols, 1 / exp_sum)
        else:
            for j in range(0, cols, tile.width(row)):
                address = scores + j * tile.itemsize(row)
                tile.store(sigmoid(tile.load(row, address, 0, 1, cols - j)), address, 0, 1, cols - j)

    def loss(job_address, worker, task):
        """Write the gradient of a block of rows over its scores, and its Sums."""
        job = read(job_address, Loss)
        losses, right = 0.0, 0
        for i in range(task * ROWS, min((task + 1) * ROWS, job.rows)):              # scores (rows, cols), weights (rows,)
            scores = job.scores + i * job.scores_row
            if job.targets == 0:
                write_probabilities(job.kind, scores, job.cols)
            else:
                weight = number(job.weights + 8 * i) * job.scale if job.weights != 0 else 1.0
                target = job.targets + i * (job.targets_row if job.targets_row != 0 else 8)
                if job.targets_row == 0:
                    one, hits = loss_of_label(job, scores, target, weight * job.factor)
                elif job.kind == SOFTMAX:
                    one, hits = loss_of_shares(job, scores, target, weight * job.factor)
                else:
                    one, hits = loss_of_numbers(job, scores, target, weight * job.factor)
                losses += weight * one
                right += hits
        if job.targets != 0:
            write(job.sums + task * SUMS_BYTES, Sums(loss=losses, right=float(right)))
        return link.OK

    return loss


loss = link.units("loss", TASK, _build)


def _build_all(dtype):
    part = loss[dtype].address

    def run_all(job_address):
        """Do all tasks of the Loss at an address; return a status."""
        job = read(job_address, Loss)
        memory, slot = acquire(REGION_BYTES)
        if memory == 0:
            return link.NO_MEMORY
        run(part(), job, memory, blocking.threads(job.rows * job.cols * WORK))
        release(slot)
        return link.OK

    return run_all


run_all = link.units("losses", types.intp(types.intp), _build_all)
