"""Whether all that an optimiser's step computes is finite, known before it is made from how large numbers are at most.

No number of an array is above its norm, and none of a gradient that the step itself computes, x.T @ dz, is above |x| |dz|
(Cauchy and Schwarz). These are found in one pass, and that of the parameters mostly by the step before.
"""
import math

from .. import _link
from .._jit import kernel
from . import blocking, tile
from .arithmetic import number, total
from .optimizers import ADAM, Update, added, array_at, put_sum
from .parallel import TASK, run
from .problem import GemmProblem
from .records import read
from .workspace import load

# The statuses of a training step that was not made: what would not be finite.
LOSS, PENALTY, GRADIENT = -1, -2, -3
NOT_FINITE = {LOSS: "loss", PENALTY: "penalty", GRADIENT: "gradient, or the step along it,"}

# Numbers up to here are safe: products of two of them are far below the largest float32, and so small beside it that a sum with
# one of them, which is rounded, does not overflow.
SAFE = 1e15

LOOK = 1 << 15                  # Numbers that are worth a task of `norms`: some 2 us.


@kernel
def squares(row, address, count):
    """Return the sum of the squares of `count` numbers; inf or NaN if one is not finite, and also if a square overflows."""
    size, width = tile.itemsize(row), tile.width(row)
    one, other, pairs = tile.zeros(row), tile.zeros(row), count // (2 * width) * 2 * width
    for j in range(0, pairs, 2 * width):                # two sums, as an FMA waits four cycles for the one before
        v, w = tile.load(row, address + j * size, 0, 1, width), tile.load(row, address + (j + width) * size, 0, 1, width)
        one, other = one + v * v, other + w * w
    for j in range(pairs, count, width):
        v = tile.load(row, address + j * size, 0, 1, count - j)
        one = one + v * v
    return float(total(one + other))


@kernel
def sums(row, address, count):
    """Return the sum of `count` numbers, which are not negative."""
    size, added = tile.itemsize(row), tile.zeros(row)
    for j in range(0, count, tile.width(row)):
        added = added + tile.load(row, address + j * size, 0, 1, count - j)
    return float(total(added))


@kernel
def are_finite(row, address, count):
    """Return whether all of `count` numbers are finite."""
    size, zeros = tile.itemsize(row), tile.zeros(row)
    for j in range(0, count, tile.width(row)):
        zeros = zeros + tile.load(row, address + j * size, 0, 1, count - j) * 0.0       # a NaN for inf and NaN
    return total(zeros) == 0.0


def _build_norms(dtype):
    tiles = blocking.tiles(dtype)
    row, size = tiles.row, dtype.bitwidth // 8

    @kernel
    def factors(product, part, parts):
        """Return the squares in a part of x and of dz, which the gradient is the product of."""
        first, end = part * product.depth // parts, (part + 1) * product.depth // parts
        x, rows, cols = product.a + first * product.a_col_step, end - first, product.rows
        if product.a_col_step == cols * size:
            rows, cols = 1, rows * cols
        of_x = 0.0
        for i in range(rows):
            of_x += squares(row, x + i * product.a_col_step, cols)
        panels = product.depth * blocking.round_up(product.cols, tile.width(tiles.column_edge))
        first, end = part * panels // parts, (part + 1) * panels // parts
        return of_x, squares(row, product.b + first * size, end - first)

    def norms(job_address, worker, task):
        job, part, k = read(job_address, Update), task, 0
        while part >= parts_of(job, array_at(job, k)):
            part -= parts_of(job, array_at(job, k))
            k += 1
        array = array_at(job, k)
        parts, slot = parts_of(job, array), array.first_task + part
        start, end = part * array.count // parts, (part + 1) * array.count // parts
        offset, count = start * size, end - start
        if array.product != 0:
            first, second = factors(read(array.product, GemmProblem), part, parts)
            put_sum(job, slot, 0, first)
            put_sum(job, slot, 1, second)
        else:
            first = 0.0
            for shard in range(job.shards):
                first += squares(row, array.gradient + shard * job.distance + offset, count)
            put_sum(job, slot, 0, first)
        if load(job.known) == 0:
            values = squares(row, array.values + offset, count)
            if array.velocity != 0:
                values += squares(row, array.velocity + offset, count)
            if array.square != 0:
                values += sums(row, array.square + offset, count)
            put_sum(job, slot, 2, values)
        return _link.OK

    return norms


norms = _link.units("norms", TASK, _build_norms)


@kernel
def numbers_of(job, array):
    """Return how many numbers tell the norm of an array's gradient: its own, or those that it is a product of."""
    if array.product == 0:
        return array.count * job.shards
    product = read(array.product, GemmProblem)
    return product.depth * (product.rows + product.cols)


@kernel
def parts_of(job, array):
    """Return how many tasks of `norms` there are for an array: no more than it has itself, whose `sums` they write."""
    return min(blocking.blocks(array.count, array.chunk), max(1, numbers_of(job, array) // LOOK))


@kernel
def is_small(job):
    """Return whether gradients in one place are so few, and the parameters known, that a look at them needs no tasks."""
    return job.stored != 0 and job.stored_count <= LOOK and load(job.known) != 0


@kernel
def look(job, address, unit, memory):
    """Run `norms`, the unit at an address, for the Update at another one."""
    tasks, numbers = 0, 0
    for k in range(job.count):
        tasks, numbers = tasks + parts_of(job, array_at(job, k)), numbers + numbers_of(job, array_at(job, k))
    threads = blocking.threads(numbers)
    if threads > 1:
        run(unit, Update(tasks, *job[1:]), memory, threads)
    else:
        for task in range(tasks):                       # a queue would take longer than a small network's norms
            _link.call(unit, (address, 0, task))


@kernel
def norms_found(job):
    """Return the norm of the gradient and that of the parameters, as `norms` has written them down; NaN or inf if one is."""
    is_known = load(job.known) != 0
    g, w = 0.0, added(job, 0, job.tasks, 2) if is_known else 0.0
    for k in range(job.count):
        array = array_at(job, k)
        end = array.first_task + parts_of(job, array)
        of_x = added(job, array.first_task, end, 0)
        of_dz = added(job, array.first_task, end, 1) if array.product != 0 else float(job.shards)
        g += math.sqrt(of_x) * math.sqrt(of_dz)
        if not is_known:
            w += added(job, array.first_task, end, 2)
    return g, math.sqrt(w)


@kernel
def is_safe(job, g, w):
    """Return whether all that the step computes is finite, from the norms of gradient and parameters; a NaN says no.

    With g, w and what is remembered up to SAFE, rates up to it, and as each step adds less to a velocity than what the largest
    number is rounded to. Adam's m and v are means of gradients and their squares.
    """
    rate, epsilon, decay, l2 = number(job.rates), number(job.rates + 8), number(job.rates + 16), number(job.l2)
    if job.kind == ADAM and not (rate <= SAFE * epsilon and SAFE * SAFE * epsilon >= 1.0):
        return False
    return w <= SAFE and l2 <= SAFE and g + l2 * w <= SAFE and rate <= SAFE and decay <= SAFE
