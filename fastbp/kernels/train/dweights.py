"""dweights = x.T @ dz in blocks of rows, each of which exists only while an optimiser needs it.

A worker computes a block in its own memory, uses it and forgets it. So the gradients of a training step, which are of all of
its rows, never go through memory.
"""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..gemm.problem import GemmProblem, gemm_problem, packed_b, scratch_bytes
from ..matrix import Matrix, transpose_of
from ..schedule.arena import COUNTING, take
from ..schedule.queue import JOB_BYTES
from ..schedule.records import read, replace, write


class WorkerMemory(NamedTuple):
    """The memory of a worker that computes blocks."""

    job: int                    # the GemmProblem of a block
    block: int                  # the block
    scratch: int                # what the GemmProblem's unit copies of x.T
    end: int


@kernel
def worker_memory(arena, machine, block_bytes):
    """Return the WorkerMemory in an arena, for blocks of so many bytes."""
    job, arena = take(arena, JOB_BYTES)
    block, arena = take(arena, block_bytes)
    scratch, arena = take(arena, scratch_bytes(machine))
    return WorkerMemory(job=job, block=block, scratch=scratch, end=arena)


@kernel
def worker_bytes(machine, block_bytes):
    """Return the bytes of a WorkerMemory."""
    return worker_memory(COUNTING, machine, block_bytes).end


@kernel
def product_of(machine, x, micropanels, neurons, row_block):
    """Return the GemmProblem of Matrix x and packed dz, without an address of C. A task is `row_block` rows, in C order."""
    size = machine.itemsize
    c = Matrix(data=0, rows=x.cols, cols=neurons, row_step=neurons * size, col_step=size)
    job = gemm_problem(machine, transpose_of(x), packed_b(micropanels, x.rows * size), c, 0, 1)
    return replace(job, tasks=blocking.blocks(x.cols, row_block), task_rows=row_block, task_cols=neurons)


@kernel
def block_at(unit, job_address, block, memory):
    """Compute a block of the GemmProblem at an address by its unit, in a WorkerMemory; return where dweights would begin."""
    job = read(job_address, GemmProblem)
    c = memory.block - block * job.task_rows * job.c_row_step
    write(memory.job, replace(job, c=c, scratch=memory.scratch))
    link.call(unit, (memory.job, 0, block))
    return c
