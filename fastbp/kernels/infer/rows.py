"""A block of rows, which goes through all layers of a network, so that what lies between two layers stays in L2."""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..dense import select
from ..dense.operands import ForwardOperands
from ..elementwise import activations
from ..elementwise.activations import RELU
from ..gemm import dot, loops, packing
from ..gemm.problem import OperandB, activated, gemm_problem, packed_b, scratch_bytes
from ..matrix import NO_MATRIX, Matrix
from ..schedule import trace
from ..schedule.arena import take
from ..schedule.queue import REGION_BYTES, TASK, run
from ..schedule.records import layout, read, replace
from ..train.losses import ROWS, Loss
from . import few
from .network import LAYER_BYTES, DenseLayer, Network, biases_of, weights_of

# The algorithm of a few rows, beside those of select.py; and that of a layer that its own forward unit computes.
FEW, UNIT = len(select.ALGORITHMS), len(select.ALGORITHMS) + 1


class Step(NamedTuple):
    """A layer's part of a call, in memory."""

    algorithm: int              # one of select.ALGORITHMS, FEW or UNIT
    weights: int                # weights of Copies; 0: there is no copy
    biases: int                 # biases of Copies, or the biases themselves, contiguous; 0: there are none


# The bytes of a Step.
STEP_BYTES = layout(Step).itemsize


class Rows(NamedTuple):
    """The job of a call's rows. A task takes a block of them through all layers."""

    tasks: int                  # blocks of rows
    block: int                  # rows of a block
    network: int                # the address of the Network
    steps: int                  # the address of a Step for each layer
    x: int                      # the address of x
    x_row_step: int
    x_col_step: int
    y: int                      # the address of the results, whose rows are contiguous
    y_row_step: int
    rows: int                   # rows of x
    widest: int                 # the most neurons of a layer
    threads: int                # the threads of each layer's product; 1 if tasks run beside each other
    memory: int                 # the address of the first worker's memory
    memory_bytes: int           # bytes of the memory of a worker


class Room(NamedTuple):
    """Addresses of a worker's memory."""

    queue: int                  # the queue of a product
    even: int                   # the output (block, widest) of the layers 0, 2, …
    odd: int                    # that of the layers 1, 3, …
    scratch: int                # gemm.problem.scratch_bytes for each thread of a product
    tail: int                   # the last rows of weights that few_rows reads, and biases of its last columns
    end: int                    # the first byte behind all this


@kernel
def room_of(arena, machine, block, widest, threads):
    """Return the Room for blocks of so many rows and so many neurons at most."""
    queue, arena = take(arena, REGION_BYTES)
    even, arena = take(arena, block * widest * machine.itemsize)
    odd, arena = take(arena, block * widest * machine.itemsize)
    scratch, arena = take(arena, threads * scratch_bytes(machine))
    tail, arena = take(arena, few.tail_bytes(machine))
    return Room(queue=queue, even=even, odd=odd, scratch=scratch, tail=tail, end=arena)


def _build(dtype):
    machine, few_rows, precision = blocking.machine(dtype), few.build(dtype), dtype.bitwidth
    gemm, dot_products, activate = loops.gemm[dtype].address, dot.dot[dtype].address, activations.activate[dtype].address

    @kernel
    def forward(machine, x, layer, step, y, room, threads):
        """Compute the output y of a layer; return a status."""
        if step.algorithm == UNIT:
            operands = ForwardOperands(x=x, weights=weights_of(layer), biases=biases_of(layer), y=y, saved=NO_MATRIX,
                                       activation=layer.activation)
            return link.call(layer.forward, (operands, threads))
        begun, size = trace.begin(), machine.itemsize
        if step.algorithm == FEW:
            few_rows(x, layer, step, y, room.tail)
            if layer.activation > RELU:
                link.call(activate(), (layer.activation, y, NO_MATRIX))
        else:
            b = packed_b(step.weights, layer.inputs * size)
            if step.algorithm == select.SKINNY:
                row_bytes = packing.row_bytes(machine, layer.inputs)
                b = OperandB(data=step.weights, col_step=row_bytes, row_step=size, edge=0, to_pack=0)
            threads = min(threads, blocking.threads(blocking.layer_work(1, x.rows, layer.inputs, layer.neurons)))
            problem = replace(gemm_problem(machine, x, b, y, room.scratch, threads), bias=step.biases)
            unit = dot_products() if step.algorithm == select.SKINNY else gemm()
            run(unit, activated(problem, layer.activation, NO_MATRIX), room.queue, threads)
        trace.finish_pass(begun, trace.FORWARD, trace.Call(
            rows=x.rows, inputs=layer.inputs, neurons=layer.neurons, precision=precision, activation=layer.activation,
            weights=layer.weights, dinputs=0, dinputs_bytes=0))
        return link.OK

    def infer_rows(job_address, worker, task):
        """Take a block of rows through all layers; return a status."""
        job, here, size = read(job_address, Rows), blocking.with_caches(machine), machine.itemsize
        network, start = read(job.network, Network), task * job.block
        rows = min(job.block, job.rows - start)
        room = room_of(job.memory + worker * job.memory_bytes, here, job.block, job.widest, job.threads)
        h = Matrix(data=job.x + start * job.x_row_step, rows=rows, cols=0, row_step=job.x_row_step, col_step=job.x_col_step)
        for k in range(network.count):
            layer, step = read(network.layers + k * LAYER_BYTES, DenseLayer), read(job.steps + k * STEP_BYTES, Step)
            y = Matrix(data=room.odd if k % 2 else room.even, rows=rows, cols=layer.neurons, row_step=layer.neurons * size,
                       col_step=size)
            if k == network.count - 1:
                y = replace(y, data=job.y + start * job.y_row_step, row_step=job.y_row_step)
            status = forward(here, replace(h, cols=layer.inputs), layer, step, y, room, job.threads)
            if status != link.OK:
                return status
            h = y
        if network.probabilities != 0:
            loss = Loss(tasks=blocking.blocks(rows, ROWS), rows=rows, cols=h.cols, scores=h.data, scores_row=h.row_step,
                        kind=network.kind, targets=0, targets_row=0, weights=0, factor=0.0, least=0.0, most=0.0, scale=1.0,
                        sums=0)
            run(network.probabilities, loss, room.queue, job.threads)
        return link.OK

    return infer_rows


infer_rows = link.units("infer_rows", TASK, _build)
