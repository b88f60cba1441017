"""A dense layer whose products multiply bfloat16: float32 matrices, rounded on the way into a product and summed in float32.

As dense.py: the same units, arguments and refusals. Everything but the operands of the products is float32, and dbiases is
the sum of what is not rounded. The batch is gone over in blocks, so that what is rounded stays in the caches.
"""
from numba import types

from .. import _link
from .._jit import kernel
from . import activations, blocking, columns, gemm, packing, record, tile
from .activations import RELU
from .columns import mask_job
from .dense import backward_fits, forward_fits
from .matrix import BACKWARD, FORWARD, Matrix, from_row, transposed
from .parallel import REGION_BYTES, add, barrier, begin, run_queue
from .product import activated, packed, product_job, scratch_bytes
from .rounding import across_rows, along_rows, round_rows
from .workspace import ALIGNMENT, acquire, release

SIZE = 4                        # bytes of a float32, and of a pair
BITS = 16                       # of a factor


@kernel
def pairs_of(tiles, numbers):
    """Pairs that hold so many numbers along the depth of a product, and zeros where it takes more at a time."""
    return blocking.round_up(blocking.blocks(numbers, 2), tile.step(tiles.wide))


@kernel
def left(data, rows, cols):
    """A Matrix at an address, of the left_bytes, as A of a product."""
    return Matrix(data, rows, cols, blocking.spread(cols * SIZE), SIZE)


@kernel
def left_bytes(tiles, rows, cols):
    """Of whole tiles: one reads all of its rows, whether it uses them or not."""
    return blocking.round_up(rows, tile.height(tiles.wide)) * blocking.spread(cols * SIZE)


@kernel
def matrix_bytes(rows, cols):
    return blocking.round_up(rows * cols * SIZE, ALIGNMENT)


@kernel
def compact(data, rows, cols):
    """A Matrix at an address, its rows one after another."""
    return Matrix(data, rows, cols, cols * SIZE, SIZE)


def _build_forward(dtype):
    tiles = blocking.tiles(tile.BFLOAT16)
    round_pairs, pack = round_rows[dtype].address, packing.pack[dtype].address
    product = gemm.product[dtype].address
    activate, activate_unbound = activations.activate[types.float32].address, activations.activate[types.float32].unbound
    narrow, narrow_unbound = gemm.narrow[dtype].address, gemm.narrow[dtype].unbound

    def forward(x, weights, biases, y, slope, activation, most_threads):
        """y, and for gelu slope."""
        if not forward_fits(x, weights, biases, y, slope, SIZE) or x.col_step != SIZE or weights.col_step != SIZE:
            return _link.REFUSED
        if blocking.has_narrow(tiles, y.cols) and narrow() == 0:
            return narrow_unbound()
        if activation > RELU and activate() == 0:
            return activate_unbound()
        neurons, pairs = y.cols, pairs_of(tiles, x.cols)
        threads = min(most_threads, blocking.product_threads(1, x, weights))
        block = blocking.rounded_rows(x.rows, x.cols)
        bias_bytes = packing.row_bytes(tiles, neurons)
        panels_bytes, weights_bytes = packing.packed_bytes(tiles, pairs, neurons), matrix_bytes(pairs, neurons)
        x_bytes = left_bytes(tiles, block, pairs)
        memory, slot = acquire(REGION_BYTES + bias_bytes + panels_bytes + weights_bytes + x_bytes
                               + threads * scratch_bytes(tiles))
        if memory == 0:
            return _link.NO_MEMORY
        bias = packing.copy_bias(tiles, biases, memory + REGION_BYTES)
        panels = memory + REGION_BYTES + bias_bytes
        rounded_weights = compact(panels + panels_bytes, pairs, neurons)
        begin(memory)
        add(memory, round_pairs(), across_rows(weights, rounded_weights))
        barrier(memory)
        add(memory, pack(), packing.pack_job(tiles, rounded_weights, panels))
        rounded_x = panels + panels_bytes + weights_bytes
        scratch = rounded_x + x_bytes
        right = packed(panels, pairs * SIZE)
        for i in range(0, x.rows, block):
            rows = min(block, x.rows - i)
            a = left(rounded_x, rows, pairs)
            add(memory, round_pairs(), along_rows(from_row(x, i, rows), a))
            barrier(memory)
            slope_block = from_row(slope, i, rows) if slope.data != 0 else slope
            job = product_job(tiles, a, right, from_row(y, i, rows), 0, bias, scratch, threads)
            add(memory, product(), activated(job, activation, slope_block))
            run_queue(memory, threads)
        release(slot)
        return _link.OK

    return record.forward(forward, BITS)


forward = _link.units("forward", FORWARD, _build_forward, [tile.BFLOAT16])


def _build_backward(dtype):
    tiles, by_results = blocking.tiles(tile.BFLOAT16), _by_results(dtype)
    narrow, narrow_unbound = gemm.narrow[dtype].address, gemm.narrow[dtype].unbound

    def backward(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, most_threads):
        """dinputs, dweights and dbiases."""
        rows, inputs, neurons = x.rows, weights.rows, weights.cols
        if not backward_fits(dvalues, s, x, weights, dinputs, dweights, dbiases, SIZE):
            return _link.REFUSED
        if x.col_step != SIZE or weights.col_step != SIZE:
            return _link.REFUSED
        if (blocking.has_narrow(tiles, neurons) or blocking.has_narrow(tiles, inputs)) and narrow() == 0:
            return narrow_unbound()
        threads = min(most_threads, blocking.product_threads(2, x, weights))
        block = blocking.rounded_rows(rows, inputs + 3 * neurons)
        panels_bytes = packing.packed_bytes(tiles, pairs_of(tiles, neurons), inputs) if dinputs.data != 0 else 0
        memory, slot = acquire(REGION_BYTES + panels_bytes + block_bytes(tiles, block, inputs, neurons)
                               + threads * scratch_bytes(tiles))
        if memory == 0:
            return _link.NO_MEMORY
        by_results(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, threads, block, panels_bytes, memory)
        release(slot)
        return _link.OK

    return record.backward(backward, BITS)


@kernel
def block_bytes(tiles, block, inputs, neurons):
    """What is kept of a block: dz, rounded along and across its rows, and its panels, and x rounded; before it, the weights."""
    half, pairs = pairs_of(tiles, block), pairs_of(tiles, neurons)
    of_block = (matrix_bytes(block, neurons) + left_bytes(tiles, block, pairs) + matrix_bytes(half, neurons)
                + packing.packed_bytes(tiles, half, neurons) + matrix_bytes(half, inputs))
    return max(of_block, matrix_bytes(inputs, pairs))


def _by_results(dtype):
    tiles = blocking.tiles(tile.BFLOAT16)
    round_pairs, pack = round_rows[dtype].address, packing.pack[dtype].address
    mask, product = columns.mask[types.float32].address, gemm.product[tile.BFLOAT16].address

    @kernel
    def by_results(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, threads, block, panels_bytes, memory):
        inputs, neurons = weights.rows, weights.cols
        pairs, half = pairs_of(tiles, neurons), pairs_of(tiles, block)
        panels = memory + REGION_BYTES
        begin(memory)
        if panels_bytes > 0:
            rounded_weights = compact(panels + panels_bytes, inputs, pairs)
            add(memory, round_pairs(), along_rows(weights, rounded_weights))
            barrier(memory)
            add(memory, pack(), packing.pack_job(tiles, transposed(rounded_weights), panels))
            barrier(memory)                             # dz is written where the rounded weights are
        of_dz = panels + panels_bytes
        of_dz_along = of_dz + matrix_bytes(block, neurons)
        of_dz_across = of_dz_along + left_bytes(tiles, block, pairs)
        dz_panels = of_dz_across + matrix_bytes(half, neurons)
        of_x = dz_panels + packing.packed_bytes(tiles, half, neurons)
        scratch = panels + panels_bytes + block_bytes(tiles, block, inputs, neurons)
        i = 0
        while True:                                     # once for an empty batch as well: its dweights are zeros
            rows, later = min(block, x.rows - i), int(i > 0)
            half = pairs_of(tiles, rows)
            dz, dz_along = compact(of_dz, rows, neurons), left(of_dz_along, rows, pairs)
            dz_across, x_across = compact(of_dz_across, half, neurons), compact(of_x, half, inputs)
            s_block = from_row(s, i, rows) if s.data != 0 else s
            add(memory, mask(), mask_job(tiles, from_row(dvalues, i, rows), activation, s_block, dz, 0, dbiases.data, later))
            barrier(memory)
            add(memory, round_pairs(), across_rows(dz, dz_across))
            add(memory, round_pairs(), across_rows(from_row(x, i, rows), x_across))
            if dinputs.data != 0:
                add(memory, round_pairs(), along_rows(dz, dz_along))
            barrier(memory)
            add(memory, pack(), packing.pack_job(tiles, dz_across, dz_panels))
            barrier(memory)
            of_weights = product_job(tiles, transposed(x_across), packed(dz_panels, half * SIZE), dweights, later, 0,
                                     scratch, threads)
            add(memory, product(), of_weights)
            if dinputs.data != 0:
                of_inputs = product_job(tiles, dz_along, packed(panels, pairs * SIZE), from_row(dinputs, i, rows), 0, 0,
                                        scratch, threads)
                add(memory, product(), of_inputs)
            run_queue(memory, threads)
            i += rows
            if i >= x.rows:
                break

    return by_results


backward = _link.units("backward", BACKWARD, _build_backward, [tile.BFLOAT16])
