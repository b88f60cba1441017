"""Who computes what: the tasks of a job are numbered, and whoever is free takes the next number.

What a task computes depends on its number alone, so the result has the same bits on any number of threads.
"""
from numba import prange, types

from .. import _link
from .._jit import inlined, kernel
from .workspace import fetch_add, write

JOB_BYTES = 256                 # of memory for a job: a counter in a cache line of its own, then the job's words
_COUNTER_BYTES = 64

TASK = types.intp(types.intp, types.intp, types.intp)      # a unit of work: (address of the job, worker, task) -> status


def _build():
    def spread(work, memory, tasks, threads):
        for worker in prange(threads):
            task = fetch_add(memory, 1)
            while task < tasks:
                _link.call(work, (memory + _COUNTER_BYTES, worker, task))
                task = fetch_add(memory, 1)
        return _link.OK
    return spread


_spread = _link.Unit("spread", types.intp(*[types.intp] * 4), _build, parallel=True).address


@inlined
def run(work, job, memory):
    """Call the unit at the address `work` for each task 0 … job.tasks - 1.

    `job` is a named tuple of integers with the fields `tasks` and `threads`; `memory` are JOB_BYTES for it. `worker` is a
    number below job.threads; no two tasks run at once under one number.
    """
    write(memory + _COUNTER_BYTES, job)
    share(work, memory, job.tasks, job.threads)


@kernel
def share(work, memory, tasks, threads):
    if threads > 1 and tasks > 1:
        write(memory, (0,))
        _link.call(_spread(), (work, memory, tasks, threads))
    else:
        for task in range(tasks):
            _link.call(work, (memory + _COUNTER_BYTES, 0, task))
