"""Forward, loss and backward of some rows of a batch, through all layers of a network.

A batch is one shard, whose passes take threads as they are worth them; or two of a small network, each on a thread of its own.
"""
from typing import NamedTuple

from .. import _link
from .._jit import kernel
from . import blocking, dropout, dweights, losses, tile
from .activations import GELU, IDENTITY
from .dropout import Dropout
from .losses import Loss
from .matrix import NO_MATRIX, Matrix
from .network import LAYER_BYTES, Layer, Training
from .parallel import REGION_BYTES, TASK, run
from .records import put_word, read, write
from .workspace import acquire, copy, load, release


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
    tiles, machine, loss = blocking.tiles(dtype), blocking.machine(dtype), losses.loss[dtype].address
    drop, drop_unbound = dropout.drop[dtype].address, dropout.drop[dtype].unbound

    @kernel
    def layer_of(job, k, first):
        """Layer k, its buffers from row `first` of the batch on."""
        layer = read(job.layers + k * LAYER_BYTES, Layer)
        offset = first * layer.neurons * tile.itemsize(tiles.full)
        slope = layer.slope + offset if layer.slope != 0 else 0
        return Layer(*layer[:9], layer.y + offset, slope, layer.dvalues + offset, *layer[12:])

    @kernel
    def dense(data, rows, cols):
        """The Matrix at an address, its rows one after another."""
        size = tile.itemsize(tiles.full)
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
        for k in range(job.upper - 1, max(job.first, job.lower) - 1, -1):
            layer = layer_of(job, k, first)
            if layer.least >= 0:
                dropped(layer, layer.dvalues, layer.dvalues, rows, first, task.key + k, task.most_threads, memory)
            else:
                inputs = dense(layer_of(job, k - 1, first).y, rows, layer.inputs) if k > 0 else x
                before = some(layer_of(job, k - 1, first).dvalues if k > job.first else 0, rows, layer.inputs)
                s = NO_MATRIX
                if layer.activation != IDENTITY:
                    s = dense(layer.slope if layer.activation == GELU else layer.y, rows, layer.neurons)
                dvalues, weights = dense(layer.dvalues, rows, layer.neurons), dense(layer.weights, layer.inputs, layer.neurons)
                dbiases = dense(layer.dbiases + distance, 1, layer.neurons)
                if layer.product != 0:              # there is one shard then: these are all rows of the batch
                    write(layer.product, dweights.product_of(machine, inputs, layer.dz, layer.neurons, layer.row_block))
                    status = _link.call(layer.backward, (dvalues, s, weights, before, dbiases, layer.dz, layer.activation))
                else:
                    gradient = dense(layer.dweights + distance, layer.inputs, layer.neurons)
                    status = _link.call(layer.backward, (dvalues, s, inputs, weights, before, gradient, dbiases,
                                                         layer.activation, task.most_threads))
                if status != _link.OK:
                    return status
        return _link.OK

    @kernel
    def losses_of(job, rows, first, start, sums, task, memory):
        """Losses and gradients of rows from `first` of the batch, row `start` of the data, on."""
        last = layer_of(job, job.count - 1, first)
        row_bytes = last.neurons * tile.itemsize(tiles.full)
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
        row = job.inputs * tile.itemsize(tiles.full)
        x = Matrix(job.x + start * job.x_row, rows, job.inputs, job.x_row, tile.itemsize(tiles.full))
        if job.order != 0:
            x = dense(gather(job.x, job.x_row, job.order + 8 * start, job.gathered + first * row, row, rows), rows, job.inputs)
        if job.upper == job.count:
            status = forward(job, x, rows, first, task, memory)
            if status != _link.OK:
                return status
            losses_of(job, rows, first, start, job.sums + number * sums_bytes(task.rows_each), task, memory)
        return backward(job, x, rows, first, number * job.distance, task, memory)

    def shard(job_address, worker, number):
        task = read(job_address, Shard)
        memory, slot = acquire(REGION_BYTES)
        status = _link.NO_MEMORY if memory == 0 else do_shard(task, number, memory)
        put_word(read(task.training, Training).statuses + 8 * number, status)
        if memory != 0:
            release(slot)
        return status

    return shard


shard = _link.units("shard", TASK, _build_shard)


@kernel
def sums_bytes(rows):
    """Of the sums of the losses of so many rows."""
    return blocking.blocks(rows, losses.ROWS) * losses.SUMS_BYTES
