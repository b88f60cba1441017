"""Copies of A and B of a product, laid out so that a tile reads them in one stretch.

B is packed in micropanels, by a job of its own:

    columns of B      0 … width-1 │ width … 2·width-1 │ …        width is that of a full tile; what is left over comes in
    in memory   row 0 ■■■■■■■■■■■ │                   │          column-edge micropanels, the last filled with anything
                row 1 ■■■■■■■■■■■ │ (after the last   │
                 …                │  row of the first)│

A is copied tile by tile into a worker's scratch memory, where it cannot be read in place: the elements of a tile's rows in
one column of A, filled up with zeros, then those in the next column.
"""
from functools import partial
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import formula, kernel
from .. import blocking
from ..matrix import from_col, whole_rows
from ..schedule.arena import ALIGNMENT
from ..schedule.queue import TASK
from ..schedule.records import read, replace
from ..schedule.trace import in_memory
from ..simd import tile
from .problem import PACKED, CopiedA

# Rows of B that a task packs: enough to pay for being a task.
ROWS = 256


class Pack(NamedTuple):
    """The job of packing a matrix of any strides. A task is ROWS rows of a group of micropanels."""

    tasks: int                  # blocks of rows of groups
    rows: int                   # rows of the matrix
    cols: int                   # columns of the matrix
    source: int                 # the address of the matrix
    row_step: int               # bytes from one row to the next
    col_step: int               # bytes from one column to the next
    micropanels: int            # the address of the micropanels
    numbers: int                # K; more than the rows if these are of pairs (rounding.py)


# ---- B


@formula
def packed_bytes(machine, rows, cols):
    """Return the bytes of a packed matrix."""
    return blocking.round_up(rows * blocking.round_up(cols, machine.edge_width) * machine.itemsize, ALIGNMENT)


@kernel
def pack_job(machine, source, micropanels):
    """Return the Pack of the Matrix `source` into micropanels at an address."""
    tasks = blocking.blocks(source.cols, blocking.group(machine)) * blocking.blocks(source.rows, ROWS)
    return Pack(tasks=tasks, rows=source.rows, cols=source.cols, source=source.data, row_step=source.row_step,
                col_step=source.col_step, micropanels=micropanels, numbers=source.rows)


@kernel
def pack_here(pack, machine, source, micropanels):
    """Pack a Matrix of no more than a group of micropanels on this thread; pack: the address of the unit."""
    job = pack_job(machine, source, micropanels)
    for task in range(job.tasks):
        link.call(pack, (in_memory(job), 0, task))


def build(pack_micropanels, dtype):
    """Return the task that packs ROWS rows of a group of micropanels, each kind of them by the kernel pack_micropanels."""
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)

    def pack(job_address, worker, task):
        job = read(job_address, Pack)
        chunks = blocking.blocks(job.rows, ROWS)
        p, j = task % chunks * ROWS, task // chunks * blocking.group(machine)
        p_end, j_end = min(p + ROWS, job.rows), min(j + blocking.group(machine), job.cols)
        edge = blocking.column_edge(machine, j, j_end)
        pack_micropanels(tiles, tiles.row, job, p, p_end, j, min(edge, j_end))
        pack_micropanels(tiles, tiles.edge_row, job, p, p_end, edge, j_end)
        return link.OK

    return pack


@kernel
def pack_micropanels(tiles, row, job, p, p_end, j, j_end):
    """Pack rows p … p_end of some micropanels, in one of three ways: by how the matrix lies in memory."""
    if job.col_step == tile.itemsize(row):
        pack_rows(row, job, p, p_end, j, j_end)
    elif job.row_step == tile.itemsize(row):
        pack_columns(tiles, row, job, p, p_end, j, j_end)
    else:
        pack_elements(row, job, p, p_end, j, j_end)


@kernel
def micropanel_at(row, job, j):
    """Return the address of the micropanel that begins with column j."""
    return job.micropanels + j * job.rows * tile.itemsize(row)


@kernel
def pack_rows(row, job, p, p_end, j_start, j_end):
    """Copy vectors: the rows of the matrix are contiguous."""
    size, width = tile.itemsize(row), tile.width(row)
    whole = whole_rows(job.rows, job.cols - j_start, job.row_step, size, blocking.round_up(j_end - j_start, width))
    for i in range(p, p_end):
        for j in range(j_start, j_end, width):
            cols = width if i < whole else job.cols - j
            values = tile.load(row, job.source + i * job.row_step + j * size, 0, 1, cols)
            tile.store(values, micropanel_at(row, job, j) + i * width * size, 0, 1, width)


@kernel
def pack_columns(tiles, row, job, p, p_end, j_start, j_end):
    """Transpose square blocks in registers: the columns of the matrix are contiguous."""
    size, width, lanes = tile.itemsize(row), tile.width(row), tile.lanes(row)
    for j in range(j_start, j_end, width):
        for k in range(0, min(width, job.cols - j), lanes):
            for i in range(p, p_end, lanes):
                column = job.source + i * size + (j + k) * job.col_step
                block = tile.transpose(tile.load(tiles.square, column, job.col_step, job.cols - j - k, p_end - i))
                tile.store(block, micropanel_at(row, job, j) + (i * width + k) * size, width * size, p_end - i, lanes)


@kernel
def pack_elements(row, job, p, p_end, j_start, j_end):
    """Copy numbers: nothing is contiguous."""
    size, width = tile.itemsize(row), tile.width(row)
    for j in range(j_start, j_end, width):
        for i in range(p, p_end):
            for k in range(width):
                value = tile.zero(row)
                if j + k < job.cols:
                    value = tile.load_scalar(row, job.source + i * job.row_step + (j + k) * job.col_step)
                tile.store_scalar(row, micropanel_at(row, job, j) + (i * width + k) * size, value)


pack = link.units("pack", TASK, partial(build, pack_micropanels))


# ---- the edge of a B in place


@formula
def edge_bytes(machine, rows, cols):
    """Return the bytes of the micropanel that pack_edge writes."""
    width = machine.unpacked_width
    return blocking.round_up(rows * width * machine.itemsize, ALIGNMENT) if cols % width > 0 else 0


@kernel
def pack_edge(tiles, matrix, target):
    """Pack the last columns of a Matrix of contiguous rows, those that do not fill an unpacked-B tile, as a micropanel."""
    row, width = tiles.edge_row, tile.width(tiles.unpacked)
    edge = from_col(matrix, matrix.cols // width * width)
    size, lanes = tile.itemsize(row), tile.lanes(row)
    whole = whole_rows(edge.rows, edge.cols, edge.row_step, size, blocking.round_up(edge.cols, lanes))
    for i in range(edge.rows):
        for j in range(0, edge.cols, lanes):
            values = tile.load(row, edge.data + i * edge.row_step + j * size, 0, 1, lanes if i < whole else edge.cols - j)
            tile.store(values, target + (i * width + j) * size, 0, 1, lanes)


# ---- a row, such as the biases


@formula
def row_bytes(machine, cols):
    """Return the bytes of a row that copy_row copies."""
    return blocking.round_up(cols, machine.width) * machine.itemsize


@kernel
def copy_row(tiles, row, target):
    """Copy a row vector of any stride, filled up with zeros to whole tiles."""
    shape = tiles.full
    for j in range(blocking.round_up(row.cols, tile.width(shape))):
        value = tile.zero(shape)
        if j < row.cols:
            value = tile.load_scalar(shape, row.data + j * row.col_step)
        tile.store_scalar(shape, target + j * tile.itemsize(shape), value)


@kernel
def copy_bias(tiles, biases, target):
    """Copy a row vector to an address and return that; return 0 if there is no vector."""
    if biases.data == 0:
        return 0
    copy_row(tiles, biases, target)
    return target


# ---- A


@kernel
def row_edge_rows(shape, problem, rows):
    """Return how many of an MC block's rows row-edge tiles take: none where A is copied for tiles of one height."""
    if problem.a_col_step == tile.itemsize(shape) and problem.b_row_step == PACKED:
        return blocking.row_edge_rows(tile.height(shape), rows)
    return 0


@kernel
def copied_tile_bytes(shape, depth):
    """Return the distance of two copied tiles."""
    return depth * tile.height(shape) * tile.itemsize(shape) + ALIGNMENT


@kernel
def copy_rows(tiles, shape, problem, scratch, block):
    """Copy those rows of an MC block that are not read in place, tile by tile, and return the CopiedA.

    All rows are copied if the columns of A are contiguous, or if B is in place: then rows of B are far apart, too, and their
    addresses take all registers. Otherwise the last rows are copied, if they are fewer than a tile has.
    """
    height = tile.height(shape)
    if problem.a_col_step != tile.itemsize(shape):
        copy_columns(shape, tiles.column, problem, scratch, block)
        return CopiedA(data=scratch, first=block.i)
    edge, first = row_edge_rows(shape, problem, block.i_end - block.i), block.i
    if edge > 0:
        height, first = blocking.SHORT, block.i_end - edge
    if problem.b_row_step == PACKED:
        first += (block.i_end - first) // height * height
    copy_elements(shape, height, problem, scratch, replace(block, i=first))
    return CopiedA(data=scratch, first=first)


@kernel
def copy_columns(shape, column, problem, scratch, block):
    """Copy rows of A whose columns are contiguous: row by row of x, as x lies in memory.

    The elements of a column are no whole number of vectors: the next column overwrites what is written beyond them. The CPU
    would not foresee the next row of x: asking for it ahead halves the time.
    """
    height, size, width = tile.height(shape), tile.itemsize(shape), tile.width(column)
    last = block.i + (block.i_end - block.i - 1) // height * height
    whole = whole_rows(problem.depth, problem.rows - last, problem.a_col_step, size, width)
    for k in range(block.p, block.p_end):
        source, target, is_whole = problem.a + k * problem.a_col_step, scratch + (k - block.p) * height * size, k < whole
        for i in range(block.i, block.i_end, height):
            tile.prefetch(column, source + i * size + blocking.AHEAD * problem.a_col_step, 0)
            values = tile.load(column, source + i * size, 0, 1, width if is_whole else problem.rows - i)
            tile.store(values, target, 0, 1, width)
            target += copied_tile_bytes(shape, block.p_end - block.p)


@kernel
def copy_elements(shape, height, problem, scratch, block):
    """Copy rows of A whose elements are anywhere, for tiles of that height."""
    for i in range(block.i, block.i_end, height):
        target = scratch + (i - block.i) // height * copied_tile_bytes(shape, block.p_end - block.p)
        for k in range(block.p, block.p_end):
            for r in range(height):
                value = tile.zero(shape)
                if i + r < block.i_end:
                    value = tile.load_scalar(shape, problem.a + (i + r) * problem.a_row_step + k * problem.a_col_step)
                tile.store_scalar(shape, target, value)
                target += tile.itemsize(shape)


# ---- a transpose


@kernel
def transpose(tiles, source, target):
    """Write target = source.T, both Matrix of contiguous rows, by square blocks that are transposed in registers."""
    square = tiles.square
    size, lanes = tile.itemsize(square), tile.lanes(square)
    for i in range(0, target.rows, lanes):
        for j in range(0, target.cols, lanes):
            block = tile.load(square, source.data + j * source.row_step + i * size, source.row_step, source.rows - j,
                              source.cols - i)
            address = target.data + i * target.row_step + j * size
            tile.store(tile.transpose(block), address, target.row_step, target.rows - i, target.cols - j)
