"""Dropout: each element stays, times 1 / (1 - rate), or becomes 0, at random (Srivastava et al., JMLR 15, 2014).

The draw depends on a key and on the element's place alone. So it is the same on any number of threads, and the backward pass
draws it again.
"""
from typing import NamedTuple

from ..._compile import link
from .. import blocking
from ..schedule.queue import TASK
from ..schedule.records import read
from ..simd import tile
from ..simd.arithmetic import kept

# The elements of a task.
CHUNK = 1 << 13

# Multiply-adds that take as long as an element.
WORK = 16


class Dropout(NamedTuple):
    """The job of out = values, some of them dropped: contiguous elements; both may be the same. A task is a chunk."""

    tasks: int
    count: int                  # elements
    first: int                  # the place of the first element in the stream
    values: int                 # the address of the elements
    out: int                    # the address where they go
    key: int                    # where the stream of random numbers begins
    least: int                  # rate * 2**63: the least random number of an element that stays
    factor: float               # 1 / (1 - rate), by which an element that stays is multiplied


def _build(dtype):
    row = blocking.tiles(dtype).row

    def drop(job_address, worker, task):
        job = read(job_address, Dropout)
        start = task * CHUNK
        for j in range(start, min(start + CHUNK, job.count), tile.width(row)):          # values, out (count,)
            offset, cols = j * tile.itemsize(row), job.count - j
            values = tile.load(row, job.values + offset, 0, 1, cols)
            tile.store(kept(values, job.key, job.first + j, job.least, job.factor), job.out + offset, 0, 1, cols)
        return link.OK

    return drop


drop = link.units("dropout", TASK, _build, lazy=True)
