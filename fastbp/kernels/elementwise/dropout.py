"""Dropout: at random, each element is multiplied by 1 / (1 - rate) or becomes 0 (Srivastava et al., JMLR 15, 2014).

The random number depends on a key and on the element's place alone. So it is the same on any number of threads, and the
backward pass draws the same one again.
"""
from typing import NamedTuple

from ..._compile import link
from .. import blocking
from ..schedule.queue import TASK
from ..schedule.records import read
from ..simd import tile
from ..simd.arithmetic import kept

# A task does this many elements.
CHUNK = 1 << 13

# The work of an element: this many multiply-adds take as long.
WORK = 16


class Dropout(NamedTuple):
    """The job of a dropout of contiguous elements, out of place or in place. A task is a chunk of CHUNK elements."""

    tasks: int                  # chunks
    count: int                  # elements
    first: int                  # the place of the first element in the stream of random numbers
    values: int                 # the address of the elements (count,)
    out: int                    # the address of the results (count,); it may be that of the elements
    key: int                    # the beginning of the stream
    least: int                  # rate * 2**63: the least random number of an element that stays
    factor: float               # 1 / (1 - rate), the factor of an element that stays


def _build(dtype):
    row = blocking.tiles(dtype).row

    def drop(job_address, worker, task):
        """Compute a chunk of a Dropout."""
        job = read(job_address, Dropout)
        start = task * CHUNK
        for j in range(start, min(start + CHUNK, job.count), tile.width(row)):          # values, out (count,)
            offset, cols = j * tile.itemsize(row), job.count - j
            values = tile.load(row, job.values + offset, 0, 1, cols)
            tile.store(kept(values, job.key, job.first + j, job.least, job.factor), job.out + offset, 0, 1, cols)
        return link.OK

    return drop


drop = link.units("dropout", TASK, _build, lazy=True)
