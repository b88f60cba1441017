"""One product, C (+)= A B, cut so that what is used again stays in a cache.

    LOOP 5  depth blocks   a panel of B stays in L2; C is kept in memory between two blocks
    LOOP 4  strips         rows of A and C that stay in L2 while all panels of B go over them; independent of each other
    LOOP 3, 2, 1           panels of B over the strip, in vector registers (panels.py) or AMX tile registers (amx.py)

Tasks split C over rows and columns into a grid of row_block x col_block, never over the depth: an element of C is always
summed in the same order.
"""
from functools import partial

from .. import _link
from .._jit import kernel
from . import activations, amx, blocking, panels, tile
from .parallel import TASK
from .product import PACKED, Product, activate_block, block_of, scratch_bytes
from .records import read

DTYPES = *_link.FLOATS, tile.BFLOAT16


def _build_panels(which, dtype):
    return (amx if blocking.by_amx(dtype) else panels).build(which, dtype)


# Rare are narrow panels, which blocking.has_narrow tells, and B in place.
_wide = _link.units("wide", panels.SIGNATURE, partial(_build_panels, "wide"), DTYPES)
narrow = _link.units("narrow", panels.SIGNATURE, partial(_build_panels, "narrow"), DTYPES, rare=True)
flat = _link.units("flat", panels.SIGNATURE, partial(panels.build, "flat"), rare=True)


def _build(dtype):
    tiles = blocking.tiles(dtype)
    strip = _strip(dtype)
    activate = activations.activate[dtype if dtype in _link.FLOATS else _link.FLOATS[0]].address

    def product(job_address, worker, task):
        job = read(job_address, Product)
        scratch = job.scratch + worker * scratch_bytes(tiles)
        i_start, i_end, j_start, j_end = block_of(job, task)
        for p in range(0, max(1, job.depth), job.depth_block):              # LOOP 5, once for a depth of 0 as well
            for i in range(i_start, i_end, job.strip):                      # LOOP 4
                p_end, end = min(p + job.depth_block, job.depth), min(i + job.strip, i_end)
                strip(job_address, scratch, i, end, j_start, j_end, p, p_end)
                if p_end == job.depth:
                    activate_block(tiles, job, activate(), i, end, j_start, j_end)
        return _link.OK

    return product


def _strip(dtype):
    tiles = blocking.tiles(dtype)
    wide, narrow_panels = _wide[dtype].address, narrow[dtype].address
    copy_rows = amx.copy_rows if blocking.by_amx(dtype) else panels.copy_rows

    @kernel
    def packed_strip(job_address, scratch, i, i_end, j, j_end, p, p_end):
        """Rows i … i_end of C's block, in panels of the widest tiles that fit."""
        copied = copy_rows(tiles, tiles.wide, read(job_address, Product), scratch, i, i_end, p, p_end)
        end = blocking.first_narrow(tiles, j, j_end)
        _link.call(wide(), (job_address, scratch, copied, i, i_end, j, min(end, j_end), p, p_end))
        if end < j_end:
            _link.call(narrow_panels(), (job_address, scratch, copied, i, i_end, end, j_end, p, p_end))

    if dtype not in flat:
        return packed_strip
    flat_panels = flat[dtype].address

    @kernel
    def strip(job_address, scratch, i, i_end, j, j_end, p, p_end):
        """The same of a B that is packed or in place."""
        job = read(job_address, Product)
        if job.b_row == PACKED:
            packed_strip(job_address, scratch, i, i_end, j, j_end, p, p_end)
        else:
            copied = copy_rows(tiles, tiles.flat, job, scratch, i, i_end, p, p_end)
            _link.call(flat_panels(), (job_address, scratch, copied, i, i_end, j, j_end, p, p_end))

    return strip


product = _link.units("product", TASK, _build, DTYPES)


