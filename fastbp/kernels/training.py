"""Training steps without Python in between: gather a batch, forward, loss, backward, update, and again.

All that a network consists of stands in memory as the records below, which the caller keeps alive. A run goes on where the
last one stopped, at a whole step: after so many batches, at the end of the data, or before the update of a batch whose loss
is not finite.
"""
import math
from typing import NamedTuple

from numba import types

from .. import _link
from .._jit import kernel
from . import blocking, dropout, losses, optimizers, team, tile
from .activations import GELU, IDENTITY
from .arithmetic import number, put_number
from .dropout import Dropout
from .losses import Loss
from .matrix import NO_MATRIX, Matrix
from .optimizers import Update
from .parallel import REGION_BYTES, TASK, run, run_with_team
from .workspace import acquire, copy, load, read, release, write

GATHER_BYTES = 1 << 14         # of the rows that a task copies

NOT_FINITE = -1                 # a status: the batch's loss is not, and its step was not made


class Layer(NamedTuple):
    """A dense layer, or a dropout of the layer before: addresses, 0 where there is none."""

    inputs: int
    neurons: int
    activation: int
    forward: int                # its units
    backward: int
    weights: int
    biases: int
    dweights: int
    dbiases: int
    y: int                      # of a batch
    slope: int
    dvalues: int                # the gradient with respect to y; y itself where that is no longer needed then
    least: int                  # of a dropout (dropout.py), else -1
    factor: int


LAYER_BYTES = 8 * len(Layer._fields)


class Training(NamedTuple):
    """A network, its data, its optimiser, and how far it is: addresses, and sizes in elements."""

    layers: int                 # addresses of so many Layer
    count: int
    first: int                  # the first layer whose inputs need no gradient
    inputs: int
    work: int                   # multiply-adds of a forward pass of a row
    rows: int
    batch: int
    x: int
    x_row: int                  # in bytes
    order: int                  # the rows in the order to take them, 64-bit integers; 0: as they are
    gathered: int               # room for a batch of them
    targets: int                # as losses.py takes them
    targets_row: int
    targets_bytes: int          # of a row
    targets_order: int
    gathered_targets: int
    weights: int                # of the rows, float64; 0: all are 1
    gathered_weights: int
    loss: int
    loss_numbers: int           # as losses.py takes them; the first is overwritten
    gradient_factor: int        # float64: the gradient of a row of the loss, without its weight
    loss_factor: int            # float64: a row's part in the loss
    penalty: int                # float64: l2, and whether it is shared out among the rows of a batch (1) or not (0)
    sums: int                   # room for those of losses.py
    update: int                 # the optimiser's Update; 0: only the gradients are wanted
    results: int                # float64: the sum of the rows' losses, penalty included, that of their weights, and what is right
    progress: int               # the next row, and the key of the next dropout
    check: int                  # whether to stop at a loss that is not finite


class Gather(NamedTuple):
    """The job of copying rows, `row_bytes` each, in some order to an address. A task is a block of rows."""

    tasks: int
    rows: int
    rows_each: int
    row_bytes: int
    source: int
    source_row: int
    order: int
    target: int


def _build_gather():
    def gather(job_address, worker, task):
        job = read(job_address, Gather)
        for i in range(task * job.rows_each, min((task + 1) * job.rows_each, job.rows)):
            copy(job.target + i * job.row_bytes, job.source + load(job.order + 8 * i) * job.source_row, job.row_bytes)
        return _link.OK
    return gather


_gather = _link.Unit("gather", None, TASK, _build_gather).address


@kernel
def gathered(source, source_row, order, target, row_bytes, rows, memory):
    """Copy rows, one after another, to an address, which is returned."""
    rows_each = max(1, GATHER_BYTES // row_bytes)
    job = Gather(blocking.blocks(rows, rows_each), rows, rows_each, row_bytes, source, source_row, order, target)
    run(_gather(), job, memory, blocking.threads(rows * row_bytes))
    return target


def _build(dtype):
    tiles = blocking.tiles(dtype)
    loss, optimize = losses.loss[dtype].address, optimizers.step[dtype].address
    drop, drop_unbound = dropout.drop[dtype].address, dropout.drop[dtype].unbound

    @kernel
    def layer_of(job, k):
        return read(job.layers + k * LAYER_BYTES, Layer)

    @kernel
    def dense(data, rows, cols):
        """The Matrix at an address, its rows one after another."""
        size = tile.itemsize(tiles.wide)
        return Matrix(data, rows, cols, cols * size, size)

    @kernel
    def some(data, rows, cols):
        """The same, or none at the address 0."""
        return dense(data, rows, cols) if data != 0 else NO_MATRIX

    @kernel
    def dropped(layer, values, out, rows, key, memory):
        count = rows * layer.neurons
        job = Dropout(blocking.blocks(count, dropout.CHUNK), count, values, out, key, layer.least, layer.factor)
        run(drop(), job, memory, blocking.threads(count * dropout.WORK))

    @kernel
    def inputs_of(job, k, x):
        """What goes into layer k."""
        if k == 0:
            return x
        return layer_of(job, k - 1).y

    @kernel
    def forward(job, x, x_row, rows, key, memory):
        size = tile.itemsize(tiles.wide)
        for k in range(job.count):
            layer = layer_of(job, k)
            if layer.least >= 0:
                if drop() == 0:
                    return drop_unbound()
                dropped(layer, inputs_of(job, k, x), layer.y, rows, key + k, memory)
            else:
                inputs = Matrix(inputs_of(job, k, x), rows, layer.inputs, x_row if k == 0 else layer.inputs * size, size)
                status = _link.call(layer.forward, (
                    inputs, dense(layer.weights, layer.inputs, layer.neurons), some(layer.biases, 1, layer.neurons),
                    dense(layer.y, rows, layer.neurons), some(layer.slope, rows, layer.neurons), layer.activation))
                if status != _link.OK:
                    return status
        return _link.OK

    @kernel
    def backward(job, x, x_row, rows, key, memory):
        """The gradient with respect to the scores stands in the last layer's dvalues."""
        size = tile.itemsize(tiles.wide)
        for k in range(job.count - 1, job.first - 1, -1):
            layer = layer_of(job, k)
            if layer.least >= 0:
                dropped(layer, layer.dvalues, layer.dvalues, rows, key + k, memory)
            else:
                inputs = Matrix(inputs_of(job, k, x), rows, layer.inputs, x_row if k == 0 else layer.inputs * size, size)
                dinputs = layer_of(job, k - 1).dvalues if k > job.first else 0
                s = NO_MATRIX
                if layer.activation != IDENTITY:
                    s = dense(layer.slope if layer.activation == GELU else layer.y, rows, layer.neurons)
                status = _link.call(layer.backward, (
                    dense(layer.dvalues, rows, layer.neurons), s, inputs, dense(layer.weights, layer.inputs, layer.neurons),
                    some(dinputs, rows, layer.inputs), dense(layer.dweights, layer.inputs, layer.neurons),
                    dense(layer.dbiases, 1, layer.neurons), layer.activation))
                if status != _link.OK:
                    return status
        return _link.OK

    @kernel
    def loss_of(job, targets, weights, rows, weight, memory):
        """(the mean loss, what is right) of a batch; the gradient is in the last layer's dvalues, which may be its y."""
        last = layer_of(job, job.count - 1)
        row_bytes = last.neurons * tile.itemsize(tiles.wide)
        if last.dvalues != last.y:
            copy(last.dvalues, last.y, rows * row_bytes)
        put_number(job.loss_numbers, number(job.gradient_factor) / weight)
        blocks = blocking.blocks(rows, losses.ROWS)
        task = Loss(blocks, rows, last.neurons, last.dvalues, row_bytes, job.loss, targets,
                    job.targets_row, weights, job.loss_numbers, job.sums)
        run(loss(), task, memory, blocking.threads(rows * last.neurons * losses.WORK))
        total, right = 0.0, 0.0
        for i in range(blocks):
            total += number(job.sums + i * losses.SUMS_BYTES)
            right += number(job.sums + i * losses.SUMS_BYTES + 8)
        return total * number(job.loss_factor) / weight, right

    @kernel
    def step(job, start, memory):
        size = tile.itemsize(tiles.wide)
        rows = min(job.batch, job.rows - start)
        x, x_row = job.x + start * job.x_row, job.x_row
        if job.order != 0:
            x_row = job.inputs * size
            x = gathered(job.x, job.x_row, job.order + 8 * start, job.gathered, x_row, rows, memory)
        targets, weights, weight = job.targets + start * job.targets_bytes, job.weights, float(rows)
        if job.targets_order != 0:
            order, row = job.targets_order + 8 * start, job.targets_bytes
            targets = gathered(job.targets, row, order, job.gathered_targets, row, rows, memory)
        if weights != 0:
            weights += 8 * start
            if job.targets_order != 0:
                weights = gathered(job.weights, 8, job.targets_order + 8 * start, job.gathered_weights, 8, rows, memory)
            weight = 0.0
            for i in range(rows):
                weight += number(weights + 8 * i)
        key = load(job.progress + 8)
        status = forward(job, x, x_row, rows, key, memory)
        if status != _link.OK:
            return status
        mean, right = loss_of(job, targets, weights, rows, weight, memory)
        if job.check != 0 and not math.isfinite(mean):
            return NOT_FINITE
        status = backward(job, x, x_row, rows, key, memory)
        if status != _link.OK:
            return status
        penalty = 0.0
        if job.update != 0:
            l2 = read(job.update, Update).l2
            put_number(l2, number(job.penalty) / weight if number(job.penalty + 8) != 0.0 else number(job.penalty))
            _link.call(optimize(), (job.update,))
            penalty = number(l2 + 8)
        put_number(job.results, number(job.results) + (mean + penalty) * rows)
        put_number(job.results + 8, number(job.results + 8) + weight)
        put_number(job.results + 16, number(job.results + 16) + right)
        write(job.progress, (start + rows,))
        write(job.progress + 8, (key + job.count,))
        return _link.OK

    def steps(job_address, batches):
        """Up to so many steps."""
        job = read(job_address, Training)
        memory, slot = acquire(REGION_BYTES)
        if memory == 0:
            return _link.NO_MEMORY
        status, start = _link.OK, load(job.progress)
        while status == _link.OK and batches > 0 and start < job.rows:
            status = step(job, start, memory)
            start, batches = load(job.progress), batches - 1
        release(slot)
        return status

    return steps


_SIGNATURE = types.intp(types.intp, types.intp)
_steps = _link.units("steps", _SIGNATURE, _build)


def _build_train(dtype):
    steps = _steps[dtype].address

    def train(job_address, batches):
        """The same, with threads at hand where a step is worth them."""
        job = read(job_address, Training)
        memory, slot = acquire(team.BYTES)
        if memory == 0:
            return _link.NO_MEMORY
        threads = blocking.threads(job.batch * job.work)
        status = run_with_team(steps(), job_address, batches, memory, threads)
        release(slot)
        return status

    return train


train = _link.units("train", _SIGNATURE, _build_train)
