"""A layer of one to four neurons, whose y and dz would leave a tile empty for the most part: x is what is read in vectors.

forward     y is inner products of the rows of x with the columns of weights
backward    dweights.T = dz.T @ x, with x in the place of B, as it lies in memory
"""
from .. import _link
from .._jit import kernel
from . import blocking, inner, packing, plain, tile
from .matrix import FORWARD, Matrix, from_col, transposed
from .parallel import REGION_BYTES, run
from .product import Right, activated, product_job
from .workspace import ALIGNMENT, acquire, release


def _build_forward(dtype):
    tiles = blocking.tiles(dtype)
    inner_products = inner.inner[dtype].address

    def forward(x, weights, biases, y, slope, activation, threads):
        """As dense.forward, which checks the arguments. The unit of inner products must be bound."""
        row_bytes = packing.row_bytes(tiles, x.cols)
        memory, slot = acquire(REGION_BYTES + packing.row_bytes(tiles, y.cols) + y.cols * row_bytes)
        if memory == 0:
            return _link.NO_MEMORY
        columns = memory + REGION_BYTES
        for j in range(y.cols):
            packing.copy_row(tiles, transposed(from_col(weights, j)), columns + j * row_bytes)
        bias = packing.copy_bias(tiles, biases, columns + y.cols * row_bytes)
        job = product_job(tiles, x, Right(columns, row_bytes, tile.itemsize(tiles.wide), 0), y, 0, bias, 0, threads)
        run(inner_products(), activated(job, activation, slope), memory, threads)
        release(slot)
        return _link.OK

    return forward


forward = _link.units("few_forward", FORWARD, _build_forward, rare=True)


@kernel
def copy_bytes(tiles, rows, inputs, neurons):
    """Of dweights.T, and of the edge of `rows` rows of x."""
    return dweights_bytes(tiles, inputs, neurons) + packing.edge_bytes(tiles, rows, inputs)


@kernel
def dweights_bytes(tiles, inputs, neurons):
    return blocking.round_up(inputs * neurons * tile.itemsize(tiles.wide), ALIGNMENT)


@kernel
def weights_product(tiles, dz, x, edge, dweights, accumulate, scratch, threads):
    """The Product dweights.T (+)= dz.T @ x; two addresses: of room for the edge of x, and of dweights.T."""
    size = tile.itemsize(tiles.wide)
    packing.pack_edge(tiles, x, edge)
    right, c = Right(x.data, size, x.row_step, edge), Matrix(dweights, dz.cols, x.cols, x.cols * size, size)
    return product_job(tiles, transposed(dz), right, c, accumulate, 0, scratch, threads)


@kernel
def turn(shape, source, target):
    """target = source.T, both Matrix."""
    for i in range(target.rows):
        for j in range(target.cols):
            plain.put(shape, target, i, j, plain.get(shape, source, j, i))
