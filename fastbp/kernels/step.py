"""A step of an optimiser, and if it is checked only if all that it computes is finite.

Where the norms do not tell that beforehand (finite.py), the step is made, looked at, and undone if it must be.
"""
import math

from numba import types

from .. import _link
from .._jit import kernel
from . import blocking, dweights, finite, optimizers, record
from .arithmetic import number, put_number
from .finite import GRADIENT, PENALTY, are_finite, is_safe, is_small, look, norms_found, squares
from .optimizers import CHUNK, STATES, Update, added, array_at, call_of, put_rates
from .parallel import REGION_BYTES, run
from .records import put_word, read
from .workspace import acquire, copy, load, release


def _build_step(dtype):
    tiles, machine, precision, size = blocking.tiles(dtype), blocking.machine(dtype), dtype.bitwidth, dtype.bitwidth // 8
    update, norms = optimizers.update[dtype].address, finite.norms[dtype].address

    @kernel
    def kept_bytes(job):
        """Return the bytes of all parameters and of what is remembered of them."""
        count = 0
        for k in range(job.count):
            count += array_at(job, k).count
        return (1 + STATES[job.kind]) * count * size

    @kernel
    def keep(job, memory, back):
        """Copy all parameters and what is remembered of them to an address, or `back` from there."""
        for k in range(job.count):
            array = array_at(job, k)
            for address in (array.values, array.velocity, array.square):
                if address != 0:
                    copy(address if back else memory, memory if back else address, array.count * size)
                    memory += array.count * size

    @kernel
    def status_of(job, penalty):
        """Return OK if a step that was made has computed finite numbers, else what has not."""
        if not math.isfinite(penalty):
            return PENALTY
        for k in range(job.count):
            array = array_at(job, k)
            for address in (array.values, array.velocity, array.square):
                if address != 0 and not are_finite(tiles.row, address, array.count):
                    return GRADIENT
        return _link.OK

    @kernel
    def make(job, memory, scratch, threads):
        """Make a step; returns its penalty."""
        run(update(), Update(*job[:-1], scratch), memory, threads)
        l2 = number(job.l2)
        return 0.5 * l2 * added(job, 0, job.tasks, 0) if l2 > 0.0 else 0.0         # squares may be inf

    @kernel
    def make_or_undo(job, memory, scratch, threads):
        """(status, penalty) of a step that is undone if it computes what is not finite."""
        kept, slot = acquire(kept_bytes(job))
        if kept == 0:
            return _link.NO_MEMORY, 0.0
        keep(job, kept, False)
        penalty = make(job, memory, scratch, threads)
        status = status_of(job, penalty)
        if status != _link.OK:
            keep(job, kept, True)
        release(slot)
        return status, penalty

    def step(address):
        """One step of the Update at an address, whose `l2` is set."""
        begun, job = record.begin(), read(address, Update)
        threads = blocking.threads(job.tasks * CHUNK * blocking.ELEMENT_WORK)
        scratch = threads * dweights.worker_bytes(blocking.with_caches(machine), job.block_bytes) if job.block_bytes > 0 else 0
        memory, slot = acquire(REGION_BYTES + scratch)
        if memory == 0:
            return _link.NO_MEMORY
        put_rates(job)
        status, safe = _link.OK, False
        if job.check != 0:
            if is_small(job):
                # The gradient is a sum over shards, whose norm is at most the root of their number times that of them all.
                g = math.sqrt(squares(tiles.row, job.stored, job.stored_count) * job.shards)
                safe = is_safe(job, g, math.sqrt(added(job, 0, job.tasks, 2)))
            else:
                look(job, address, norms(), memory)
                safe = is_safe(job, *norms_found(job))
        if job.check == 0 or safe:
            penalty = make(job, memory, memory + REGION_BYTES, threads)
        else:
            status, penalty = make_or_undo(job, memory, memory + REGION_BYTES, threads)
        put_word(job.known, int(safe))
        release(slot)
        if status != _link.OK:
            return status
        put_number(job.l2 + 8, penalty)
        put_word(job.steps, load(job.steps) + 1)
        if begun[0] != 0:
            record.finish_pass(begun, record.UPDATE, call_of(job, precision))
        return _link.OK

    return step


step = _link.units("optimize", types.intp(types.intp), _build_step)
