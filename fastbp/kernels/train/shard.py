"""Shards of a batch: the forward pass, the loss and the backward pass of some of its rows, through all layers of a network.

A batch is one shard, whose passes use threads where these pay. A batch of a small network may be two shards, each on a thread
of its own. The shards of the smallest networks are done by transposed.py.
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

    tasks: int                  # shards
    training: int               # the address of the Training
    start: int                  # the number in the data of the batch's first row
    rows: int                   # rows of the batch
    rows_each: int              # rows of a shard; the last one may have fewer
    most_threads: int           # the most threads of a pass
    key: int                    # the key of the first layer's dropout; that of layer k is k higher
    factor: float               # the factor of a row's gradient, beside the row's weight
    scale: float                # the factor of the rows' weights (losses.scale_of)


class Rows(NamedTuple):
    """The rows of a shard."""

    shard: int                  # the number of the shard
    first: int                  # the number in the batch of the first row
    start: int                  # the number in the data of the first row
    count: int                  # how many rows


@kernel
def gather(source, source_row, order, target, row_bytes, rows):
    """Copy rows in an order, one after another, to the address `target`, and return it.

    source_row: bytes from one row of the source to the next. order: the address of the rows' 64-bit numbers.
    """
    for i in range(rows):                               # order (rows,), target (rows, row_bytes)
        copy(target + i * row_bytes, source + load(order + 8 * i) * source_row, row_bytes)
    return target


def _build_shard(dtype):
    tiles, machine, loss = blocking.tiles(dtype), blocking.machine(dtype), losses.loss[dtype].address
    drop, request_drop = dropout.drop[dtype].address, dropout.drop[dtype].request

    @kernel
    def layer_of(job, k, first):
        """Return layer k, with its buffers from row `first` of the batch on."""
        layer = read(job.layers + k * LAYER_BYTES, Layer)
        offset = first * layer.neurons * tile.itemsize(tiles.full)
        saved = layer.saved + offset if layer.saved != 0 else 0
        return replace(layer, y=layer.y + offset, saved=saved, dvalues=layer.dvalues + offset)

    @kernel
    def dense(data, rows, cols):
        """Return the Matrix at an address, in C order."""
        size = tile.itemsize(tiles.full)
        return Matrix(data=data, rows=rows, cols=cols, row_step=cols * size, col_step=size)

    @kernel
    def some(data, rows, cols):
        """Return the Matrix at an address, in C order; NO_MATRIX at the address 0."""
        return dense(data, rows, cols) if data != 0 else NO_MATRIX

    @kernel
    def dropout_of(layer, rows, values, out, key):
        """Return the Dropout of a shard's rows: out (rows, neurons) from values (rows, neurons), both addresses."""
        count = rows.count * layer.neurons
        return Dropout(tasks=blocking.blocks(count, dropout.CHUNK), count=count, first=rows.first * layer.neurons,
                       values=values, out=out, key=key, least=layer.least, factor=layer.factor)

    @kernel
    def run_dropout(job, most_threads, memory):
        """Run a Dropout, in memory for a queue."""
        run(drop(), job, memory, min(most_threads, blocking.threads(job.count * dropout.WORK)))

    @kernel
    def forward(job, task, rows, x, memory):
        """Compute each layer's y from x (rows, inputs); return a status."""
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
        """Compute the gradients of the shard's parameters from the last layer's dvalues; return a status."""
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
                if layer.problem != 0:              # there is one shard then: these are all rows of the batch
                    problem = dweights.dweights_problem(blocking.with_caches(machine), inputs, layer.dz, layer.neurons,
                                                        layer.block_rows)
                    write(layer.problem, problem)
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
        """Compute the losses of the shard's rows, and write the gradient with respect to the scores to the last dvalues."""
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
        """Do one shard of a batch, and write its status where the Training says."""
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
    """Return the bytes of the Sums of a loss's tasks for `rows` rows."""
    return blocking.blocks(rows, losses.ROWS) * losses.SUMS_BYTES
