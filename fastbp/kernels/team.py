"""A team: threads that stay at hand for many queues (parallel.py), where one after another would take longer to call them.

One thread leads it and opens its queues to the others, which look for the next one all the time. That is worth it for a run
of training steps (training.py), of which each has a dozen queues of some 10 us. There is one team at a time in a process;
who finds it taken calls threads as others do.

The state of a team counts up: it is odd while a queue is open. Whoever works on one is counted as inside, and the leader
closes it and waits until nobody is.
"""
import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import _state
from .._jit import kernel
from . import record
from .records import put_word
from .workspace import exchange, fetch_add, load

# The memory of a team: words in cache lines of their own.
_STATE, _INSIDE, _OVER, _ROLES, _QUEUE, _THREADS, STATUS, BYTES = 0, 64, 128, 192, 256, 264, 272, 320

_SPINS = 1 << 11                # looks before one that gives way to other processes

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
    """Make a team of memory of BYTES, unless there is one; whether it was made."""
    if exchange(_state.address(_state.TEAM_IS_TAKEN), 1) != 0:
        return False
    for word in (_STATE, _INSIDE, _OVER, _ROLES):
        put_word(memory + word, 0)
    return True


@kernel
def lead(memory):
    """From here on the queues of this thread are open to the team."""
    put_word(_state.address(_state.TEAM_LEADER), record.thread())
    exchange(_state.address(_state.TEAM), memory)


@kernel
def dismiss(memory):
    """The others may go: the leader has nothing more to do."""
    exchange(_state.address(_state.TEAM), 0)
    exchange(memory + _OVER, 1)


@kernel
def disband():
    """When all have gone."""
    exchange(_state.address(_state.TEAM_IS_TAKEN), 0)


@kernel
def own():
    """The memory of the team that this thread leads, or 0."""
    memory = load(_state.address(_state.TEAM))
    return memory if memory != 0 and _state.word(_state.TEAM_LEADER) == record.thread() else 0


@kernel
def role(memory):
    """A number for each of the team; 0 leads."""
    return fetch_add(memory + _ROLES, 1)


@kernel
def open_queue(memory, queue, threads):
    """Let the first so many of the team work on the queue at an address."""
    put_word(memory + _QUEUE, queue)
    put_word(memory + _THREADS, threads)
    fetch_add(memory + _STATE, 1)


@kernel
def close_queue(memory):
    """Return when nobody works on it any more."""
    fetch_add(memory + _STATE, 1)
    while load(memory + _INSIDE) != 0:
        pause()


@kernel
def enter(memory, worker, last, give_way):
    """(state, queue) of the next queue that is open to a worker, who must `leave` it; (0, 0) when the team is over.

    last: the state of the queue before; give_way(): lets other processes have the core.
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
    fetch_add(memory + _INSIDE, -1)
