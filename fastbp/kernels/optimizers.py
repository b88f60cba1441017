"""The update of an optimiser's step (step.py): one pass over the parameters, in place.

    g = gradient + l2 * w
    sgd         w -= rate g
    momentum    v = beta v - rate g,    w += v
    nesterov    v = beta v - rate g,    w += beta v - rate g
    adam        m = beta m + (1 - beta) g,  v = beta2 v + (1 - beta2) g²,  w -= rate m / (sqrt(v) + epsilon) + decay w

(Sutskever, Martens, Dahl and Hinton, On the importance of initialization and momentum in deep learning, ICML 2013; Kingma
and Ba, Adam, ICLR 2015, in the order of computation that its section 2 ends with; Loshchilov and Hutter, Decoupled weight
decay regularization, ICLR 2019.) Rates of a step come from the caller. l2 and decay are for weights, not for biases.
"""
import math
from typing import NamedTuple

from .. import _link
from .._jit import kernel
from . import blocking, dweights, tile
from .arithmetic import number, put_number, sqrt, total
from .parallel import TASK
from .problem import GemmProblem
from .record import Call
from .records import read
from .workspace import load

NAMES = "sgd", "momentum", "nesterov", "adam"
SGD, MOMENTUM, NESTEROV, ADAM = range(len(NAMES))
STATES = 0, 1, 1, 2             # arrays beside the parameters

CHUNK = 1 << 12                 # elements of a task
SUMS = 3                        # numbers for each task, see Update.sums


class Array(NamedTuple):
    """An array of parameters: addresses of it, its gradient and what is remembered of it; 0: there is none."""

    first_task: int
    chunk: int                  # elements of a task
    count: int
    values: int
    gradient: int               # of the first shard
    velocity: int
    square: int
    penalised: int              # whether l2 and decay are for it
    product: int                # of the Product that the gradient is computed by, in blocks of a chunk (dweights.py)


ARRAY_BYTES = 8 * len(Array._fields)


class Update(NamedTuple):
    """The job of a step. A task is a chunk of an array. Addresses are of float64, if nothing else is said."""

    tasks: int
    kind: int
    shards: int                 # gradients to add up,
    distance: int               # and the bytes from one to the next
    arrays: int                 # of so many Array
    count: int
    settings: int               # of Settings
    steps: int                  # of an integer: how many were made
    rates: int                  # room for Rates
    l2: int                     # of it, and of room for the penalty before the step
    sums: int                   # room for SUMS numbers for each task, of squares: of penalised parameters before the step, or
                                # of the gradient or x; of dz; of all parameters after the step, or before the first one
    check: int                  # whether to make the step only if all that it computes is finite
    known: int                  # of an integer: whether the last of `sums` are those of the parameters as they are
    stored: int                 # all gradients, of all shards, one after another with zeros between them; 0: not so
    stored_count: int           # numbers there
    multiply: int               # the unit of Products, which a step without any need not compile
    block_bytes: int            # of the largest chunk of an array with a Product; 0: there is none
    scratch: int                # dweights.worker_bytes for each worker


class Settings(NamedTuple):
    """What the user says of an optimiser."""

    learning_rate: float
    decay: float                # of the learning rate, a step
    beta: float
    beta2: float
    epsilon: float
    weight_decay: float
    corrected: float            # whether Adam's epsilon is added to the corrected root (1) or to the other (0)


class Rates(NamedTuple):
    """What they make for one step."""

    rate: float
    epsilon: float
    decay: float


@kernel
def gradient_of(machine, job, array, block, worker):
    """The address of an array's gradient; or where it would begin, if only this block of it is there."""
    if array.product == 0:
        return array.gradient
    memory = job.scratch + worker * dweights.worker_bytes(blocking.with_caches(machine), job.block_bytes)
    return dweights.block_at( job.multiply, array.product, block, memory, job.block_bytes)


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
def put_sum(job, task, which, value):
    """Write one of a task's numbers."""
    put_number(job.sums + (SUMS * task + which) * 8, value)


@kernel
def added(job, first, end, which):
    """Return the sum of one of the numbers of some tasks."""
    result = 0.0
    for task in range(first, end):
        result += number(job.sums + (SUMS * task + which) * 8)
    return result


def _build(dtype):
    row, machine = blocking.tiles(dtype).row, blocking.machine(dtype)

    def update(job_address, worker, task):
        job = read(job_address, Update)
        array = array_of(job, task)
        beta, beta2 = number(job.settings + 16), number(job.settings + 24)
        rate, epsilon, decay, l2 = number(job.rates), number(job.rates + 8), number(job.rates + 16), number(job.l2)
        if array.penalised == 0:
            l2, decay = 0.0, 0.0
        block = task - array.first_task
        first_gradient = gradient_of(machine, job, array, block, worker)
        start, end = block * array.chunk, min((block + 1) * array.chunk, array.count)
        before, after = tile.zeros(row), tile.zeros(row)
        for j in range(start, end, tile.width(row)):
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
        put_sum(job, task, 0, float(total(before)) if array.penalised != 0 else 0.0)
        put_sum(job, task, 2, float(total(after)))
        return _link.OK

    return update


update = _link.units("update", TASK, _build)


@kernel
def put_rates(job):
    """The Rates of the next step: the learning rate decays as in Neural Networks from Scratch, chapter 10."""
    step = load(job.steps)
    rate = number(job.settings) / (1.0 + number(job.settings + 8) * step)
    epsilon, decay = number(job.settings + 32), rate * number(job.settings + 40)
    if job.kind == ADAM:
        root = math.sqrt(1.0 - number(job.settings + 24) ** (step + 1))
        rate *= root / (1.0 - number(job.settings + 16) ** (step + 1))
        if number(job.settings + 48) != 0.0:
            epsilon *= root
    put_number(job.rates, rate)
    put_number(job.rates + 8, epsilon)
    put_number(job.rates + 16, decay)


@kernel
def call_of(job, precision):
    """The Call of a step."""
    rows, count = 0, 0
    for k in range(job.count):
        array = read(job.arrays + k * ARRAY_BYTES, Array)
        count += array.count
        rows = max(rows, read(array.product, GemmProblem).depth if array.product != 0 else 0)
    return Call(rows, count, 1, precision, STATES[job.kind], 0, 0, 0)
