"""Compiled functions that Python calls.

The passes of a layer take Python's objects as they are (objects.py), check each array's type, dtype and number of dimensions,
and allocate their results. The others take arrays or addresses from a caller that has checked them: nothing here does.
"""
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import types

from .._compile import compiler, link
from . import objects
from .blocking import MOST_THREADS, layer_work
from .dense import bfloat16, passes
from .dense.operands import BackwardOperands, ForwardOperands
from .elementwise import relu
from .elementwise.activations import GELU
from .infer import call, network
from .matrix import matrix
from .objects import NO_ROOM, as_number, drop, held, is_matrix, is_true, matrix_of, none, number, result, tuple_of
from .schedule.records import read
from .simd.tile import BFLOAT16
from .train import losses, run, step
from .train import shuffle as shuffling

# Multiply-adds up to which a pass is quick: it takes less than 3 us, and other Python threads wait for it. To let them run
# would take 0.1 us.
QUICK_WORK = 1 << 15


class ForwardArguments(NamedTuple):
    """The objects that Python passes to `forward`."""

    x: int                      # (M, K)
    weights: int                # (K, N)
    biases: int                 # (1, N), or None
    y: int                      # (M, N), to write the result to, or None
    saved: int                  # (M, N), to write gelu's dy/dz to, or None
    activation: int             # an int


class BackwardArguments(NamedTuple):
    """The objects that Python passes to `backward`."""

    dvalues: int                # (M, N)
    saved: int                  # (M, N), or None
    x: int                      # (M, K)
    weights: int                # (K, N)
    dinputs: int                # (M, K), to write a result to, or None
    dweights: int               # (K, N), the same
    dbiases: int                # (1, N), the same
    need_dinputs: int           # whether dinputs are wanted
    activation: int             # an int


def passes_of(dtype):
    """Return the module with the units of a Numba float type, or of BFLOAT16."""
    return bfloat16 if dtype is BFLOAT16 else passes


def _array(dtype, ndim):
    """Return the Numba type of arrays of a float type and any layout."""
    return types.Array(dtype, ndim, "A", readonly=True, aligned=False)


def _float(dtype):
    """Return the Numba type of the elements of a user's arrays."""
    return types.float32 if dtype is BFLOAT16 else dtype


def _bound(unit):
    """Bind a unit, and return the function that gives its address in compiled code.

    It is bound before that code is compiled: meanwhile another process can compile something else.
    """
    unit.bind()
    return unit.address


def _method(entry, dtype, name):
    """Return the Python function of a pass; `entry` compares arrays with one of the dtype."""
    like = np.empty((0, 0), np.dtype(_float(dtype).name))
    return compiler.method(entry, like, f"python_{name}-{dtype}")


@cache
def forward(dtype):
    """Return the function of a layer's forward pass, (x, weights, biases, y, saved, activation) -> (y, saved), or a status.

    It computes y (M, N) from x (M, K), weights (K, N) and biases (1, N) or None. `saved` (M, N) is what the activation keeps
    for its derivative: y itself but for gelu. y and saved are None, or arrays that are overwritten if they fit. New arrays are
    returned in place of others, or the status NO_ROOM if a new array should be aligned. REFUSED: the operands do not fit.
    """
    unit, size, length = _bound(passes_of(dtype).forward[dtype]), _float(dtype).bitwidth // 8, len(ForwardArguments._fields)

    def entry(like, arguments, count):
        if count != length:
            return number(link.REFUSED)
        given = read(arguments, ForwardArguments)
        if not (is_matrix(given.x, like) and is_matrix(given.weights, like) and objects.is_matrix_or_none(given.biases, like)):
            return number(link.REFUSED)
        x, weights, biases = matrix_of(given.x, size), matrix_of(given.weights, size), matrix_of(given.biases, size)
        activation = as_number(given.activation)
        y = result(given.y, like, x.rows, weights.cols, size)
        keeps = activation == GELU and y != 0 and y != NO_ROOM
        saved = result(given.saved, like, x.rows, weights.cols, size) if keeps else y
        status = NO_ROOM
        if y == 0 or saved == 0:
            drop(y)
            return 0
        if y != NO_ROOM and saved != NO_ROOM:
            operands = ForwardOperands(x=x, weights=weights, biases=biases, y=matrix_of(y, size),
                                       saved=matrix_of(saved if keeps else none(), size), activation=activation)
            is_quick = layer_work(1, x.rows, x.cols, weights.cols) <= QUICK_WORK
            status = objects.call_unit(unit(), (operands, MOST_THREADS), is_quick)
        if status == link.OK:
            return tuple_of((y, saved if keeps else held(y)))
        drop(y)
        drop(saved if keeps else 0)
        return number(status)

    return _method(entry, dtype, "forward")


@cache
def backward(dtype):
    """Return the function of a layer's backward pass.

    (dvalues, saved, x, weights, dinputs, dweights, dbiases, need_dinputs, activation) -> (dinputs, dweights, dbiases), or a
    status. It computes dinputs (M, K), dweights (K, N) and dbiases (1, N) from dvalues and saved (M, N), which is None for the
    identity, x (M, K) and weights (K, N). dinputs is None unless it is needed. The results, and a status, are as of `forward`.
    """
    unit, size, length = _bound(passes_of(dtype).backward[dtype]), _float(dtype).bitwidth // 8, len(BackwardArguments._fields)

    def entry(like, arguments, count):
        if count != length:
            return number(link.REFUSED)
        given = read(arguments, BackwardArguments)
        if not (is_matrix(given.dvalues, like) and objects.is_matrix_or_none(given.saved, like)
                and is_matrix(given.x, like) and is_matrix(given.weights, like)):
            return number(link.REFUSED)
        dvalues, saved = matrix_of(given.dvalues, size), matrix_of(given.saved, size)
        x, weights = matrix_of(given.x, size), matrix_of(given.weights, size)
        activation, is_needed = as_number(given.activation), is_true(given.need_dinputs)
        if is_needed < 0:
            return 0
        dinputs = result(given.dinputs, like, x.rows, x.cols, size) if is_needed else held(none())
        dweights = result(given.dweights, like, weights.rows, weights.cols, size) if dinputs != 0 else 0
        dbiases = result(given.dbiases, like, 1, weights.cols, size) if dweights != 0 else 0
        status = NO_ROOM
        if dbiases != 0 and dinputs != NO_ROOM and dweights != NO_ROOM and dbiases != NO_ROOM:
            operands = BackwardOperands(dvalues=dvalues, saved=saved, x=x, weights=weights, dinputs=matrix_of(dinputs, size),
                                        dweights=matrix_of(dweights, size), dbiases=matrix_of(dbiases, size),
                                        activation=activation)
            is_quick = layer_work(2, x.rows, x.cols, weights.cols) <= QUICK_WORK
            status = objects.call_unit(unit(), (operands, MOST_THREADS), is_quick)
        if status == link.OK:
            return tuple_of((dinputs, dweights, dbiases))
        drop(dinputs)
        drop(dweights)
        drop(dbiases)
        return number(status) if dbiases != 0 else 0

    return _method(entry, dtype, "backward")


@cache
def elementwise(dtype):
    """Return the function (dvalues, z, out) -> status of a ReLU's backward pass. Its forward pass is that of (z, z, out).

    It takes contiguous 1-D arrays of one size.
    """
    unit, a = relu.relu[dtype].address, _array(dtype, 1)

    def entry(dvalues, z, out):
        values = matrix(dvalues)
        return link.call(unit(), (values.data, matrix(z).data, matrix(out).data, values.cols))

    return compiler.entry(entry, types.intp(a, a, a), f"python_relu-{dtype}")


@cache
def train(dtype):
    """Return the function (address of a Training, batches) -> status, which trains that many batches."""
    unit = _bound(run.train[dtype])

    def entry(job, batches):
        return link.call(unit(), (job, batches))

    return compiler.entry(entry, types.intp(types.intp, types.intp), f"python_train-{dtype}")


@cache
def infer(dtype):
    """Return the function of a network's predictions, which takes 2-D arrays.

    (address of an infer.network.Network, address of its Marks or 0, x, y) -> status

    It computes y (M, outputs) from x (M, inputs), and refuses to if one of the Marks has changed.
    """
    unit, a = _bound(call.infer[dtype]), _array(dtype, 2)

    def entry(record, marks, x, y):
        if marks != 0 and network.have_changed(marks):
            return link.REFUSED
        return link.call(unit(), (record, matrix(x), matrix(y)))

    return compiler.entry(entry, types.intp(types.intp, types.intp, a, a), f"python_infer-{dtype}")


@cache
def keep(dtype):
    """Return the function (address of an infer.network.DenseLayer, address) -> status, which makes copies of a layer there."""
    unit = _bound(network.keep[dtype])

    def entry(layer, memory):
        return link.call(unit(), (layer, memory))

    return compiler.entry(entry, types.intp(types.intp, types.intp), f"python_keep-{dtype}")


def shuffle():
    """Return the function (rows, count, room, draw, stream) -> status of train/shuffle.py."""
    def entry(rows, count, room, draw, stream):
        shuffling.shuffle(rows, count, room, draw, stream)
        return link.OK

    return compiler.entry(entry, types.intp(*[types.intp] * 5), "python_shuffle")


def _of_record(units, name):
    """Return a function of a dtype, which returns the function (address of a record) -> status of that dtype's unit."""
    @cache
    def build(dtype):
        unit = units[dtype].address

        def entry(job):
            return link.call(unit(), (job,))

        return compiler.entry(entry, types.intp(types.intp), f"python_{name}-{dtype}")

    return build


# The update of parameters; its record is an Update.
optimize = _of_record(step.step, "optimize")

# The loss of a batch and its gradient; its record is a Loss.
loss = _of_record(losses.run_all, "loss")
