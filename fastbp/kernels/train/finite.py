"""Bounds on the numbers of an optimiser's step, which tell before it is made whether all that it computes is finite.

No number of an array is larger than the array's norm. No number of a gradient that the step itself computes, x.T @ dz, is
larger than |x| |dz| (Cauchy and Schwarz). The unit `norms` finds the norms. The step before has mostly found that of the
parameters.
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

# The statuses of a training step that was not made. Each says what would not have been finite.
LOSS, PENALTY, GRADIENT = -1, -2, -3

# The name of each of these statuses in an error message.
NOT_FINITE = {LOSS: "loss", PENALTY: "penalty", GRADIENT: "gradient, or the step along it,"}

# Numbers up to this bound are safe. A product of two of them is far below the largest float32, and so small beside it that
# adding it to a number near the largest one, with rounding, does not overflow.
SAFE = 1e15

# How many numbers are worth a task of `norms`. A task of this size takes some 2 us.
LOOK = 1 << 15


@kernel
def squares(row, address, count):
    """Return the sum of the squares of `count` numbers; inf or NaN if one is not finite, and also if a square overflows."""
    size, width = tile.itemsize(row), tile.width(row)
    one, other, pairs = tile.zeros(row), tile.zeros(row), count // (2 * width) * 2 * width
    for j in range(0, pairs, 2 * width):                # numbers (count,); two sums: an FMA waits 4 cycles for the one before
        v, w = tile.load(row, address + j * size, 0, 1, width), tile.load(row, address + (j + width) * size, 0, 1, width)
        one, other = one + v * v, other + w * w
    for j in range(pairs, count, width):
        v = tile.load(row, address + j * size, 0, 1, count - j)
        one = one + v * v
    return float(total(one + other))


@kernel
def sums(row, address, count):
    """Return the sum of `count` numbers, none of which is negative."""
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
    def factors(problem, part, parts):
        """Return the sums of squares of a part of x and of a part of dz, whose product is the gradient."""
        first, end = part * problem.depth // parts, (part + 1) * problem.depth // parts
        x, rows, cols = problem.a + first * problem.a_col_step, end - first, problem.rows
        if problem.a_col_step == cols * size:
            rows, cols = 1, rows * cols
        of_x = 0.0
        for i in range(rows):                                                       # x (M, K): M is problem.depth
            of_x += squares(row, x + i * problem.a_col_step, cols)
        count = problem.depth * blocking.round_up(problem.cols, tile.width(tiles.column_edge))     # dz (M, N) in micropanels
        first, end = part * count // parts, (part + 1) * count // parts
        return of_x, squares(row, problem.b + first * size, end - first)

    def norms(job_address, worker, task):
        """Write the Squares of a part of an array and of its gradient, before the step. A task is a part."""
        job, part, k = read(job_address, Update), task, 0
        while part >= parts_of(job, array_at(job, k)):
            part -= parts_of(job, array_at(job, k))
            k += 1
        array = array_at(job, k)
        parts, slot = parts_of(job, array), array.first_task + part
        start, end = part * array.count // parts, (part + 1) * array.count // parts
        offset, count = start * size, end - start
        gradient, dz = 0.0, 0.0
        if array.problem != 0:
            gradient, dz = factors(read(array.problem, GemmProblem), part, parts)
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
    """Return how many numbers tell the bound of an array's gradient: its own, or those of its factors x and dz."""
    if array.problem == 0:
        return array.count * job.shards
    problem = read(array.problem, GemmProblem)
    return problem.depth * (problem.rows + problem.cols)


@kernel
def parts_of(job, array):
    """Return how many tasks of `norms` an array has: no more than tasks of its update, as both write the same `sums`."""
    return min(blocking.blocks(array.count, array.chunk), max(1, numbers_of(job, array) // LOOK))


@kernel
def is_small(job):
    """Return whether the look needs no tasks: the gradients are few and in one place, and the parameters' norm is known."""
    return job.stored != 0 and job.stored_count <= LOOK and job.known != 0


@kernel
def look(job, unit, memory):
    """Run `norms`, the unit at the address `unit`, for an Update, in memory for a queue."""
    tasks, numbers = 0, 0
    for k in range(job.count):
        tasks, numbers = tasks + parts_of(job, array_at(job, k)), numbers + numbers_of(job, array_at(job, k))
    run(unit, replace(job, tasks=tasks), memory, blocking.threads(numbers))


@kernel
def norms_found(job):
    """Return bounds of the gradient and of the parameters from what `norms` has written; inf or NaN where a number is."""
    g, w = 0.0, added(job, 0, job.tasks).parameters if job.known != 0 else 0.0
    for k in range(job.count):
        array = array_at(job, k)
        found = added(job, array.first_task, array.first_task + parts_of(job, array))
        g += math.sqrt(found.gradient) * math.sqrt(found.dz if array.problem != 0 else float(job.shards))
        if job.known == 0:
            w += found.parameters
    return g, math.sqrt(w)


@kernel
def is_safe(job, g, w):
    """Return whether all that the step computes is finite, from bounds g of the gradient and w of the parameters.

    It is finite if g, w, what is remembered and the rates are up to SAFE: each step adds less to a velocity than the rounding
    error of the largest number. Adam's m and v are means of gradients and of their squares. For a NaN the answer is no.
    """
    if job.kind == ADAM and not (job.rate <= SAFE * job.epsilon and SAFE * SAFE * job.epsilon >= 1.0):
        return False
    return w <= SAFE and job.l2 <= SAFE and g + job.l2 * w <= SAFE and job.rate <= SAFE and job.decay <= SAFE
