"""C = A B for few rows of A: B streams in once, as it lies in memory.

Packing B takes as long as multiplying a few dozen rows by it: B comes from memory, goes back there as micropanels, and is read
once more. Here all rows of A go over a few rows of B at a time. These rows are read from their beginning to their end, as the
CPU expects. Sums wait in scratch memory while the next rows of B come in. If B's columns are contiguous, as those of weights.T
are, a task computes NR columns, and a few rows of them are transposed in L1.

    for each chain of K                                as loops.py cuts it, so that the bits are those of a packed B
        streamed_k rows of B                           B (streamed_k, task_cols) in as many streams
            NR columns                                 B (streamed_k, NR) in L1, over which all rows of A go
                MR rows                                a tile of sums in registers
        the chain's sums are added to C
"""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import formula, inlined, kernel
from .. import blocking
from ..elementwise import activations
from ..schedule.arena import COUNTING, take
from ..schedule.queue import TASK
from ..schedule.records import read, replace
from ..simd import products, tile
from .loops import PanelOfB, microkernel
from .problem import GemmProblem, activate_block, block_of, epilogue, gemm_problem, unpacked_b

# Rows of the lowest tile, for what is left after full and row-edge tiles.
LOW = 2


class Memory(NamedTuple):
    """Addresses of a worker's memory."""

    sums: int                   # the sums of a chain (M, task_cols): the tiles of NR columns after each other
    last: int                   # the last row of B in the last columns, filled up to a tile
    panel: int                  # streamed_k rows of NR columns of a B whose columns are contiguous, transposed
    end: int                    # the first byte behind all this


@kernel
def memory_of(arena, machine, rows, task_cols):
    """Return the Memory of a worker for tasks of so many rows and columns."""
    sums, arena = take(arena, rows * blocking.round_up(task_cols, machine.width) * machine.itemsize)
    last, arena = take(arena, machine.width * machine.itemsize)
    panel, arena = take(arena, machine.sizes.streamed_k * machine.width * machine.itemsize)
    return Memory(sums=sums, last=last, panel=panel, end=arena)


@formula
def cols_of_task(machine, rows, cols, threads):
    """Return the columns of a task: long stretches of rows of B, and so few that their sums stay in L2."""
    most = machine.l2 // blocking.STREAMED_L2_PART // (max(1, rows) * machine.itemsize) // machine.width * machine.width
    each = blocking.round_up(blocking.blocks(cols, 2 * threads if threads > 1 else 1), machine.width)
    return blocking.even_block(cols, max(machine.width, min(most, each)), machine.width)


@kernel
def scratch_bytes(machine, rows, task_cols, threads):
    """Return the bytes of scratch memory of a product of so many rows."""
    return threads * memory_of(COUNTING, machine, rows, task_cols).end


@formula
def problem_of(machine, a, b, c, scratch, threads):
    """Return the GemmProblem of Matrix a (M, K), b (K, N) and c (M, N). Tasks are stripes of columns.

    The rows of a and c are contiguous, and the rows or the columns of b.
    """
    problem = gemm_problem(machine, a, unpacked_b(b, 0), c, scratch, threads)
    task_cols = cols_of_task(machine, c.rows, c.cols, threads) if b.col_step == machine.itemsize else machine.width
    return replace(problem, tasks=blocking.blocks(c.cols, task_cols), task_rows=c.rows, task_cols=task_cols,
                   kc=blocking.cut(machine, a, c.cols, True, False).kc)


def _build(dtype):
    """Return the task that computes all rows of a stripe of columns of C."""
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    activate, full = activations.activate[dtype].address, tiles.full
    row_edge, low = blocking.row_edge(full), full._replace(rows=LOW)

    def streamed(job_address, worker, task):
        problem, here = read(job_address, GemmProblem), blocking.with_caches(machine)
        whole, step = block_of(problem, task), here.sizes.streamed_k
        worker_bytes = memory_of(COUNTING, here, problem.rows, problem.task_cols).end
        room = memory_of(problem.scratch + worker * worker_bytes, here, problem.rows, problem.task_cols)
        is_by_rows = problem.b_col_step == machine.itemsize
        if is_by_rows:
            pack_last(tiles.row, problem, whole, room)
        rest = problem.rows % tile.height(full)
        tall = problem.rows - rest if rest <= tile.height(row_edge) else problem.rows
        for p in range(0, problem.depth, problem.kc):                           # a KC block
            p_end = min(p + problem.kc, problem.depth)
            chain = blocking.even_block(p_end - p, blocking.CHAIN, blocking.UNROLL)
            for q in range(p, p_end, chain):                                    # a chain
                block = replace(whole, p=q, p_end=min(q + chain, p_end))
                for k in range(q, block.p_end, step):                           # B (streamed_k, task_cols)
                    k_end = min(k + step, block.p_end)
                    for j in range(whole.j, whole.j_end, tile.width(full)):     # B (streamed_k, NR), C (M, NR)
                        columns, data = replace(block, j=j), problem.b + k * problem.b_row_step + j * problem.b_col_step
                        b = PanelOfB(data=data, row_step=problem.b_row_step, panel_step=0, is_packed=False)
                        if not is_by_rows:
                            transpose(tiles, problem, replace(columns, p=k, p_end=k_end), room)
                            row_step = tile.width(full) * machine.itemsize
                            b = PanelOfB(data=room.panel, row_step=row_step, panel_step=0, is_packed=True)
                        row_tiles(full, problem, room, replace(columns, i_end=tall), b, k, k_end)
                        if rest > LOW:
                            row_tiles(row_edge, problem, room, replace(columns, i=tall), b, k, k_end)
                        else:
                            row_tiles(low, problem, room, replace(columns, i=tall), b, k, k_end)
        activate_block(tiles, problem, activate(), whole)
        return link.OK

    return streamed


streamed = link.units("streamed", TASK, _build, lazy=True)


@kernel
def pack_last(row, problem, block, room):
    """Copy the last row of B in the columns that do not fill a tile: nothing may be read behind it."""
    j = block.j + (block.j_end - block.j) // tile.width(row) * tile.width(row)
    last = problem.b + (problem.depth - 1) * problem.b_row_step + j * tile.itemsize(row)
    tile.store(tile.load(row, last, 0, 1, block.j_end - j), room.last, 0, 1, tile.width(row))


@kernel
def transpose(tiles, problem, block, room):
    """Transpose rows p … p_end of B in the first NR columns of a Block: columns of B are contiguous."""
    size, lanes, width = tile.itemsize(tiles.square), tile.lanes(tiles.square), tile.width(tiles.full)
    row_bytes = width * size
    for j in range(0, min(width, problem.cols - block.j), lanes):
        for p in range(block.p, block.p_end, lanes):
            source = problem.b + (block.j + j) * problem.b_col_step + p * size
            square = tile.load(tiles.square, source, problem.b_col_step, problem.cols - block.j - j, block.p_end - p)
            target = room.panel + (p - block.p) * row_bytes + j * size
            tile.store(tile.transpose(square), target, row_bytes, block.p_end - p, lanes)


@inlined
def row_tiles(shape, problem, room, block, b, k, k_end):
    """Add rows k … k_end of B, a PanelOfB, to the sums of a Block of rows in NR columns. The block's p … p_end is their chain.

    A tile at the edge reads beyond the rows of B what follows them, and does not use it. Only behind the last row there is
    nothing. Rows of A past the last one repeat it.
    """
    size, height, width, task_rows = tile.itemsize(shape), tile.height(shape), tile.width(shape), problem.rows
    is_last = not b.is_packed and problem.cols - block.j < width and k_end == problem.depth
    steps = k_end - k - 1 if is_last else k_end - k
    first_column = block.j // problem.task_cols * problem.task_cols
    sums = room.sums + ((block.j - first_column) * task_rows + block.i * width) * size
    a, c = problem.a + block.i * problem.a_row_step + k * size, problem.c + block.i * problem.c_row_step + block.j * size
    for i in range(block.i, block.i_end, height):                               # A (MR, streamed_k), C (MR, NR)
        rows = block.i_end - i
        offsets = products.in_registers(products.row_offsets(shape, problem.a_row_step, rows))
        acc = tile.load(shape, sums, width * size, rows if k > block.p else 0, width)
        acc = microkernel(acc, steps, a, offsets, size, b.data, b.row_step)
        if is_last:
            acc = products.rank1(acc, a + steps * size, offsets, room.last)
        if k_end == block.p_end:
            epilogue(acc, problem, c, rows, block)
        else:
            tile.store(acc, sums, width * size, rows, width)
        a += height * problem.a_row_step
        c += height * problem.c_row_step
        sums += height * width * size
