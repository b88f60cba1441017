"""A dense layer whose products multiply bfloat16: float32 matrices, rounded on the way into a product and summed in float32.

The units, arguments and refusals are those of passes.py. Everything but the operands of the products is float32, and dbiases
is a sum of numbers that are not rounded. Where rounding would take longer than it saves (select.is_rounded), and on a CPU that
does not multiply bfloat16, the units of passes.py compute the pass in float32.
"""
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..elementwise import activations
from ..elementwise.activations import RELU
from ..gemm import loops, packing, rounding
from ..gemm.problem import activated, gemm_problem, packed_b
from ..gemm.rounding import across_rows, along_rows, pairs_of
from ..matrix import Matrix, from_row, transpose_of
from ..schedule import trace
from ..schedule.arena import COUNTING, acquire, release, take
from ..schedule.queue import REGION_BYTES, add, barrier, begin, run_queue
from ..schedule.records import replace
from ..simd import tile
from . import columns, passes, select
from .columns import mask_job
from .operands import BACKWARD, FORWARD, backward_fits, forward_fits

# Bytes of a float32, and of a pair of bfloat16.
SIZE = 4

# Bits of a factor of a product.
BITS = 16


def _where_it_pays(rounded, in_float32):
    """Return the pass that calls the kernel `rounded` where that takes less time, and else the unit of passes.py.

    in_float32: the address of that unit, as a function.
    """
    limit = blocking.rounded_limit()

    def either(operands, most_threads):
        """Compute what the unit of passes.py does."""
        if select.is_rounded(limit, operands.x.rows, operands.weights.rows, operands.weights.cols):
            return rounded(operands, most_threads)
        return link.call(in_float32(), (operands, most_threads))

    return either


# ---- forward


class ForwardMemory(NamedTuple):
    """Addresses of a forward pass's memory."""

    queue: int                  # the queue
    bias: int                   # the biases, filled up to whole tiles
    weights: int                # micropanels of the weights
    scratch: int                # rounding.scratch_bytes for each thread, for blocks of x
    end: int                    # the first byte behind all this


@kernel
def forward_memory(arena, machine, weights, threads):
    """Return the ForwardMemory for Matrix weights (K, N)."""
    queue, arena = take(arena, REGION_BYTES)
    bias, arena = take(arena, packing.row_bytes(machine, weights.cols))
    packed, arena = take(arena, packing.packed_bytes(machine, pairs_of(machine, weights.rows), weights.cols))
    scratch, arena = take(arena, threads * rounding.scratch_bytes(machine))
    return ForwardMemory(queue=queue, bias=bias, weights=packed, scratch=scratch, end=arena)


def _build_forward(dtype):
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    pack, gemm = rounding.pack[dtype].address, loops.gemm[dtype].address
    activate, request_activate = activations.activate[types.float32].address, activations.activate[types.float32].request
    edge, request_edge = loops.column_edge_tiles[dtype].address, loops.column_edge_tiles[dtype].request

    def rounded(operands, most_threads):
        x, weights, y, activation = operands.x, operands.weights, operands.y, operands.activation
        if not forward_fits(operands, SIZE) or x.col_step != SIZE or weights.col_step != SIZE:
            return link.REFUSED
        if blocking.has_column_edge(machine, y.cols) and edge() == 0:
            return request_edge()
        if activation > RELU and activate() == 0:
            return request_activate()
        here, inputs = blocking.with_caches(machine), x.cols
        threads = min(most_threads, blocking.threads(blocking.layer_work(1, x.rows, inputs, y.cols)))
        memory, slot = acquire(forward_memory(COUNTING, here, weights, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = forward_memory(memory, here, weights, threads)
        begin(room.queue)
        add(room.queue, pack(), rounding.pack_job(machine, across_rows(machine, weights), inputs, room.weights))
        barrier(room.queue)                                                     # y (M, N) = x (M, K) weights (K, N)
        b = packed_b(room.weights, pairs_of(machine, inputs) * SIZE)
        problem = gemm_problem(here, along_rows(machine, x), b, y, room.scratch, threads)
        problem = replace(problem, numbers=inputs, bias=packing.copy_bias(tiles, operands.biases, room.bias))
        add(room.queue, gemm(), activated(problem, activation, operands.saved))
        run_queue(room.queue, threads)
        release(slot)
        return link.OK

    return _where_it_pays(kernel(trace.forward(rounded, BITS)), passes.forward[types.float32].address)


forward = link.units("forward", FORWARD, _build_forward, [tile.BFLOAT16])


# ---- backward


class BackwardMemory(NamedTuple):
    """Addresses of a backward pass's memory: of weights.T, then of a block of rows."""

    queue: int                  # the queue
    weights: int                # micropanels of weights.T, if they are needed
    dz: int                     # dz of a block of rows, not rounded
    packed_dz: int              # micropanels of dz
    scratch: int                # rounding.scratch_bytes for each thread, for blocks of x.T and dz
    end: int                    # the first byte behind all this


@kernel
def backward_memory(arena, machine, weights, has_dinputs, rows, threads):
    """Return the BackwardMemory for Matrix weights (K, N) and blocks of so many rows."""
    inputs, neurons = weights.rows, weights.cols
    queue, arena = take(arena, REGION_BYTES)
    packed, arena = take(arena, packing.packed_bytes(machine, pairs_of(machine, neurons), inputs) if has_dinputs else 0)
    dz, arena = take(arena, rows * neurons * SIZE)
    packed_dz, arena = take(arena, packing.packed_bytes(machine, pairs_of(machine, rows), neurons))
    scratch, arena = take(arena, threads * rounding.scratch_bytes(machine))
    return BackwardMemory(queue=queue, weights=packed, dz=dz, packed_dz=packed_dz, scratch=scratch, end=arena)


def _build_backward(dtype):
    machine, separate = blocking.machine(dtype), _separate(dtype)
    edge, request_edge = loops.column_edge_tiles[dtype].address, loops.column_edge_tiles[dtype].request

    def rounded(operands, most_threads):
        x, weights = operands.x, operands.weights
        rows, inputs, neurons = x.rows, weights.rows, weights.cols
        if not backward_fits(operands, SIZE) or x.col_step != SIZE or weights.col_step != SIZE:
            return link.REFUSED
        if (blocking.has_column_edge(machine, neurons) or blocking.has_column_edge(machine, inputs)) and edge() == 0:
            return request_edge()
        threads = min(most_threads, blocking.threads(blocking.layer_work(2, rows, inputs, neurons)))
        return separate(operands, threads)

    return _where_it_pays(kernel(trace.backward(rounded, BITS)), passes.backward[types.float32].address)


def _separate(dtype):
    machine = blocking.machine(dtype)
    pack, mask, gemm = rounding.pack[dtype].address, columns.mask[types.float32].address, loops.gemm[dtype].address

    @kernel
    def separate(operands, threads):
        """Compute each result by a product of its own, block of rows by block of rows."""
        dvalues, saved, x, weights = operands.dvalues, operands.saved, operands.x, operands.weights
        dinputs, dweights, dbiases = operands.dinputs, operands.dweights, operands.dbiases
        here, neurons, has_dinputs = blocking.with_caches(machine), weights.cols, dinputs.data != 0
        block = blocking.rounded_rows(x.rows, neurons * SIZE)
        memory, slot = acquire(backward_memory(COUNTING, here, weights, has_dinputs, block, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = backward_memory(memory, here, weights, has_dinputs, block, threads)
        begin(room.queue)
        if has_dinputs:
            weights_t = across_rows(machine, transpose_of(weights))                                 # (N, K)
            add(room.queue, pack(), rounding.pack_job(machine, weights_t, neurons, room.weights))
        for i in range(0, x.rows, block):
            rows, later = min(block, x.rows - i), int(i > 0)
            x_block = from_row(x, i, rows)                                                          # (rows, K)
            dz = Matrix(data=room.dz, rows=rows, cols=neurons, row_step=neurons * SIZE, col_step=SIZE)      # (rows, N)
            saved_block = from_row(saved, i, rows) if saved.data != 0 else saved
            dz_job = mask_job(here, from_row(dvalues, i, rows), operands.activation, saved_block, dz, dbiases.data)
            add(room.queue, mask(), replace(dz_job, accumulate=later))
            barrier(room.queue)
            add(room.queue, pack(), rounding.pack_job(machine, across_rows(machine, dz), rows, room.packed_dz))
            barrier(room.queue)                         # dweights (K, N) += x.T (K, rows) dz (rows, N)
            b, x_t = packed_b(room.packed_dz, pairs_of(machine, rows) * SIZE), along_rows(machine, transpose_of(x_block))
            dweights_job = gemm_problem(here, x_t, b, dweights, room.scratch, threads)
            add(room.queue, gemm(), replace(dweights_job, numbers=rows, accumulate=later))
            if has_dinputs:                             # dinputs (rows, K) = dz (rows, N) weights.T (N, K)
                b = packed_b(room.weights, pairs_of(machine, neurons) * SIZE)
                dinputs_job = gemm_problem(here, along_rows(machine, dz), b, from_row(dinputs, i, rows), room.scratch, threads)
                add(room.queue, gemm(), replace(dinputs_job, numbers=neurons))
            run_queue(room.queue, threads)
        release(slot)
        return link.OK

    return separate


backward = link.units("backward", BACKWARD, _build_backward, [tile.BFLOAT16])
