"""Shards of a small network's batch, transposed: vectors hold numbers of many rows of the batch, not of one.

So vectors are full for layers of any width. Some rows of the batch at a time, a chunk, go through all layers and back while
they are in L1 or L2. Matrices of a chunk lie transposed, in rows of `step` bytes:

    y.T       = act(weights.T @ x.T + biases)       weights are read in place, by columns
    dz.T      = dvalues.T * act'(y.T)               dbiases are the sums of its rows
    dweights  = x.T @ dz                            dot products of rows, or with dz transposed back if its rows are long
    dinputs.T = weights @ dz.T                      weights are read in place, by rows

Nothing is packed, and there are no queues within a shard. It does what shard.py does: a session chooses one or the other.
"""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import inlined, kernel
from .. import blocking
from ..elementwise import activations
from ..elementwise.activations import IDENTITY, RELU, passed_back
from ..gemm import in_cache
from ..gemm.in_cache import NO_EPILOGUE, Epilogue, Product
from ..matrix import NO_MATRIX, Matrix
from ..schedule import trace
from ..schedule.arena import COUNTING, acquire, release, take
from ..schedule.atomic import load
from ..schedule.queue import TASK
from ..schedule.records import put_word, read, replace, write
from ..schedule.trace import Call
from ..simd import tile
from ..simd.arithmetic import number as number_at
from ..simd.arithmetic import total, within
from . import transposed_losses
from .losses import Sums
from .network import LAYER_BYTES, Layer, Training
from .shard import Shard, sums_bytes
from .transposed_losses import TransposedLoss


class Memory(NamedTuple):
    """The memory of a shard: addresses, but for `step`."""

    step: int                   # bytes from one row of a transposed matrix to the next
    order: int                  # the numbers 0, 1, 2, …, 64 bits each, for as many rows as a chunk has
    ones: int                   # ones, as many as a full tile has columns
    x: int                      # x.T
    y: int                      # y.T of each layer, one after another
    y_end: int                  # the first byte behind them
    targets: int                # labels as numbers of the dtype, or targets.T
    factors: int                # the factors of the rows' gradients
    dz: int                     # dz.T of a layer
    dinputs: int                # dinputs.T of a layer
    dz_rows: int                # dz in rows, padded to whole vectors
    end: int                    # the first byte behind all this


class Chunk(NamedTuple):
    """Some rows of a shard."""

    first: int                  # the number in the batch of the first row
    start: int                  # the number in the data of the first row
    rows: int                   # how many rows
    padded: int                 # the rows up to a whole vector
    distance: int               # bytes from the first shard's gradients to those of this shard
    is_first: bool              # whether it is the shard's first chunk; the others add to its gradients


@kernel
def layer_at(job, k):
    """Return layer k of a Training."""
    return read(job.layers + k * LAYER_BYTES, Layer)


@kernel
def memory_of(arena, job, size, width, lanes):
    """Return the Memory in an arena. size: bytes of an element. width, lanes: columns of a full tile and of a vector."""
    neurons, widest = 0, job.inputs
    for k in range(job.count):
        layer = layer_at(job, k)
        neurons, widest = neurons + layer.neurons, max(widest, layer.neurons)
    # Rows that lie a multiple of 1 KiB apart would share few sets of L1.
    step = blocking.spread(blocking.round_up(job.chunk_rows, lanes) * size)
    order, arena = take(arena, 8 * job.chunk_rows)
    ones, arena = take(arena, width * size)
    x, arena = take(arena, job.inputs * step)
    y, arena = take(arena, neurons * step)
    targets, arena = take(arena, layer_at(job, job.count - 1).neurons * step)
    factors, arena = take(arena, step)
    dz, arena = take(arena, widest * step)
    dinputs, arena = take(arena, widest * step)
    dz_rows, arena = take(arena, blocking.round_up(job.chunk_rows, lanes) * blocking.round_up(widest, lanes) * size)
    return Memory(step=step, order=order, ones=ones, x=x, y=y, y_end=y + neurons * step, targets=targets, factors=factors,
                  dz=dz, dinputs=dinputs, dz_rows=dz_rows, end=arena)


def _build(dtype):
    tiles, precision = blocking.tiles(dtype), dtype.bitwidth
    square, row, size = tiles.square, tiles.vector, precision // 8
    lanes, width = row.lanes, tiles.full.vecs * row.lanes
    multiply, multiply_rows = in_cache.functions(dtype)
    loss = transposed_losses.build(dtype)
    activate, request_activate = activations.activate[dtype].address, activations.activate[dtype].request

    @inlined
    def gather(source, row_step, order, rows, cols, target, step):
        """Write target (cols, rows) = source.T, whose rows are taken in an order, with zeros up to whole vectors."""
        for m in range(0, rows, lanes):
            for j in range(0, cols, lanes):
                block = tile.gather(square, source + j * size, order + 8 * m, row_step, rows - m, cols - j)
                tile.store(tile.transpose(block), target + j * step + m * size, step, cols - j, lanes)

    @kernel
    def gather_x(job, room, chunk):
        """Write x.T of a chunk."""
        if job.order != 0:
            gather(job.x, job.x_row, job.order + 8 * chunk.start, chunk.rows, job.inputs, room.x, room.step)
        else:
            gather(job.x + chunk.start * job.x_row, job.x_row, room.order, chunk.rows, job.inputs, room.x, room.step)

    @kernel
    def gather_targets(job, room, chunk, classes):
        """Write the targets of a chunk, transposed, or its labels."""
        order = room.order if job.targets_order == 0 else job.targets_order + 8 * chunk.start
        targets = job.targets + (chunk.start * job.targets_bytes if job.targets_order == 0 else 0)
        if job.targets_row != 0:
            gather(targets, job.targets_bytes, order, chunk.rows, classes, room.targets, room.step)
        else:
            for i in range(chunk.rows):                                             # labels (rows,)
                label = load(targets + load(order + 8 * i) * job.targets_bytes)
                tile.store_scalar(row, room.targets + i * size, float(label if 0 <= label < classes else -1))
            for i in range(chunk.rows, chunk.padded):
                tile.store_scalar(row, room.targets + i * size, -1.0)

    @kernel
    def weigh(weights, scale, factor, room, chunk):
        """Write the factors of the gradients of a chunk's rows, from the address of their weights, which `scale` multiplies.

        scale * factor might overflow.
        """
        for i in range(chunk.rows):
            tile.store_scalar(row, room.factors + i * size, number_at(weights + 8 * i) * scale * factor)
        for i in range(chunk.rows, chunk.padded):
            tile.store_scalar(row, room.factors + i * size, 0.0)

    @kernel
    def call_of(layer, chunk, dinputs, dinputs_bytes):
        """Return the Call of a pass, for a profile."""
        return Call(rows=chunk.rows, inputs=layer.inputs, neurons=layer.neurons, precision=precision,
                    activation=layer.activation, weights=layer.weights, dinputs=dinputs, dinputs_bytes=dinputs_bytes)

    @kernel
    def forward(job, room, chunk):
        """Compute y.T of each layer; return a status."""
        inputs, y, step = room.x, room.y, room.step
        for k in range(job.count):                                  # weights (K, N), inputs (K, rows), y (N, rows)
            begun, layer = trace.begin(), layer_at(job, k)
            end = Epilogue(biases=layer.biases, ones=room.ones, relu=layer.activation == RELU)
            multiply(Product(a=layer.weights, a_row_step=size, a_col_step=layer.neurons * size, b=inputs, b_row_step=step,
                             c=y, c_row_step=step, rows=layer.neurons, cols=chunk.padded, depth=layer.inputs,
                             accumulate=0), end)
            if layer.activation != IDENTITY and layer.activation != RELU:
                if activate() == 0:
                    return request_activate()
                z = Matrix(data=y, rows=layer.neurons, cols=chunk.padded, row_step=step, col_step=size)
                link.call(activate(), (layer.activation, z, NO_MATRIX))
            if begun.log != 0:
                trace.finish_pass(begun, trace.FORWARD, call_of(layer, chunk, 0, 0))
            inputs, y = y, y + layer.neurons * step
        return link.OK

    @kernel
    def losses_of(job, task, room, chunk):
        """Compute the losses of a chunk, write the gradient with respect to the scores to dz, and return the Sums."""
        classes, weights = layer_at(job, job.count - 1).neurons, 0
        gather_targets(job, room, chunk, classes)
        if job.weights != 0:
            weights = job.weights + 8 * chunk.start if job.targets_order == 0 else job.gathered_weights + 8 * chunk.first
            weigh(weights, task.scale, task.factor, room, chunk)
        return loss(TransposedLoss(
            rows=chunk.rows, classes=classes, step=room.step, scores=room.y_end - classes * room.step, gradient=room.dz,
            kind=job.loss, targets=room.targets, has_labels=job.targets_row == 0, weights=weights,
            factors=room.factors if weights != 0 else 0, factor=task.factor, least=job.least, most=job.most, scale=task.scale))

    @inlined
    def add_to(address, value, is_first):
        """Add a number to the one at an address; the first one is written there."""
        tile.store_scalar(row, address, value if is_first else value + tile.load_scalar(row, address))

    @kernel
    def derive(layer, chunk, y, dz, step):
        """Multiply dz.T, which is dvalues.T yet, by the activation's derivative, and write dbiases."""
        whole = chunk.rows // lanes * lanes
        for j in range(layer.neurons):                                              # dz, y (N, rows)
            address, sums = dz + j * step, tile.zeros(row)
            for m in range(0, chunk.padded, lanes):
                part = tile.load(row, address + m * size, 0, 1, lanes)
                if layer.activation != IDENTITY:
                    part = passed_back(layer.activation, part, tile.load(row, y + j * step + m * size, 0, 1, lanes))
                    tile.store(part, address + m * size, 0, 1, lanes)
                sums = sums + (part if m < whole else within(part, chunk.rows - m, 0.0))
            add_to(layer.dbiases + chunk.distance + j * size, total(sums), chunk.is_first)

    @kernel
    def multiply_dweights(layer, room, chunk, inputs, dz):
        """Compute dweights (K, N) from inputs.T (K, rows) and dz.T (N, rows)."""
        dweights, step = layer.dweights + chunk.distance, room.step
        product = Product(a=inputs, a_row_step=step, a_col_step=size, b=dz, b_row_step=step, c=dweights,
                          c_row_step=layer.neurons * size, rows=layer.inputs, cols=layer.neurons, depth=chunk.rows,
                          accumulate=int(not chunk.is_first))
        if layer.neurons < lanes:
            multiply_rows(product)
        else:
            padded_bytes = blocking.round_up(layer.neurons, lanes) * size
            for j in range(0, layer.neurons, lanes):
                for m in range(0, chunk.padded, lanes):
                    block = tile.load(square, dz + j * step + m * size, step, layer.neurons - j, lanes)
                    tile.store(tile.transpose(block), room.dz_rows + m * padded_bytes + j * size, padded_bytes, lanes, lanes)
            multiply(replace(product, b=room.dz_rows, b_row_step=padded_bytes), NO_EPILOGUE)

    @kernel
    def backward(job, room, chunk):
        """Compute the gradients of all parameters from the gradient with respect to the scores, in dz."""
        dz, dinputs, step = room.dz, room.dinputs, room.step
        y = room.y_end - layer_at(job, job.count - 1).neurons * step
        for k in range(job.count - 1, -1, -1):                      # weights (K, N), dz (N, rows), dinputs (K, rows)
            begun, layer = trace.begin(), layer_at(job, k)
            inputs = y - layer.inputs * step if k > 0 else room.x
            derive(layer, chunk, y, dz, step)
            multiply_dweights(layer, room, chunk, inputs, dz)
            if k > 0:
                multiply(Product(a=layer.weights, a_row_step=layer.neurons * size, a_col_step=size, b=dz, b_row_step=step,
                                 c=dinputs, c_row_step=step, rows=layer.inputs, cols=chunk.padded, depth=layer.neurons,
                                 accumulate=0), NO_EPILOGUE)
            if begun.log != 0:
                call = call_of(layer, chunk, dinputs if k > 0 else 0, layer.inputs * step if k > 0 else 0)
                trace.finish_pass(begun, trace.BACKWARD, call)
            y, dz, dinputs = inputs, dinputs, dz

    @kernel
    def do_shard(job, task, number, room):
        """Take the rows of one shard through all layers and back, in chunks; return a status."""
        first = number * task.rows_each
        count = min(task.rows_each, task.rows - first)
        if job.order == 0 or job.targets_order == 0:
            for i in range(job.chunk_rows):
                put_word(room.order + 8 * i, i)
        for i in range(width):
            tile.store_scalar(row, room.ones + i * size, 1.0)
        losses, right, each = 0.0, 0.0, blocking.even_block(count, job.chunk_rows, width)
        for i in range(0, count, each):
            rows = min(each, count - i)
            chunk = Chunk(first=first + i, start=task.start + first + i, rows=rows, padded=blocking.round_up(rows, lanes),
                          distance=number * job.distance, is_first=i == 0)
            gather_x(job, room, chunk)
            status = forward(job, room, chunk)
            if status != link.OK:
                return status
            sums = losses_of(job, task, room, chunk)
            losses, right = losses + sums.loss, right + sums.right
            backward(job, room, chunk)
        write(job.sums + number * sums_bytes(task.rows_each), Sums(loss=losses, right=right))
        return link.OK

    def transposed_shard(job_address, worker, number):
        """Do one shard of a batch, and write its status where the Training says."""
        task = read(job_address, Shard)
        job = read(task.training, Training)
        memory, slot = acquire(memory_of(COUNTING, job, size, width, lanes).end)
        status = link.NO_MEMORY
        if memory != 0:
            status = do_shard(job, task, number, memory_of(memory, job, size, width, lanes))
            release(slot)
        put_word(job.statuses + 8 * number, status)
        return status

    return transposed_shard


shard = link.units("transposed_shard", TASK, _build)
