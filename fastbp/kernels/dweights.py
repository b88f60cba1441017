"""dweights = x.T @ dz in blocks of rows: each is computed, in a worker's own memory, where an optimiser needs it, and is
forgotten after that. So the gradients of a training step never go through memory, and are of all of its rows.
"""
from .. import _link
from .._jit import kernel
from . import blocking
from .matrix import Matrix, transposed
from .parallel import JOB_BYTES
from .problem import GemmProblem, gemm_problem, packed_b, scratch_bytes
from .records import read, replace, write
from .workspace import ALIGNMENT


@kernel
def product_of(machine, x, panels, neurons, row_block):
    """The Product for Matrix x and dz in panels: a task is `row_block` rows, as they are in C order. C is yet to be said."""
    size = machine.itemsize
    c = Matrix(0, x.cols, neurons, neurons * size, size)
    job = gemm_problem(blocking.with_caches(machine), transposed(x), packed_b(panels, x.rows * size), c, 0, 1)
    return replace(job, tasks=blocking.blocks(x.cols, row_block), task_rows=row_block, task_cols=neurons)


@kernel
def worker_bytes(machine, block_bytes):
    """Of the memory of a worker, for blocks of so many bytes."""
    return blocking.round_up(JOB_BYTES + block_bytes + scratch_bytes(machine), ALIGNMENT)


@kernel
def block_at(product, job_address, block, memory, block_bytes):
    """Compute a block of the Product at an address by its unit, in a worker's memory; returns where dweights would begin."""
    job = read(job_address, GemmProblem)
    c = memory + JOB_BYTES - block * job.task_rows * job.c_row_step
    write(memory, replace(job, c=c, scratch=memory + JOB_BYTES + block_bytes))
    _link.call(product, (memory, 0, block))
    return c
