"""The backward pass over many rows in one pass over memory.

For each block of rows dz stays in L2 and is used for all three results at once: x, s and dvalues are read once, dinputs
is written once. The batch is cut into partitions fixed by its size alone; each has dweights and dbiases of its own, which
are added up in order at the end, so the bits do not depend on the number of threads.
"""
from typing import NamedTuple

from .. import _link
from .._jit import kernel
from . import blocking, columns, few, gemm, inner, packing, tile
from .columns import mask_job, sum_job
from .matrix import BACKWARD, Matrix, only_if, transposed
from .parallel import JOB_BYTES, REGION_BYTES, TASK, add, barrier, begin, run_here, run_queue
from .product import packed, product_job, scratch_bytes, with_ahead
from .records import read
from .workspace import ALIGNMENT, acquire, release


class Pass(NamedTuple):
    """The job: sizes, addresses and strides in bytes. A task is a partition of the batch."""

    tasks: int
    rows: int
    inputs: int
    neurons: int
    rows_each: int              # of a partition
    dvalues: int
    dvalues_row: int
    activation: int
    s: int
    s_row: int
    x: int
    x_row: int
    x_col: int
    inner: int                  # dinputs are inner products with the rows of weights, else a product with weights.T
    weights: int                # their address and the distance of two rows, or that of the panels
    weights_row: int
    dinputs: int                # 0: not wanted
    dinputs_row: int
    dweights: int               # of the partitions, one after another, each followed by its dbiases
    part: int                   # bytes from one to the next
    scratch: int                # worker_bytes for each worker
    dz_row: int


@kernel
def dz_row_bytes(tiles, neurons):
    """The distance of two rows of dz: whole vectors."""
    return blocking.spread(blocking.round_up(neurons, tile.lanes(tiles.wide)) * tile.itemsize(tiles.wide))


@kernel
def worker_bytes(tiles, neurons, dz_row):
    """The words of a job, dz of one block of rows, twice, and what a product needs."""
    dz_bytes = blocking.PASS_ROWS * dz_row
    return blocking.round_up(JOB_BYTES + dz_bytes + panels_bytes(tiles, neurons) + scratch_bytes(tiles), ALIGNMENT)


@kernel
def panels_bytes(tiles, neurons):
    """Of dz of a block of rows, or of the edge of x."""
    return packing.packed_bytes(tiles, blocking.PASS_ROWS, max(neurons, tile.width(tiles.flat)))


def _build(dtype):
    tiles = blocking.tiles(dtype)
    mask, product = columns.mask[dtype].address, gemm.product[dtype].address
    inner_products = inner.inner[dtype].address

    def one_pass(job_address, worker, task):
        job = read(job_address, Pass)
        size, block = tile.itemsize(tiles.wide), blocking.PASS_ROWS
        memory = job.scratch + worker * worker_bytes(tiles, job.neurons, job.dz_row)
        panels = memory + JOB_BYTES + block * job.dz_row                    # of dz, or the edge of x
        scratch = panels + panels_bytes(tiles, job.neurons)
        few_neurons = blocking.few_neurons(tiles.wide, Matrix(job.x, job.rows, job.inputs, job.x_row, job.x_col), job.neurons)
        dweights = Matrix(job.dweights + task * job.part, job.inputs, job.neurons, job.neurons * size, size)
        dbiases = dweights.data + job.inputs * job.neurons * size
        weights = packed(job.weights, job.weights_row if job.inner != 0 else job.neurons * size)
        multiply = inner_products() if job.inner != 0 else product()
        start = task * job.rows_each
        end = min(start + job.rows_each, job.rows)
        for i in range(start, end, block):
            rows, later = min(block, end - i), int(i > start)
            dvalues = Matrix(job.dvalues + i * job.dvalues_row, rows, job.neurons, job.dvalues_row, size)
            s = Matrix(job.s + i * job.s_row if job.s != 0 else 0, rows, job.neurons, job.s_row, size)
            dz = Matrix(memory + JOB_BYTES, rows, job.neurons, job.dz_row, size)
            row_bytes = job.neurons * size
            follows = i + block < end and job.dvalues_row == row_bytes and (job.s == 0 or job.s_row == row_bytes)
            next_dvalues = dvalues.data + block * row_bytes if follows else 0
            next_s = s.data + block * row_bytes if follows and job.s != 0 else 0
            panels_of_dz = 0 if few_neurons else panels
            kept = only_if(int(job.dinputs != 0 or few_neurons), dz)
            run_here(mask(), mask_job(tiles, dvalues, job.activation, s, kept, panels_of_dz, dbiases, later), memory)
            if job.dinputs != 0:
                dinputs = Matrix(job.dinputs + i * job.dinputs_row, rows, job.inputs, job.dinputs_row, size)
                of_inputs = product_job(tiles, dz, weights, dinputs, 0, 0, scratch, 1)
                of_inputs = with_ahead(tiles, of_inputs, next_dvalues, next_s, block * row_bytes if follows else 0)
                run_here(multiply, of_inputs, memory)
            x = Matrix(job.x + i * job.x_row, rows, job.inputs, job.x_row, job.x_col)
            if few_neurons:
                of_weights = few.weights_product(tiles, dz, x, panels, dweights.data, later, scratch, 1)
            else:
                right = packed(panels, rows * size)
                of_weights = product_job(tiles, transposed(x), right, dweights, later, 0, scratch, 1)
            run_here(product(), of_weights, memory)
        return _link.OK

    return one_pass


_one_pass = _link.units("one_pass", TASK, _build)


def _build_block_pass(dtype):
    tiles = blocking.tiles(dtype)
    pack, work, add_up = packing.pack[dtype].address, _one_pass[dtype].address, columns.add_up[dtype].address

    def block_pass(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, threads):
        """Cut a backward pass into partitions and add up their results. Arguments as for dense.backward, which checks them."""
        size, inputs, neurons = tile.itemsize(tiles.wide), x.cols, dvalues.cols
        partitions, rows_each = blocking.partitions(dvalues.rows)
        in_place = blocking.by_inner(tiles.wide, dvalues.rows, weights)
        weights_bytes = packing.packed_bytes(tiles, neurons, inputs) if dinputs.data != 0 and not in_place else 0
        part = blocking.round_up((inputs + 1) * neurons * size, ALIGNMENT)
        dz_row = dz_row_bytes(tiles, neurons)
        workers_bytes = threads * worker_bytes(tiles, neurons, dz_row)
        memory, slot = acquire(REGION_BYTES + weights_bytes + partitions * part + workers_bytes)
        if memory == 0:
            return _link.NO_MEMORY
        panels = memory + REGION_BYTES
        parts = panels + weights_bytes
        begin(memory)
        if weights_bytes > 0:
            add(memory, pack(), packing.pack_job(tiles, transposed(weights), panels))
            barrier(memory)
        add(memory, work(), Pass(partitions, dvalues.rows, inputs, neurons, rows_each, dvalues.data, dvalues.row_step,
                                 activation, s.data, s.row_step, x.data, x.row_step, x.col_step, int(in_place),
                                 weights.data if in_place else panels, weights.row_step, dinputs.data, dinputs.row_step,
                                 parts, part, parts + partitions * part, dz_row))
        barrier(memory)
        few_neurons = blocking.few_neurons(tiles.wide, x, neurons)
        first = Matrix(parts, inputs, neurons, neurons * size, size)
        if few_neurons:
            first = Matrix(parts, neurons, inputs, inputs * size, size)
        add(memory, add_up(), sum_job(first, partitions, part, first if few_neurons else dweights))
        last_row = Matrix(parts + inputs * neurons * size, 1, neurons, 0, size)
        add(memory, add_up(), sum_job(last_row, partitions, part, dbiases))
        run_queue(memory, threads)
        if few_neurons:
            few.turn(tiles.wide, first, dweights)
        release(slot)
        return _link.OK

    return block_pass


block_pass = _link.units("block_pass", BACKWARD, _build_block_pass, rare=True)
