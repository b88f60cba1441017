"""Training steps without Python in between. Each step runs the shards of a batch and then the optimiser's step.

A run goes on where the last one stopped, which is at a whole step: after the batches asked for, at the end of the data, or
before the step of a batch whose loss, gradient or penalty is not finite (finite.py).
"""
import math

from numba import types

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..schedule import team
from ..schedule.arena import acquire, release
from ..schedule.atomic import load
from ..schedule.queue import REGION_BYTES, run, run_with_team
from ..schedule.records import read, replace, write
from ..simd.arithmetic import number
from . import losses
from . import step as optimizer_step
from .blocks import shard_rows
from .finite import LOSS
from .network import Progress, Results, Training
from .optimizers import Update
from .shard import Shard, gather, sums_bytes


def _build_steps(dtype):
    optimize = optimizer_step.step[dtype].address

    @kernel
    def weight_of(job, start, rows):
        """Gather a batch's weights; return (their sum times a scale, the scale).

        Where all weights are 0 the sum is returned as 1: the loss is 0 then.
        """
        if job.weights == 0:
            return float(rows), 1.0
        weights = job.weights + 8 * start
        if job.targets_order != 0:
            weights = gather(job.weights, 8, job.targets_order + 8 * start, job.gathered_weights, 8, rows)
        largest, weight = 0.0, 0.0
        for i in range(rows):                                                       # weights (rows,)
            largest = max(largest, number(weights + 8 * i))
        scale = losses.scale(largest)
        for i in range(rows):
            weight += number(weights + 8 * i) * scale
        return weight if weight > 0.0 else 1.0, scale

    @kernel
    def status_of(job, task):
        """Return the first status of a batch's shards that is not OK, or OK."""
        for i in range(task.tasks):
            status = load(job.statuses + 8 * i)
            if status != link.OK:
                return status
        return link.OK

    @kernel
    def added(job, task):
        """Return the Sums of a batch, added up in the order of its rows."""
        loss, right = 0.0, 0.0
        for i in range(task.tasks):                             # shards, and the loss's tasks of each; transposed, one Sums
            size = min(task.rows_each, task.rows - i * task.rows_each)
            for k in range(blocking.blocks(size, losses.ROWS) if job.chunk_rows == 0 else 1):
                sums = read(job.sums + i * sums_bytes(task.rows_each) + k * losses.SUMS_BYTES, losses.Sums)
                loss += sums.loss
                right += sums.right
        return losses.Sums(loss=loss, right=right)

    @kernel
    def step(job_address, memory):
        """Make a step, or as much of it as the Training says; return a status."""
        job = read(job_address, Training)
        progress = read(job.progress, Progress)
        rows = min(job.batch, job.rows - progress.row)
        weight, scale = weight_of(job, progress.row, rows)
        rows_each = shard_rows(rows, job.shards, job.chunk_rows > 0)
        tasks = blocking.blocks(rows, rows_each)
        task = Shard(tasks=tasks, training=job_address, start=progress.row, rows=rows, rows_each=rows_each,
                     most_threads=blocking.MOST_THREADS if tasks == 1 else 1, key=progress.key,
                     factor=job.gradient_factor / weight, scale=scale)
        run(job.shard, task, memory, blocking.threads(rows * job.work))
        status = status_of(job, task)
        if status != link.OK or job.lower > 0:
            return status
        sums, results = added(job, task), read(job.results, Results)
        mean = sums.loss * job.loss_factor / weight
        if job.check != 0 and not math.isfinite(results.losses + mean * rows):
            return LOSS
        penalty = 0.0
        if job.update != 0:
            l2 = job.l2 / (weight / scale) if job.shared != 0 else job.l2
            write(job.update, replace(read(job.update, Update), l2=l2, shards=tasks))
            status = link.call(optimize(), (job.update,))
            if status != link.OK:
                return status
            penalty = read(job.update, Update).penalty
        write(job.results, Results(losses=results.losses + (mean + penalty) * rows, weights=results.weights + weight / scale,
                                   right=results.right + sums.right))
        write(job.progress, Progress(row=progress.row + rows, key=progress.key + job.count, batch_loss=mean))
        return link.OK

    def steps(job_address, batches):
        """Make up to `batches` steps; return a status."""
        job = read(job_address, Training)
        memory, slot = acquire(REGION_BYTES)
        if memory == 0:
            return link.NO_MEMORY
        status = link.OK
        while status == link.OK and batches > 0 and read(job.progress, Progress).row < job.rows:
            status, batches = step(job_address, memory), batches - 1
        release(slot)
        return status

    return steps


_SIGNATURE = types.intp(types.intp, types.intp)
_steps = link.units("steps", _SIGNATURE, _build_steps)


def _build_train(dtype):
    steps = _steps[dtype].address

    def train(job_address, batches):
        """Make up to `batches` steps, with a team of threads at hand where a step is worth it; return a status."""
        job = read(job_address, Training)
        memory, slot = acquire(team.BYTES)
        if memory == 0:
            return link.NO_MEMORY
        threads = blocking.threads(job.batch * job.work)
        status = run_with_team(steps(), job_address, batches, memory, threads)
        release(slot)
        return status

    return train


train = link.units("train", _SIGNATURE, _build_train)
