"""Panels: B of a product, copied so that a tile reads it in one stretch.

    columns of B      0 … width-1 │ width … 2·width-1 │ …        width is that of the wide tile; what is left over
    in memory   row 0 ■■■■■■■■■■■ │                   │          comes in narrow panels, the last filled with anything
                row 1 ■■■■■■■■■■■ │ (after the last   │
                 …                │  row of panel 0)  │
"""
from typing import NamedTuple

from .. import _link
from .._jit import kernel
from . import blocking, tile
from .matrix import from_col, whole_rows
from .parallel import TASK
from .records import read
from .workspace import ALIGNMENT

ROWS = 256                      # rows of B that a task packs: enough to pay for being a task,
GROUP_BYTES = 256               # and of each as many panels: a row is read in one stretch, 3 times faster than by panels


class Pack(NamedTuple):
    """The job of packing a matrix of any strides. A task is a group of panels, ROWS of its rows."""

    tasks: int
    rows: int
    cols: int
    source: int
    row_step: int
    col_step: int
    panels: int


@kernel
def packed_bytes(tiles, rows, cols):
    return blocking.round_up(rows * blocking.round_up(cols, tile.width(tiles.narrow)) * tile.itemsize(tiles.wide), ALIGNMENT)


@kernel
def row_bytes(tiles, cols):
    """Of a row that copy_row copies."""
    return blocking.round_up(cols, tile.width(tiles.wide)) * tile.itemsize(tiles.wide)


@kernel
def copy_row(tiles, row, target):
    """Copy a row vector of any stride, filled up with zeros to whole tiles."""
    shape = tiles.wide
    for j in range(blocking.round_up(row.cols, tile.width(shape))):
        value = tile.zero(shape)
        if j < row.cols:
            value = tile.load_scalar(shape, row.data + j * row.col_step)
        tile.store_scalar(shape, target + j * tile.itemsize(shape), value)


@kernel
def copy_bias(tiles, biases, target):
    """The address of a copy of a row vector, which is `target`; 0 if there is none."""
    if biases.data == 0:
        return 0
    copy_row(tiles, biases, target)
    return target


@kernel
def pack_job(tiles, source, panels):
    """Pack the Matrix `source` in panels at the address `panels`."""
    tasks = blocking.blocks(source.cols, group(tiles)) * blocking.blocks(source.rows, ROWS)
    return Pack(tasks, source.rows, source.cols, source.data, source.row_step, source.col_step, panels)


@kernel
def group(tiles):
    """Columns of a group of panels."""
    return blocking.round_up(GROUP_BYTES // tile.itemsize(tiles.wide), tile.width(tiles.wide))


def _build(dtype):
    tiles = blocking.tiles(dtype)

    def pack(job_address, worker, task):
        job = read(job_address, Pack)
        chunks = blocking.blocks(job.rows, ROWS)
        p, j = task % chunks * ROWS, task // chunks * group(tiles)
        p_end, j_end = min(p + ROWS, job.rows), min(j + group(tiles), job.cols)
        narrow = blocking.first_narrow(tiles, j, j_end)
        pack_panels(tiles, tiles.row, job, p, p_end, j, min(narrow, j_end))
        pack_panels(tiles, tiles.narrow_row, job, p, p_end, narrow, j_end)
        return _link.OK

    return pack


pack = _link.units("pack", TASK, _build, (*_link.FLOATS, tile.BFLOAT16))


@kernel
def pack_panels(tiles, row, job, p, p_end, j, j_end):
    """Rows p … p_end of some panels, for each of the ways that a matrix can lie in memory."""
    if job.col_step == tile.itemsize(row):
        pack_rows(row, job, p, p_end, j, j_end)
    elif job.row_step == tile.itemsize(row):
        pack_columns(tiles, row, job, p, p_end, j, j_end)
    else:
        pack_elements(row, job, p, p_end, j, j_end)


@kernel
def edge(tiles, matrix):
    """The last columns of a B in place, those that do not fill a flat tile."""
    return from_col(matrix, matrix.cols // tile.width(tiles.flat) * tile.width(tiles.flat))


@kernel
def edge_bytes(tiles, rows, cols):
    """Of the panel that pack_edge writes."""
    width = tile.width(tiles.flat)
    return blocking.round_up(rows * width * tile.itemsize(tiles.flat), ALIGNMENT) if cols % width > 0 else 0


@kernel
def pack_edge(tiles, matrix, target):
    """The edge of a Matrix of contiguous rows as a panel of its own."""
    row, last = tiles.narrow_row, edge(tiles, matrix)
    size, lanes, width = tile.itemsize(row), tile.lanes(row), tile.width(tiles.flat)
    whole = whole_rows(last.rows, last.cols, last.row_step, size, blocking.round_up(last.cols, lanes))
    for i in range(last.rows):
        for j in range(0, last.cols, lanes):
            values = tile.load(row, last.data + i * last.row_step + j * size, 0, 1, lanes if i < whole else last.cols - j)
            tile.store(values, target + (i * width + j) * size, 0, 1, lanes)


@kernel
def panel_at(row, job, j):
    return job.panels + j * job.rows * tile.itemsize(row)


@kernel
def pack_rows(row, job, p, p_end, j_start, j_end):
    """The rows of the matrix are contiguous: copy vectors."""
    size, width = tile.itemsize(row), tile.width(row)
    whole = whole_rows(job.rows, job.cols - j_start, job.row_step, size, blocking.round_up(j_end - j_start, width))
    for i in range(p, p_end):
        for j in range(j_start, j_end, width):
            cols = width if i < whole else job.cols - j
            values = tile.load(row, job.source + i * job.row_step + j * size, 0, 1, cols)
            tile.store(values, panel_at(row, job, j) + i * width * size, 0, 1, width)


@kernel
def pack_columns(tiles, row, job, p, p_end, j_start, j_end):
    """The columns of the matrix are contiguous: turn square blocks in registers."""
    size, width, lanes = tile.itemsize(row), tile.width(row), tile.lanes(row)
    for j in range(j_start, j_end, width):
        for k in range(0, min(width, job.cols - j), lanes):
            for i in range(p, p_end, lanes):
                column = job.source + i * size + (j + k) * job.col_step
                block = tile.transpose(tile.load(tiles.square, column, job.col_step, job.cols - j - k, p_end - i))
                tile.store(block, panel_at(row, job, j) + (i * width + k) * size, width * size, p_end - i, lanes)


@kernel
def pack_elements(row, job, p, p_end, j_start, j_end):
    """Nothing is contiguous: copy numbers."""
    size, width = tile.itemsize(row), tile.width(row)
    for j in range(j_start, j_end, width):
        for i in range(p, p_end):
            for k in range(width):
                value = tile.zero(row)
                if j + k < job.cols:
                    value = tile.load_scalar(row, job.source + i * job.row_step + (j + k) * job.col_step)
                tile.store_scalar(row, panel_at(row, job, j) + (i * width + k) * size, value)
