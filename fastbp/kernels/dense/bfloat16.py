"""A dense layer whose products multiply bfloat16: float32 matrices, rounded on the way into a product and summed in float32.

The units, arguments and refusals are those of passes.py. Everything but the operands of the products is float32, and dbiases
is a sum of numbers that are not rounded. The batch is processed in blocks, so that the rounded numbers stay in the caches.
"""
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import formula, kernel
from .. import blocking
from ..elementwise import activations
from ..elementwise.activations import RELU
from ..gemm import loops, packing
from ..gemm.problem import activated, gemm_problem, packed_b, scratch_bytes
from ..gemm.rounding import across_rows, along_rows, round_rows
from ..matrix import Matrix, from_row, transpose_of
from ..schedule import trace
from ..schedule.arena import COUNTING, acquire, release, take
from ..schedule.queue import REGION_BYTES, add, barrier, begin, run_queue
from ..schedule.records import replace
from ..simd import tile
from . import columns
from .columns import mask_job
from .operands import BACKWARD, FORWARD, backward_fits, forward_fits

# Bytes of a float32, and of a pair of bfloat16.
SIZE = 4

# Bits of a factor of a product.
BITS = 16


@formula
def pairs_of(machine, numbers):
    """Return how many pairs hold so many numbers along K, with zeros where tiles take more at a time."""
    return blocking.round_up(blocking.blocks(numbers, 2), machine.step)


@kernel
def as_a(data, rows, cols):
    """Return a Matrix of pairs at an address, laid out as A of a product, of a_bytes."""
    return Matrix(data=data, rows=rows, cols=cols, row_step=blocking.spread(cols * SIZE), col_step=SIZE)


@kernel
def a_bytes(machine, rows, cols):
    """Return the bytes of A: whole tiles, as a tile reads all of its rows, whether it uses them or not."""
    return blocking.round_up(rows, machine.height) * blocking.spread(cols * SIZE)


@kernel
def compact(data, rows, cols):
    """Return a Matrix of pairs at an address, its rows one after another."""
    return Matrix(data=data, rows=rows, cols=cols, row_step=cols * SIZE, col_step=SIZE)


# ---- forward


class ForwardMemory(NamedTuple):
    """Addresses of a forward pass's memory."""

    queue: int                  # the queue
    bias: int                   # the biases, filled up to whole tiles
    packed: int                 # micropanels of the weights
    weights: int                # the weights rounded
    x: int                      # a block of x rounded
    scratch: int                # gemm.problem.scratch_bytes for each thread, for copies of A
    end: int                    # the first byte behind all this


@kernel
def forward_memory(arena, machine, weights, rows, threads):
    """Return the ForwardMemory for Matrix weights (K, N) and blocks of so many rows."""
    pairs, neurons = pairs_of(machine, weights.rows), weights.cols
    queue, arena = take(arena, REGION_BYTES)
    bias, arena = take(arena, packing.row_bytes(machine, neurons))
    packed, arena = take(arena, packing.packed_bytes(machine, pairs, neurons))
    rounded, arena = take(arena, pairs * neurons * SIZE)
    x, arena = take(arena, a_bytes(machine, rows, pairs))
    scratch, arena = take(arena, threads * scratch_bytes(machine))
    return ForwardMemory(queue=queue, bias=bias, packed=packed, weights=rounded, x=x, scratch=scratch, end=arena)


def _build_forward(dtype):
    tiles, machine = blocking.tiles(tile.BFLOAT16), blocking.machine(tile.BFLOAT16)
    round_pairs, pack, gemm = round_rows[dtype].address, packing.pack[dtype].address, loops.gemm[dtype].address
    activate, request_activate = activations.activate[types.float32].address, activations.activate[types.float32].request
    edge, request_edge = loops.column_edge_tiles[dtype].address, loops.column_edge_tiles[dtype].request

    def forward(operands, most_threads):
        """Compute y, and for gelu saved = dy/dz, as passes.forward does."""
        x, weights, y, saved, activation = operands.x, operands.weights, operands.y, operands.saved, operands.activation
        if not forward_fits(operands, SIZE) or x.col_step != SIZE or weights.col_step != SIZE:
            return link.REFUSED
        if blocking.has_column_edge(machine, y.cols) and edge() == 0:
            return request_edge()
        if activation > RELU and activate() == 0:
            return request_activate()
        here, neurons, pairs = blocking.with_caches(machine), y.cols, pairs_of(machine, x.cols)
        threads = min(most_threads, blocking.threads(blocking.layer_work(1, x.rows, x.cols, neurons)))
        block = blocking.rounded_rows(x.rows, x.cols)
        memory, slot = acquire(forward_memory(COUNTING, here, weights, block, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = forward_memory(memory, here, weights, block, threads)
        bias = packing.copy_bias(tiles, operands.biases, room.bias)
        rounded_weights = compact(room.weights, pairs, neurons)                 # (K / 2, N)
        begin(room.queue)
        add(room.queue, round_pairs(), across_rows(weights, rounded_weights))
        barrier(room.queue)
        add(room.queue, pack(), packing.pack_job(machine, rounded_weights, room.packed))
        for i in range(0, x.rows, block):
            rows = min(block, x.rows - i)
            rounded_x = as_a(room.x, rows, pairs)                               # (rows, K / 2)
            add(room.queue, round_pairs(), along_rows(from_row(x, i, rows), rounded_x))
            barrier(room.queue)
            saved_block = from_row(saved, i, rows) if saved.data != 0 else saved
            b = packed_b(room.packed, pairs * SIZE)
            problem = gemm_problem(here, rounded_x, b, from_row(y, i, rows), room.scratch, threads)
            add(room.queue, gemm(), activated(replace(problem, bias=bias), activation, saved_block))
            run_queue(room.queue, threads)
        release(slot)
        return link.OK

    return trace.forward(forward, BITS)


forward = link.units("forward", FORWARD, _build_forward, [tile.BFLOAT16])


# ---- backward


class BackwardMemory(NamedTuple):
    """Addresses of a backward pass's memory: of weights.T, then of a block of rows.

    The rounded weights lie where dz to x_across are written once the weights are packed.
    """

    queue: int                  # the queue
    packed_weights: int         # micropanels of weights.T, if they are needed
    weights: int                # the weights rounded, until they are packed: in the place of what follows
    dz: int                     # dz of a block of rows, not rounded
    dz_along: int               # dz rounded along its rows
    dz_across: int              # dz rounded across its rows
    packed_dz: int              # micropanels of dz_across
    x_across: int               # x rounded across its rows
    scratch: int                # gemm.problem.scratch_bytes for each thread, for copies of A
    end: int                    # the first byte behind all this


@kernel
def backward_memory(arena, machine, weights, has_dinputs, rows, threads):
    """Return the BackwardMemory for Matrix weights (K, N) and blocks of so many rows."""
    inputs, neurons = weights.rows, weights.cols
    half, pairs = pairs_of(machine, rows), pairs_of(machine, neurons)
    queue, arena = take(arena, REGION_BYTES)
    packed_weights, arena = take(arena, packing.packed_bytes(machine, pairs, inputs) if has_dinputs else 0)
    rounded, beyond_weights = take(arena, inputs * pairs * SIZE)
    dz, arena = take(arena, rows * neurons * SIZE)
    dz_along, arena = take(arena, a_bytes(machine, rows, pairs))
    dz_across, arena = take(arena, half * neurons * SIZE)
    packed_dz, arena = take(arena, packing.packed_bytes(machine, half, neurons))
    x_across, arena = take(arena, half * inputs * SIZE)
    scratch, arena = take(max(arena, beyond_weights), threads * scratch_bytes(machine))
    return BackwardMemory(queue=queue, packed_weights=packed_weights, weights=rounded, dz=dz, dz_along=dz_along,
                          dz_across=dz_across, packed_dz=packed_dz, x_across=x_across, scratch=scratch, end=arena)


def _build_backward(dtype):
    machine, separate = blocking.machine(tile.BFLOAT16), _separate(dtype)
    edge, request_edge = loops.column_edge_tiles[dtype].address, loops.column_edge_tiles[dtype].request

    def backward(operands, most_threads):
        """Compute dinputs, dweights and dbiases, as passes.backward does."""
        x, weights = operands.x, operands.weights
        rows, inputs, neurons = x.rows, weights.rows, weights.cols
        if not backward_fits(operands, SIZE):
            return link.REFUSED
        if x.col_step != SIZE or weights.col_step != SIZE:
            return link.REFUSED
        if (blocking.has_column_edge(machine, neurons) or blocking.has_column_edge(machine, inputs)) and edge() == 0:
            return request_edge()
        threads = min(most_threads, blocking.threads(blocking.layer_work(2, rows, inputs, neurons)))
        return separate(operands, threads)

    return trace.backward(backward, BITS)


def _separate(dtype):
    machine = blocking.machine(tile.BFLOAT16)
    round_pairs, pack = round_rows[dtype].address, packing.pack[dtype].address
    mask, gemm = columns.mask[types.float32].address, loops.gemm[dtype].address

    @kernel
    def separate(operands, threads):
        """Compute each result by a product of its own, block of rows by block of rows."""
        dvalues, saved, x, weights = operands.dvalues, operands.saved, operands.x, operands.weights
        dinputs, dweights, dbiases = operands.dinputs, operands.dweights, operands.dbiases
        here, inputs, neurons = blocking.with_caches(machine), weights.rows, weights.cols
        block, has_dinputs = blocking.rounded_rows(x.rows, inputs + 3 * neurons), dinputs.data != 0
        memory, slot = acquire(backward_memory(COUNTING, here, weights, has_dinputs, block, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = backward_memory(memory, here, weights, has_dinputs, block, threads)
        pairs = pairs_of(machine, neurons)
        begin(room.queue)
        if has_dinputs:
            rounded_weights = compact(room.weights, inputs, pairs)                                  # (K, N / 2)
            add(room.queue, round_pairs(), along_rows(weights, rounded_weights))
            barrier(room.queue)
            add(room.queue, pack(), packing.pack_job(machine, transpose_of(rounded_weights), room.packed_weights))
            barrier(room.queue)                         # dz is written where the rounded weights are
        i = 0
        while True:                                     # once for an empty batch as well: its dweights are zeros
            rows, later = min(block, x.rows - i), int(i > 0)
            half = pairs_of(machine, rows)
            dz, dz_along = compact(room.dz, rows, neurons), as_a(room.dz_along, rows, pairs)        # (rows, N), (rows, N / 2)
            dz_across = compact(room.dz_across, half, neurons)                                      # (rows / 2, N)
            x_across = compact(room.x_across, half, inputs)                                         # (rows / 2, K)
            saved_block = from_row(saved, i, rows) if saved.data != 0 else saved
            dz_job = mask_job(here, from_row(dvalues, i, rows), operands.activation, saved_block, dz, dbiases.data)
            add(room.queue, mask(), replace(dz_job, accumulate=later))
            barrier(room.queue)
            add(room.queue, round_pairs(), across_rows(dz, dz_across))
            add(room.queue, round_pairs(), across_rows(from_row(x, i, rows), x_across))
            if has_dinputs:
                add(room.queue, round_pairs(), along_rows(dz, dz_along))
            barrier(room.queue)
            add(room.queue, pack(), packing.pack_job(machine, dz_across, room.packed_dz))
            barrier(room.queue)
            b = packed_b(room.packed_dz, half * SIZE)
            dweights_job = gemm_problem(here, transpose_of(x_across), b, dweights, room.scratch, threads)
            add(room.queue, gemm(), replace(dweights_job, accumulate=later))
            if has_dinputs:
                b = packed_b(room.packed_weights, pairs * SIZE)
                dinputs_job = gemm_problem(here, dz_along, b, from_row(dinputs, i, rows), room.scratch, threads)
                add(room.queue, gemm(), dinputs_job)
            run_queue(room.queue, threads)
            i += rows
            if i >= x.rows:
                break
        release(slot)
        return link.OK

    return separate


backward = link.units("backward", BACKWARD, _build_backward, [tile.BFLOAT16])
