"""A team: threads that stay at hand for many queues (queue.py), where calling them for one after another takes longer.

One thread leads the team and opens its queues to the others, which look for the next one all the time. That pays for a run of
training steps (train/run.py), each of which has a dozen queues of some 10 us. There is one team at a time in a process. Who
finds it taken calls threads as others do.

The state of a team counts up, and is odd while a queue is open. Whoever works on the queue is counted as inside, and the
leader closes it and waits until nobody is.
"""
import platform
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..._compile.compiler import kernel
from ..._runtime import state as _state
from ..simd.vector import CACHE_LINE
from . import trace
from .atomic import exchange, fetch_add, load
from .records import layout, offset, put_word, write


class Opened(NamedTuple):
    """The queue that is open."""

    queue: int                  # its address
    threads: int                # how many of the team may work on it


# The memory of a team: its words, each in a cache line of its own.
_STATE = 0                                      # The state, which is odd while a queue is open.
_INSIDE = _STATE + CACHE_LINE                   # How many work on the queue.
_OVER = _INSIDE + CACHE_LINE                    # Whether the leader has nothing more to do.
_ROLES = _OVER + CACHE_LINE                     # How many have come.
_OPENED = _ROLES + CACHE_LINE                   # The queue that is Opened.
STATUS = _OPENED + layout(Opened).itemsize      # What the leader's unit has returned.
BYTES = _OPENED + CACHE_LINE                    # The size of all that.

_QUEUE, _THREADS = _OPENED + offset(Opened, "queue"), _OPENED + offset(Opened, "threads")

# Looks for a queue before a look that gives way to other processes.
_SPINS = 1 << 11

_IS_X86 = platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")


@intrinsic
def pause(typing_context):
    """Tell the CPU that this thread waits for another one."""
    def generate(context, builder, signature, args):
        if _IS_X86:
            name, kind = "llvm.x86.sse2.pause", ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()
    return types.void(), generate


@kernel
def found(memory):
    """Make a team of memory of BYTES, unless there is one; return whether it was made."""
    if exchange(_state.address(_state.TEAM_IS_TAKEN), 1) != 0:
        return False
    for word in (_STATE, _INSIDE, _OVER, _ROLES):
        put_word(memory + word, 0)
    return True


@kernel
def lead(memory):
    """Open the queues of this thread to the team from here on."""
    put_word(_state.address(_state.TEAM_LEADER), trace.thread())
    exchange(_state.address(_state.TEAM), memory)


@kernel
def dismiss(memory):
    """Let the others go: the leader has nothing more to do."""
    exchange(_state.address(_state.TEAM), 0)
    exchange(memory + _OVER, 1)


@kernel
def disband():
    """Let another team be made, after all have gone."""
    exchange(_state.address(_state.TEAM_IS_TAKEN), 0)


@kernel
def own():
    """Return the memory of the team that this thread leads, or 0."""
    memory = load(_state.address(_state.TEAM))
    return memory if memory != 0 and _state.word(_state.TEAM_LEADER) == trace.thread() else 0


@kernel
def role(memory):
    """Return a number of its own to each of the team; 0 leads."""
    return fetch_add(memory + _ROLES, 1)


@kernel
def open_queue(memory, queue, threads):
    """Let the first so many of the team work on the queue at an address."""
    write(memory + _OPENED, Opened(queue=queue, threads=threads))
    fetch_add(memory + _STATE, 1)


@kernel
def close_queue(memory):
    """Close the queue, and return when nobody works on it any more."""
    fetch_add(memory + _STATE, 1)
    while load(memory + _INSIDE) != 0:
        pause()


@kernel
def enter(memory, worker, last, give_way):
    """Return (state, queue) of the next queue open to a worker, who must `leave` it; (0, 0) when the team is over.

    last: the state of the queue before. give_way(): lets other processes have the core.
    """
    looks = 0
    while load(memory + _OVER) == 0:
        state = load(memory + _STATE)
        if state % 2 == 1 and state != last and worker < load(memory + _THREADS):
            fetch_add(memory + _INSIDE, 1)
            if load(memory + _STATE) == state:
                return state, load(memory + _QUEUE)
            leave(memory)
        looks += 1
        if looks > _SPINS:
            give_way()
        else:
            pause()
    return 0, 0


@kernel
def leave(memory):
    """Let the leader close the queue as far as this worker is concerned."""
    fetch_add(memory + _INSIDE, -1)
