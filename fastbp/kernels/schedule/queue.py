"""A queue of a pass's tasks, from which each thread takes the next one when it is free.

A task's result depends on the task's number alone, so it has the same bits on any number of threads. Calling threads takes some
10 us. So a pass puts all of its jobs in one queue, with a barrier where a job needs the results of those before it.
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

# The most jobs in a queue. A pass adds five at most.
JOBS = 9

# The bytes of room for a job. No job's record is larger.
JOB_BYTES = 256

# The bytes of room for an Entry: half a cache line.
_ENTRY_BYTES = CACHE_LINE // 2

# The memory of a queue. These are distances in bytes from its beginning. Threads count in the first two words, so each of these
# has a cache line of its own.
_TAKEN = 0                                      # This word counts the tasks that were taken.
_DONE = _TAKEN + CACHE_LINE                     # This word counts the tasks that are done.
_QUEUE = _DONE + CACHE_LINE                     # The Queue lies here.
_ENTRIES = _QUEUE + CACHE_LINE                  # The Entry of each job lies here.
_JOBS = _ENTRIES + JOBS * _ENTRY_BYTES          # The jobs lie here.
REGION_BYTES = _JOBS + JOBS * JOB_BYTES         # The memory of a queue has this size.

# The signature of a unit of work: (address of the job, worker, task) -> status.
TASK = types.intp(types.intp, types.intp, types.intp)

# A call of the operating system that lets other threads have the core.
_give_way = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32())


class Queue(NamedTuple):
    """The contents of a queue."""

    jobs: int                   # how many jobs
    tasks: int                  # how many tasks of all jobs
    after: int                  # how many tasks must be done before the job that is added next begins


class Entry(NamedTuple):
    """The place of a job in a queue."""

    work: int                   # the address of its unit
    first: int                  # the number in the queue of its first task
    after: int                  # how many of the queue's tasks must be done before it begins


def _build():
    def spread(memory, threads):
        """Work off the queue in this memory with that many threads; return OK."""
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
        """Call the unit at the address `work`, with a team in this memory at hand for its queues; return OK."""
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
    """Make an empty queue in memory of REGION_BYTES bytes."""
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
    """Let the jobs that are added from here on begin only when all tasks before them are done."""
    queue = read(memory + _QUEUE, Queue)
    write(memory + _QUEUE, replace(queue, after=queue.tasks))


@kernel
def run_queue(memory, threads):
    """Do all tasks of a queue, and empty it.

    Each task is called with a `worker`, a number below `threads` that no other task has at the same time.
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
    """Do a task: find its job, from job number `job` down, and wait until the tasks that must come before it are done.

    There is no deadlock: a thread waits only for tasks that were taken before its own, and those are being done.
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
    """Work off one queue of a team after another, until the team is over."""
    state, queue = team.enter(memory, worker, 0, _give_way)
    while queue != 0:
        work_off(queue, worker)
        team.leave(memory)
        state, queue = team.enter(memory, worker, state, _give_way)


@kernel
def run_with_team(work, argument, count, memory, threads):
    """Call the unit at the address `work`, with threads at hand for its queues; return its status.

    argument, count: the unit's arguments. memory: team.BYTES bytes. While there is another team, the unit's queues call threads
    as others do.
    """
    if threads <= 1 or not team.found(memory):
        return link.call(work, (argument, count))
    link.call(_with_team(), (work, argument, count, memory, threads))
    team.disband()
    return load(memory + team.STATUS)


@kernel
def run(work, job, memory, threads):
    """Run a queue of one job, in memory of REGION_BYTES bytes; without a queue where no profile would show it.

    A queue of one thread takes 0.1 us, which is 2 % of a small network's training step.
    """
    if (threads <= 1 or job.tasks <= 1) and trace.begin().log == 0:
        write(memory, job)
        for task in range(job.tasks):
            link.call(work, (memory, 0, task))
        return
    begin(memory)
    add(memory, work, job)
    run_queue(memory, threads)


@kernel
def run_here(work, job, memory):
    """Do the tasks of a job on this thread alone, inside another job's task, in memory of JOB_BYTES bytes."""
    begun = trace.begin()
    write(memory, job)
    for task in range(job.tasks):
        link.call(work, (memory, 0, task))
    trace.finish(begun, work, 0, 0, memory)
