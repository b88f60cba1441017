"""Predictions: all layers of a network for rows of x, in one call.

The bits are those of the layers' forward passes, one after another: select.py names the algorithm of each layer for all rows of
x, and the same tiles add in the same order. Three things take less time:

- The rows go through all layers in blocks (rows.py).
- Micropanels of weights and the columns of a skinny layer are copied once for all blocks, or once for all calls, if the weights
  of the network never change (`keep` in network.py).
- A few rows need no copies (few.py).
"""
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import kernel
from ..._runtime import state
from .. import blocking
from ..dense import select
from ..dense.operands import fits, is_contiguous
from ..elementwise import activations
from ..elementwise.activations import RELU
from ..gemm import dot, loops
from ..matrix import MATRIX, Matrix, overlap
from ..schedule import trace
from ..schedule.arena import COUNTING, acquire, release, take
from ..schedule.queue import REGION_BYTES, run
from ..schedule.records import read, replace, write
from . import blocks
from .network import LAYER_BYTES, DenseLayer, Network, copied_bytes, copier, copies_at, is_kept, kept_algorithm, weights_of
from .rows import FEW, STEP_BYTES, UNIT, Rows, Step, infer_rows, room_of


@kernel
def algorithm_of(machine, x, layer, most_threads):
    """Return the algorithm of a layer for Matrix x (M, K) on so many threads at most: one of select.ALGORITHMS, FEW or UNIT."""
    if layer.rounded != 0:
        return UNIT
    chosen, size = select.forward(machine, x, weights_of(layer), layer.activation), machine.itemsize
    work = blocking.layer_work(1, x.rows, layer.inputs, layer.neurons)
    has_one_thread = most_threads == 1 or blocking.worth(work, machine.sizes.thread_work) == 1       # few.py uses one thread
    if select.is_skinny(machine, layer.inputs, layer.neurons):
        if x.col_step != size:
            return UNIT
        if has_one_thread and x.rows <= blocks.FEW_DOTTED_ROWS and is_kept(machine, layer, select.SKINNY):
            return FEW
        return select.SKINNY if chosen == select.SKINNY else UNIT
    if has_one_thread and x.rows <= blocks.FEW_ROWS:
        in_place = layer.weights_col_step == size and layer.weights_row_step >= layer.neurons * size
        if is_kept(machine, layer, select.PACKED) or (in_place and (layer.biases == 0 or layer.biases_step == size)):
            return FEW
    if chosen == select.STREAMED and is_kept(machine, layer, select.PACKED):
        return select.PACKED                            # Both have the same bits, and weights are packed already.
    return UNIT if chosen == select.NAIVE or chosen == select.STREAMED else chosen


@kernel
def new_bytes(machine, layer, algorithm):
    """Return the bytes of the copies that a call has to make of a layer."""
    if (algorithm == select.PACKED or algorithm == select.SKINNY) and not is_kept(machine, layer, algorithm):
        return copied_bytes(machine, layer.inputs, layer.neurons, algorithm)
    return 0


@kernel
def inputs_of(x, layer, k, size):
    """Return the Matrix of the inputs of layer k: x, or rows in a worker's memory, which is not known yet."""
    if k == 0:
        return x
    return Matrix(data=0, rows=x.rows, cols=layer.inputs, row_step=layer.inputs * size, col_step=size)


class Plan(NamedTuple):
    """The sizes of a call."""

    status: int                 # OK, or the request for a lazy unit
    work: int                   # multiply-adds
    widest: int                 # the most neurons of a layer
    copied: int                 # bytes of the copies that have to be made
    has_units: int              # 1: some layer is computed by its forward unit


class CallMemory(NamedTuple):
    """Addresses of a call's memory."""

    queue: int                  # the queue of the rows, or of packing
    steps: int                  # a Step for each layer
    copies: int                 # the copies that have to be made
    workers: int                # a Room for each worker
    worker_bytes: int           # bytes of a Room: a size, no address
    end: int                    # the first byte behind all this


@kernel
def call_memory(arena, machine, plan, layers, block, workers, threads):
    """Return the CallMemory for so many layers, rows of a block, workers, and threads of each worker's products."""
    queue, arena = take(arena, REGION_BYTES)
    steps, arena = take(arena, layers * STEP_BYTES)
    copies, arena = take(arena, plan.copied)
    worker_bytes = room_of(COUNTING, machine, block, plan.widest, threads).end
    rooms, arena = take(arena, workers * worker_bytes)
    return CallMemory(queue=queue, steps=steps, copies=copies, workers=rooms, worker_bytes=worker_bytes, end=arena)


def _build(dtype):
    machine, make_copies, task = blocking.machine(dtype), copier(dtype), infer_rows[dtype].address
    (edge, request_edge), (dot_products, request_dot), (activate, request_activate) = (
        (unit[dtype].address, unit[dtype].request) for unit in (loops.column_edge_tiles, dot.dot, activations.activate))

    @kernel
    def request(layer, algorithm):
        """Return OK, or the request for a lazy unit that the algorithm of a layer needs. A forward unit requests its own."""
        if algorithm == UNIT:
            return link.OK
        if layer.activation > RELU and activate() == 0:
            return request_activate()
        if algorithm == select.SKINNY and dot_products() == 0:
            return request_dot()
        if algorithm == select.PACKED and blocking.has_column_edge(machine, layer.neurons) and edge() == 0:
            return request_edge()
        return link.OK

    @kernel
    def plan_of(here, network, x, most_threads):
        """Return the Plan of a call."""
        plan = Plan(status=link.OK, work=0, widest=1, copied=0, has_units=0)
        for k in range(network.count):
            layer = read(network.layers + k * LAYER_BYTES, DenseLayer)
            algorithm = algorithm_of(here, inputs_of(x, layer, k, here.itemsize), layer, most_threads)
            status = request(layer, algorithm)
            plan = Plan(status=status if status != link.OK else plan.status,
                        work=plan.work + blocking.layer_work(1, x.rows, layer.inputs, layer.neurons),
                        widest=max(plan.widest, layer.neurons), copied=plan.copied + new_bytes(here, layer, algorithm),
                        has_units=max(plan.has_units, int(algorithm == UNIT)))
        return plan

    @kernel
    def make_steps(here, network, x, room, threads, most_threads):
        """Write the Step of each layer, and make the copies that have to be made."""
        free = room.copies
        for k in range(network.count):
            layer = read(network.layers + k * LAYER_BYTES, DenseLayer)
            algorithm = algorithm_of(here, inputs_of(x, layer, k, here.itemsize), layer, most_threads)
            step = Step(algorithm=algorithm, weights=0, biases=layer.biases)
            copied_for = kept_algorithm(here, layer.inputs, layer.neurons) if algorithm == FEW else algorithm
            if algorithm != UNIT and is_kept(here, layer, copied_for):
                copies = copies_at(layer.kept, here, layer, copied_for)
                step = replace(step, weights=copies.weights, biases=copies.biases)
            elif algorithm == select.PACKED or algorithm == select.SKINNY:
                copies = make_copies(layer, algorithm, free, room.queue, threads)
                step, free = replace(step, weights=copies.weights, biases=copies.biases), copies.end
            write(room.steps + k * STEP_BYTES, step)

    def infer(network_address, x, y):
        """Compute y (M, outputs), scores or probabilities, from x (M, inputs).

        Rows of y are contiguous, and rows or columns of x.
        """
        network, here, size = read(network_address, Network), blocking.with_caches(machine), machine.itemsize
        first, last = (read(network.layers, DenseLayer),
                       read(network.layers + (network.count - 1) * LAYER_BYTES, DenseLayer))
        if x.cols != first.inputs or not fits(y, x.rows, last.neurons, size) or not is_contiguous(x, size):
            return link.REFUSED
        if overlap(x, y, size):
            return link.REFUSED
        most_threads = state.word(state.THREADS)        # read once: another thread may set it meanwhile
        plan = plan_of(here, network, x, most_threads)
        if plan.status != link.OK or x.rows == 0:
            return plan.status
        threads = blocking.threads(plan.work)
        block = blocks.block_rows(here, x.rows, plan.widest) if plan.has_units == 0 else min(x.rows, blocks.UNIT_ROWS)
        tasks, workers = blocking.blocks(x.rows, block), threads
        if plan.has_units != 0 or tasks < threads:      # one block after another, with all threads in each product
            workers = 1
            if plan.has_units == 0:
                tasks, block = 1, x.rows
        each = threads if workers == 1 else 1
        memory, slot = acquire(call_memory(COUNTING, here, plan, network.count, block, workers, each).end)
        if memory == 0:
            return link.NO_MEMORY
        room = call_memory(memory, here, plan, network.count, block, workers, each)
        make_steps(here, network, x, room, threads, most_threads)
        job = Rows(tasks=tasks, block=block, network=network_address, steps=room.steps, x=x.data, x_row_step=x.row_step,
                   x_col_step=x.col_step, y=y.data, y_row_step=y.row_step, rows=x.rows, widest=plan.widest, threads=each,
                   memory=room.workers, memory_bytes=room.worker_bytes)
        status = link.OK
        if workers > 1:
            run(task(), job, room.queue, workers)
        else:
            here_job = trace.in_memory(job)
            for number in range(tasks):
                if status == link.OK:
                    status = link.call(task(), (here_job, 0, number))
        release(slot)
        return status

    return infer


infer = link.units("infer", types.intp(types.intp, MATRIX, MATRIX), _build)
