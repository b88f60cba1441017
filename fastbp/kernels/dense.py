"""A dense layer, forward and backward, as jobs on matrices.

forward     y = activation(x @ weights + biases)
backward    dz = dvalues * dy/dz (activations.py), dbiases = its column sums, dinputs = dz @ weights.T, dweights = x.T @ dz
            (the chain rule of Rumelhart, Hinton and Williams, Nature 323, 1986, in matrices)

Each unit first looks whether its operands fit, and refuses what it cannot compute: the caller then finds out what it is.
The backward pass over many rows of a narrow layer is one pass over memory (one_pass.py). Of a wide layer, where weights
and dweights outgrow L2, each result is a job of its own.
"""
from .. import _link, _state
from .._jit import kernel
from . import activations, blocking, columns, few, gemm, inner, one_pass, packing, plain, record, tile, turned
from .activations import RELU
from .matrix import BACKWARD, FORWARD, Matrix, any_overlap, from_row, only_if, overlap, transposed
from .one_pass import dz_row_bytes
from .parallel import REGION_BYTES, add, barrier, begin, run_queue
from .product import PACKED, Right, activated, packed, product_job, scratch_bytes, with_ahead
from .workspace import ALIGNMENT, acquire, release


@kernel
def fits(result, rows, cols, itemsize):
    """Whether a result has that shape, and contiguous rows."""
    return result.rows == rows and result.cols == cols and result.col_step == itemsize


@kernel
def forward_fits(x, weights, biases, y, slope, itemsize):
    """Whether the operands of a forward pass have shapes that fit, and no result overlaps anything."""
    if x.cols != weights.rows or not fits(y, x.rows, weights.cols, itemsize):
        return False
    if biases.data != 0 and (biases.rows != 1 or biases.cols != weights.cols or overlap(y, biases, itemsize)):
        return False
    if slope.data != 0 and not fits(slope, y.rows, y.cols, itemsize):
        return False
    if slope.data != 0 and any_overlap((x, weights, biases), (slope, y), itemsize):
        return False
    return not overlap(y, x, itemsize) and not overlap(y, weights, itemsize)


@kernel
def backward_fits(dvalues, s, x, weights, dinputs, dweights, dbiases, itemsize):
    """Whether the operands of a backward pass have shapes that fit, and no result overlaps anything."""
    rows, inputs, neurons = x.rows, weights.rows, weights.cols
    if x.cols != inputs or not fits(dvalues, rows, neurons, itemsize) or not fits(dweights, inputs, neurons, itemsize):
        return False
    if not fits(dbiases, 1, neurons, itemsize) or (dinputs.data != 0 and not fits(dinputs, rows, inputs, itemsize)):
        return False
    if s.data != 0 and not fits(s, rows, neurons, itemsize):
        return False
    return not any_overlap((dvalues, s, x, weights), (dinputs, dweights, dbiases), itemsize)


@kernel
def is_contiguous(x, itemsize):
    """Whether the rows of x are contiguous, or its columns."""
    return x.col_step == itemsize or x.row_step == itemsize


def _build_forward(dtype):
    tiles = blocking.tiles(dtype)
    pack, product = packing.pack[dtype].address, gemm.product[dtype].address
    plain_forward, few_forward = plain.forward[dtype].call_rare, few.forward[dtype].call_rare
    (flat, flat_unbound), (narrow, narrow_unbound), (inner_products, inner_unbound), (activate, activate_unbound) = (
        (unit[dtype].address, unit[dtype].unbound) for unit in (gemm.flat, gemm.narrow, inner.inner, activations.activate))

    def forward(x, weights, biases, y, slope, activation, most_threads):
        """y, and for gelu slope = dy/dz, all Matrix; biases and slope may be missing. Rows of the results are contiguous, and
        none overlaps anything.
        """
        size = tile.itemsize(tiles.wide)
        if not forward_fits(x, weights, biases, y, slope, size) or not is_contiguous(x, size):
            return _link.REFUSED
        if x.rows * x.cols * y.cols <= blocking.PLAIN_WORK and activation <= RELU:
            return plain_forward((x, weights, biases, y, slope, activation, 1))
        if activation > RELU and activate() == 0:
            return activate_unbound()
        threads = min(most_threads, blocking.product_threads(1, x, weights))
        if blocking.few_neurons(tiles.wide, x, y.cols):
            if inner_products() == 0:
                return inner_unbound()
            return few_forward((x, weights, biases, y, slope, activation, threads))
        in_place = blocking.in_place(tiles.flat, x.rows, y.cols, x.cols * y.cols * size) and weights.col_step == size
        if in_place and flat() == 0:
            return flat_unbound()
        if not in_place and blocking.has_narrow(tiles, y.cols) and narrow() == 0:
            return narrow_unbound()
        bias_bytes = packing.row_bytes(tiles, y.cols)
        panels_bytes = packing.edge_bytes(tiles, x.cols, y.cols) if in_place else packing.packed_bytes(tiles, x.cols, y.cols)
        memory, slot = acquire(REGION_BYTES + bias_bytes + panels_bytes + threads * scratch_bytes(tiles))
        if memory == 0:
            return _link.NO_MEMORY
        bias = packing.copy_bias(tiles, biases, memory + REGION_BYTES)
        panels = memory + REGION_BYTES + bias_bytes
        begin(memory)
        right = packed(panels, x.cols * size)
        if in_place:
            right = Right(weights.data, size, weights.row_step, panels)
            packing.pack_edge(tiles, weights, panels)
        else:
            add(memory, pack(), packing.pack_job(tiles, weights, panels))
            barrier(memory)
        job = activated(product_job(tiles, x, right, y, 0, bias, panels + panels_bytes, threads), activation, slope)
        if x.row_step == x.cols * size and x.cols <= job.depth_block and x.rows * x.row_step > _state.word(_state.L2):
            job = with_ahead(tiles, job, x.data + job.strip * x.row_step, 0, x.rows * x.row_step)
        add(memory, product(), job)
        run_queue(memory, threads)
        release(slot)
        return _link.OK

    return record.forward(forward, dtype.bitwidth)


forward = _link.units("forward", FORWARD, _build_forward)


def _build_backward(dtype):
    tiles = blocking.tiles(dtype)
    by_results = _by_results(dtype)
    plain_backward, turned_pass, block_pass = (
        unit[dtype].call_rare for unit in (plain.backward, turned.turned, one_pass.block_pass))
    (flat, flat_unbound), (narrow, narrow_unbound), (inner_products, inner_unbound) = (
        (unit[dtype].address, unit[dtype].unbound) for unit in (gemm.flat, gemm.narrow, inner.inner))

    def backward(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, most_threads):
        """dinputs, dweights and dbiases, all Matrix; without s the activation is the identity, dinputs may be unwanted.

        Rows of dvalues, s and of the results are contiguous, and no result overlaps anything.
        """
        size, rows, inputs, neurons = tile.itemsize(tiles.wide), x.rows, weights.rows, weights.cols
        if not backward_fits(dvalues, s, x, weights, dinputs, dweights, dbiases, size) or not is_contiguous(x, size):
            return _link.REFUSED
        if rows * inputs * neurons <= blocking.PLAIN_WORK and activation <= RELU:
            return plain_backward((dvalues, s, x, weights, dinputs, dweights, dbiases, activation, 1))
        threads = min(most_threads, blocking.product_threads(2, x, weights))
        if blocking.on_its_side(tiles.wide, x, weights):
            if flat() == 0:
                return flat_unbound()
            if inner_products() == 0:
                return inner_unbound()
            return turned_pass((dvalues, s, x, weights, dinputs, dweights, dbiases, activation, threads))
        few_neurons = blocking.few_neurons(tiles.wide, x, neurons)
        if (few_neurons or blocking.in_place(tiles.flat, inputs, neurons, 0)) and flat() == 0:
            return flat_unbound()
        if dinputs.data != 0 and blocking.by_inner(tiles.wide, rows, weights) and inner_products() == 0:
            return inner_unbound()
        if (blocking.has_narrow(tiles, neurons) or blocking.has_narrow(tiles, inputs)) and narrow() == 0:
            return narrow_unbound()
        if blocking.in_one_pass(rows, inputs * neurons * size):
            return block_pass((dvalues, s, x, weights, dinputs, dweights, dbiases, activation, threads))
        return by_results(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, threads)

    return record.backward(backward, dtype.bitwidth)


def _by_results(dtype):
    tiles = blocking.tiles(dtype)
    pack, mask = packing.pack[dtype].address, columns.mask[dtype].address
    product, inner_products = gemm.product[dtype].address, inner.inner[dtype].address

    @kernel
    def by_results(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, threads):
        size, inputs, neurons = tile.itemsize(tiles.wide), x.cols, dvalues.cols
        in_place = blocking.by_inner(tiles.wide, dvalues.rows, weights)
        few_neurons = blocking.few_neurons(tiles.wide, x, neurons)
        panels_bytes = packing.packed_bytes(tiles, neurons, inputs) if dinputs.data != 0 and not in_place else 0
        dz_row = dz_row_bytes(tiles, neurons)
        block = blocking.dz_rows(dvalues.rows, dz_row)
        dz_bytes = blocking.round_up(block * dz_row, ALIGNMENT)
        copy_bytes = dz_copy_bytes(tiles, block, inputs, neurons)
        if few_neurons:
            copy_bytes = few.copy_bytes(tiles, block, inputs, neurons)
        memory, slot = acquire(REGION_BYTES + panels_bytes + dz_bytes + copy_bytes + threads * scratch_bytes(tiles))
        if memory == 0:
            return _link.NO_MEMORY
        panels = memory + REGION_BYTES
        copy = panels + panels_bytes + dz_bytes
        scratch = copy + copy_bytes
        right = right_of_weights(tiles, weights, in_place, panels)
        begin(memory)
        if panels_bytes > 0:
            add(memory, pack(), packing.pack_job(tiles, transposed(weights), panels))
        i = 0
        while True:                                     # once for an empty batch as well: its dweights are zeros
            rows, later = min(block, dvalues.rows - i), int(i > 0)
            x_block, dz = from_row(x, i, rows), Matrix(panels + panels_bytes, rows, neurons, dz_row, size)
            s_block = from_row(s, i, rows) if s.data != 0 else s
            dz_right = right_of_dz(tiles, dz, inputs, copy)
            dz_panels = dz_right.data if dz_right.row_step == PACKED and not few_neurons else 0
            kept = only_if(int(dinputs.data != 0 or dz_panels == 0), dz)
            dvalues_block = from_row(dvalues, i, rows)
            of_dz = columns.mask_job(tiles, dvalues_block, activation, s_block, kept, dz_panels, dbiases.data, later)
            add(memory, mask(), of_dz)
            barrier(memory)
            if few_neurons:
                edge = copy + few.dweights_bytes(tiles, inputs, neurons)
                of_weights = few.weights_product(tiles, dz, x_block, edge, copy, later, scratch, threads)
            else:
                of_weights = product_job(tiles, transposed(x_block), dz_right, dweights, later, 0, scratch, threads)
            add(memory, product(), of_weights)
            if dinputs.data != 0:
                of_inputs = product_job(tiles, dz, right, from_row(dinputs, i, rows), 0, 0, scratch, threads)
                add(memory, inner_products() if in_place else product(), of_inputs)
            run_queue(memory, threads)
            i += rows
            if i >= dvalues.rows:
                break
        if few_neurons:
            few.turn(tiles.wide, Matrix(copy, neurons, inputs, inputs * size, size), dweights)
        release(slot)
        return _link.OK

    return by_results


@kernel
def right_of_weights(tiles, weights, by_inner, panels):
    """weights.T as B of the product for dinputs: rows of weights in place for inner products, or panels at an address."""
    size = tile.itemsize(tiles.wide)
    return Right(weights.data, weights.row_step, size, 0) if by_inner else packed(panels, weights.cols * size)


@kernel
def right_of_dz(tiles, dz, inputs, copy):
    """dz as B of the product for dweights: in place, or as panels at the address `copy`."""
    size = tile.itemsize(tiles.wide)
    if blocking.in_place(tiles.flat, inputs, dz.cols, 0):
        return Right(dz.data, size, dz.row_step, 0)
    return packed(copy, dz.rows * size)


@kernel
def dz_copy_bytes(tiles, rows, inputs, neurons):
    """Of those panels; or, as tiles read beyond the rows of a dz in place, of what lies beyond its last one."""
    if blocking.in_place(tiles.flat, inputs, neurons, 0):
        return tile.width(tiles.flat) * tile.itemsize(tiles.flat)
    return packing.packed_bytes(tiles, rows, neurons)


backward = _link.units("backward", BACKWARD, _build_backward)
