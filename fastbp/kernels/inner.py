"""C = A B.T by inner products: A and B are both read along their contiguous rows, and nothing is packed.

For few rows, where packing B would cost more than the product, and for few columns, of which a tile would be empty for the
most part. A tile holds one vector of partial sums for each of its rows x vecs elements of C; the lanes are added up at
the end.
"""
from .. import _link
from .._jit import kernel
from . import activations, blocking, tile
from .parallel import TASK
from .product import Product, activate_block, block_of
from .records import read


def _build(dtype):
    tiles, activate = blocking.tiles(dtype), activations.activate[dtype].address
    low = blocking.low(tiles.wide)

    def inner(job_address, worker, task):
        """The job is a Product with Right(address, distance of two rows of B, …): row j of B is column j of B.T."""
        job = read(job_address, Product)
        i, i_end, j, j_end = block_of(job, task)
        if j_end - j == 1:
            multiply(tiles.narrow, job, i, i_end, j, j_end)
        elif i_end - i <= tile.height(tiles.flat):
            multiply(tiles.flat, job, i, i_end, j, j_end)
        else:
            i_low = i_end - blocking.low_rows(tile.height(tiles.wide), i_end - i)
            multiply(tiles.wide, job, i, i_low, j, j_end)
            multiply(low, job, i_low, i_end, j, j_end)
        activate_block(tiles, job, activate(), i, i_end, j, j_end)
        return _link.OK

    return inner


inner = _link.units("inner", TASK, _build, rare=True)


@kernel
def multiply(shape, job, i_start, i_end, j_start, j_end):
    """Rows of B stay in L2 while all of A goes over them, and a tile's rows of A in L1."""
    size, height, columns = tile.itemsize(shape), tile.height(shape), tile.width(shape) // tile.lanes(shape)
    block = blocking.inner_block(columns, job.depth * size)
    for j_block in range(j_start, j_end, block):
        for i in range(i_start, i_end, height):
            a, a_offsets = job.a + i * job.a_row, tile.row_offsets(shape, job.a_row, i_end - i)
            for j in range(j_block, min(j_block + block, j_end), columns):
                b, b_offsets = job.b + j * job.b_col, tile.column_offsets(shape, job.b_col, j_end - j)
                acc = tile.zeros(shape)
                for p in range(0, job.depth, tile.lanes(shape)):
                    acc = tile.inner(acc, a + p * size, a_offsets, b + p * size, b_offsets, job.depth - p)
                tile.store_sums(acc, job.c + i * job.c_row + j * size, job.c_row, i_end - i, j_end - j)
    if job.bias != 0 or job.relu != 0:
        finish(shape, job, i_start, i_end, j_start, j_end)


@kernel
def finish(shape, job, i_start, i_end, j_start, j_end):
    """Add the bias and apply ReLU to what was stored."""
    for i in range(i_start, i_end):
        for j in range(j_start, j_end):
            address = job.c + i * job.c_row + j * tile.itemsize(shape)
            z = tile.load_scalar(shape, address)
            if job.bias != 0:
                z += tile.load_scalar(shape, job.bias + j * tile.itemsize(shape))
            tile.store_scalar(shape, address, tile.zero(shape) if job.relu != 0 and z <= 0 else z)
