"""The backward pass of a layer of few inputs and neurons, on its side: vectors hold numbers of many rows, not of one.

For a block of rows, x.T and dz.T are written to scratch memory, turned in registers by square blocks. Their rows are long:

    dinputs.T = weights @ dz.T       a product with B in place, and then turned back
    dweights  = x.T @ dz             inner products of the rows of x.T with those of dz.T; of a row of ones, they are dbiases

As in one_pass.py the batch is cut into partitions fixed by its size alone, whose results are added up at the end. (A forward
pass gains nothing: it has no sums over the rows.)
"""
from typing import NamedTuple

from .. import _link
from .._jit import inlined, kernel
from . import blocking, columns, gemm, inner, tile
from .activations import IDENTITY, passed_back
from .columns import sum_job
from .matrix import BACKWARD, NO_MATRIX, Matrix, from_row, whole_rows
from .parallel import JOB_BYTES, REGION_BYTES, TASK, add, barrier, begin, run_here, run_queue
from .product import Right, product_job, scratch_bytes
from .records import read
from .workspace import ALIGNMENT, acquire, release

ROWS = 512                      # of a block, whose x.T and dz.T stay in L2


class Turned(NamedTuple):
    """The job: sizes, addresses and strides in bytes. A task is a partition of the batch."""

    tasks: int
    rows: int
    inputs: int
    neurons: int
    rows_each: int
    x: int
    x_row: int
    weights: int
    weights_row: int
    activation: int
    s: int                      # 0: everything passes
    s_row: int
    dvalues: int
    dvalues_row: int
    dinputs: int                # 0: not wanted
    dinputs_row: int
    dweights: int               # of the partitions, one after another, each followed by its dbiases
    part: int                   # bytes from one to the next
    scratch: int                # worker_bytes for each worker


@kernel
def turned_row_bytes(tiles):
    """Of a row of x.T: a block of rows, and what a tile reads beyond."""
    return (ROWS + tile.width(tiles.flat)) * tile.itemsize(tiles.wide) + ALIGNMENT


@kernel
def worker_bytes(tiles, inputs, neurons):
    """The words of a job, x.T and a row of ones, dz.T, dinputs.T, sums, and what a product needs."""
    turned = (2 * inputs + 1 + neurons) * turned_row_bytes(tiles)
    sums = blocking.round_up((inputs + 1) * neurons * tile.itemsize(tiles.wide), ALIGNMENT)
    return blocking.round_up(JOB_BYTES + turned + sums + scratch_bytes(tiles), ALIGNMENT)


@kernel
def turn(tiles, source, activation, s, target):
    """target = source.T, times the derivative that s tells; the last block of target's columns is filled up."""
    square = tiles.square
    size, lanes = tile.itemsize(square), tile.lanes(square)
    for j in range(0, source.cols, lanes):
        whole = whole_rows(source.rows, source.cols - j, source.row_step, size, lanes)
        if s.data != 0:
            whole = min(whole, whole_rows(s.rows, s.cols - j, s.row_step, size, lanes))
        for i in range(0, source.rows, lanes):
            cols = lanes if i + lanes <= whole else source.cols - j
            block = tile.load(square, source.data + i * source.row_step + j * size, source.row_step, source.rows - i, cols)
            if s.data != 0:
                of_s = tile.load(square, s.data + i * s.row_step + j * size, s.row_step, s.rows - i, cols)
                block = passed_back(activation, block, of_s)
            address = target.data + j * target.row_step + i * size
            tile.store(tile.transpose(block), address, target.row_step, source.cols - j, lanes)


@kernel
def turn_back(tiles, source, target):
    """target = source.T.

    Rows that follow one another are written in whole vectors, one after another: what a vector has too much the next row
    overwrites. So of more than one block of columns the last one, which has too much, comes first.
    """
    square = tiles.square
    size, lanes = tile.itemsize(square), tile.lanes(square)
    for i in range(0, target.rows, lanes):
        for j in range((target.cols - 1) // lanes * lanes, -1, -lanes):
            block = tile.load(square, source.data + j * source.row_step + i * size, source.row_step, target.cols - j, lanes)
            cols, whole = target.cols - j, 0
            if target.row_step == target.cols * size:
                whole = whole_rows(target.rows, cols, target.row_step, size, lanes)
            address = target.data + i * target.row_step + j * size
            cols = lanes if i + lanes <= whole else cols
            tile.store(tile.transpose(block), address, target.row_step, target.rows - i, cols)


@inlined
def scratch_of(tiles, job, worker):
    """A worker's memory for a job, Matrix x.T with the row of ones, dz.T, dinputs.T and sums, and what a product needs."""
    size, row = tile.itemsize(tiles.wide), turned_row_bytes(tiles)
    memory = job.scratch + worker * worker_bytes(tiles, job.inputs, job.neurons)
    x = Matrix(memory + JOB_BYTES, job.inputs + 1, ROWS, row, size)
    dz = Matrix(x.data + (job.inputs + 1) * row, job.neurons, ROWS, row, size)
    dinputs = Matrix(dz.data + job.neurons * row, job.inputs, ROWS, row, size)
    sums = Matrix(dinputs.data + job.inputs * row, job.inputs + 1, job.neurons, job.neurons * size, size)
    scratch = sums.data + blocking.round_up((job.inputs + 1) * job.neurons * size, ALIGNMENT)
    return memory, x, dz, dinputs, sums, scratch


@inlined
def corner(matrix, rows, cols):
    """So many of the first rows and columns of a matrix."""
    return Matrix(matrix.data, rows, cols, matrix.row_step, matrix.col_step)


@inlined
def right_of(matrix):
    return Right(matrix.data, matrix.col_step, matrix.row_step, 0)


def _build(dtype):
    tiles, product, inner_products = blocking.tiles(dtype), gemm.product[dtype].address, inner.inner[dtype].address

    def turned_rows(job_address, worker, task):
        job = read(job_address, Turned)
        size = tile.itemsize(tiles.wide)
        memory, turned_x, turned_dz, turned_dinputs, sums, scratch = scratch_of(tiles, job, worker)
        start = task * job.rows_each
        end = min(start + job.rows_each, job.rows)
        weights = Matrix(job.weights, job.inputs, job.neurons, job.weights_row, size)
        dweights = job.dweights + task * job.part
        for p in range(ROWS):
            tile.store_scalar(tiles.wide, turned_x.data + job.inputs * turned_x.row_step + p * size, tile.zero(tiles.wide) + 1)
        for i in range(start, end, ROWS):
            rows = min(ROWS, end - i)
            x = Matrix(job.x + i * job.x_row, rows, job.inputs, job.x_row, size)
            dvalues = Matrix(job.dvalues + i * job.dvalues_row, rows, job.neurons, job.dvalues_row, size)
            s = Matrix(job.s + i * job.s_row if job.s != 0 else 0, rows, job.neurons, job.s_row, size)
            turn(tiles, dvalues, job.activation, s, turned_dz)
            turn(tiles, x, IDENTITY, NO_MATRIX, turned_x)
            a, b = corner(turned_x, job.inputs + 1, rows), Right(turned_dz.data, turned_dz.row_step, size, 0)
            run_here(inner_products(), product_job(tiles, a, b, sums, 0, 0, 0, 1), memory)
            add_sums(tiles.wide, sums, dweights, i > start)
            if job.dinputs != 0:
                c = corner(turned_dinputs, job.inputs, rows)
                run_here(product(), product_job(tiles, weights, right_of(turned_dz), c, 0, 0, scratch, 1), memory)
                dinputs = Matrix(job.dinputs + i * job.dinputs_row, rows, job.inputs, job.dinputs_row, size)
                turn_back(tiles, turned_dinputs, dinputs)
        return _link.OK

    return turned_rows


@kernel
def add_sums(shape, sums, target, accumulate):
    """Add a matrix to the one at an address, or write it there."""
    for offset in range(0, sums.rows * sums.row_step, tile.itemsize(shape)):
        value = tile.load_scalar(shape, sums.data + offset)
        if accumulate:
            value += tile.load_scalar(shape, target + offset)
        tile.store_scalar(shape, target + offset, value)


_turned_rows = _link.units("turned_rows", TASK, _build)


def _build_backward(dtype):
    tiles, work, add_up = blocking.tiles(dtype), _turned_rows[dtype].address, columns.add_up[dtype].address

    def turned(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, threads):
        """Cut a backward pass into partitions and add up their results. Arguments as for dense.backward, which checks them."""
        size, inputs, neurons = tile.itemsize(tiles.wide), x.cols, dvalues.cols
        tasks, rows_each = blocking.partitions(dvalues.rows)
        part = blocking.round_up((inputs + 1) * neurons * size, ALIGNMENT)
        memory, slot = acquire(REGION_BYTES + tasks * part + threads * worker_bytes(tiles, inputs, neurons))
        if memory == 0:
            return _link.NO_MEMORY
        parts = memory + REGION_BYTES
        begin(memory)
        add(memory, work(), Turned(tasks, x.rows, inputs, neurons, rows_each, x.data, x.row_step,
                                   weights.data, weights.row_step, activation, s.data, s.row_step, dvalues.data,
                                   dvalues.row_step, dinputs.data, dinputs.row_step, parts, part, parts + tasks * part))
        barrier(memory)
        sums = Matrix(parts, inputs + 1, neurons, neurons * size, size)
        add(memory, add_up(), sum_job(corner(sums, inputs, neurons), tasks, part, dweights))
        add(memory, add_up(), sum_job(from_row(sums, inputs, 1), tasks, part, dbiases))
        run_queue(memory, threads)
        release(slot)
        return _link.OK

    return turned


turned = _link.units("turned", BACKWARD, _build_backward, rare=True)
