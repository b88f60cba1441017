"""What a profile records while one is active: an event for each pass, each queue of tasks that it runs, and each task.

A log is memory of 64 bytes, with the count of events and how many there is room for, and the events. Where no profile is
active all of this is a look at one word.
"""
import sys
import time
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import _link, _state
from .._jit import inlined, kernel
from .records import put_word, write
from .workspace import exchange, fetch_add, load

FORWARD, BACKWARD, RELU, DINPUTS, UPDATE, QUEUE = range(1, 7)           # what an event is of, if not of a task

LOG_BYTES = 64                  # before the first event
WORDS = 16                      # of a job, or a Call
_WORDS_AT, _END_AT = 64, 56
EVENT_BYTES = _WORDS_AT + 8 * WORDS

_WORD, _POINTER = ir.IntType(64), ir.IntType(64).as_pointer()


class Event(NamedTuple):
    """The first words of an event. The 8th is its end, 0 while it is being written; then come WORDS words of its job."""

    work: int                   # FORWARD … QUEUE, or the address of the task's unit
    queue: int                  # the address of the queue that the task stood in; 0: it is one inside another task
    thread: int                 # as Python's threading.get_ident
    start: int                  # nanoseconds of `clock`
    task: int                   # the number of the task, of a QUEUE the number of threads


class Call(NamedTuple):
    """The words of a pass."""

    rows: int                   # of an update: those of the batch that dweights are computed of, 0 if they are given
    inputs: int                 # of the layer; of a ReLU: 1; of an update: the number of parameters
    neurons: int
    precision: int              # bits of a factor of its products
    activation: int             # of an update: the arrays that the optimiser keeps beside the parameters
    weights: int                # addresses
    dinputs: int                # 0: not wanted
    dinputs_bytes: int


@kernel
def begin():
    """(log, time): zeros where no profile is active."""
    log = _state.word(_state.PROFILE)
    return log, _link.call(_clock(), (log,)) if log != 0 else 0


@kernel
def finish(begun, work, queue, task, words):
    """Record what has begun, unless no profile was active then; `words` is an address."""
    if begun[0] != 0:
        _link.call(_record(), (begun[0], work, queue, task, begun[1], words))


@kernel
def finish_pass(begun, work, call):
    """The same of a pass."""
    if begun[0] != 0:
        _link.call(_record(), (begun[0], work, 0, 0, begun[1], in_memory(call)))


def bind():
    """Compile what a log needs that is to become active."""
    for unit in _units:
        unit.bind()


# ---- the units of passes, which record themselves


def forward(run, precision):
    """The unit of a forward pass, for what computes it."""
    run = inlined(run)

    def recorded(x, weights, biases, y, slope, activation, most_threads):
        begun = begin()
        status = run(x, weights, biases, y, slope, activation, most_threads)
        if status == _link.OK:
            call = Call(x.rows, x.cols, y.cols, precision, activation, weights.data, 0, 0)
            finish_pass(begun, FORWARD, call)
        return status

    return recorded


def backward(run, precision):
    """The unit of a backward pass, for what computes it."""
    run = inlined(run)

    def recorded(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, most_threads):
        begun = begin()
        status = run(dvalues, s, x, weights, dinputs, dweights, dbiases, activation, most_threads)
        if status == _link.OK:
            dinputs_bytes = dinputs.rows * dinputs.row_step
            call = Call(x.rows, x.cols, dvalues.cols, precision, activation, weights.data, dinputs.data, dinputs_bytes)
            finish_pass(begun, BACKWARD, call)
        return status

    return recorded


@intrinsic
def in_memory(typing_context, record):
    """The address of a copy of a named tuple of integers, which lasts until the function returns, and of zeros to WORDS."""
    def generate(context, builder, signature, args):
        words = [builder.extract_value(args[0], i) for i in range(len(record))]
        memory = cgutils.alloca_once(builder, ir.ArrayType(_WORD, WORDS))
        for i, word in enumerate([*words, *[_WORD(0)] * (WORDS - len(words))]):
            builder.store(word, builder.gep(memory, [_WORD(0), _WORD(i)], inbounds=True))
        return builder.ptrtoint(memory, _WORD)
    return types.intp(record), generate


# ---- the log


@intrinsic
def _now(typing_context):
    """Nanoseconds of time.CLOCK_MONOTONIC; on Windows, ticks of the performance counter."""
    def generate(context, builder, signature, args):
        memory = cgutils.alloca_once(builder, ir.ArrayType(_WORD, 2))
        pointer = builder.bitcast(memory, _POINTER)
        if sys.platform == "win32":
            _call_external(builder, "QueryPerformanceCounter", ir.IntType(32), [pointer])
            return builder.load(pointer)
        clock = ir.IntType(32)(time.CLOCK_MONOTONIC)
        _call_external(builder, "clock_gettime", ir.IntType(32), [clock, pointer])
        seconds, fraction = (builder.load(builder.gep(pointer, [_WORD(i)])) for i in range(2))
        return builder.add(builder.mul(seconds, _WORD(1_000_000_000)), fraction)
    return types.intp(), generate


@intrinsic
def thread(typing_context):
    """The number of this thread."""
    def generate(context, builder, signature, args):
        if sys.platform == "win32":
            return builder.zext(_call_external(builder, "GetCurrentThreadId", ir.IntType(32), []), _WORD)
        return _call_external(builder, "pthread_self", _WORD, [])
    return types.intp(), generate


def _call_external(builder, name, result, arguments):
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)


def _build_clock():
    def clock(log):
        return _now()
    return clock


def _build_record():
    def record(log, work, queue, task, start, words):
        end = _now()
        number = fetch_add(log, 1)
        if number < load(log + 8):
            event = log + LOG_BYTES + number * EVENT_BYTES
            for offset in range(0, 8 * WORDS, 8):
                put_word(event + _WORDS_AT + offset, load(words + offset))
            write(event, Event(work, queue, thread(), start, task))
            exchange(event + _END_AT, end)
        return _link.OK
    return record


_units = (_link.Unit("clock", None, types.intp(types.intp), _build_clock, rare=True),
          _link.Unit("record", None, types.intp(*[types.intp] * 6), _build_record, rare=True))
_clock, _record = (unit.address for unit in _units)
