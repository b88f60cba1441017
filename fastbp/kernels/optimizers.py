"""A step of an optimiser: one pass over the parameters, in place.

    g = gradient + l2 * w
    sgd         w -= rate g
    momentum    v = beta v - rate g,    w += v
    nesterov    v = beta v - rate g,    w += beta v - rate g
    adam        m = beta m + (1 - beta) g,  v = beta2 v + (1 - beta2) g²,  w -= rate m / (sqrt(v) + epsilon) + decay w

(Sutskever, Martens, Dahl and Hinton, On the importance of initialization and momentum in deep learning, ICML 2013; Kingma
and Ba, Adam, ICLR 2015, in the order of computation that its section 2 ends with; Loshchilov and Hutter, Decoupled weight
decay regularization, ICLR 2019.) Rates of a step come from the caller. l2 and decay are for weights, not for biases.

A step that is checked is made only if all that it computes is finite. Norms of the gradients and of the parameters (`norms`)
tell mostly that nothing can overflow (`is_safe`): a gradient that is computed within the step, x.T @ dz, has no number above
|x| |dz| (Cauchy and Schwarz). Where they do not, the step is made, looked at, and undone if it must be.
"""
import math
from typing import NamedTuple

from numba import types

from .. import _link
from .._jit import kernel
from . import blocking, dweights, record, tile
from .arithmetic import number, put_number, sqrt, total
from .finite import GRADIENT, PENALTY, SAFE, are_finite, squares, sums
from .parallel import REGION_BYTES, TASK, run
from .product import Product
from .record import Call
from .workspace import acquire, copy, load, read, release, write

NAMES = "sgd", "momentum", "nesterov", "adam"
SGD, MOMENTUM, NESTEROV, ADAM = range(len(NAMES))
STATES = 0, 1, 1, 2             # arrays beside the parameters

CHUNK = 1 << 12                 # elements of a task
SUMS = 3                        # numbers for each task, see Update.sums
_LOOK_WORK = 2                  # multiply-adds that looking at an element takes as long as


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
def gradient_of(tiles, job, array, block, worker):
    """The address of an array's gradient; or where it would begin, if only this block of it is there."""
    if array.product == 0:
        return array.gradient
    memory = job.scratch + worker * dweights.worker_bytes(tiles, job.block_bytes)
    return dweights.block_at(tiles, job.multiply, array.product, block, memory, job.block_bytes)


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


def _build(dtype):
    tiles = blocking.tiles(dtype)
    row = tiles.row

    def update(job_address, worker, task):
        job = read(job_address, Update)
        array = array_of(job, task)
        beta, beta2 = number(job.settings + 16), number(job.settings + 24)
        rate, epsilon, decay, l2 = number(job.rates), number(job.rates + 8), number(job.rates + 16), number(job.l2)
        if array.penalised == 0:
            l2, decay = 0.0, 0.0
        block = task - array.first_task
        first_gradient = gradient_of(tiles, job, array, block, worker)
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
        put_sums(job, task, float(total(before)) if array.penalised != 0 else 0.0, 0.0)
        put_number(job.sums + (SUMS * task + 2) * 8, float(total(after)))
        return _link.OK

    return update


_update = _link.units("update", TASK, _build)


@kernel
def put_sums(job, task, first, second):
    """Write the first two of a task's numbers."""
    put_number(job.sums + SUMS * task * 8, first)
    put_number(job.sums + (SUMS * task + 1) * 8, second)


@kernel
def added(job, first, end, which):
    """Return the sum of one of the numbers of some tasks."""
    result = 0.0
    for task in range(first, end):
        result += number(job.sums + (SUMS * task + which) * 8)
    return result


def _build_norms(dtype):
    tiles = blocking.tiles(dtype)
    row, size = tiles.row, dtype.bitwidth // 8

    @kernel
    def factors(product, part, parts):
        """Return the squares in a part of x and of dz, which the gradient is the product of."""
        first, end = part * product.depth // parts, (part + 1) * product.depth // parts
        x, rows, cols = product.a + first * product.a_step, end - first, product.rows
        if product.a_step == cols * size:
            rows, cols = 1, rows * cols
        of_x = 0.0
        for i in range(rows):
            of_x += squares(row, x + i * product.a_step, cols)
        panels = product.depth * blocking.round_up(product.cols, tile.width(tiles.narrow))
        first, end = part * panels // parts, (part + 1) * panels // parts
        return of_x, squares(row, product.b + first * size, end - first)

    def norms(job_address, worker, task):
        job = read(job_address, Update)
        array = array_of(job, task)
        block = task - array.first_task
        count, offset = min(array.chunk, array.count - block * array.chunk), block * array.chunk * size
        if array.product != 0:
            first, second = factors(read(array.product, Product), block, blocking.blocks(array.count, array.chunk))
            put_sums(job, task, first, second)
        else:
            first = 0.0
            for k in range(job.shards):
                first += squares(row, array.gradient + k * job.distance + offset, count)
            put_sums(job, task, first, 0.0)
        if load(job.known) == 0:
            values = squares(row, array.values + offset, count)
            if array.velocity != 0:
                values += squares(row, array.velocity + offset, count)
            if array.square != 0:
                values += sums(row, array.square + offset, count)
            put_number(job.sums + (SUMS * task + 2) * 8, values)
        return _link.OK

    return norms


_norms = _link.units("norms", TASK, _build_norms)


@kernel
def gradient_bound(job):
    """Return what no number of a gradient exceeds, after `norms`."""
    bound = 0.0
    for k in range(job.count):
        array = array_at(job, k)
        end = array.first_task + blocking.blocks(array.count, array.chunk)
        first, second = added(job, array.first_task, end, 0), added(job, array.first_task, end, 1)
        bound += math.sqrt(first) * (math.sqrt(second) if array.product != 0 else math.sqrt(float(job.shards)))
    return bound


@kernel
def is_safe(job):
    """Return whether the norms tell that all that the step computes is finite; a NaN says no.

    With g, w and what is remembered up to SAFE, rates up to it, and as each step adds less to a velocity than what the largest
    number is rounded to. Adam's m and v are means of gradients and their squares.
    """
    rate, epsilon, decay, l2 = number(job.rates), number(job.rates + 8), number(job.rates + 16), number(job.l2)
    w = math.sqrt(added(job, 0, job.tasks, 2))
    if job.kind == ADAM and not (rate <= SAFE * epsilon and SAFE * SAFE * epsilon >= 1.0):
        return False
    return w <= SAFE and l2 <= SAFE and gradient_bound(job) + l2 * w <= SAFE and rate <= SAFE and decay <= SAFE


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
        rows = max(rows, read(array.product, Product).depth if array.product != 0 else 0)
    return Call(rows, count, 1, precision, STATES[job.kind], 0, 0, 0)


def _build_step(dtype):
    tiles, precision, size = blocking.tiles(dtype), dtype.bitwidth, dtype.bitwidth // 8
    update, norms = _update[dtype].address, _norms[dtype].address

    @kernel
    def kept_bytes(job):
        """Return the bytes of all parameters and of what is remembered of them."""
        count = 0
        for k in range(job.count):
            count += array_at(job, k).count
        return (1 + STATES[job.kind]) * count * size

    @kernel
    def keep(job, memory, back):
        """Copy all parameters and what is remembered of them to an address, or `back` from there."""
        for k in range(job.count):
            array = array_at(job, k)
            for address in (array.values, array.velocity, array.square):
                if address != 0:
                    copy(address if back else memory, memory if back else address, array.count * size)
                    memory += array.count * size

    @kernel
    def status_of(job, penalty):
        """Return OK if a step that was made has computed finite numbers, else what has not."""
        if not math.isfinite(penalty):
            return PENALTY
        for k in range(job.count):
            array = array_at(job, k)
            for address in (array.values, array.velocity, array.square):
                if address != 0 and not are_finite(tiles.row, address, array.count):
                    return GRADIENT
        return _link.OK

    @kernel
    def make(job, memory, scratch, threads):
        """Make a step; returns its penalty."""
        run(update(), Update(*job[:-1], scratch), memory, threads)
        l2 = number(job.l2)
        return 0.5 * l2 * added(job, 0, job.tasks, 0) if l2 > 0.0 else 0.0         # squares may be inf

    @kernel
    def make_or_undo(job, memory, scratch, threads):
        """(status, penalty) of a step that is undone if it computes what is not finite."""
        kept, slot = acquire(kept_bytes(job))
        if kept == 0:
            return _link.NO_MEMORY, 0.0
        keep(job, kept, False)
        penalty = make(job, memory, scratch, threads)
        status = status_of(job, penalty)
        if status != _link.OK:
            keep(job, kept, True)
        release(slot)
        return status, penalty

    def step(address):
        """One step of the Update at an address, whose `l2` is set."""
        begun, job = record.begin(), read(address, Update)
        threads = blocking.threads(job.tasks * CHUNK * blocking.ELEMENT_WORK)
        scratch = threads * dweights.worker_bytes(tiles, job.block_bytes) if job.block_bytes > 0 else 0
        memory, slot = acquire(REGION_BYTES + scratch)
        if memory == 0:
            return _link.NO_MEMORY
        put_rates(job)
        status, safe = _link.OK, False
        if job.check != 0:
            run(norms(), job, memory, blocking.threads(job.tasks * CHUNK * _LOOK_WORK))
            safe = is_safe(job)
        if job.check == 0 or safe:
            penalty = make(job, memory, memory + REGION_BYTES, threads)
        else:
            status, penalty = make_or_undo(job, memory, memory + REGION_BYTES, threads)
        write(job.known, (int(safe),))
        release(slot)
        if status != _link.OK:
            return status
        put_number(job.l2 + 8, penalty)
        write(job.steps, (load(job.steps) + 1,))
        if begun[0] != 0:
            record.finish_pass(begun, record.UPDATE, call_of(job, precision))
        return _link.OK

    return step


step = _link.units("optimize", types.intp(types.intp), _build_step)
