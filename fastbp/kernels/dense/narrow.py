"""The backward pass of a layer of few inputs or few neurons: one pass over memory, in blocks of rows that stay in the caches.

dz of a block is written to scratch memory, row after row without gaps, so that vectors are full for any number of neurons. Then

    dbiases     column sums of dz
    dinputs     dz @ weights.T: a tile holds rows x inputs; for very few inputs, dot products
    dweights    x.T @ dz with dz in the place of B, or dweights.T = dz.T @ x with x there: whichever fills vectors better

Nothing but weights.T is packed. Partitions of the batch are fixed by sizes alone, and added up at the end, as in fused.py.
"""
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import formula, inlined, kernel
from .. import blocking
from ..elementwise.activations import passed_back
from ..gemm import dot, outer, packing
from ..gemm.loops import microkernel
from ..gemm.outer import OuterProduct, last_panel
from ..gemm.problem import gemm_problem
from ..matrix import Matrix, rows_of, transpose_of, whole_rows
from ..schedule.arena import COUNTING, acquire, release, take
from ..schedule.queue import JOB_BYTES, REGION_BYTES, TASK, add, barrier, begin, run_here, run_queue
from ..schedule.records import read, record_type, replace
from ..simd import products, tile
from ..simd.vector import CACHE_LINE
from . import blocks, columns, select
from . import partitions as cut
from .columns import sum_job
from .fused import b_of_weights
from .operands import BackwardOperands

# The signature of the unit: (BackwardOperands, select.Backward, threads) -> status.
SIGNATURE = types.intp(record_type(BackwardOperands), record_type(select.Backward), types.intp)


class NarrowBackward(NamedTuple):
    """The job of the backward pass of a narrow layer. A task is a partition of the batch.

    Addresses are 0 where there is nothing; steps are in bytes.
    """

    tasks: int                  # partitions
    rows: int                   # rows of the batch: M
    inputs: int                 # inputs of the layer: K
    neurons: int                # neurons of the layer: N
    by_dot: int                 # 1: dinputs are dot products
    is_skinny: int              # 1: dweights are computed transposed, with x in the place of B
    partition_rows: int         # rows of each partition but the last
    block_rows: int             # rows of a block
    x: int                      # x (M, K)
    x_row_step: int             # bytes from one row of x to the next
    x_col_step: int             # bytes from one column of x to the next
    weights: int                # micropanels of weights.T, or weights in place for dot products
    weights_row_step: int       # bytes from one row of weights in place to the next
    activation: int             # its number in activations.py
    saved: int                  # what the activation saved (M, N); 0: everything passes
    saved_row_step: int         # bytes from one row of saved to the next
    dvalues: int                # dvalues (M, N)
    dvalues_row_step: int       # bytes from one row of dvalues to the next
    dinputs: int                # dinputs (M, K)
    dinputs_row_step: int       # bytes from one row of dinputs to the next
    parts: int                  # a Part's memory for each partition
    workers: int                # a Worker's memory for each worker


class Part(NamedTuple):
    """Addresses of a partition's results, whose rows are filled up to whole vectors, and whose last rows to whole tiles."""

    dweights: int               # dweights, or dweights.T of a skinny layer
    dbiases: int                # dbiases
    end: int                    # the first byte behind all this


class Worker(NamedTuple):
    """Addresses of a worker's memory."""

    job: int                    # the words of a job
    dz: int                     # dz of a block of rows
    x: int                      # a copy of x of a block of rows, or of its last columns, which may be read beyond its end
    sums: int                   # column sums of dz, a tile
    end: int                    # the first byte behind all this


@kernel
def part_row_bytes(machine, cols):
    """Return the bytes of a row of a Part."""
    return blocking.round_up(cols, machine.edge_width) * machine.itemsize


@kernel
def part_of(arena, machine, rows, cols, neurons):
    """Return the Part for results of rows x cols, and as many dbiases as neurons."""
    dweights, arena = take(arena, (rows + blocking.TALL_EDGE) * part_row_bytes(machine, cols))
    dbiases, arena = take(arena, part_row_bytes(machine, neurons))
    return Part(dweights=dweights, dbiases=dbiases, end=arena)


@kernel
def worker_of(arena, machine, inputs, neurons, is_skinny):
    """Return the Worker of a layer. Tiles read dz beyond its end."""
    block_rows = block_rows_of(machine, neurons)
    job, arena = take(arena, JOB_BYTES)
    dz, arena = take(arena, (block_rows * neurons + machine.width) * machine.itemsize)
    x_cols = machine.width if is_skinny != 0 else blocking.round_up(inputs + blocking.TALL_EDGE, machine.width)
    x, arena = take(arena, block_rows * x_cols * machine.itemsize)
    sums, arena = take(arena, machine.height * machine.edge_width * machine.itemsize)
    return Worker(job=job, dz=dz, x=x, sums=sums, end=arena)


@formula
def block_rows_of(machine, neurons):
    """Return the rows of a block, whole tiles: as many as NARROW_DZ holds, but not so many that sums become long."""
    unit = blocks.NARROW_UNIT
    return max(unit, min(blocks.FUSED_ROWS, blocks.NARROW_DZ // (neurons * machine.itemsize) // unit * unit))


# ---- dz and dbiases


@kernel
def mask_rows(row, job, start, rows, dz):
    """Write dz of rows start … start + rows. The next row overwrites what a tile writes beyond the end of its row."""
    size, width, cols = tile.itemsize(row), tile.width(row), job.neurons
    row_bytes = cols * size
    if job.dvalues_row_step == row_bytes and (job.saved == 0 or job.saved_row_step == row_bytes):
        rows, cols = 1, rows * cols                     # one long row: vectors are full
    for i in range(rows):
        dvalues, target = job.dvalues + (start + i) * job.dvalues_row_step, dz + i * row_bytes
        saved = job.saved + (start + i) * job.saved_row_step if job.saved != 0 else 0
        whole = cols // width * width
        for j in range(0, whole, width):
            mask_tile(row, job.activation, dvalues + j * size, saved + j * size if saved != 0 else 0, target + j * size, width)
        if whole < cols:
            at = whole * size
            mask_tile(row, job.activation, dvalues + at, saved + at if saved != 0 else 0, target + at, cols - whole)


@inlined
def mask_tile(row, activation, dvalues, saved, target, cols):
    """Write a tile of a row of dz, of which `cols` columns of dvalues and saved may be read."""
    values = tile.load(row, dvalues, 0, 1, cols)
    if saved != 0:
        values = passed_back(activation, values, tile.load(row, saved, 0, 1, cols))
    tile.store(values, target, 0, 1, tile.width(row))


@kernel
def add_columns(tiles, dz, rows, neurons, room, sums, accumulate):
    """Write the column sums of dz, or add them to `sums`. Each row of a tile has sums of its own, which are then added up."""
    shape, row = tiles.column_edge, tiles.edge_row
    size, width, height, row_step = tile.itemsize(shape), tile.width(shape), tile.height(shape), neurons * tile.itemsize(shape)
    whole = rows // height * height
    for j in range(0, neurons, width):
        acc = tile.zeros(shape)
        for i in range(0, whole, height):
            acc = acc + tile.load(shape, dz + i * row_step + j * size, row_step, height, width)
        if whole < rows:
            acc = acc + tile.load(shape, dz + whole * row_step + j * size, row_step, rows - whole, width)
        tile.store(acc, room, width * size, height, width)
        total = tile.load(row, room, 0, 1, width)
        for i in range(1, height):
            total = total + tile.load(row, room + i * width * size, 0, 1, width)
        if accumulate:
            total = total + tile.load(row, sums + j * size, 0, 1, width)
        tile.store(total, sums + j * size, 0, 1, width)


# ---- dinputs


@kernel
def write_dinputs(machine, shapes, job, start, rows, end, dz):
    """Write dinputs (rows, K) = dz (rows, N) weights.T (N, K), from row `start` of a partition that ends at `end`.

    If rows of dinputs follow one another, tiles are written in whole vectors: the next row overwrites what is written beyond
    the end of a row. So the last columns are written before the others.
    """
    edge, last = blocking.column_edge(machine, 0, job.inputs), last_panel(machine, job.inputs)
    unit = rows if last == 0 else blocks.NARROW_UNIT        # memory is written in one stretch, a few rows at a time
    i = 0
    while i < rows:
        i_end = min(i + unit, rows)
        j = last
        while j >= edge:
            write_columns(shapes.tall, job, start, i, i_end, end, dz, j, j == last)
            j -= machine.edge_width
        j = edge - machine.width
        while j >= 0:
            write_columns(shapes.full, job, start, i, i_end, end, dz, j, j == last)
            j -= machine.width
        i = i_end


@inlined
def write_columns(shape, job, start, i_start, i_end, end, dz, j, is_first):
    """Write rows of dinputs as wide as a tile, from column j on: sums and chains as those of gemm/loops.py.

    is_first: whether to prefetch what is read next.
    """
    size, width, height, neurons = tile.itemsize(shape), tile.width(shape), tile.height(shape), job.neurons
    row_step, cols, whole = neurons * size, job.inputs - j, 0
    if cols >= width or job.dinputs_row_step == job.inputs * size:
        whole = min(i_end, whole_rows(end - start, cols, job.dinputs_row_step, size, width))
    offsets = products.in_registers(products.multiples(shape, row_step))
    kc = blocking.even_block(neurons, blocking.KC, blocking.UNROLL)
    first_chain = blocking.even_block(min(kc, neurons), blocking.CHAIN, blocking.UNROLL)
    weights, a, c = job.weights + j * row_step, dz + i_start * row_step, job.dinputs + (start + i_start) * job.dinputs_row_step
    c += j * size
    for i in range(i_start, i_end, height):                                     # dinputs (height, width)
        if is_first:
            prefetch_rows(job, start + i, height, size)
        p = 0
        while p < neurons:
            p_end = min(p + kc, neurons)
            chain = first_chain if p == 0 else blocking.even_block(p_end - p, blocking.CHAIN, blocking.UNROLL)
            while p < p_end:
                steps = min(chain, p_end - p)
                a_at, b_at = products.in_registers((a + p * size, weights + p * width * size))
                acc = microkernel(tile.zeros(shape), steps, a_at, offsets, size, b_at, width * size)
                if p > 0:
                    acc = acc + tile.load(acc, c, job.dinputs_row_step, i_end - i, width if i + height <= whole else cols)
                if i + height <= whole:
                    tile.store(acc, c, job.dinputs_row_step, height, width)
                else:
                    tile.store(acc, c, job.dinputs_row_step, i_end - i, cols)
                p += steps
        a += height * row_step
        c += height * job.dinputs_row_step


@inlined
def prefetch_rows(job, i, rows, size):
    """Prefetch rows of x, which are read next, and of the next block's dvalues and saved, if rows follow one another."""
    fetch_lines(job.x + i * job.x_row_step, rows * job.inputs * size if job.x_row_step == job.inputs * size else 0)
    i += job.block_rows
    row_bytes = job.neurons * size
    if i + rows <= job.rows:
        fetch_lines(job.dvalues + i * row_bytes, rows * row_bytes if job.dvalues_row_step == row_bytes else 0)
        fetch_lines(job.saved + i * row_bytes, rows * row_bytes if job.saved != 0 and job.saved_row_step == row_bytes else 0)


@inlined
def fetch_lines(address, count):
    """Prefetch so many bytes."""
    for offset in range(0, count, CACHE_LINE):
        tile.fetch(address + offset)


@kernel
def x_rows_of(machine, job):
    """Return how many rows of x, the first ones, may be read in place: as vectors, or some columns beyond their end."""
    cols = job.inputs - last_panel(machine, job.inputs)
    if job.is_skinny != 0:
        width = machine.edge_width if blocking.has_column_edge(machine, job.inputs) else machine.width
        return whole_rows(job.rows, cols, job.x_row_step, machine.itemsize, width)
    if job.x_col_step != machine.itemsize:
        return 0
    return whole_rows(job.rows, cols, job.x_row_step, machine.itemsize, cols + blocking.TALL_EDGE)


@kernel
def copy_x(row, job, start, rows, target):
    """Copy rows of x, and return the distance of two rows in the copy."""
    size, width = tile.itemsize(row), tile.width(row)
    row_step = blocking.round_up(job.inputs + blocking.TALL_EDGE, width) * size
    for i in range(rows):
        source, to = job.x + (start + i) * job.x_row_step, target + i * row_step
        if job.x_col_step == size:
            for j in range(0, job.inputs, width):
                tile.store(tile.load(row, source + j * size, 0, 1, job.inputs - j), to + j * size, 0, 1, width)
        else:
            for j in range(job.inputs):
                tile.store_scalar(row, to + j * size, tile.load_scalar(row, source + j * job.x_col_step))
    return row_step


# ---- the task


def _build(dtype):
    """Return the task that computes the results of a partition, one block of rows after another."""
    tiles, shapes, machine = blocking.tiles(dtype), outer.tiles(dtype), blocking.machine(dtype)
    dot_products = dot.dot[dtype].address

    def narrow_rows(job_address, worker, task):
        job = read(job_address, NarrowBackward)
        size, neurons, inputs, is_skinny = machine.itemsize, job.neurons, job.inputs, job.is_skinny
        worker_bytes = worker_of(COUNTING, machine, inputs, neurons, is_skinny).end
        room = worker_of(job.workers + worker * worker_bytes, machine, inputs, neurons, is_skinny)
        c_rows, c_cols = (neurons, inputs) if is_skinny != 0 else (inputs, neurons)
        part_bytes = part_of(COUNTING, machine, c_rows, c_cols, neurons).end
        part = part_of(job.parts + task * part_bytes, machine, c_rows, c_cols, neurons)
        start = task * job.partition_rows
        end = min(start + job.partition_rows, job.rows)
        x_rows = x_rows_of(machine, job)
        for i in range(start, end, job.block_rows):
            rows, later = min(job.block_rows, end - i), int(i > start)
            mask_rows(tiles.row, job, i, rows, room.dz)                                             # dz (rows, N)
            add_columns(tiles, room.dz, rows, neurons, room.sums, part.dbiases, i > start)
            if job.dinputs != 0 and job.by_dot != 0:
                dz = Matrix(data=room.dz, rows=rows, cols=neurons, row_step=neurons * size, col_step=size)
                weights = Matrix(data=job.weights, rows=inputs, cols=neurons, row_step=job.weights_row_step, col_step=size)
                dinputs = rows_of(job.dinputs, i, rows, inputs, job.dinputs_row_step, size)
                b = b_of_weights(machine, weights, True, 0)
                run_here(dot_products(), gemm_problem(blocking.with_caches(machine), dz, b, dinputs, 0, 1), room.job)
            elif job.dinputs != 0:
                write_dinputs(machine, shapes, job, i, rows, end, room.dz)
            x, x_row_step = job.x + i * job.x_row_step, job.x_row_step
            if is_skinny == 0 and i + rows > x_rows:
                x, x_row_step = room.x, copy_x(tiles.row, job, i, rows, room.x)
            dweights = OuterProduct(                    # dweights (K, N) += x.T dz (rows, N)
                rows=inputs, cols=neurons, depth=rows, a=x, a_row_step=x_row_step, b=room.dz, b_row_step=neurons * size,
                c=part.dweights, c_row_step=part_row_bytes(machine, c_cols), accumulate=later)
            if is_skinny != 0:                          # dweights.T (N, K) += dz.T x (rows, K)
                dweights = replace(dweights, rows=neurons, cols=inputs, a=room.dz, a_row_step=neurons * size, b=x,
                                   b_row_step=x_row_step)
                outer.multiply_vectors(machine, shapes, tiles.row, dweights, x_rows - i, room.x)
            else:
                outer.multiply(machine, shapes, dweights)
        return link.OK

    return narrow_rows


_narrow_rows = link.units("narrow_rows", TASK, _build)


class Memory(NamedTuple):
    """Addresses of the memory of a pass."""

    queue: int                  # the queue
    weights: int                # micropanels of weights.T, if they are needed
    parts: int                  # a Part's memory for each partition
    part_bytes: int             # bytes of a Part: a size, no address
    workers: int                # a Worker's memory for each thread
    end: int                    # the first byte behind all this


@kernel
def memory_of(arena, machine, weights, choice, is_packed, partitions, threads):
    """Return the Memory of a pass over so many partitions; is_packed: whether weights.T is packed."""
    inputs, neurons = weights.rows, weights.cols
    rows, cols = (neurons, inputs) if choice.dweights == select.SKINNY else (inputs, neurons)
    part_bytes = part_of(COUNTING, machine, rows, cols, neurons).end
    queue, arena = take(arena, REGION_BYTES)
    packed, arena = take(arena, packing.packed_bytes(machine, neurons, inputs) if is_packed else 0)
    parts, arena = take(arena, partitions * part_bytes)
    is_skinny = int(choice.dweights == select.SKINNY)
    workers, arena = take(arena, threads * worker_of(COUNTING, machine, inputs, neurons, is_skinny).end)
    return Memory(queue=queue, weights=packed, parts=parts, part_bytes=part_bytes, workers=workers, end=arena)


def _build_backward(dtype):
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    pack, work, add_up = packing.pack[dtype].address, _narrow_rows[dtype].address, columns.add_up[dtype].address

    def narrow(operands, choice, threads):
        """Cut a backward pass into partitions and add up their results. passes.backward has checked the arguments."""
        dvalues, saved, x, weights, dinputs = operands.dvalues, operands.saved, operands.x, operands.weights, operands.dinputs
        size, inputs, neurons = machine.itemsize, x.cols, dvalues.cols
        partitions = cut.narrow(dvalues.rows)
        by_dot, is_skinny = choice.dinputs == select.DOT, choice.dweights == select.SKINNY
        is_packed = dinputs.data != 0 and not by_dot
        memory, slot = acquire(memory_of(COUNTING, machine, weights, choice, is_packed, partitions.count, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = memory_of(memory, machine, weights, choice, is_packed, partitions.count, threads)
        begin(room.queue)
        if is_packed:
            add(room.queue, pack(), packing.pack_job(machine, transpose_of(weights), room.weights))
            barrier(room.queue)
        weights_at = room.weights if is_packed else weights.data
        add(room.queue, work(), NarrowBackward(
            tasks=partitions.count, rows=x.rows, inputs=inputs, neurons=neurons, by_dot=int(by_dot), is_skinny=int(is_skinny),
            partition_rows=partitions.rows, block_rows=block_rows_of(machine, neurons),
            x=x.data, x_row_step=x.row_step, x_col_step=x.col_step, weights=weights_at, weights_row_step=weights.row_step,
            activation=operands.activation, saved=saved.data, saved_row_step=saved.row_step,
            dvalues=dvalues.data, dvalues_row_step=dvalues.row_step, dinputs=dinputs.data, dinputs_row_step=dinputs.row_step,
            parts=room.parts, workers=room.workers))
        barrier(room.queue)
        rows, cols = (neurons, inputs) if is_skinny else (inputs, neurons)
        part = part_of(room.parts, machine, rows, cols, neurons)        # the first partition's results; the others lie behind
        dweights = Matrix(data=part.dweights, rows=rows, cols=cols, row_step=part_row_bytes(machine, cols), col_step=size)
        dbiases = Matrix(data=part.dbiases, rows=1, cols=neurons, row_step=0, col_step=size)
        dweights_sum = dweights if is_skinny else operands.dweights
        add(room.queue, add_up(), sum_job(dweights, partitions.count, room.part_bytes, dweights_sum))
        add(room.queue, add_up(), sum_job(dbiases, partitions.count, room.part_bytes, operands.dbiases))
        run_queue(room.queue, threads)
        if is_skinny:
            packing.transpose(tiles, dweights, operands.dweights)
        release(slot)
        return link.OK

    return narrow


backward = link.units("narrow", SIGNATURE, _build_backward, lazy=True)
