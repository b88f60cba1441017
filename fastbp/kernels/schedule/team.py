"""A team: threads that stay at hand for many queues (queue.py). Calling threads for each queue would take longer.

One thread leads the team. It opens its queues to the others, which look for the next one all the time. That pays for a run of
training steps (train/run.py), each of which has a dozen queues of some 10 us. A process has one team at a time. While there is
one, other callers call threads for each queue.

The state of a team is a number that only grows. It is odd while a queue is open. A thread that works on the queue is counted as
inside. The leader closes the queue and then waits until no thread is inside.
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

    queue: int                  # the address of its memory
    threads: int                # how many threads of the team may work on it


# The memory of a team. These are distances in bytes from its beginning. Each word that threads wait for has a cache line of its
# own.
_STATE = 0                                      # This word is the state, which is odd while a queue is open.
_INSIDE = _STATE + CACHE_LINE                   # This word counts the threads that work on the queue.
_OVER = _INSIDE + CACHE_LINE                    # This word is 1 when the leader has nothing more to do.
_ROLES = _OVER + CACHE_LINE                     # This word counts the threads that have come.
_OPENED = _ROLES + CACHE_LINE                   # The Opened of the queue lies here.
STATUS = _OPENED + layout(Opened).itemsize      # This word is the status that the leader's unit has returned.
BYTES = _OPENED + CACHE_LINE                    # The memory of a team has this size.

# The places of Opened's fields.
_QUEUE, _THREADS = _OPENED + offset(Opened, "queue"), _OPENED + offset(Opened, "threads")

# A thread looks this many times for a queue; from then on it lets other processes have the core after each look.
_SPINS = 1 << 11

# Whether this is an x86 CPU, which has an instruction for waiting.
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
    """Make a team in memory of BYTES bytes, unless the process has one; return whether it was made."""
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
    """Let the other threads of the team go: the leader has nothing more to do."""
    exchange(_state.address(_state.TEAM), 0)
    exchange(memory + _OVER, 1)


@kernel
def disband():
    """Allow another team to be made. All threads of this one have gone."""
    exchange(_state.address(_state.TEAM_IS_TAKEN), 0)


@kernel
def own():
    """Return the memory of the team that this thread leads, or 0."""
    memory = load(_state.address(_state.TEAM))
    return memory if memory != 0 and _state.word(_state.TEAM_LEADER) == trace.thread() else 0


@kernel
def role(memory):
    """Return the number of this thread in the team. Each thread gets another one; 0 leads."""
    return fetch_add(memory + _ROLES, 1)


@kernel
def open_queue(memory, queue, threads):
    """Let the first `threads` threads of the team work on the queue at an address."""
    write(memory + _OPENED, Opened(queue=queue, threads=threads))
    fetch_add(memory + _STATE, 1)


@kernel
def close_queue(memory):
    """Close the queue, and return when no thread works on it any more."""
    fetch_add(memory + _STATE, 1)
    while load(memory + _INSIDE) != 0:
        pause()


@kernel
def enter(memory, worker, last, give_way):
    """Return (state, queue) of the next queue that is open to a worker, or (0, 0) when the team is over.

    The worker is counted as inside until it calls `leave`. last: the state that the call before returned, at first 0.
    give_way(): lets other processes have the core.
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
    """Count this worker as no longer inside the queue."""
    fetch_add(memory + _INSIDE, -1)
