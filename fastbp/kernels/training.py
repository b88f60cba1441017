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
_SHARDS = Update._fields.index("shards")


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
    shards: int                 # of a batch, at most (blocking.shards)
    distance: int               # bytes from one's gradients to the next one's
    statuses: int               # room for an integer for each
    sums: int                   # room for those of losses.py, of each
    update: int                 # the optimiser's Update; 0: only the gradients are wanted
    results: int                # float64: sums of the rows' losses, penalty included, of their weights, and of what is right
    progress: int               # the next row, and the key of the next dropout
    check: int                  # whether to stop at a loss that is not finite


class Shard(NamedTuple):
    """The job of forward, loss and backward of a batch. A task is a shard of its rows, with gradients of its own."""

    tasks: int
    training: int               # the address of the Training
    start: int                  # the batch's first row of the data
    rows: int
    rows_each: int
    most_threads: int           # of a pass
    key: int                    # of the dropouts


@kernel
def gather(source, source_row, order, target, row_bytes, rows):
    """Copy rows, one after another, to an address, which is returned."""
    for i in range(rows):
        copy(target + i * row_bytes, source + load(order + 8 * i) * source_row, row_bytes)
    return target


def _build_shard(dtype):
    tiles, loss = blocking.tiles(dtype), losses.loss[dtype].address
    drop, drop_unbound = dropout.drop[dtype].address, dropout.drop[dtype].unbound

    @kernel
    def layer_of(job, k, first):
        """Layer k, its buffers from row `first` of the batch on."""
        layer = read(job.layers + k * LAYER_BYTES, Layer)
        offset = first * layer.neurons * tile.itemsize(tiles.wide)
        slope = layer.slope + offset if layer.slope != 0 else 0
        return Layer(*layer[:9], layer.y + offset, slope, layer.dvalues + offset, *layer[12:])

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
    def dropped(layer, values, out, rows, first, key, most_threads, memory):
        count = rows * layer.neurons
        job = Dropout(blocking.blocks(count, dropout.CHUNK), count, first * layer.neurons, values, out, key, layer.least,
                      layer.factor)
        run(drop(), job, memory, min(most_threads, blocking.threads(count * dropout.WORK)))

    @kernel
    def forward(job, x, rows, first, task, memory):
        inputs = x
        for k in range(job.count):
            layer = layer_of(job, k, first)
            if layer.least >= 0:
                if drop() == 0:
                    return drop_unbound()
                dropped(layer, inputs.data, layer.y, rows, first, task.key + k, task.most_threads, memory)
            else:
                status = _link.call(layer.forward, (
                    inputs, dense(layer.weights, layer.inputs, layer.neurons), some(layer.biases, 1, layer.neurons),
                    dense(layer.y, rows, layer.neurons), some(layer.slope, rows, layer.neurons), layer.activation,
                    task.most_threads))
                if status != _link.OK:
                    return status
            inputs = dense(layer.y, rows, layer.neurons)
        return _link.OK

    @kernel
    def backward(job, x, rows, first, distance, task, memory):
        """The gradient with respect to the scores stands in the last layer's dvalues; `distance` of this shard's gradients."""
        for k in range(job.count - 1, job.first - 1, -1):
            layer = layer_of(job, k, first)
            if layer.least >= 0:
                dropped(layer, layer.dvalues, layer.dvalues, rows, first, task.key + k, task.most_threads, memory)
            else:
                inputs = dense(layer_of(job, k - 1, first).y, rows, layer.inputs) if k > 0 else x
                dinputs = layer_of(job, k - 1, first).dvalues if k > job.first else 0
                s = NO_MATRIX
                if layer.activation != IDENTITY:
                    s = dense(layer.slope if layer.activation == GELU else layer.y, rows, layer.neurons)
                status = _link.call(layer.backward, (
                    dense(layer.dvalues, rows, layer.neurons), s, inputs, dense(layer.weights, layer.inputs, layer.neurons),
                    some(dinputs, rows, layer.inputs), dense(layer.dweights + distance, layer.inputs, layer.neurons),
                    dense(layer.dbiases + distance, 1, layer.neurons), layer.activation, task.most_threads))
                if status != _link.OK:
                    return status
        return _link.OK

    @kernel
    def losses_of(job, rows, first, start, sums, task, memory):
        """Losses and gradients of rows from `first` of the batch, row `start` of the data, on."""
        last = layer_of(job, job.count - 1, first)
        row_bytes = last.neurons * tile.itemsize(tiles.wide)
        if last.dvalues != last.y:
            copy(last.dvalues, last.y, rows * row_bytes)
        targets, row = job.targets + start * job.targets_bytes, job.targets_bytes
        if job.targets_order != 0:
            targets = gather(job.targets, row, job.targets_order + 8 * start, job.gathered_targets + first * row, row, rows)
        weights = 0
        if job.weights != 0:
            weights = job.weights + 8 * start if job.targets_order == 0 else job.gathered_weights + 8 * first
        parts = Loss(blocking.blocks(rows, losses.ROWS), rows, last.neurons, last.dvalues, row_bytes, job.loss, targets,
                     job.targets_row, weights, job.loss_numbers, sums)
        run(loss(), parts, memory, min(task.most_threads, blocking.threads(rows * last.neurons * losses.WORK)))

    @kernel
    def do_shard(task, number, memory):
        job = read(task.training, Training)
        first = number * task.rows_each
        rows, start = min(task.rows_each, task.rows - first), task.start + first
        row = job.inputs * tile.itemsize(tiles.wide)
        x = Matrix(job.x + start * job.x_row, rows, job.inputs, job.x_row, tile.itemsize(tiles.wide))
        if job.order != 0:
            x = dense(gather(job.x, job.x_row, job.order + 8 * start, job.gathered + first * row, row, rows), rows, job.inputs)
        status = forward(job, x, rows, first, task, memory)
        if status == _link.OK:
            losses_of(job, rows, first, start, job.sums + number * sums_bytes(task.rows_each), task, memory)
            status = backward(job, x, rows, first, number * job.distance, task, memory)
        return status

    def shard(job_address, worker, number):
        task = read(job_address, Shard)
        memory, slot = acquire(REGION_BYTES)
        status = _link.NO_MEMORY if memory == 0 else do_shard(task, number, memory)
        write(read(task.training, Training).statuses + 8 * number, (status,))
        if memory != 0:
            release(slot)
        return status

    return shard


_shard = _link.units("shard", TASK, _build_shard)


@kernel
def sums_bytes(rows):
    """Of the sums of the losses of so many rows."""
    return blocking.blocks(rows, losses.ROWS) * losses.SUMS_BYTES


def _build_steps(dtype):
    shard, optimize = _shard[dtype].address, optimizers.step[dtype].address

    @kernel
    def weight_of(job, start, rows):
        """The sum of the weights of a batch, after gathering them."""
        if job.weights == 0:
            return float(rows)
        weights = job.weights + 8 * start
        if job.targets_order != 0:
            weights = gather(job.weights, 8, job.targets_order + 8 * start, job.gathered_weights, 8, rows)
        weight = 0.0
        for i in range(rows):
            weight += number(weights + 8 * i)
        return weight

    @kernel
    def all_shards(job_address, start, rows, key, memory):
        """The status of forward, loss and backward of a batch."""
        job = read(job_address, Training)
        rows_each = blocking.blocks(rows, job.shards)
        tasks = blocking.blocks(rows, rows_each)
        run(shard(), Shard(tasks, job_address, start, rows, rows_each, blocking.MOST_THREADS if tasks == 1 else 1, key),
            memory, blocking.threads(rows * job.work))
        for i in range(tasks):
            status = load(job.statuses + 8 * i)
            if status != _link.OK:
                return status, tasks, rows_each
        return _link.OK, tasks, rows_each

    @kernel
    def added(job, rows, tasks, rows_each):
        """(losses, what is right) of a batch."""
        losses_sum, right = 0.0, 0.0
        for i in range(tasks):
            size = min(rows_each, rows - i * rows_each)
            for k in range(blocking.blocks(size, losses.ROWS)):
                at = job.sums + i * sums_bytes(rows_each) + k * losses.SUMS_BYTES
                losses_sum += number(at)
                right += number(at + 8)
        return losses_sum, right

    @kernel
    def step(job_address, start, memory):
        job = read(job_address, Training)
        rows, key = min(job.batch, job.rows - start), load(job.progress + 8)
        weight = weight_of(job, start, rows)
        divisor = weight if weight > 0.0 else 1.0           # rows of weight 0 have no loss and no gradient
        put_number(job.loss_numbers, number(job.gradient_factor) / divisor)
        status, tasks, rows_each = all_shards(job_address, start, rows, key, memory)
        if status != _link.OK:
            return status
        total, right = added(job, rows, tasks, rows_each)
        mean = total * number(job.loss_factor) / divisor
        if job.check != 0 and not math.isfinite(mean):
            return NOT_FINITE
        penalty = 0.0
        if job.update != 0:
            update = read(job.update, Update)
            put_number(update.l2, number(job.penalty) / divisor if number(job.penalty + 8) != 0.0 else number(job.penalty))
            write(job.update + 8 * _SHARDS, (tasks,))
            _link.call(optimize(), (job.update,))
            penalty = number(update.l2 + 8)
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
            status = step(job_address, start, memory)
            start, batches = load(job.progress), batches - 1
        release(slot)
        return status

    return steps


_SIGNATURE = types.intp(types.intp, types.intp)
_steps = _link.units("steps", _SIGNATURE, _build_steps)


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
