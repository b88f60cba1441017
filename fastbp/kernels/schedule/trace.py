"""The events of an active profile: one for each pass, one for each queue of tasks that the pass runs, and one for each task.

A log is a Header in a cache line of its own, and after it the events. Where no profile is active, this only looks at one word.
"""
import sys
import time
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..._compile import link
from ..._compile.compiler import inlined, kernel
from ..._runtime import state
from ..simd.vector import CACHE_LINE
from .atomic import copy, exchange, fetch_add, load
from .records import FIELD_BYTES, offset, record_type, write

# The kinds of events that are not tasks.
FORWARD, BACKWARD, RELU, DINPUTS, UPDATE, QUEUE = range(1, 7)

# An event keeps this many words of its job or Call, the first ones.
WORDS = 16

# The LLVM types of a 64-bit word and of its address.
_WORD, _POINTER = ir.IntType(64), ir.IntType(64).as_pointer()


class Header(NamedTuple):
    """The first words of a log."""

    count: int                  # how many events there were, also those that found no room
    capacity: int               # for how many events there is room


class Event(NamedTuple):
    """The first words of an event. The words of its job follow, from the next cache line on."""

    work: int                   # FORWARD … QUEUE, or the address of the task's unit
    queue: int                  # the address of the queue that the task stood in; 0: it ran inside another task
    thread: int                 # the thread's number, as threading.get_ident returns it
    start: int                  # when it began, in nanoseconds of `clock`
    task: int                   # the number of the task; for a QUEUE the number of threads
    end: int                    # when it ended, in nanoseconds of `clock`; 0 while the event is being written


class Call(NamedTuple):
    """The words of a pass. Some fields mean something else for a ReLU or for an UPDATE, an optimiser's step."""

    rows: int                   # rows of x; for an UPDATE that computes dweights itself, rows of the batch, else 0
    inputs: int                 # inputs of the layer; for a ReLU 1; for an UPDATE the number of parameters
    neurons: int                # neurons of the layer; for an UPDATE 1
    precision: int              # bits of a factor of its products
    activation: int             # its number in activations.py; for an UPDATE the arrays kept beside an array of parameters
    weights: int                # the address of the layer's weights
    dinputs: int                # the address of dinputs; 0: not wanted
    dinputs_bytes: int          # the size of dinputs in bytes


class Begun(NamedTuple):
    """The beginning of an event."""

    log: int                    # the address of the active profile's log; 0: there is none
    start: int                  # when it began, in nanoseconds of `clock`


# The bytes before the first event: the Header's cache line.
LOG_BYTES = CACHE_LINE

# The bytes of an event before the words of its job: the Event's cache line.
_WORDS_AT = CACHE_LINE

# The bytes of an event.
EVENT_BYTES = _WORDS_AT + FIELD_BYTES * WORDS

# The places in bytes of fields that are read and written alone.
_COUNT, _CAPACITY, _END = offset(Header, "count"), offset(Header, "capacity"), offset(Event, "end")


@kernel
def begin():
    """Return the Begun of an event; its fields are 0 where no profile is active."""
    log = state.word(state.PROFILE)
    return Begun(log=log, start=link.call(_clock(), (log,)) if log != 0 else 0)


@kernel
def finish(begun, work, queue, task, words):
    """Record an event if a profile was active when it began. words: the address of its job."""
    if begun.log != 0:
        link.call(_record(), (begun.log, work, queue, task, begun.start, words))


@kernel
def finish_pass(begun, work, call):
    """Record a pass if a profile was active when it began. work: FORWARD … UPDATE."""
    if begun.log != 0:
        link.call(_record(), (begun.log, work, 0, 0, begun.start, in_memory(call)))


def bind():
    """Compile what an active log needs."""
    for unit in _units:
        unit.bind()


# ---- units of passes that record themselves


def forward(run, precision):
    """Return the unit of a forward pass that `run` computes, with products of factors of `precision` bits."""
    run = inlined(run)

    def recorded(operands, most_threads):
        begun, x = begin(), operands.x
        status = run(operands, most_threads)
        if status == link.OK:
            call = Call(rows=x.rows, inputs=x.cols, neurons=operands.y.cols, precision=precision,
                        activation=operands.activation, weights=operands.weights.data, dinputs=0, dinputs_bytes=0)
            finish_pass(begun, FORWARD, call)
        return status

    return recorded


def backward(run, precision):
    """Return the unit of a backward pass that `run` computes, with products of factors of `precision` bits."""
    run = inlined(run)

    def recorded(operands, most_threads):
        begun, x, dinputs = begin(), operands.x, operands.dinputs
        status = run(operands, most_threads)
        if status == link.OK:
            call = Call(rows=x.rows, inputs=x.cols, neurons=operands.dvalues.cols, precision=precision,
                        activation=operands.activation, weights=operands.weights.data, dinputs=dinputs.data,
                        dinputs_bytes=dinputs.rows * dinputs.row_step)
            finish_pass(begun, BACKWARD, call)
        return status

    return recorded


@intrinsic
def in_memory(typing_context, record):
    """Return the address of a copy of a record, filled up with zeros to WORDS words; it lasts until the function returns."""
    fields = record_type(record.instance_class)

    def generate(context, builder, signature, args):
        room = ir.ArrayType(_WORD, max(WORDS, len(fields)))
        memory = cgutils.alloca_once(builder, room)
        builder.store(ir.Constant(room, None), memory)
        for i, (given, field) in enumerate(zip(record, fields, strict=True)):
            value = context.cast(builder, builder.extract_value(args[0], i), given, field)
            word = builder.gep(memory, [_WORD(0), _WORD(i)], inbounds=True)
            builder.store(value, builder.bitcast(word, value.type.as_pointer()))
        return builder.ptrtoint(memory, _WORD)
    return types.intp(record), generate


# ---- the log


@intrinsic
def _now(typing_context):
    """Return the time in nanoseconds of time.CLOCK_MONOTONIC; on Windows, in ticks of the performance counter."""
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
    """Return the number of this thread."""
    def generate(context, builder, signature, args):
        if sys.platform == "win32":
            return builder.zext(_call_external(builder, "GetCurrentThreadId", ir.IntType(32), []), _WORD)
        return _call_external(builder, "pthread_self", _WORD, [])
    return types.intp(), generate


def _call_external(builder, name, result, arguments):
    """Return the value of a call of a C function."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)


def _build_clock():
    def clock(log):
        """Return the time."""
        return _now()
    return clock


def _build_record():
    def record(log, work, queue, task, start, words):
        """Write an event that ends now to the log, or only count it if there is no room; return OK."""
        end = _now()
        number = fetch_add(log + _COUNT, 1)
        if number < load(log + _CAPACITY):
            event = log + LOG_BYTES + number * EVENT_BYTES
            copy(event + _WORDS_AT, words, FIELD_BYTES * WORDS)
            write(event, Event(work=work, queue=queue, thread=thread(), start=start, task=task, end=0))
            exchange(event + _END, end)
        return link.OK
    return record


_units = (link.Unit("clock", None, types.intp(types.intp), _build_clock, lazy=True),
          link.Unit("record", None, types.intp(*[types.intp] * 6), _build_record, lazy=True))
_clock, _record = (unit.address for unit in _units)
