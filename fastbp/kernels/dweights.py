"""dweights = x.T @ dz in blocks of rows, each of which exists only while an optimiser needs it.

A worker computes a block in its own memory, uses it and forgets it. So the gradients of a training step, which are of all of
its rows, never go through memory.
"""
from typing import NamedTuple

from .. import _link
from .._jit import kernel
from . import blocking, tile
from .matrix import Matrix, transposed
from .parallel import JOB_BYTES
from .product import Product, packed, product_job, scratch_bytes
from .records import read, replace, write
from .workspace import COUNTING, take


class WorkerMemory(NamedTuple):
    """The memory of a worker that computes blocks."""

    job: int                    # the Product of a block
    block: int                  # the block
    scratch: int                # what the Product's unit copies of x.T
    end: int


@kernel
def worker_memory(tiles, arena, block_bytes):
    """Return the WorkerMemory in an arena, for blocks of so many bytes."""
    job, arena = take(arena, JOB_BYTES)
    block, arena = take(arena, block_bytes)
    scratch, arena = take(arena, scratch_bytes(tiles))
    return WorkerMemory(job=job, block=block, scratch=scratch, end=arena)


@kernel
def worker_bytes(tiles, block_bytes):
    """Return the bytes of a WorkerMemory."""
    return worker_memory(tiles, COUNTING, block_bytes).end


@kernel
def product_of(tiles, x, panels, neurons, row_block):
    """Return the Product of Matrix x and dz in panels, without an address of C. A task is `row_block` rows, in C order."""
    size = tile.itemsize(tiles.wide)
    c = Matrix(data=0, rows=x.cols, cols=neurons, row_step=neurons * size, col_step=size)
    job = product_job(tiles, transposed(x), packed(panels, x.rows * size), c, 0, 0, 0, 1)
    return replace(job, tasks=blocking.blocks(x.cols, row_block), row_block=row_block, col_block=neurons)


@kernel
def block_at(unit, job_address, block, memory):
    """Compute a block of the Product at an address by its unit, in a WorkerMemory; return where dweights would begin."""
    job = read(job_address, Product)
    c = memory.block - block * job.row_block * job.c_row
    write(memory.job, replace(job, c=c, scratch=memory.scratch))
    _link.call(unit, (memory.job, 0, block))
    return c
