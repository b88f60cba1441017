"""The backward pass of a layer but for dweights, which an optimiser computes in blocks as it needs them (train/dweights.py)."""
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..gemm import dot, loops, packing, streamed
from ..gemm.problem import gemm_problem, scratch_bytes
from ..matrix import MATRIX, only_if, transpose_of
from ..schedule import trace
from ..schedule.arena import COUNTING, acquire, release, take
from ..schedule.queue import REGION_BYTES, add, barrier, begin, run_queue
from ..schedule.records import replace
from ..schedule.trace import Call
from . import columns, select, swapped
from .columns import mask_job
from .fused import b_of_weights


class Memory(NamedTuple):
    """Addresses of the memory of a pass."""

    queue: int                  # the queue
    weights: int                # micropanels of weights.T, or 0 if they are not packed before the product
    swapped: swapped.Memory     # memory of a swapped product
    scratch: int                # scratch memory of the threads
    end: int                    # the first byte behind all this


@kernel
def memory_of(arena, machine, rows, weights, algorithm, threads):
    """Return the Memory for so many rows of dinputs and Matrix weights; algorithm: that of dinputs."""
    queue, arena = take(arena, REGION_BYTES)
    packed = 0
    if algorithm == select.PACKED and not blocking.packs_in_tasks(rows):
        packed, arena = take(arena, packing.packed_bytes(machine, weights.cols, weights.rows))
    swap = swapped.memory_of(arena, machine, rows, weights, algorithm == select.SWAPPED)
    streamed_bytes = streamed.scratch_bytes(machine, rows, machine.width, threads) if algorithm == select.STREAMED else 0
    scratch, arena = take(swap.end, max(threads * scratch_bytes(machine), streamed_bytes))
    return Memory(queue=queue, weights=packed, swapped=swap, scratch=scratch, end=arena)


def _build(dtype):
    machine, precision = blocking.machine(dtype), dtype.bitwidth
    pack, mask = packing.pack[dtype].address, columns.mask[dtype].address
    gemm, dot_products = loops.gemm[dtype].address, dot.dot[dtype].address
    edge, request_edge = loops.column_edge_tiles[dtype].address, loops.column_edge_tiles[dtype].request
    request_dot = dot.dot[dtype].request
    swap, request_swap = swapped.swapped[dtype].address, swapped.swapped[dtype].request
    stream, request_stream = streamed.streamed[dtype].address, streamed.streamed[dtype].request

    def backward_inputs(dvalues, saved, weights, dinputs, dbiases, micropanels, activation):
        """Write dz as micropanels, its column sums dbiases and, unless that is missing, dinputs.

        With dinputs, dz also overwrites dvalues. Arguments are Matrix as for passes.backward; `micropanels` is an address.
        """
        begun = trace.begin()
        rows, inputs, neurons = dvalues.rows, weights.rows, weights.cols
        here = blocking.with_caches(machine)
        algorithm = select.dinputs_product(here, rows, weights) if dinputs.data != 0 else -1
        cols_of_b = rows if algorithm == select.SWAPPED else inputs
        if (blocking.has_column_edge(machine, neurons) or blocking.has_column_edge(machine, cols_of_b)) and edge() == 0:
            return request_edge()
        by_dot = algorithm == select.DOT
        if by_dot and dot_products() == 0:
            return request_dot()
        if algorithm == select.SWAPPED and swap() == 0:
            return request_swap()
        if algorithm == select.STREAMED and stream() == 0:
            return request_stream()
        threads = blocking.threads(dinputs.rows * inputs * neurons + rows * neurons * blocking.ELEMENT_WORK)
        memory, slot = acquire(memory_of(COUNTING, here, rows, weights, algorithm, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = memory_of(memory, here, rows, weights, algorithm, threads)
        begin(room.queue)
        if room.weights != 0:
            add(room.queue, pack(), packing.pack_job(machine, transpose_of(weights), room.weights))
        dz = only_if(int(dinputs.data != 0), dvalues)
        dz_job = mask_job(here, dvalues, activation, saved, dz, dbiases.data)
        add(room.queue, mask(), replace(dz_job, micropanels=micropanels))
        barrier(room.queue)
        if algorithm == select.SWAPPED:                 # dinputs.T (K, M) = weights (K, N) dz.T (N, M)
            problem = swapped.problem_of(here, weights, dz, dinputs, room.swapped, room.scratch, threads)
            swapped.add_jobs(room.queue, machine, pack(), swap(), problem, dz, room.swapped)
        elif algorithm == select.STREAMED:
            problem = streamed.problem_of(here, dz, transpose_of(weights), dinputs, room.scratch, threads)
            add(room.queue, stream(), problem)
        elif dinputs.data != 0:                         # dinputs (M, K) = dz (M, N) weights.T (N, K)
            b = b_of_weights(machine, weights, by_dot, room.weights)
            problem = gemm_problem(here, dz, b, dinputs, room.scratch, threads)
            add(room.queue, dot_products() if by_dot else gemm(), problem)
        run_queue(room.queue, threads)
        release(slot)
        trace.finish_pass(begun, trace.DINPUTS, Call(
            rows=rows, inputs=inputs, neurons=neurons, precision=precision, activation=activation, weights=weights.data,
            dinputs=dinputs.data, dinputs_bytes=dinputs.rows * dinputs.row_step))
        return link.OK

    return backward_inputs


backward_inputs = link.units("dinputs", types.intp(*[MATRIX] * 5, types.intp, types.intp), _build)
