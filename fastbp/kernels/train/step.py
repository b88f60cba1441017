"""A step of an optimiser. A checked step is made only if all that it computes is finite.

Where the norms do not tell that beforehand (finite.py), the step is made, looked at, and undone if something is not finite.
"""
import math
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..schedule import trace
from ..schedule.arena import COUNTING, acquire, release, take
from ..schedule.atomic import copy, load
from ..schedule.queue import REGION_BYTES, run
from ..schedule.records import put_word, read, replace, write
from . import dweights, finite, optimizers
from .finite import GRADIENT, PENALTY, are_finite, is_safe, is_small, look, norms_found, squares
from .optimizers import CHUNK, Update, added, array_at, call_of, with_rates

# What `keep` is asked to do: only count bytes, copy to an arena, or copy back from there.
_COUNT, _KEEP, _RESTORE = range(3)


class StepMemory(NamedTuple):
    """The memory of a step: addresses."""

    queue: int                  # room for the queue of its tasks
    workers: int                # room for the dweights.WorkerMemory of each thread
    end: int                    # the first byte behind all this


def _build_step(dtype):
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    precision, size = dtype.bitwidth, dtype.bitwidth // 8
    update, norms = optimizers.update[dtype].address, finite.norms[dtype].address

    @kernel
    def step_memory(job, arena, threads):
        """Return the StepMemory in an arena, for that many threads."""
        here = blocking.with_caches(machine)
        queue, arena = take(arena, REGION_BYTES)
        workers, arena = take(arena, threads * dweights.worker_bytes(here, job.block_bytes) if job.block_bytes > 0 else 0)
        return StepMemory(queue=queue, workers=workers, end=arena)

    @kernel
    def keep(job, arena, way):
        """Copy all parameters and what is remembered of them to an arena, or back; return the arena's end.

        way: _COUNT copies nothing, _KEEP copies to the arena, _RESTORE copies back.
        """
        for k in range(job.count):
            array = array_at(job, k)
            for address in (array.values, array.velocity, array.square):
                if address != 0:
                    kept, arena = take(arena, array.count * size)
                    if way != _COUNT:
                        copy(address if way == _RESTORE else kept, kept if way == _RESTORE else address, array.count * size)
        return arena

    @kernel
    def status_of(job, penalty):
        """Return OK if all that a step has computed is finite, else the status that says what is not."""
        if not math.isfinite(penalty):
            return PENALTY
        for k in range(job.count):
            array = array_at(job, k)
            for address in (array.values, array.velocity, array.square):
                if address != 0 and not are_finite(tiles.row, address, array.count):
                    return GRADIENT
        return link.OK

    @kernel
    def make(job, memory, threads):
        """Make a step in a StepMemory; return the penalty before it."""
        run(update(), replace(job, scratch=memory.workers), memory.queue, threads)
        return 0.5 * job.l2 * added(job, 0, job.tasks).penalised if job.l2 > 0.0 else 0.0       # squares may be inf

    @kernel
    def make_or_undo(job, memory, threads):
        """Make a step in a StepMemory, and undo it if something that it computes is not finite; return (status, penalty)."""
        kept, slot = acquire(keep(job, COUNTING, _COUNT))
        if kept == 0:
            return link.NO_MEMORY, 0.0
        keep(job, kept, _KEEP)
        penalty = make(job, memory, threads)
        status = status_of(job, penalty)
        if status != link.OK:
            keep(job, kept, _RESTORE)
        release(slot)
        return status, penalty

    def step(address):
        """Make one step of the Update at an address, whose `l2` is set, and write the penalty there; return a status."""
        begun, job = trace.begin(), with_rates(read(address, Update))
        threads = blocking.threads(job.tasks * CHUNK * blocking.ELEMENT_WORK)
        acquired, slot = acquire(step_memory(job, COUNTING, threads).end)
        if acquired == 0:
            return link.NO_MEMORY
        memory = step_memory(job, acquired, threads)
        status, safe = link.OK, False
        if job.check != 0:
            if is_small(job):
                # The gradient is the sum of the shards' gradients. Its norm is at most sqrt(shards) times that of all of them.
                g = math.sqrt(squares(tiles.row, job.stored, job.stored_count) * job.shards)
                safe = is_safe(job, g, math.sqrt(added(job, 0, job.tasks).parameters))
            else:
                look(job, norms(), memory.queue)
                safe = is_safe(job, *norms_found(job))
        if job.check == 0 or safe:
            penalty = make(job, memory, threads)
        else:
            status, penalty = make_or_undo(job, memory, threads)
        write(address, replace(job, penalty=penalty, known=int(safe)))
        release(slot)
        if status != link.OK:
            return status
        put_word(job.steps, load(job.steps) + 1)
        if begun.log != 0:
            trace.finish_pass(begun, trace.UPDATE, call_of(job, precision))
        return link.OK

    return step


step = link.units("optimize", types.intp(types.intp), _build_step)
