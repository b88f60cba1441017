"""Who computes what: the tasks of a job are numbered, and whoever is free takes the next number.

What a task computes depends on its number alone, so the result has the same bits on any number of threads.
"""
from numba import prange, types

from .. import _link
from .._jit import kernel
from .workspace import fetch_add, write

JOB_BYTES = 256                 # room for the words of a job
REGION_BYTES = 64 + 2 * JOB_BYTES           # a counter in a cache line of its own, and two jobs

TASK = types.intp(types.intp, types.intp, types.intp)      # a unit of work: (address of the job, worker, task) -> status


def _build():
    def spread(first, first_tasks, second, second_tasks, memory, threads):
        for worker in prange(threads):
            task = fetch_add(memory, 1)
            while task < first_tasks + second_tasks:
                do_task(first, first_tasks, second, memory, worker, task)
                task = fetch_add(memory, 1)
        return _link.OK
    return spread


_spread = _link.Unit("spread", None, types.intp(*[types.intp] * 6), _build, parallel=True).address


@kernel
def do_task(first, first_tasks, second, memory, worker, task):
    if task < first_tasks:
        _link.call(first, (memory + 64, worker, task))
    else:
        _link.call(second, (memory + 64 + JOB_BYTES, worker, task - first_tasks))


@kernel
def run(work, job, memory):
    """Call the unit at the address `work` for each task 0 … job.tasks - 1.

    `job` is a named tuple of integers with the fields `tasks` and `threads`; `memory` are REGION_BYTES. `worker` is a
    number below job.threads; no two tasks run at once under one number.
    """
    write(memory + 64, job)
    share(work, job.tasks, 0, 0, memory, job.threads)


@kernel
def run_both(first, first_job, second, second_job, memory):
    """`run` for two jobs that do not depend on each other, without waiting in between."""
    write(memory + 64, first_job)
    write(memory + 64 + JOB_BYTES, second_job)
    share(first, first_job.tasks, second, second_job.tasks, memory, first_job.threads)


@kernel
def run_here(work, job, memory):
    """`run` on this thread alone, inside another job's task; `memory` are JOB_BYTES."""
    write(memory, job)
    for task in range(job.tasks):
        _link.call(work, (memory, 0, task))


@kernel
def share(first, first_tasks, second, second_tasks, memory, threads):
    if threads > 1 and first_tasks + second_tasks > 1:
        write(memory, (0,))
        _link.call(_spread(), (first, first_tasks, second, second_tasks, memory, threads))
    else:
        for task in range(first_tasks + second_tasks):
            do_task(first, first_tasks, second, memory, 0, task)
