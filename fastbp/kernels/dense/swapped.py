"""dinputs of few rows with factors swapped: dinputs.T (K, M) = weights (K, N) @ dz.T (N, M).

weights are A of this product, which is read in place along its rows, once. B is dz.T, which is small: packing it takes no time.
So weights.T, which the product dz @ weights.T has for B, is never packed. An element is the same sum in the same order in both,
so it has the same bits.
"""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import formula, kernel
from .. import blocking
from ..gemm import loops, packing
from ..gemm.problem import GemmProblem, block_of, gemm_problem, packed_b
from ..matrix import Matrix, transpose_of
from ..schedule.arena import take
from ..schedule.queue import TASK, add, barrier
from ..schedule.records import read, replace
from ..simd import tile


class Memory(NamedTuple):
    """Addresses of the memory of the product."""

    dz_t: int                   # micropanels of dz.T
    dinputs_t: int              # dinputs.T
    end: int                    # the first byte behind all this


@kernel
def memory_of(arena, machine, rows, weights, is_swapped):
    """Return the Memory for so many rows and Matrix weights: none unless is_swapped."""
    cols = blocking.round_up(rows, machine.edge_width) if is_swapped else 0
    dz_t, arena = take(arena, packing.packed_bytes(machine, weights.cols, cols))
    dinputs_t, arena = take(arena, weights.rows * blocking.spread(cols * machine.itemsize))
    return Memory(dz_t=dz_t, dinputs_t=dinputs_t, end=arena)


@formula
def problem_of(machine, weights, dz, dinputs, room, scratch, threads):
    """Return the GemmProblem of Matrix weights (K, N), dz (M, N) and dinputs (M, K). Tasks are rows of weights."""
    size, cols = machine.itemsize, blocking.round_up(dz.rows, machine.edge_width)
    dinputs_t = Matrix(data=room.dinputs_t, rows=weights.rows, cols=cols, row_step=blocking.spread(cols * size), col_step=size)
    problem = gemm_problem(machine, weights, packed_b(room.dz_t, weights.cols * size), dinputs_t, scratch, threads)
    tasks = threads * blocking.TASKS_A_THREAD if threads > 1 else 1
    task_rows = min(blocking.TASK_ROWS, blocking.round_up(blocking.blocks(weights.rows, tasks), blocking.COPIED_MC))
    return replace(problem, tasks=blocking.blocks(weights.rows, task_rows), task_rows=task_rows, task_cols=cols,
                   transposed=dinputs.data, transposed_rows=dinputs.rows, transposed_row_step=dinputs.row_step)


@kernel
def add_jobs(queue, machine, pack, swapped, problem, dz, room):
    """Queue the jobs of the product. pack, swapped: addresses of units; problem: what problem_of returns."""
    add(queue, pack, packing.pack_job(machine, transpose_of(dz), room.dz_t))
    barrier(queue)
    add(queue, swapped, problem)


def _build(dtype):
    """Return the task that computes columns of dinputs."""
    tiles, gemm = blocking.tiles(dtype), loops.gemm[dtype].address

    def swapped(job_address, worker, task):
        link.call(gemm(), (job_address, worker, task))
        problem = read(job_address, GemmProblem)
        block, lanes, size = block_of(problem, task), tile.lanes(tiles.square), tile.itemsize(tiles.square)
        for j in range(0, problem.transposed_rows, lanes):
            for i in range(block.i, block.i_end, lanes):
                source, rows = problem.c + i * problem.c_row_step + j * size, block.i_end - i
                square = tile.transpose(tile.load(tiles.square, source, problem.c_row_step, rows, lanes))
                target = problem.transposed + j * problem.transposed_row_step + i * size
                tile.store(square, target, problem.transposed_row_step, problem.transposed_rows - j, rows)
        return link.OK

    return swapped


swapped = link.units("swapped", TASK, _build, lazy=True)
