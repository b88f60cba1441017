"""Panels: B of a product, copied so that a tile reads it in one stretch.

    columns of B      0 … width-1 │ width … 2·width-1 │ …        width is that of the wide tile; what is left over
    in memory   row 0 ■■■■■■■■■■■ │                   │          comes in narrow panels, the last filled with zeros
                row 1 ■■■■■■■■■■■ │ (after the last   │
                 …                │  row of panel 0)  │
"""
from typing import NamedTuple

from .. import _link
from .._jit import inlined
from . import blocking, tile
from .parallel import TASK
from .workspace import ALIGNMENT, read

ROWS = 256                      # rows of B that a task packs: enough to pay for being a task


class Pack(NamedTuple):
    """The job of packing a matrix of any strides. A task is one wide panel, or the narrow ones in its place, of ROWS rows."""

    tasks: int
    threads: int
    rows: int
    cols: int
    source: int
    row_step: int
    col_step: int
    panels: int


@inlined
def packed_bytes(tiles, rows, cols):
    return blocking.round_up(rows * blocking.round_up(cols, tile.width(tiles.narrow)) * tile.itemsize(tiles.wide), ALIGNMENT)


@inlined
def pack_job(tiles, source, panels):
    """Pack the Matrix `source` in panels at the address `panels`."""
    threads = blocking.threads(source.rows * source.cols * blocking.ELEMENT_WORK)
    wide = tile.width(tiles.wide)
    tasks = blocking.blocks(source.cols, wide) * blocking.blocks(source.rows, ROWS)
    return Pack(tasks, threads, source.rows, source.cols, source.data, source.row_step, source.col_step, panels)


def _build(dtype):
    tiles = blocking.tiles(dtype)

    def pack(job_address, worker, task):
        job = read(job_address, Pack)
        wide, narrow = tile.width(tiles.wide), tile.width(tiles.narrow)
        chunks = blocking.blocks(job.rows, ROWS)
        p = task % chunks * ROWS
        p_end = min(p + ROWS, job.rows)
        j = task // chunks * wide
        j_end = min(j + wide, job.cols)
        if j_end - j > wide - narrow:
            pack_panel(tiles, tiles.row, job, p, p_end, j, j_end - j)
        else:
            for left in range(j, j_end, narrow):
                pack_panel(tiles, tiles.narrow_row, job, p, p_end, left, j_end - left)
        return _link.OK

    return pack


pack = _link.units("pack", TASK, _build)


@inlined
def pack_panel(tiles, row, job, p, p_end, j, cols):
    """Rows p … p_end of one panel, for each of the ways that a matrix can lie in memory."""
    if job.col_step == tile.itemsize(row):
        pack_rows(row, job, p, p_end, j, cols)
    elif job.row_step == tile.itemsize(row):
        pack_columns(tiles, row, job, p, p_end, j, cols)
    else:
        pack_elements(row, job, p, p_end, j, cols)


@inlined
def panel_at(row, job, j):
    return job.panels + j * job.rows * tile.itemsize(row)


@inlined
def pack_rows(row, job, p, p_end, j, cols):
    """The rows of the matrix are contiguous: copy vectors."""
    size, width, panel = tile.itemsize(row), tile.width(row), panel_at(row, job, j)
    for i in range(p, p_end):
        values = tile.load(row, job.source + i * job.row_step + j * size, 0, 1, cols)
        tile.store(values, panel + i * width * size, 0, 1, width)


@inlined
def pack_columns(tiles, row, job, p, p_end, j, cols):
    """The columns of the matrix are contiguous: turn square blocks in registers."""
    size, width, lanes, panel = tile.itemsize(row), tile.width(row), tile.lanes(row), panel_at(row, job, j)
    for k in range(0, width, lanes):
        for i in range(p, p_end, lanes):
            if k < cols:
                column = job.source + i * size + (j + k) * job.col_step
                block = tile.load(tiles.square, column, job.col_step, cols - k, p_end - i)
                tile.store(tile.transpose(block), panel + (i * width + k) * size, width * size, p_end - i, lanes)


@inlined
def pack_elements(row, job, p, p_end, j, cols):
    """Nothing is contiguous: copy numbers."""
    size, width, panel = tile.itemsize(row), tile.width(row), panel_at(row, job, j)
    for i in range(p, p_end):
        for k in range(width):
            value = tile.zero(row)
            if k < cols:
                value = tile.load_scalar(row, job.source + i * job.row_step + (j + k) * job.col_step)
            tile.store_scalar(row, panel + (i * width + k) * size, value)
