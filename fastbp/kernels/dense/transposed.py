"""The backward pass of a layer of few inputs and neurons, transposed: vectors hold numbers of many rows, not of one.

x.T and dz.T of a block of rows are written to scratch memory, transposed in registers by square blocks. Their rows are long:

    dinputs.T = weights @ dz.T       a product with B in place, which is transposed back
    dweights  = x.T @ dz             dot products of the rows of x.T with those of dz.T; of a row of ones, they are dbiases

As in fused.py the batch is cut into partitions fixed by its size alone, whose results are added up at the end. (A forward
pass gains nothing: it has no sums over the rows.)
"""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import inlined, kernel
from .. import blocking
from ..elementwise.activations import IDENTITY, passed_back
from ..gemm import dot, loops
from ..gemm.problem import OperandB, gemm_problem, scratch_bytes, unpacked_b
from ..matrix import NO_MATRIX, Matrix, from_row, whole_rows
from ..schedule.arena import ALIGNMENT, COUNTING, acquire, release, take
from ..schedule.queue import JOB_BYTES, REGION_BYTES, TASK, add, barrier, begin, run_here, run_queue
from ..schedule.records import read
from ..simd import tile
from . import columns
from .columns import sum_job
from .operands import BACKWARD

# Rows of a block, whose x.T and dz.T stay in L2.
ROWS = 512


class TransposedBackward(NamedTuple):
    """The job of a transposed backward pass. A task is a partition of the batch.

    Addresses are 0 where there is nothing; steps are in bytes.
    """

    tasks: int                  # partitions
    rows: int                   # rows of the batch: M
    inputs: int                 # inputs of the layer: K
    neurons: int                # neurons of the layer: N
    partition_rows: int         # rows of each partition but the last
    x: int                      # x (M, K)
    x_row_step: int             # bytes from one row of x to the next
    weights: int                # weights (K, N)
    weights_row_step: int       # bytes from one row of weights to the next
    activation: int             # its number in activations.py
    saved: int                  # what the activation saved (M, N); 0: everything passes
    saved_row_step: int         # bytes from one row of saved to the next
    dvalues: int                # dvalues (M, N)
    dvalues_row_step: int       # bytes from one row of dvalues to the next
    dinputs: int                # dinputs (M, K)
    dinputs_row_step: int       # bytes from one row of dinputs to the next
    parts: int                  # dweights of each partition, followed by its dbiases
    part_bytes: int             # bytes from one partition's to the next one's
    workers: int                # worker_bytes for each worker


@kernel
def row_bytes(machine):
    """Return the distance of two rows of x.T: a block of rows, and what a tile reads beyond it."""
    return (ROWS + machine.unpacked_width) * machine.itemsize + ALIGNMENT


class Worker(NamedTuple):
    """Addresses of a worker's memory."""

    job: int                    # the words of a job
    x: int                      # x.T and a row of ones
    dz: int                     # dz.T
    dinputs: int                # dinputs.T
    sums: int                   # dweights and dbiases of a block
    scratch: int                # gemm.problem.scratch_bytes, for copies of A
    end: int                    # the first byte behind all this


@kernel
def worker_of(arena, machine, inputs, neurons):
    """Return the Worker of a layer."""
    job, arena = take(arena, JOB_BYTES)
    x, arena = take(arena, (inputs + 1) * row_bytes(machine))
    dz, arena = take(arena, neurons * row_bytes(machine))
    dinputs, arena = take(arena, inputs * row_bytes(machine))
    sums, arena = take(arena, (inputs + 1) * neurons * machine.itemsize)
    scratch, arena = take(arena, scratch_bytes(machine))
    return Worker(job=job, x=x, dz=dz, dinputs=dinputs, sums=sums, scratch=scratch, end=arena)


@kernel
def transpose(tiles, source, activation, saved, target):
    """Write target = source.T times the activation's derivative. target's last vectors are filled up."""
    square = tiles.square
    size, lanes = tile.itemsize(square), tile.lanes(square)
    for j in range(0, source.cols, lanes):
        whole = whole_rows(source.rows, source.cols - j, source.row_step, size, lanes)
        if saved.data != 0:
            whole = min(whole, whole_rows(saved.rows, saved.cols - j, saved.row_step, size, lanes))
        for i in range(0, source.rows, lanes):
            cols = lanes if i + lanes <= whole else source.cols - j
            block = tile.load(square, source.data + i * source.row_step + j * size, source.row_step, source.rows - i, cols)
            if saved.data != 0:
                kept = tile.load(square, saved.data + i * saved.row_step + j * size, saved.row_step, saved.rows - i, cols)
                block = passed_back(activation, block, kept)
            address = target.data + j * target.row_step + i * size
            tile.store(tile.transpose(block), address, target.row_step, source.cols - j, lanes)


@kernel
def transpose_back(tiles, source, target):
    """Write target = source.T.

    If target's rows follow one another, they are written in whole vectors: the next row overwrites what a vector writes beyond
    its row. So the last block of columns, which does that, is written before the others.
    """
    square = tiles.square
    size, lanes = tile.itemsize(square), tile.lanes(square)
    for i in range(0, target.rows, lanes):
        for j in range((target.cols - 1) // lanes * lanes, -1, -lanes):
            block = tile.load(square, source.data + j * source.row_step + i * size, source.row_step, target.cols - j, lanes)
            cols, whole = target.cols - j, 0
            if target.row_step == target.cols * size:
                whole = whole_rows(target.rows, cols, target.row_step, size, lanes)
            address = target.data + i * target.row_step + j * size
            cols = lanes if i + lanes <= whole else cols
            tile.store(tile.transpose(block), address, target.row_step, target.rows - i, cols)


@inlined
def rows_of(address, row, rows, cols, row_step, size):
    """Return the Matrix of rows, from `row` on, of a matrix at an address; no matrix for the address 0."""
    return Matrix(data=address + row * row_step if address != 0 else 0, rows=rows, cols=cols, row_step=row_step, col_step=size)


def _build(dtype):
    """Return the task that computes the results of a partition, one block of rows after another."""
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    gemm, dot_products = loops.gemm[dtype].address, dot.dot[dtype].address

    def transposed_rows(job_address, worker, task):
        job, here = read(job_address, TransposedBackward), blocking.with_caches(machine)
        size, step = machine.itemsize, row_bytes(machine)
        worker_bytes = worker_of(COUNTING, here, job.inputs, job.neurons).end
        room = worker_of(job.workers + worker * worker_bytes, here, job.inputs, job.neurons)
        start = task * job.partition_rows
        end = min(start + job.partition_rows, job.rows)
        weights = Matrix(data=job.weights, rows=job.inputs, cols=job.neurons, row_step=job.weights_row_step, col_step=size)
        sums = Matrix(data=room.sums, rows=job.inputs + 1, cols=job.neurons, row_step=job.neurons * size, col_step=size)
        ones = room.x + job.inputs * step
        for p in range(ROWS):
            tile.store_scalar(tiles.full, ones + p * size, tile.zero(tiles.full) + 1)
        for i in range(start, end, ROWS):
            rows = min(ROWS, end - i)
            x = rows_of(job.x, i, rows, job.inputs, job.x_row_step, size)                           # (rows, K)
            dvalues = rows_of(job.dvalues, i, rows, job.neurons, job.dvalues_row_step, size)        # (rows, N)
            saved = rows_of(job.saved, i, rows, job.neurons, job.saved_row_step, size)
            x_t = Matrix(data=room.x, rows=job.inputs + 1, cols=rows, row_step=step, col_step=size)
            dz_t = Matrix(data=room.dz, rows=job.neurons, cols=rows, row_step=step, col_step=size)
            transpose(tiles, dvalues, job.activation, saved, dz_t)
            transpose(tiles, x, IDENTITY, NO_MATRIX, x_t)
            dz_columns = OperandB(data=dz_t.data, col_step=step, row_step=size, edge=0)
            run_here(dot_products(), gemm_problem(here, x_t, dz_columns, sums, 0, 1), room.job)     # (K + 1, N)
            add_sums(tiles.full, sums, job.parts + task * job.part_bytes, i > start)
            if job.dinputs != 0:
                dinputs_t = Matrix(data=room.dinputs, rows=job.inputs, cols=rows, row_step=step, col_step=size)
                problem = gemm_problem(here, weights, unpacked_b(dz_t, 0), dinputs_t, room.scratch, 1)
                run_here(gemm(), problem, room.job)                                                 # (K, rows)
                dinputs = rows_of(job.dinputs, i, rows, job.inputs, job.dinputs_row_step, size)
                transpose_back(tiles, dinputs_t, dinputs)
        return link.OK

    return transposed_rows


@kernel
def add_sums(shape, sums, target, accumulate):
    """Add a Matrix to the one at an address, or write it there."""
    for offset in range(0, sums.rows * sums.row_step, tile.itemsize(shape)):
        value = tile.load_scalar(shape, sums.data + offset)
        if accumulate:
            value += tile.load_scalar(shape, target + offset)
        tile.store_scalar(shape, target + offset, value)


_transposed_rows = link.units("transposed_rows", TASK, _build)


class Memory(NamedTuple):
    """Addresses of the memory of a pass."""

    queue: int                  # the queue
    parts: int                  # dweights of each partition, followed by its dbiases
    part_bytes: int             # bytes from one partition's to the next one's: a size, no address
    workers: int                # a Worker's memory for each thread
    end: int                    # the first byte behind all this


@kernel
def memory_of(arena, machine, weights, partitions, threads):
    """Return the Memory of a pass over so many partitions."""
    part_bytes = blocking.round_up((weights.rows + 1) * weights.cols * machine.itemsize, ALIGNMENT)
    queue, arena = take(arena, REGION_BYTES)
    parts, arena = take(arena, partitions * part_bytes)
    workers, arena = take(arena, threads * worker_of(COUNTING, machine, weights.rows, weights.cols).end)
    return Memory(queue=queue, parts=parts, part_bytes=part_bytes, workers=workers, end=arena)


def _build_backward(dtype):
    machine = blocking.machine(dtype)
    work, add_up = _transposed_rows[dtype].address, columns.add_up[dtype].address

    def transposed(operands, threads):
        """Cut a backward pass into partitions and add up their results. passes.backward has checked the arguments."""
        dvalues, saved, x, weights, dinputs = operands.dvalues, operands.saved, operands.x, operands.weights, operands.dinputs
        here, size, inputs, neurons = blocking.with_caches(machine), machine.itemsize, x.cols, dvalues.cols
        partitions = blocking.partitions(dvalues.rows)
        memory, slot = acquire(memory_of(COUNTING, here, weights, partitions.count, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = memory_of(memory, here, weights, partitions.count, threads)
        begin(room.queue)
        add(room.queue, work(), TransposedBackward(
            tasks=partitions.count, rows=x.rows, inputs=inputs, neurons=neurons, partition_rows=partitions.rows,
            x=x.data, x_row_step=x.row_step, weights=weights.data, weights_row_step=weights.row_step,
            activation=operands.activation, saved=saved.data, saved_row_step=saved.row_step,
            dvalues=dvalues.data, dvalues_row_step=dvalues.row_step, dinputs=dinputs.data, dinputs_row_step=dinputs.row_step,
            parts=room.parts, part_bytes=room.part_bytes,
            workers=room.workers))
        barrier(room.queue)
        first_part = Matrix(data=room.parts, rows=inputs, cols=neurons, row_step=neurons * size, col_step=size)
        add(room.queue, add_up(), sum_job(first_part, partitions.count, room.part_bytes, operands.dweights))
        add(room.queue, add_up(), sum_job(from_row(first_part, inputs, 1), partitions.count, room.part_bytes, operands.dbiases))
        run_queue(room.queue, threads)
        release(slot)
        return link.OK

    return transposed


backward = link.units("transposed", BACKWARD, _build_backward, lazy=True)
