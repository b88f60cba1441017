"""Losses of a network's scores, each with what comes between scores and loss, and the gradient with respect to the scores.

    name                    loss of a row                                   gradient
    softmax_cross_entropy   log(Σ exp(z - max)) - Σ t (z - max)             softmax(z) - t
    binary_cross_entropy    Σ max(z, 0) - z t + log(1 + exp(-|z|))          sigmoid(z) - t
    squared_error           Σ (z - t)²                                      z - t

(Kinsley and Kukieła, Neural Networks from Scratch in Python, chapters 5, 9, 16 and 17, without their clipping. No probability
is ever rounded to 0 or 1, as it stays a difference of logarithms.) The gradient is written over the scores, times the row's
weight and a factor. Blocks of rows depend on the batch's size alone, and their sums are added up in order.
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

# The rows of a task.
ROWS = 32

# Multiply-adds that take as long as an element.
WORK = 128


class Factors(NamedTuple):
    """The numbers that a loss is multiplied by and bounded by."""

    factor: float               # of a row's gradient, times the row's weight
    least: float                # the least loss of an element
    most: float                 # the largest loss of an element
    scale: float                # of the rows' weights, where there are any (scale_of)


class Loss(NamedTuple):
    """The job of losses and gradients of a batch. A task is a block of rows."""

    tasks: int
    rows: int
    cols: int                   # scores of a row
    scores: int                 # the address of the scores (rows, cols), which the gradient is written over
    scores_row: int             # bytes from one row of scores to the next
    kind: int                   # SOFTMAX … SQUARED
    targets: int                # the address of labels, int64, or of rows of numbers; 0: only the softmax or sigmoid is wanted
    targets_row: int            # bytes of a row of targets; 0: they are labels
    weights: int                # the address of the rows' weights, float64; 0: all are 1
    factor: float               # as Factors has it
    least: float
    most: float
    scale: float
    sums: int                   # the address of room for the Sums of each task


class Sums(NamedTuple):
    """The sums over a task's rows."""

    loss: float                 # of the losses, times the rows' weights
    right: float                # of rows or elements that are right


SUMS_BYTES = layout(Sums).itemsize


def scale_of(largest):
    """Return the power of two to multiply weights up to `largest` by. Only the ratios of weights count.

    It is 1 unless their sum, or 1 divided by it, might overflow.
    """
    if largest > 2.0**500:
        return 2.0**-600
    return 2.0**600 if 0.0 < largest < 2.0**-500 else 1.0


scale = kernel(scale_of)


def _build(dtype):
    row = blocking.tiles(dtype).row
    exp, _ = exponentials(dtype)
    sigmoid, _ = functions(dtype)

    @inlined
    def softmax_row(scores, cols):
        """Write exp(z - max) over the scores of a row; return (max, their sum)."""
        size, width = tile.itemsize(row), tile.width(row)
        most = tile.load_scalar(row, scores)
        for j in range(0, cols, width):
            z = within(tile.load(row, scores + j * size, 0, 1, cols - j), cols - j, most)
            most = max(most, highest(z))
        shares = tile.zero(row)
        for j in range(0, cols, width):
            powers = exp(tile.load(row, scores + j * size, 0, 1, cols - j) - most)
            shares += total(within(powers, cols - j, 0.0))
            tile.store(powers, scores + j * size, 0, 1, cols - j)
        return most, shares

    @inlined
    def scale_row(scores, cols, factor):
        """Multiply the scores of a row by a factor."""
        size = tile.itemsize(row)
        for j in range(0, cols, tile.width(row)):
            part = tile.load(row, scores + j * size, 0, 1, cols - j)
            tile.store(part * factor, scores + j * size, 0, 1, cols - j)

    @inlined
    def beats_those_before(scores, label):
        """Return whether the score of a label is above those of lower labels: of equal ones the first is the answer."""
        size, k = tile.itemsize(row), 0
        z = tile.load_scalar(row, scores + label * size)
        while k < label and tile.load_scalar(row, scores + k * size) < z:
            k += 1
        return k == label

    @kernel
    def of_label(scores, cols, target, weight, least, most_loss):
        """Return (loss, right) of a row whose target is a label; NaN for one out of range, which others may have written since.

        The label's probability is rounded before 1 is subtracted, so that the gradient is 0 where it rounds to 1.
        """
        size = tile.itemsize(row)
        label = load(target)
        if label < 0 or label >= cols:
            scale_row(scores, cols, math.nan)
            return math.nan, False
        z, is_first = tile.load_scalar(row, scores + label * size), beats_those_before(scores, label)
        most, shares = softmax_row(scores, cols)
        p = scores + label * size
        gradient = (tile.load_scalar(row, p) / shares - 1.0) * weight
        scale_row(scores, cols, weight / shares)
        tile.store_scalar(row, p, gradient)
        loss = math.log(shares) - (z - most)
        return min(max(loss, least), most_loss), is_first and z == most

    @kernel
    def of_shares(scores, cols, target, weight, least, most_loss):
        """Return (loss, right) of a row whose targets are a number for each class."""
        size = tile.itemsize(row)
        together, weighted, label = 0.0, 0.0, 0
        for j in range(cols):
            t = tile.load_scalar(row, target + j * size)
            together += t
            if t != 0:                                  # a class that is masked by a score of -inf has none
                weighted += types.float64(t) * tile.load_scalar(row, scores + j * size)
            if t > tile.load_scalar(row, target + label * size):
                label = j
        z, is_first = tile.load_scalar(row, scores + label * size), beats_those_before(scores, label)
        most, shares = softmax_row(scores, cols)
        share = together / shares
        for j in range(0, cols, tile.width(row)):
            part = tile.load(row, scores + j * size, 0, 1, cols - j)
            t = tile.load(row, target + j * size, 0, 1, cols - j)
            tile.store((part * share - t) * weight, scores + j * size, 0, 1, cols - j)
        loss = together * math.log(shares) + (together * most - weighted)
        return min(max(loss, least), most_loss), is_first and z == most

    @kernel
    def of_numbers(kind, scores, cols, target, weight, least, most_loss):
        """Return (loss, right elements) of a row whose targets are numbers, each for itself."""
        size, loss, right = tile.itemsize(row), 0.0, 0
        for j in range(cols):
            z, t = tile.load_scalar(row, scores + j * size), tile.load_scalar(row, target + j * size)
            if kind == BINARY:
                one = max(z, 0.0) - z * t + math.log1p(math.exp(-abs(z)))
                loss += min(max(one, least), most_loss)
                right += int((z > 0) == (t > 0.5))
            else:
                loss += float(z - t) ** 2
        for j in range(0, cols, tile.width(row)):
            z = tile.load(row, scores + j * size, 0, 1, cols - j)
            if kind == BINARY:
                z = sigmoid(z)
            tile.store((z - tile.load(row, target + j * size, 0, 1, cols - j)) * weight, scores + j * size, 0, 1, cols - j)
        return loss, right

    @kernel
    def likely(kind, scores, cols):
        """Write the softmax or the sigmoid of a row over it."""
        if kind == SOFTMAX:
            _, shares = softmax_row(scores, cols)
            scale_row(scores, cols, 1 / shares)
        else:
            for j in range(0, cols, tile.width(row)):
                address = scores + j * tile.itemsize(row)
                tile.store(sigmoid(tile.load(row, address, 0, 1, cols - j)), address, 0, 1, cols - j)

    def loss(job_address, worker, task):
        job = read(job_address, Loss)
        factor, least, most = job.factor, job.least, job.most
        losses, right = 0.0, 0
        for i in range(task * ROWS, min((task + 1) * ROWS, job.rows)):              # scores (rows, cols), weights (rows,)
            scores = job.scores + i * job.scores_row
            if job.targets == 0:
                likely(job.kind, scores, job.cols)
            else:
                weight = number(job.weights + 8 * i) * job.scale if job.weights != 0 else 1.0
                if job.targets_row == 0:
                    one, hits = of_label(scores, job.cols, job.targets + 8 * i, weight * factor, least, most)
                elif job.kind == SOFTMAX:
                    target = job.targets + i * job.targets_row
                    one, hits = of_shares(scores, job.cols, target, weight * factor, least, most)
                else:
                    target = job.targets + i * job.targets_row
                    one, hits = of_numbers(job.kind, scores, job.cols, target, weight * factor, least, most)
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
