"""Shards of a batch: forward, loss and backward of some of its rows, through all layers of a network.

A batch is one shard, whose passes use threads where these pay; or two of a small network, each on a thread of its own.
"""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..dense.operands import BackwardOperands, ForwardOperands
from ..elementwise import dropout
from ..elementwise.activations import GELU, IDENTITY
from ..elementwise.dropout import Dropout
from ..matrix import NO_MATRIX, Matrix
from ..schedule.arena import acquire, release
from ..schedule.atomic import copy, load
from ..schedule.queue import REGION_BYTES, TASK, run
from ..schedule.records import put_word, read, replace, write
from ..simd import tile
from . import dweights, losses
from .losses import Loss
from .network import LAYER_BYTES, Layer, Training


class Shard(NamedTuple):
    """The job of forward, loss and backward of a batch. A task is a shard of its rows, with gradients of its own."""

    tasks: int
    training: int               # the address of the Training
    start: int                  # the batch's first row of the data
    rows: int                   # of the batch
    rows_each: int              # of a shard; the last one may have fewer
    most_threads: int           # of a pass
    key: int                    # of the first layer's dropout
    factor: float               # what the gradient of a row of the loss is multiplied by, times its weight
    scale: float                # what rows' weights are multiplied by (losses.scale_of)


class Rows(NamedTuple):
    """The rows of a shard."""

    shard: int                  # its number
    first: int                  # the first one's number in the batch
    start: int                  # and in the data
    count: int


@kernel
def gather(source, source_row, order, target, row_bytes, rows):
    """Copy rows, one after another, to an address, and return it."""
    for i in range(rows):
        copy(target + i * row_bytes, source + load(order + 8 * i) * source_row, row_bytes)
    return target


def _build_shard(dtype):
    tiles, machine, loss = blocking.tiles(dtype), blocking.machine(dtype), losses.loss[dtype].address
    drop, request_drop = dropout.drop[dtype].address, dropout.drop[dtype].request

    @kernel
    def layer_of(job, k, first):
        """Return layer k, its buffers from row `first` of the batch on."""
        layer = read(job.layers + k * LAYER_BYTES, Layer)
        offset = first * layer.neurons * tile.itemsize(tiles.full)
        saved = layer.saved + offset if layer.saved != 0 else 0
        return replace(layer, y=layer.y + offset, saved=saved, dvalues=layer.dvalues + offset)

    @kernel
    def dense(data, rows, cols):
        """Return the Matrix at an address, its rows one after another."""
        size = tile.itemsize(tiles.full)
        return Matrix(data=data, rows=rows, cols=cols, row_step=cols * size, col_step=size)

    @kernel
    def some(data, rows, cols):
        """Return the Matrix at an address, its rows one after another, or none at the address 0."""
        return dense(data, rows, cols) if data != 0 else NO_MATRIX

    @kernel
    def dropout_of(layer, rows, values, out, key):
        """Return the Dropout of a shard's rows: values, out (rows, neurons)."""
        count = rows.count * layer.neurons
        return Dropout(tasks=blocking.blocks(count, dropout.CHUNK), count=count, first=rows.first * layer.neurons,
                       values=values, out=out, key=key, least=layer.least, factor=layer.factor)

    @kernel
    def run_dropout(job, most_threads, memory):
        """Run a Dropout."""
        run(drop(), job, memory, min(most_threads, blocking.threads(job.count * dropout.WORK)))

    @kernel
    def forward(job, task, rows, x, memory):
        """Compute each layer's y from x (rows, inputs)."""
        inputs = x
        for k in range(job.count):                                          # inputs (M, K), weights (K, N), y (M, N)
            layer = layer_of(job, k, rows.first)
            if layer.least >= 0:
                if drop() == 0:
                    return request_drop()
                run_dropout(dropout_of(layer, rows, inputs.data, layer.y, task.key + k), task.most_threads, memory)
            else:
                operands = ForwardOperands(
                    x=inputs, weights=dense(layer.weights, layer.inputs, layer.neurons),
                    biases=some(layer.biases, 1, layer.neurons), y=dense(layer.y, rows.count, layer.neurons),
                    saved=some(layer.saved, rows.count, layer.neurons), activation=layer.activation)
                status = link.call(layer.forward, (operands, task.most_threads))
                if status != link.OK:
                    return status
            inputs = dense(layer.y, rows.count, layer.neurons)
        return link.OK

    @kernel
    def backward(job, task, rows, x, memory):
        """Compute the shard's gradients from that with respect to the scores, which the last layer's dvalues hold."""
        distance = rows.shard * job.distance
        for k in range(job.upper - 1, max(job.first, job.lower) - 1, -1):   # dvalues (M, N), weights (K, N), before (M, K)
            layer = layer_of(job, k, rows.first)
            if layer.least >= 0:
                run_dropout(dropout_of(layer, rows, layer.dvalues, layer.dvalues, task.key + k), task.most_threads, memory)
            else:
                inputs = dense(layer_of(job, k - 1, rows.first).y, rows.count, layer.inputs) if k > 0 else x
                before = some(layer_of(job, k - 1, rows.first).dvalues if k > job.first else 0, rows.count, layer.inputs)
                saved = NO_MATRIX
                if layer.activation != IDENTITY:
                    saved = dense(layer.saved if layer.activation == GELU else layer.y, rows.count, layer.neurons)
                dvalues = dense(layer.dvalues, rows.count, layer.neurons)
                weights = dense(layer.weights, layer.inputs, layer.neurons)
                dbiases = dense(layer.dbiases + distance, 1, layer.neurons)
                if layer.product != 0:              # there is one shard then: these are all rows of the batch
                    here = blocking.with_caches(machine)
                    write(layer.product, dweights.product_of(here, inputs, layer.dz, layer.neurons, layer.row_block))
                    status = link.call(layer.backward, (dvalues, saved, weights, before, dbiases, layer.dz, layer.activation))
                else:
                    gradient = dense(layer.dweights + distance, layer.inputs, layer.neurons)
                    operands = BackwardOperands(
                        dvalues=dvalues, saved=saved, x=inputs, weights=weights, dinputs=before, dweights=gradient,
                        dbiases=dbiases, activation=layer.activation)
                    status = link.call(layer.backward, (operands, task.most_threads))
                if status != link.OK:
                    return status
        return link.OK

    @kernel
    def losses_of(job, task, rows, memory):
        """Compute the losses of the shard's rows, and the gradients with respect to their scores."""
        last = layer_of(job, job.count - 1, rows.first)
        row_bytes = last.neurons * tile.itemsize(tiles.full)
        if last.dvalues != last.y:
            copy(last.dvalues, last.y, rows.count * row_bytes)
        targets, row = job.targets + rows.start * job.targets_bytes, job.targets_bytes
        if job.targets_order != 0:
            targets = gather(job.targets, row, job.targets_order + 8 * rows.start, job.gathered_targets + rows.first * row, row,
                             rows.count)
        weights = 0
        if job.weights != 0:
            weights = job.weights + 8 * rows.start if job.targets_order == 0 else job.gathered_weights + 8 * rows.first
        parts = Loss(tasks=blocking.blocks(rows.count, losses.ROWS), rows=rows.count, cols=last.neurons,
                     scores=last.dvalues, scores_row=row_bytes, kind=job.loss,
                     targets=targets, targets_row=job.targets_row, weights=weights,
                     factor=task.factor, least=job.least, most=job.most, scale=task.scale,
                     sums=job.sums + rows.shard * sums_bytes(task.rows_each))
        run(loss(), parts, memory, min(task.most_threads, blocking.threads(rows.count * last.neurons * losses.WORK)))

    @kernel
    def do_shard(task, number, memory):
        """Do the forward pass, the losses and the backward pass of the rows of one shard; return a status."""
        job, first = read(task.training, Training), number * task.rows_each
        rows = Rows(shard=number, first=first, start=task.start + first, count=min(task.rows_each, task.rows - first))
        size = tile.itemsize(tiles.full)
        x = Matrix(data=job.x + rows.start * job.x_row, rows=rows.count, cols=job.inputs, row_step=job.x_row, col_step=size)
        if job.order != 0:
            row_bytes = job.inputs * size
            gathered = gather(job.x, job.x_row, job.order + 8 * rows.start, job.gathered + first * row_bytes, row_bytes,
                              rows.count)
            x = dense(gathered, rows.count, job.inputs)
        if job.upper == job.count:
            status = forward(job, task, rows, x, memory)
            if status != link.OK:
                return status
            losses_of(job, task, rows, memory)
        return backward(job, task, rows, x, memory)

    def shard(job_address, worker, number):
        task = read(job_address, Shard)
        memory, slot = acquire(REGION_BYTES)
        status = link.NO_MEMORY if memory == 0 else do_shard(task, number, memory)
        put_word(read(task.training, Training).statuses + 8 * number, status)
        if memory != 0:
            release(slot)
        return status

    return shard


shard = link.units("shard", TASK, _build_shard)


@kernel
def sums_bytes(rows):
    """Return the bytes of the Sums of so many rows."""
    return blocking.blocks(rows, losses.ROWS) * losses.SUMS_BYTES
