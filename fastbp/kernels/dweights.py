"""dweights = x.T @ dz in blocks of rows: each is computed, in a worker's own memory, where an optimiser needs it, and is
forgotten after that. So the gradients of a training step never go through memory, and are of all of its rows.
"""
from .. import _link
from .._jit import kernel
from . import blocking, tile
from .matrix import Matrix, transposed
from .parallel import JOB_BYTES
from .product import Product, packed, product_job, scratch_bytes
from .records import read, write
from .workspace import ALIGNMENT


@kernel
def product_of(tiles, x, panels, neurons, row_block):
    """The Product for Matrix x and dz in panels: a task is `row_block` rows, as they are in C order. C is yet to be said."""
    size = tile.itemsize(tiles.wide)
    c = Matrix(0, x.cols, neurons, neurons * size, size)
    job = product_job(tiles, transposed(x), packed(panels, x.rows * size), c, 0, 0, 0, 1)
    return Product(blocking.blocks(x.cols, row_block), *job[1:15], row_block, neurons, *job[17:])


@kernel
def worker_bytes(tiles, block_bytes):
    """Of the memory of a worker, for blocks of so many bytes."""
    return blocking.round_up(JOB_BYTES + block_bytes + scratch_bytes(tiles), ALIGNMENT)


@kernel
def block_at(tiles, product, job_address, block, memory, block_bytes):
    """Compute a block of the Product at an address by its unit, in a worker's memory; returns where dweights would begin."""
    job = read(job_address, Product)
    c = memory + JOB_BYTES - block * job.row_block * job.c_row
    write(memory, Product(*job[:11], c, *job[12:19], memory + JOB_BYTES + block_bytes, *job[20:]))
    _link.call(product, (memory, 0, block))
    return c
