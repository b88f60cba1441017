"""The passes of a dense layer, forward and backward, as jobs on matrices.

forward     y = activation(x @ weights + biases)
backward    dz = dvalues * dy/dz (activations.py), dbiases = its column sums, dinputs = dz @ weights.T, dweights = x.T @ dz
            (the chain rule of Rumelhart, Hinton and Williams, Nature 323, 1986, in matrices)

A unit first checks that its operands fit, and refuses what it cannot compute: the caller then finds out why. select.py chooses
the algorithm. This file has the forward passes PACKED and STREAMED, and the backward pass SEPARATE, which computes each result
by a product of its own.
"""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import kernel
from ..._runtime import state
from .. import blocking
from ..elementwise import activations
from ..elementwise.activations import RELU
from ..gemm import dot, loops, packing, streamed
from ..gemm.problem import activated, b_to_pack, gemm_problem, packed_b, scratch_bytes, unpacked_b, with_soon
from ..matrix import Matrix, from_row, only_if, transpose_of
from ..schedule import trace
from ..schedule.arena import COUNTING, acquire, release, take
from ..schedule.queue import REGION_BYTES, add, barrier, begin, run_queue
from ..schedule.records import replace
from . import columns, fused, naive, narrow, select, skinny, swapped
from .columns import mask_job
from .fused import b_of_weights, dz_row_bytes
from .operands import BACKWARD, FORWARD, backward_fits, forward_fits, is_contiguous

# ---- forward


class ForwardMemory(NamedTuple):
    """Addresses of a forward pass's memory."""

    queue: int                  # the queue
    bias: int                   # the biases, filled up to whole tiles
    weights: int                # micropanels of weights, or 0 if they are not packed before the product
    scratch: int                # scratch memory of the threads
    end: int                    # the first byte behind all this


@kernel
def forward_memory(arena, machine, rows, weights, algorithm, threads):
    """Return the ForwardMemory of an algorithm, STREAMED or PACKED, for so many rows and Matrix weights (K, N)."""
    queue, arena = take(arena, REGION_BYTES)
    bias, arena = take(arena, packing.row_bytes(machine, weights.cols))
    if algorithm == select.STREAMED:
        task_cols = streamed.cols_of_task(machine, rows, weights.cols, threads)
        packed, scratch_size = 0, streamed.scratch_bytes(machine, rows, task_cols, threads)
    else:
        packed, scratch_size = 0, threads * scratch_bytes(machine)
        if not blocking.packs_in_tasks(rows):
            packed, arena = take(arena, packing.packed_bytes(machine, weights.rows, weights.cols))
    scratch, arena = take(arena, scratch_size)
    return ForwardMemory(queue=queue, bias=bias, weights=packed, scratch=scratch, end=arena)


def _build_forward(dtype):
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    pack, gemm = packing.pack[dtype].address, loops.gemm[dtype].address
    naive_forward, skinny_forward = naive.forward[dtype].call_lazy, skinny.forward[dtype].call_lazy
    (stream, request_stream), (edge, request_edge), (dot_products, request_dot), (activate, request_activate) = (
        (unit[dtype].address, unit[dtype].request)
        for unit in (streamed.streamed, loops.column_edge_tiles, dot.dot, activations.activate))

    def forward(operands, most_threads):
        """Compute y, and for gelu saved = dy/dz. Rows of the results are contiguous, and none overlaps anything."""
        size, x, weights, y, activation = machine.itemsize, operands.x, operands.weights, operands.y, operands.activation
        if not forward_fits(operands, size) or not is_contiguous(x, size):
            return link.REFUSED
        here = blocking.with_caches(machine)
        algorithm = select.forward(here, x, weights, activation)
        if algorithm == select.NAIVE:
            return naive_forward((operands, 1))
        if activation > RELU and activate() == 0:
            return request_activate()
        threads = min(most_threads, blocking.threads(blocking.layer_work(1, x.rows, x.cols, y.cols)))
        if algorithm == select.SKINNY:
            if dot_products() == 0:
                return request_dot()
            return skinny_forward((operands, threads))
        if algorithm == select.STREAMED and stream() == 0:
            return request_stream()
        if algorithm == select.PACKED and blocking.has_column_edge(machine, y.cols) and edge() == 0:
            return request_edge()
        memory, slot = acquire(forward_memory(COUNTING, here, x.rows, weights, algorithm, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = forward_memory(memory, here, x.rows, weights, algorithm, threads)
        begin(room.queue)
        if algorithm == select.STREAMED:                                        # y (M, N) = x (M, K) weights (K, N)
            problem = streamed.problem_of(here, x, weights, y, room.scratch, threads)
        else:
            b = b_to_pack(weights)
            if room.weights != 0:
                b = packed_b(room.weights, x.cols * size)
                add(room.queue, pack(), packing.pack_job(machine, weights, room.weights))
                barrier(room.queue)
            problem = gemm_problem(here, x, b, y, room.scratch, threads)
        problem = replace(problem, bias=packing.copy_bias(tiles, operands.biases, room.bias))
        problem = activated(problem, activation, operands.saved)
        is_long = x.row_step == x.cols * size and x.cols <= problem.kc and x.rows * x.row_step > state.word(state.L2)
        if is_long and algorithm == select.PACKED:
            problem = with_soon(machine, problem, x.data + problem.mc * x.row_step, 0, x.rows * x.row_step)
        add(room.queue, stream() if algorithm == select.STREAMED else gemm(), problem)
        run_queue(room.queue, threads)
        release(slot)
        return link.OK

    return trace.forward(forward, dtype.bitwidth)


forward = link.units("forward", FORWARD, _build_forward)


# ---- backward


def _build_backward(dtype):
    machine, separate = blocking.machine(dtype), _separate(dtype)
    naive_backward, narrow_backward, fused_backward = (
        unit[dtype].call_lazy for unit in (naive.backward, narrow.backward, fused.backward))
    (unpacked, request_unpacked), (edge, request_edge), (dot_products, request_dot), (swap, request_swap) = (
        (unit[dtype].address, unit[dtype].request)
        for unit in (loops.unpacked_tiles, loops.column_edge_tiles, dot.dot, swapped.swapped))
    stream, request_stream = streamed.streamed[dtype].address, streamed.streamed[dtype].request

    def backward(operands, most_threads):
        """Compute dinputs, dweights and dbiases; without `saved` the activation is the identity.

        Rows of dvalues, saved and of the results are contiguous, and no result overlaps anything.
        """
        x, weights, dinputs, activation = operands.x, operands.weights, operands.dinputs, operands.activation
        size, rows, inputs, neurons = machine.itemsize, x.rows, weights.rows, weights.cols
        if not backward_fits(operands, size) or not is_contiguous(x, size):
            return link.REFUSED
        here = blocking.with_caches(machine)
        choice = select.backward(here, x, weights, activation)
        if choice.whole == select.NAIVE:
            return naive_backward((operands, 1))
        threads = min(most_threads, blocking.threads(blocking.layer_work(2, rows, inputs, neurons)))
        if dinputs.data != 0 and choice.dinputs == select.DOT and dot_products() == 0:
            return request_dot()
        if choice.whole == select.NARROW:
            return narrow_backward((operands, choice, threads))
        if choice.dweights != select.PACKED and unpacked() == 0:
            return request_unpacked()
        if dinputs.data != 0 and choice.dinputs == select.STREAMED and stream() == 0:
            return request_stream()
        if dinputs.data != 0 and choice.dinputs == select.SWAPPED and swap() == 0:
            return request_swap()
        cols_of_b = rows if choice.dinputs == select.SWAPPED else inputs
        if (blocking.has_column_edge(machine, neurons) or blocking.has_column_edge(machine, cols_of_b)) and edge() == 0:
            return request_edge()
        if choice.whole == select.FUSED:
            return fused_backward((operands, choice, threads))
        return separate(operands, choice, threads)

    return trace.backward(backward, dtype.bitwidth)


class SeparateMemory(NamedTuple):
    """Addresses of the memory of a backward pass whose results are products of their own."""

    queue: int                  # the queue
    weights: int                # micropanels of weights.T, or 0 if they are not packed before the product
    swapped: swapped.Memory     # memory of a swapped product for dinputs
    dz: int                     # dz of a block of rows
    packed: int                 # micropanels of dz, or of the edge of x; else room that tiles read beyond a dz in place
    dweights: int               # dweights.T of a skinny layer
    scratch: int                # scratch memory of the threads
    streamed: int               # scratch memory of a streamed product: other threads are still at the product before it
    end: int                    # the first byte behind all this


@kernel
def separate_memory(arena, machine, weights, choice, has_dinputs, rows, threads):
    """Return the SeparateMemory for blocks of so many rows; has_dinputs: whether dinputs are wanted."""
    inputs, neurons = weights.rows, weights.cols
    queue, arena = take(arena, REGION_BYTES)
    weights_t = 0
    if has_dinputs and choice.dinputs == select.PACKED and not blocking.packs_in_tasks(rows):
        weights_t, arena = take(arena, packing.packed_bytes(machine, neurons, inputs))
    swap = swapped.memory_of(arena, machine, rows, weights, has_dinputs and choice.dinputs == select.SWAPPED)
    dz, arena = take(swap.end, rows * dz_row_bytes(machine, neurons))
    if choice.dweights == select.SKINNY:
        packed, arena = take(arena, packing.edge_bytes(machine, rows, inputs))
    elif choice.dweights == select.UNPACKED:
        packed, arena = take(arena, machine.unpacked_width * machine.itemsize)
    else:
        packed, arena = take(arena, packing.packed_bytes(machine, rows, neurons))
    is_skinny = choice.dweights == select.SKINNY
    dweights, arena = take(arena, skinny.dweights_bytes(machine, inputs, neurons) if is_skinny else 0)
    is_streamed = has_dinputs and choice.dinputs == select.STREAMED
    streamed_bytes = streamed.scratch_bytes(machine, rows, machine.width, threads) if is_streamed else 0
    scratch, arena = take(arena, threads * scratch_bytes(machine))
    streamed_scratch, arena = take(arena, streamed_bytes)
    return SeparateMemory(queue=queue, weights=weights_t, swapped=swap, dz=dz, packed=packed, dweights=dweights,
                          scratch=scratch, streamed=streamed_scratch, end=arena)


def _separate(dtype):
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    pack, mask = packing.pack[dtype].address, columns.mask[dtype].address
    gemm, dot_products, swap, stream = (
        unit[dtype].address for unit in (loops.gemm, dot.dot, swapped.swapped, streamed.streamed))

    @kernel
    def separate(operands, choice, threads):
        """Compute each result by a product of its own. The batch is processed in blocks, whose dz stays in L3."""
        dvalues, saved, x, weights = operands.dvalues, operands.saved, operands.x, operands.weights
        dinputs, dweights, dbiases = operands.dinputs, operands.dweights, operands.dbiases
        here, size, inputs, neurons = blocking.with_caches(machine), machine.itemsize, x.cols, dvalues.cols
        by_dot, is_skinny, has_dinputs = choice.dinputs == select.DOT, choice.dweights == select.SKINNY, dinputs.data != 0
        dz_row = dz_row_bytes(machine, neurons)
        block = blocking.dz_rows(dvalues.rows, dz_row)
        memory, slot = acquire(separate_memory(COUNTING, here, weights, choice, has_dinputs, block, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = separate_memory(memory, here, weights, choice, has_dinputs, block, threads)
        begin(room.queue)
        if room.weights != 0:
            add(room.queue, pack(), packing.pack_job(machine, transpose_of(weights), room.weights))
        i = 0
        while True:                                     # once for an empty batch as well: its dweights are zeros
            rows, later = min(block, dvalues.rows - i), int(i > 0)
            x_block = from_row(x, i, rows)                                                      # (rows, K)
            dz = Matrix(data=room.dz, rows=rows, cols=neurons, row_step=dz_row, col_step=size)  # (rows, N)
            micropanels = room.packed if choice.dweights == select.PACKED else 0
            kept = only_if(int(has_dinputs or micropanels == 0), dz)
            saved_block = from_row(saved, i, rows) if saved.data != 0 else saved
            dz_job = mask_job(here, from_row(dvalues, i, rows), operands.activation, saved_block, kept, dbiases.data)
            add(room.queue, mask(), replace(dz_job, micropanels=micropanels, accumulate=later))
            barrier(room.queue)
            if has_dinputs and choice.dinputs == select.SWAPPED:    # dinputs.T (K, rows) = weights (K, N) dz.T (N, rows)
                problem = swapped.problem_of(here, weights, dz, from_row(dinputs, i, rows), room.swapped, room.scratch, threads)
                swapped.add_jobs(room.queue, machine, pack(), swap(), problem, dz, room.swapped)
            if is_skinny:                               # dweights.T (N, K) += dz.T (N, rows) x (rows, K)
                packing.pack_edge(tiles, x_block, room.packed)
                dweights_job = skinny.dweights_problem(here, dz, x_block, room.packed, room.dweights, room.scratch, threads)
            else:                                       # dweights (K, N) += x.T (K, rows) dz (rows, N)
                b = packed_b(room.packed, rows * size) if micropanels != 0 else unpacked_b(dz, 0)
                dweights_job = gemm_problem(here, transpose_of(x_block), b, dweights, room.scratch, threads)
            add(room.queue, gemm(), replace(dweights_job, accumulate=later))
            if has_dinputs and choice.dinputs == select.STREAMED:   # dinputs (rows, K) = dz (rows, N) weights.T (N, K)
                b, c = transpose_of(weights), from_row(dinputs, i, rows)
                add(room.queue, stream(), streamed.problem_of(here, dz, b, c, room.streamed, threads))
            elif has_dinputs and choice.dinputs != select.SWAPPED:  # the same
                b = b_of_weights(machine, weights, by_dot, room.weights)
                dinputs_job = gemm_problem(here, dz, b, from_row(dinputs, i, rows), room.scratch, threads)
                add(room.queue, dot_products() if by_dot else gemm(), dinputs_job)
            run_queue(room.queue, threads)
            i += rows
            if i >= dvalues.rows:
                break
        if is_skinny:
            dweights_t = Matrix(data=room.dweights, rows=neurons, cols=inputs, row_step=inputs * size, col_step=size)
            packing.transpose(tiles, dweights_t, dweights)
        release(slot)
        return link.OK

    return separate


backward = link.units("backward", BACKWARD, _build_backward)
