"""The backward pass over many rows, fused: one pass over memory for all results.

dz of a block of rows stays in L2 and is used for all three results at once: x, what the activation saved and dvalues are read
once, dinputs is written once. The batch is cut into partitions fixed by its size alone; each has dweights and dbiases of its
own, which are added up in order at the end, so the bits do not depend on the number of threads.
"""
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import formula, kernel
from .. import blocking
from ..gemm import dot, loops, packing
from ..gemm.problem import OperandB, b_to_pack, gemm_problem, packed_b, scratch_bytes, with_soon
from ..matrix import Matrix, only_if, rows_of, transpose_of
from ..schedule.arena import ALIGNMENT, COUNTING, acquire, release, take
from ..schedule.queue import JOB_BYTES, REGION_BYTES, TASK, add, barrier, begin, run_here, run_queue
from ..schedule.records import read, record_type, replace
from . import blocks, columns, select
from . import partitions as cut
from .columns import mask_job, sum_job
from .operands import BackwardOperands

# The signature of the unit: (BackwardOperands, select.Backward, threads) -> status.
SIGNATURE = types.intp(record_type(BackwardOperands), record_type(select.Backward), types.intp)


class FusedBackward(NamedTuple):
    """The job of a fused backward pass. A task is a partition of the batch.

    Addresses are 0 where there is nothing; steps are in bytes.
    """

    tasks: int                  # partitions
    rows: int                   # rows of the batch: M
    inputs: int                 # inputs of the layer: K
    neurons: int                # neurons of the layer: N
    partition_rows: int         # rows of each partition but the last
    dvalues: int                # dvalues (M, N)
    dvalues_row_step: int       # bytes from one row of dvalues to the next
    activation: int             # its number in activations.py
    saved: int                  # what the activation saved (M, N); 0: everything passes
    saved_row_step: int         # bytes from one row of saved to the next
    x: int                      # x (M, K)
    x_row_step: int             # bytes from one row of x to the next
    x_col_step: int             # bytes from one column of x to the next
    weights: int                # the data of the OperandB of the product for dinputs
    weights_col_step: int       # its col_step
    weights_row_step: int       # its row_step
    by_dot: int                 # 1: dinputs are dot products
    dinputs: int                # dinputs (M, K)
    dinputs_row_step: int       # bytes from one row of dinputs to the next
    parts: int                  # dweights of each partition, followed by its dbiases
    part_bytes: int             # bytes from one partition's to the next one's
    workers: int                # worker_bytes for each worker
    dz_row_step: int            # bytes from one row of a block's dz to the next


@formula
def dz_row_bytes(machine, neurons):
    """Return the distance of two rows of dz: whole vectors."""
    return blocking.spread(blocking.round_up(neurons, machine.lanes) * machine.itemsize)


class Worker(NamedTuple):
    """Addresses of a worker's memory."""

    job: int                    # the words of a job
    dz: int                     # dz of a block of rows
    packed: int                 # micropanels of dz
    scratch: int                # gemm.problem.scratch_bytes, for copies of A
    end: int                    # the first byte behind all this


@kernel
def worker_of(arena, machine, neurons):
    """Return the Worker of a layer of so many neurons."""
    job, arena = take(arena, JOB_BYTES)
    dz, arena = take(arena, blocks.FUSED_ROWS * dz_row_bytes(machine, neurons))
    packed, arena = take(arena, packing.packed_bytes(machine, blocks.FUSED_ROWS, neurons))
    scratch, arena = take(arena, scratch_bytes(machine))
    return Worker(job=job, dz=dz, packed=packed, scratch=scratch, end=arena)


@kernel
def b_of_weights(machine, weights, by_dot, micropanels):
    """Return weights.T as B of the product for dinputs: rows of weights in place for dot products, or micropanels.

    micropanels: their address, or 0 if the product's tasks pack them.
    """
    if by_dot:
        return OperandB(data=weights.data, col_step=weights.row_step, row_step=machine.itemsize, edge=0, to_pack=0)
    if micropanels == 0:
        return b_to_pack(transpose_of(weights))
    return packed_b(micropanels, weights.cols * machine.itemsize)


def _build(dtype):
    """Return the task that computes the results of a partition, one block of rows after another."""
    machine = blocking.machine(dtype)
    mask, gemm, dot_products = columns.mask[dtype].address, loops.gemm[dtype].address, dot.dot[dtype].address

    def fused_rows(job_address, worker, task):
        job, here = read(job_address, FusedBackward), blocking.with_caches(machine)
        size, block = machine.itemsize, blocks.FUSED_ROWS
        worker_bytes = worker_of(COUNTING, here, job.neurons).end
        room = worker_of(job.workers + worker * worker_bytes, here, job.neurons)
        dweights = Matrix(data=job.parts + task * job.part_bytes, rows=job.inputs, cols=job.neurons,
                          row_step=job.neurons * size, col_step=size)
        dbiases = dweights.data + job.inputs * job.neurons * size
        weights = OperandB(data=job.weights, col_step=job.weights_col_step, row_step=job.weights_row_step, edge=0, to_pack=0)
        start = task * job.partition_rows
        end = min(start + job.partition_rows, job.rows)
        for i in range(start, end, block):
            rows, later = min(block, end - i), int(i > start)
            dvalues = rows_of(job.dvalues, i, rows, job.neurons, job.dvalues_row_step, size)        # (rows, N)
            saved = rows_of(job.saved, i, rows, job.neurons, job.saved_row_step, size)
            dz = Matrix(data=room.dz, rows=rows, cols=job.neurons, row_step=job.dz_row_step, col_step=size)
            dz_job = mask_job(here, dvalues, job.activation, saved, only_if(job.dinputs, dz), dbiases)
            run_here(mask(), replace(dz_job, micropanels=room.packed, accumulate=later), room.job)
            if job.dinputs != 0:                                                # dinputs (rows, K) = dz (rows, N) weights.T
                dinputs = rows_of(job.dinputs, i, rows, job.inputs, job.dinputs_row_step, size)
                dinputs_job = gemm_problem(here, dz, weights, dinputs, room.scratch, 1)
                row_bytes = job.neurons * size
                follows = i + block < end and job.dvalues_row_step == row_bytes and (
                    job.saved == 0 or job.saved_row_step == row_bytes)
                next_dvalues = dvalues.data + block * row_bytes if follows else 0
                next_saved = saved.data + block * row_bytes if follows and job.saved != 0 else 0
                dinputs_job = with_soon(here, dinputs_job, next_dvalues, next_saved, block * row_bytes if follows else 0)
                run_here(dot_products() if job.by_dot != 0 else gemm(), dinputs_job, room.job)
            x = Matrix(data=job.x + i * job.x_row_step, rows=rows, cols=job.inputs, row_step=job.x_row_step,
                       col_step=job.x_col_step)
            b = packed_b(room.packed, rows * size)                              # dweights (K, N) += x.T dz (rows, N)
            dweights_job = gemm_problem(here, transpose_of(x), b, dweights, room.scratch, 1)
            run_here(gemm(), replace(dweights_job, accumulate=later), room.job)
        return link.OK

    return fused_rows


_fused_rows = link.units("fused_rows", TASK, _build)


class Memory(NamedTuple):
    """Addresses of the memory of a pass."""

    queue: int                  # the queue
    weights: int                # micropanels of weights.T, if they are needed
    parts: int                  # dweights of each partition, followed by its dbiases
    part_bytes: int             # bytes from one partition's to the next one's: a size, no address
    workers: int                # a Worker's memory for each thread
    end: int                    # the first byte behind all this


@kernel
def memory_of(arena, machine, weights, is_packed, partitions, threads):
    """Return the Memory of a pass over so many partitions; is_packed: whether weights.T is packed."""
    inputs, neurons = weights.rows, weights.cols
    part_bytes = blocking.round_up((inputs + 1) * neurons * machine.itemsize, ALIGNMENT)
    queue, arena = take(arena, REGION_BYTES)
    packed, arena = take(arena, packing.packed_bytes(machine, neurons, inputs) if is_packed else 0)
    parts, arena = take(arena, partitions * part_bytes)
    workers, arena = take(arena, threads * worker_of(COUNTING, machine, neurons).end)
    return Memory(queue=queue, weights=packed, parts=parts, part_bytes=part_bytes, workers=workers, end=arena)


def _build_backward(dtype):
    machine = blocking.machine(dtype)
    pack, work, add_up = packing.pack[dtype].address, _fused_rows[dtype].address, columns.add_up[dtype].address

    def fused(operands, choice, threads):
        """Cut a backward pass into partitions and add up their results. passes.backward has checked the arguments."""
        dvalues, saved, x, weights, dinputs = operands.dvalues, operands.saved, operands.x, operands.weights, operands.dinputs
        here, size, inputs, neurons = blocking.with_caches(machine), machine.itemsize, x.cols, dvalues.cols
        partitions = cut.fused(dvalues.rows)
        by_dot = choice.dinputs == select.DOT
        is_packed = dinputs.data != 0 and not by_dot
        memory, slot = acquire(memory_of(COUNTING, here, weights, is_packed, partitions.count, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = memory_of(memory, here, weights, is_packed, partitions.count, threads)
        begin(room.queue)
        if is_packed:
            add(room.queue, pack(), packing.pack_job(machine, transpose_of(weights), room.weights))
            barrier(room.queue)
        weights_t = b_of_weights(machine, weights, by_dot, room.weights)
        add(room.queue, work(), FusedBackward(
            tasks=partitions.count, rows=dvalues.rows, inputs=inputs, neurons=neurons, partition_rows=partitions.rows,
            dvalues=dvalues.data, dvalues_row_step=dvalues.row_step, activation=operands.activation,
            saved=saved.data, saved_row_step=saved.row_step, x=x.data, x_row_step=x.row_step, x_col_step=x.col_step,
            weights=weights_t.data, weights_col_step=weights_t.col_step, weights_row_step=weights_t.row_step,
            by_dot=int(by_dot),
            dinputs=dinputs.data, dinputs_row_step=dinputs.row_step, parts=room.parts, part_bytes=room.part_bytes,
            workers=room.workers, dz_row_step=dz_row_bytes(machine, neurons)))
        barrier(room.queue)
        # The first partition's results; the others lie behind them.
        dweights_part = Matrix(data=room.parts, rows=inputs, cols=neurons, row_step=neurons * size, col_step=size)
        add(room.queue, add_up(), sum_job(dweights_part, partitions.count, room.part_bytes, operands.dweights))
        dbiases_part = Matrix(data=room.parts + inputs * neurons * size, rows=1, cols=neurons, row_step=0, col_step=size)
        add(room.queue, add_up(), sum_job(dbiases_part, partitions.count, room.part_bytes, operands.dbiases))
        run_queue(room.queue, threads)
        release(slot)
        return link.OK

    return fused


backward = link.units("fused", SIGNATURE, _build_backward, lazy=True)
