"""Bounds on the numbers of an optimiser's step, which tell before it is made whether all that it computes is finite.

No number of an array is above the array's norm, and none of a gradient that the step itself computes, x.T @ dz, is above
|x| |dz| (Cauchy and Schwarz). One pass finds these norms. The step before has mostly found that of the parameters.
"""
import math

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..gemm.problem import GemmProblem
from ..schedule.queue import TASK, run
from ..schedule.records import read, replace, write
from ..simd import tile
from ..simd.arithmetic import total
from .optimizers import ADAM, Squares, Update, added, array_at, squares_at

# The statuses of a training step that was not made: what would not be finite.
LOSS, PENALTY, GRADIENT = -1, -2, -3
NOT_FINITE = {LOSS: "loss", PENALTY: "penalty", GRADIENT: "gradient, or the step along it,"}

# Numbers up to here are safe: products of two of them are far below the largest float32, and so small beside it that a sum with
# one of them, which is rounded, does not overflow.
SAFE = 1e15

# Numbers that are worth a task of `norms`: some 2 us.
LOOK = 1 << 15


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
        """Return the sums of squares of a part of x (depth, rows) and of dz (depth, cols), whose product the gradient is."""
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
        gradient, dz = 0.0, 0.0
        if array.product != 0:
            gradient, dz = factors(read(array.product, GemmProblem), part, parts)
        else:
            for shard in range(job.shards):
                gradient += squares(row, array.gradient + shard * job.distance + offset, count)
        parameters = read(squares_at(job, slot), Squares).parameters
        if job.known == 0:
            parameters = squares(row, array.values + offset, count)
            if array.velocity != 0:
                parameters += squares(row, array.velocity + offset, count)
            if array.square != 0:
                parameters += sums(row, array.square + offset, count)
        write(squares_at(job, slot), Squares(penalised=0.0, gradient=gradient, dz=dz, parameters=parameters))
        return link.OK

    return norms


norms = link.units("norms", TASK, _build_norms)


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
    return job.stored != 0 and job.stored_count <= LOOK and job.known != 0


@kernel
def look(job, address, unit, memory):
    """Run `norms`, the unit at an address, for the Update at another one."""
    tasks, numbers = 0, 0
    for k in range(job.count):
        tasks, numbers = tasks + parts_of(job, array_at(job, k)), numbers + numbers_of(job, array_at(job, k))
    threads = blocking.threads(numbers)
    if threads > 1:
        run(unit, replace(job, tasks=tasks), memory, threads)
    else:
        for task in range(tasks):                       # a queue would take longer than a small network's norms
            link.call(unit, (address, 0, task))


@kernel
def norms_found(job):
    """Return the norm of the gradient and that of the parameters, as `norms` has written them down; NaN or inf if one is."""
    g, w = 0.0, added(job, 0, job.tasks).parameters if job.known != 0 else 0.0
    for k in range(job.count):
        array = array_at(job, k)
        found = added(job, array.first_task, array.first_task + parts_of(job, array))
        g += math.sqrt(found.gradient) * math.sqrt(found.dz if array.product != 0 else float(job.shards))
        if job.known == 0:
            w += found.parameters
    return g, math.sqrt(w)


@kernel
def is_safe(job, g, w):
    """Return whether all that the step computes is finite, from the norms g of the gradient and w of the parameters.

    It is if g, w, what is remembered and the rates are up to SAFE, as each step adds less to a velocity than what the largest
    number is rounded to. Adam's m and v are means of gradients and of their squares. A NaN says no.
    """
    if job.kind == ADAM and not (job.rate <= SAFE * job.epsilon and SAFE * SAFE * job.epsilon >= 1.0):
        return False
    return w <= SAFE and job.l2 <= SAFE and g + job.l2 * w <= SAFE and job.rate <= SAFE and job.decay <= SAFE
