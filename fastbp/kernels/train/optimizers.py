"""The update of an optimiser's step (step.py): it goes over the parameters once and changes them in place.

    g = gradient + l2 * w
    sgd         w -= rate g
    momentum    v = beta v - rate g,    w += v
    nesterov    v = beta v - rate g,    w += beta v - rate g
    adam        m = beta m + (1 - beta) g,  v = beta2 v + (1 - beta2) g²,  w -= rate m / (sqrt(v) + epsilon) + decay w

(Sutskever, Martens, Dahl and Hinton, On the importance of initialization and momentum in deep learning, ICML 2013; Kingma
and Ba, Adam, ICLR 2015, in the order of computation that its section 2 ends with; Loshchilov and Hutter, Decoupled weight
decay regularization, ICLR 2019.) The caller computes the rates of a step. l2 and decay are for weights, not for biases.
"""
import math
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..gemm.problem import GemmProblem
from ..schedule.atomic import load
from ..schedule.queue import TASK
from ..schedule.records import layout, read, replace, write
from ..schedule.trace import Call
from ..simd import tile
from ..simd.arithmetic import sqrt, total
from . import dweights

NAMES = "sgd", "momentum", "nesterov", "adam"
SGD, MOMENTUM, NESTEROV, ADAM = range(len(NAMES))

# How many arrays each kind of optimiser keeps beside an array of parameters.
STATES = 0, 1, 1, 2

# A task updates this many elements, unless the gradient is computed in blocks.
CHUNK = 1 << 12


class Array(NamedTuple):
    """An array of parameters, its gradient and what is remembered of it. An address is 0 where there is nothing."""

    first_task: int             # the number of its first task
    chunk: int                  # elements of a task
    count: int                  # elements
    values: int                 # the address of the parameters (count,)
    gradient: int               # the address of the first shard's gradient (count,)
    velocity: int               # the address of v, or Adam's m (count,)
    square: int                 # the address of Adam's v (count,)
    penalised: int              # 1: l2 and decay apply to it
    problem: int                # the address of the GemmProblem that computes the gradient, in blocks of a chunk (dweights.py)


# The bytes of an Array.
ARRAY_BYTES = layout(Array).itemsize


class Update(NamedTuple):
    """The job of a step. A task is a chunk of an array."""

    tasks: int                  # tasks of all arrays
    kind: int                   # SGD … ADAM
    shards: int                 # gradients to add up for each array
    distance: int               # bytes from one shard's gradient to the next one's
    arrays: int                 # the address of the Array records
    count: int                  # arrays
    settings: int               # the address of the Settings
    steps: int                  # the address of an integer: how many steps were made
    l2: float                   # the factor of the penalty l2 / 2 * Σ w²
    penalty: float              # the result: the penalty before the step
    rate: float                 # the step's learning rate
    epsilon: float              # the step's epsilon
    decay: float                # the step's weight decay: its rate times the setting
    sums: int                   # the address of room for the Squares of each task
    check: int                  # 1: make the step only if all that it computes is finite
    known: int                  # 1: Squares.parameters are those of the parameters as they are now
    stored: int                 # the address of all gradients of all shards, with zeros between them; 0: they lie apart
    stored_count: int           # numbers there, of all shards
    multiply: int               # the address of the unit of GemmProblems; 0 where no array has one
    block_bytes: int            # bytes of the largest chunk of an array with a GemmProblem; 0: there is none
    scratch: int                # the address of dweights.worker_bytes for each worker


class Settings(NamedTuple):
    """The settings of an optimiser, as the user gives them. They have no units."""

    learning_rate: float        # the rate of the first step
    decay: float                # after n steps the rate is learning_rate / (1 + decay * n)
    beta: float                 # the momentum, or Adam's beta_1
    beta2: float                # Adam's beta_2
    epsilon: float              # what Adam adds to a root
    weight_decay: float         # AdamW's: in a step weights shrink by rate * weight_decay of themselves
    corrected: float            # 1: Adam adds epsilon to the root after its bias correction; 0: before it


class Squares(NamedTuple):
    """The sums of squares that a task finds."""

    penalised: float            # of its penalised parameters, before the step
    gradient: float             # of its part of the gradient; where a GemmProblem computes that, of x instead (finite.py)
    dz: float                   # of its part of dz, where a GemmProblem computes the gradient
    parameters: float           # of its parameters after the step; or before it, of these and of what is remembered of them


# The bytes of a Squares.
SQUARES_BYTES = layout(Squares).itemsize


@kernel
def gradient_of(machine, job, array, block, worker):
    """Return the address of an array's gradient. Where it is computed in blocks, compute this block first.

    The address is then where the whole gradient would begin: only the block is there.
    """
    if array.problem == 0:
        return array.gradient
    at = job.scratch + worker * dweights.worker_bytes(machine, job.block_bytes)
    return dweights.block_at(job.multiply, array.problem, block, dweights.worker_memory(at, machine, job.block_bytes))


@kernel
def array_at(job, k):
    """Return the k-th Array."""
    return read(job.arrays + k * ARRAY_BYTES, Array)


@kernel
def array_of(job, task):
    """Return the Array that a task is a chunk of."""
    k = 0
    while k + 1 < job.count and array_at(job, k + 1).first_task <= task:
        k += 1
    return array_at(job, k)


@kernel
def squares_at(job, task):
    """Return the address of a task's Squares."""
    return job.sums + task * SQUARES_BYTES


@kernel
def added(job, first, end):
    """Return the sums of the Squares of the tasks first … end - 1."""
    penalised, gradient, dz, parameters = 0.0, 0.0, 0.0, 0.0
    for task in range(first, end):
        found = read(squares_at(job, task), Squares)
        penalised += found.penalised
        gradient += found.gradient
        dz += found.dz
        parameters += found.parameters
    return Squares(penalised=penalised, gradient=gradient, dz=dz, parameters=parameters)


def _build(dtype):
    row, machine = blocking.tiles(dtype).row, blocking.machine(dtype)

    def update(job_address, worker, task):
        """Update a chunk of an array of parameters, and write its Squares."""
        job = read(job_address, Update)
        array = array_of(job, task)
        settings = read(job.settings, Settings)
        beta, beta2, rate, epsilon = settings.beta, settings.beta2, job.rate, job.epsilon
        l2, decay = (job.l2, job.decay) if array.penalised != 0 else (0.0, 0.0)
        block = task - array.first_task
        first_gradient = gradient_of(blocking.with_caches(machine), job, array, block, worker)
        start, end = block * array.chunk, min((block + 1) * array.chunk, array.count)
        before, after = tile.zeros(row), tile.zeros(row)
        for j in range(start, end, tile.width(row)):                                # w, g, v, square (count,)
            offset, cols = j * tile.itemsize(row), end - j
            w = tile.load(row, array.values + offset, 0, 1, cols)
            gradient = first_gradient + offset
            g = tile.load(row, gradient, 0, 1, cols)
            for _ in range(1, job.shards):
                gradient += job.distance
                g = g + tile.load(row, gradient, 0, 1, cols)
            g = g + w * l2
            before = before + w * w
            if job.kind == SGD:
                w = w - g * rate
            else:
                v = tile.load(row, array.velocity + offset, 0, 1, cols)
                if job.kind == ADAM:
                    v = v * beta + g * (1.0 - beta)
                    square = tile.load(row, array.square + offset, 0, 1, cols) * beta2 + g * g * (1.0 - beta2)
                    tile.store(square, array.square + offset, 0, 1, cols)
                    w = w - (v * rate / (sqrt(square) + epsilon) + w * decay)
                else:
                    v = v * beta - g * rate
                    w = w + (v * beta - g * rate if job.kind == NESTEROV else v)
                tile.store(v, array.velocity + offset, 0, 1, cols)
            after = after + w * w
            tile.store(w, array.values + offset, 0, 1, cols)
        penalised = float(total(before)) if array.penalised != 0 else 0.0
        write(squares_at(job, task), Squares(penalised=penalised, gradient=0.0, dz=0.0, parameters=float(total(after))))
        return link.OK

    return update


update = link.units("update", TASK, _build)


@kernel
def with_rates(job):
    """Return the job with the next step's rate, epsilon and decay.

    The learning rate decays as in Kinsley and Kukieła, Neural Networks from Scratch in Python, ch. 10.
    """
    step, settings = load(job.steps), read(job.settings, Settings)
    rate = settings.learning_rate / (1.0 + settings.decay * step)
    epsilon, decay = settings.epsilon, rate * settings.weight_decay
    if job.kind == ADAM:
        root = math.sqrt(1.0 - settings.beta2 ** (step + 1))
        rate *= root / (1.0 - settings.beta ** (step + 1))
        if settings.corrected != 0.0:
            epsilon *= root
    return replace(job, rate=rate, epsilon=epsilon, decay=decay)


@kernel
def call_of(job, precision):
    """Return the Call of a step, for a profile. precision: bits of a number."""
    rows, count = 0, 0
    for k in range(job.count):
        array = array_at(job, k)
        count += array.count
        rows = max(rows, read(array.problem, GemmProblem).depth if array.problem != 0 else 0)
    return Call(rows=rows, inputs=count, neurons=1, precision=precision, activation=STATES[job.kind],
                weights=0, dinputs=0, dinputs_bytes=0)
