"""ReLU and its mask over a stretch of memory: relu(z) is mask(z, z)."""
from typing import NamedTuple

from numba import types

from ..._compile import link
from .. import blocking
from ..schedule import trace
from ..schedule.arena import acquire, release
from ..schedule.queue import REGION_BYTES, TASK, run
from ..schedule.records import read
from ..simd import tile
from ..simd.arithmetic import mask

# A task does this many elements.
CHUNK = 1 << 15


class Relu(NamedTuple):
    """The job of out = dvalues where z lets the gradient pass, else 0: addresses of contiguous elements."""

    tasks: int                  # chunks
    count: int                  # elements
    dvalues: int                # dvalues (count,)
    z: int                      # z (count,)
    out: int                    # the results (count,)


def _build_chunk(dtype):
    """Return the task that computes CHUNK elements."""
    row = blocking.tiles(dtype).row

    def relu_chunk(job_address, worker, task):
        job = read(job_address, Relu)
        end = min((task + 1) * CHUNK, job.count)
        for i in range(task * CHUNK, end, tile.width(row)):
            offset = i * tile.itemsize(row)
            dvalues = tile.load(row, job.dvalues + offset, 0, 1, end - i)
            z = tile.load(row, job.z + offset, 0, 1, end - i)
            tile.store(mask(dvalues, z), job.out + offset, 0, 1, end - i)
        return link.OK

    return relu_chunk


relu_chunk = link.units("relu_chunk", TASK, _build_chunk)


def _build(dtype):
    chunk, bits = relu_chunk[dtype].address, dtype.bitwidth

    def relu(dvalues, z, out, count):
        """Compute `count` elements at three addresses; `out` may be one of the others, but not overlap them otherwise."""
        begun = trace.begin()
        memory, slot = acquire(REGION_BYTES)
        if memory == 0:
            return link.NO_MEMORY
        threads = blocking.threads(count * blocking.ELEMENT_WORK)
        job = Relu(tasks=blocking.blocks(count, CHUNK), count=count, dvalues=dvalues, z=z, out=out)
        run(chunk(), job, memory, threads)
        release(slot)
        trace.finish_pass(begun, trace.RELU, trace.Call(rows=count, inputs=1, neurons=1, precision=bits, activation=1,
                                                        weights=0, dinputs=0, dinputs_bytes=0))
        return link.OK

    return relu


relu = link.units("relu", types.intp(*[types.intp] * 4), _build)
