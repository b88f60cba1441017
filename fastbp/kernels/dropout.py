"""Dropout: each element stays, times 1 / (1 - rate), or becomes 0, at random (Srivastava et al., JMLR 15, 2014).

What is drawn follows from a key and the element's place alone: so it is the same on any number of threads, and the backward
pass draws it again.
"""
from typing import NamedTuple

from .. import _link
from . import blocking, tile
from .arithmetic import kept, number
from .parallel import TASK
from .records import read

CHUNK = 1 << 13                 # elements of a task
WORK = 16                       # multiply-adds that an element takes as long as


class Dropout(NamedTuple):
    """The job of out = values, some of them dropped: `count` contiguous elements; both may be the same. A task is a chunk."""

    tasks: int
    count: int
    first: int                  # the place of the first element in the stream
    values: int
    out: int
    key: int
    least: int                  # rate * 2**63
    factor: int                 # the address of a float64


def _build(dtype):
    row = blocking.tiles(dtype).row

    def drop(job_address, worker, task):
        job = read(job_address, Dropout)
        factor, start = number(job.factor), task * CHUNK
        for j in range(start, min(start + CHUNK, job.count), tile.width(row)):
            offset, cols = j * tile.itemsize(row), job.count - j
            values = tile.load(row, job.values + offset, 0, 1, cols)
            tile.store(kept(values, job.key, job.first + j, job.least, factor), job.out + offset, 0, 1, cols)
        return _link.OK

    return drop


drop = _link.units("dropout", TASK, _build, rare=True)
