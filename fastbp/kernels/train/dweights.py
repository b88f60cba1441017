"""dweights = x.T @ dz in blocks of rows, each of which exists only while an optimiser needs it.

A worker computes a block in its own memory, uses it and forgets it. So the dweights of a training step, which are as large as
the weights, are never written to main memory.
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
    """The memory of a worker that computes blocks: addresses."""

    job: int                    # room for the GemmProblem of a block
    block: int                  # room for the block
    scratch: int                # room for what the GemmProblem's unit copies of x.T
    end: int                    # the first byte behind all this


@kernel
def worker_memory(arena, machine, block_bytes):
    """Return the WorkerMemory in an arena, for blocks of up to block_bytes bytes."""
    job, arena = take(arena, JOB_BYTES)
    block, arena = take(arena, block_bytes)
    scratch, arena = take(arena, scratch_bytes(machine))
    return WorkerMemory(job=job, block=block, scratch=scratch, end=arena)


@kernel
def worker_bytes(machine, block_bytes):
    """Return the bytes of a WorkerMemory."""
    return worker_memory(COUNTING, machine, block_bytes).end


@kernel
def dweights_problem(machine, x, micropanels, neurons, block_rows):
    """Return the GemmProblem of dweights (K, N) = x.T (K, M) @ dz (M, N), without an address of C.

    x: a Matrix (M, K). micropanels: the address of the packed dz. A task is a block of `block_rows` rows, in C order.
    """
    size = machine.itemsize
    c = Matrix(data=0, rows=x.cols, cols=neurons, row_step=neurons * size, col_step=size)
    problem = gemm_problem(machine, transpose_of(x), packed_b(micropanels, x.rows * size), c, 0, 1)
    return replace(problem, tasks=blocking.blocks(x.cols, block_rows), task_rows=block_rows, task_cols=neurons)


@kernel
def block_at(unit, address, block, memory):
    """Compute a block of the GemmProblem at an address by its unit, in a WorkerMemory; return where dweights would begin."""
    problem = read(address, GemmProblem)
    c = memory.block - block * problem.task_rows * problem.c_row_step
    write(memory.job, replace(problem, c=c, scratch=memory.scratch))
    link.call(unit, (memory.job, 0, block))
    return c
