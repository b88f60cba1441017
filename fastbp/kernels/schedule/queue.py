"""A queue of a pass's tasks, from which whoever is free takes the next one.

A task's result depends on its number alone, so it has the same bits on any number of threads. Calling threads takes some
10 us, so a pass puts all of its jobs in one queue, with barriers where one needs the result of another.
"""
import sys
from typing import NamedTuple

from numba import prange, types

from ..._compile import link
from ..._compile.compiler import kernel
from ..simd.vector import CACHE_LINE
from . import tbb, team, trace
from .atomic import fetch_add, load
from .records import put_word, read, replace, write

# The most jobs in a queue: as many as bfloat16.py needs.
JOBS = 9

# Room for a job: the bytes of its record at most.
JOB_BYTES = 256

# The memory of a queue. Threads count in two words, each in a cache line of its own; half a line holds an Entry.
_ENTRY_BYTES = CACHE_LINE // 2
_TAKEN = 0                                      # How many tasks were taken.
_DONE = _TAKEN + CACHE_LINE                     # How many tasks are done.
_QUEUE = _DONE + CACHE_LINE                     # The Queue.
_ENTRIES = _QUEUE + CACHE_LINE                  # The Entry of each job.
_JOBS = _ENTRIES + JOBS * _ENTRY_BYTES          # The jobs.
REGION_BYTES = _JOBS + JOBS * JOB_BYTES         # The size of all that.

# The signature of a unit of work: (address of the job, worker, task) -> status.
TASK = types.intp(types.intp, types.intp, types.intp)

_give_way = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32())


class Queue(NamedTuple):
    """The contents of a queue."""

    jobs: int
    tasks: int                  # of all jobs
    after: int                  # the number of tasks that have to be done before the next job begins


class Entry(NamedTuple):
    """The place of a job in a queue."""

    work: int                   # the address of its unit
    first: int                  # the number of its first task
    after: int                  # the number of the queue's tasks that have to be done before it begins


def _build():
    def spread(memory, threads):
        if tbb.enter():
            for worker in prange(threads):
                work_off(memory, worker)
            tbb.leave()
        else:
            work_off(memory, 0)
        return link.OK
    return spread


_spread = link.Unit("spread", None, types.intp(types.intp, types.intp), _build, parallel=True).address


def _build_team():
    def with_team(work, argument, count, memory, threads):
        if tbb.enter():
            for _ in prange(threads):
                worker = team.role(memory)
                if worker == 0:
                    team.lead(memory)
                    put_word(memory + team.STATUS, link.call(work, (argument, count)))
                    team.dismiss(memory)
                else:
                    help_team(memory, worker)
            tbb.leave()
        else:
            put_word(memory + team.STATUS, link.call(work, (argument, count)))
        return link.OK
    return with_team


_with_team = link.Unit("team", None, types.intp(*[types.intp] * 5), _build_team, parallel=True).address


@kernel
def begin(memory):
    """Make an empty queue in memory of REGION_BYTES."""
    write(memory + _QUEUE, Queue(jobs=0, tasks=0, after=0))


@kernel
def add(memory, work, job):
    """Queue a job, a record with the field `tasks`, for the unit at the address `work`.

    The unit is called for each task 0 … job.tasks - 1.
    """
    queue = read(memory + _QUEUE, Queue)
    write(memory + _JOBS + queue.jobs * JOB_BYTES, job)
    write(memory + _ENTRIES + queue.jobs * _ENTRY_BYTES, Entry(work=work, first=queue.tasks, after=queue.after))
    write(memory + _QUEUE, replace(queue, jobs=queue.jobs + 1, tasks=queue.tasks + job.tasks))


@kernel
def barrier(memory):
    """Let what is queued from here on begin when all before it is done."""
    queue = read(memory + _QUEUE, Queue)
    write(memory + _QUEUE, replace(queue, after=queue.tasks))


@kernel
def run_queue(memory, threads):
    """Do all that is queued, and empty the queue.

    Tasks are told a `worker`, a number below `threads` that no two have at once.
    """
    begun = trace.begin()
    put_word(memory + _TAKEN, 0)
    put_word(memory + _DONE, 0)
    if threads > 1 and read(memory + _QUEUE, Queue).tasks > 1:
        mine = team.own()
        if mine != 0:
            team.open_queue(mine, memory, threads)
            work_off(memory, 0)
            team.close_queue(mine)
        else:
            link.call(_spread(), (memory, threads))
    else:
        work_off(memory, 0)
    trace.finish(begun, trace.QUEUE, memory, threads, memory + _JOBS)
    begin(memory)


@kernel
def work_off(memory, worker):
    """Take one task after another, until all are taken."""
    queue = read(memory + _QUEUE, Queue)
    task = fetch_add(memory + _TAKEN, 1)
    while task < queue.tasks:
        do_task(memory, queue.jobs - 1, worker, task)
        fetch_add(memory + _DONE, 1)
        task = fetch_add(memory + _TAKEN, 1)


@kernel
def do_task(memory, job, worker, task):
    """Find the job that a task belongs to, from the last one on, wait for what it comes after, and do it.

    Whoever is waited for is at work on a task of its own, and waits for none that was taken later: so there is no deadlock.
    """
    entry = read(memory + _ENTRIES + job * _ENTRY_BYTES, Entry)
    while task < entry.first:
        job -= 1
        entry = read(memory + _ENTRIES + job * _ENTRY_BYTES, Entry)
    while load(memory + _DONE) < entry.after:
        _give_way()
    begun, words = trace.begin(), memory + _JOBS + job * JOB_BYTES
    link.call(entry.work, (words, worker, task - entry.first))
    trace.finish(begun, entry.work, memory, task - entry.first, words)


@kernel
def help_team(memory, worker):
    """Work off one queue of a team after another."""
    state, queue = team.enter(memory, worker, 0, _give_way)
    while queue != 0:
        work_off(queue, worker)
        team.leave(memory)
        state, queue = team.enter(memory, worker, state, _give_way)


@kernel
def run_with_team(work, argument, count, memory, threads):
    """Return the status of a unit at the address `work`, whose queues have threads at hand; memory of team.BYTES."""
    if threads <= 1 or not team.found(memory):
        return link.call(work, (argument, count))
    link.call(_with_team(), (work, argument, count, memory, threads))
    team.disband()
    return load(memory + team.STATUS)


@kernel
def run(work, job, memory, threads):
    """Run a queue of one job."""
    begin(memory)
    add(memory, work, job)
    run_queue(memory, threads)


@kernel
def run_here(work, job, memory):
    """Do the tasks of a job on this thread alone, inside another job's task; memory of JOB_BYTES."""
    begun = trace.begin()
    write(memory, job)
    for task in range(job.tasks):
        link.call(work, (memory, 0, task))
    trace.finish(begun, work, 0, 0, memory)
