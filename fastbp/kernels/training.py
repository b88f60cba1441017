"""Training steps without Python in between: the shards of a batch, and the optimiser's step, and again.

A run goes on where the last one stopped, at a whole step: after so many batches, at the end of the data, or before the step
of a batch whose loss, gradient or penalty is not finite (finite.py).
"""
import math

from numba import types

from .. import _link
from .._jit import kernel
from . import blocking, loops, losses, team
from . import step as optimizer_step
from .arithmetic import number, put_number
from .finite import LOSS
from .network import Training
from .optimizers import Update
from .parallel import REGION_BYTES, run, run_with_team
from .records import put_word, read
from .shard import Shard, gather, shard, sums_bytes
from .workspace import acquire, load, release

_SHARDS, _MULTIPLY = map(Update._fields.index, ("shards", "multiply"))


def _build_steps(dtype):
    work, optimize, product = (units[dtype].address for units in (shard, optimizer_step.step, loops.gemm))

    @kernel
    def weight_of(job, start, rows):
        """(the sum of a batch's weights times the scale, scale), after gathering them; (1, 1) if all are 0: so is the loss."""
        if job.weights == 0:
            return float(rows), 1.0
        weights = job.weights + 8 * start
        if job.targets_order != 0:
            weights = gather(job.weights, 8, job.targets_order + 8 * start, job.gathered_weights, 8, rows)
        largest, weight = 0.0, 0.0
        for i in range(rows):
            largest = max(largest, number(weights + 8 * i))
        scale = losses.scale(largest)
        for i in range(rows):
            weight += number(weights + 8 * i) * scale
        return weight if weight > 0.0 else 1.0, scale

    @kernel
    def all_shards(job_address, start, rows, key, memory):
        """The status of forward, loss and backward of a batch."""
        job = read(job_address, Training)
        rows_each = blocking.blocks(rows, job.shards)
        tasks = blocking.blocks(rows, rows_each)
        run(work(), Shard(tasks, job_address, start, rows, rows_each, blocking.MOST_THREADS if tasks == 1 else 1, key),
            memory, blocking.threads(rows * job.work))
        for i in range(tasks):
            status = load(job.statuses + 8 * i)
            if status != _link.OK:
                return status, tasks, rows_each
        return _link.OK, tasks, rows_each

    @kernel
    def added(job, rows, tasks, rows_each):
        """(losses, what is right) of a batch."""
        losses_sum, right = 0.0, 0.0
        for i in range(tasks):
            size = min(rows_each, rows - i * rows_each)
            for k in range(blocking.blocks(size, losses.ROWS)):
                at = job.sums + i * sums_bytes(rows_each) + k * losses.SUMS_BYTES
                losses_sum += number(at)
                right += number(at + 8)
        return losses_sum, right

    @kernel
    def step(job_address, start, memory):
        job = read(job_address, Training)
        rows, key = min(job.batch, job.rows - start), load(job.progress + 8)
        weight, scale = weight_of(job, start, rows)
        put_number(job.loss_numbers, number(job.gradient_factor) / weight)
        put_number(job.loss_numbers + 24, scale)
        status, tasks, rows_each = all_shards(job_address, start, rows, key, memory)
        if status != _link.OK or job.lower > 0:
            return status
        total, right = added(job, rows, tasks, rows_each)
        mean = total * number(job.loss_factor) / weight
        if job.check != 0 and not math.isfinite(number(job.results) + mean * rows):
            return LOSS
        penalty = 0.0
        if job.update != 0:
            update = read(job.update, Update)
            shared = number(job.penalty + 8) != 0.0
            put_number(update.l2, number(job.penalty) / (weight / scale) if shared else number(job.penalty))
            put_word(job.update + 8 * _SHARDS, tasks)
            put_word(job.update + 8 * _MULTIPLY, product())
            status = _link.call(optimize(), (job.update,))
            if status != _link.OK:
                return status
            penalty = number(update.l2 + 8)
        put_number(job.results, number(job.results) + (mean + penalty) * rows)
        put_number(job.results + 8, number(job.results + 8) + weight / scale)
        put_number(job.results + 16, number(job.results + 16) + right)
        put_number(job.results + 24, mean)
        put_word(job.progress, start + rows)
        put_word(job.progress + 8, key + job.count)
        return _link.OK

    def steps(job_address, batches):
        """Up to so many steps."""
        job = read(job_address, Training)
        memory, slot = acquire(REGION_BYTES)
        if memory == 0:
            return _link.NO_MEMORY
        status, start = _link.OK, load(job.progress)
        while status == _link.OK and batches > 0 and start < job.rows:
            status = step(job_address, start, memory)
            start, batches = load(job.progress), batches - 1
        release(slot)
        return status

    return steps


_SIGNATURE = types.intp(types.intp, types.intp)
_steps = _link.units("steps", _SIGNATURE, _build_steps)


def _build_train(dtype):
    steps = _steps[dtype].address

    def train(job_address, batches):
        """The same, with threads at hand where a step is worth them."""
        job = read(job_address, Training)
        memory, slot = acquire(team.BYTES)
        if memory == 0:
            return _link.NO_MEMORY
        threads = blocking.threads(job.batch * job.work)
        status = run_with_team(steps(), job_address, batches, memory, threads)
        release(slot)
        return status

    return train


train = _link.units("train", _SIGNATURE, _build_train)
