"""A layer of one to four neurons, whose y and dz would leave a tile empty for the most part: x is what is read in vectors.

forward     y is dot products of the rows of x with the columns of weights
backward    dweights.T = dz.T @ x, with x in the place of B, as it lies in memory
"""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..gemm import dot, packing
from ..gemm.problem import OperandB, activated, gemm_problem, unpacked_b
from ..matrix import Matrix, from_col, transpose_of
from ..schedule.arena import COUNTING, acquire, release, take
from ..schedule.queue import REGION_BYTES, run
from ..schedule.records import replace
from .operands import FORWARD


class Memory(NamedTuple):
    """Addresses of a forward pass's memory."""

    queue: int                  # the queue
    columns: int                # the columns of weights, each a contiguous row
    bias: int                   # the biases, filled up to whole tiles
    scratch: int                # scratch memory of the threads, for an x whose columns are contiguous
    end: int                    # the first byte behind all this


@kernel
def memory_of(arena, machine, x, weights, threads):
    """Return the Memory for Matrix x (M, K) and weights (K, N)."""
    queue, arena = take(arena, REGION_BYTES)
    columns, arena = take(arena, weights.cols * packing.row_bytes(machine, weights.rows))
    bias, arena = take(arena, packing.row_bytes(machine, weights.cols))
    is_copied = x.col_step != machine.itemsize
    scratch, arena = take(arena, threads * dot.scratch_bytes(machine, weights.rows) if is_copied else 0)
    return Memory(queue=queue, columns=columns, bias=bias, scratch=scratch, end=arena)


def _build_forward(dtype):
    tiles, machine, dot_products = blocking.tiles(dtype), blocking.machine(dtype), dot.dot[dtype].address

    def forward(operands, threads):
        """Compute y as passes.forward does, which has checked the arguments. The unit of dot products must be bound."""
        x, weights, y = operands.x, operands.weights, operands.y
        memory, slot = acquire(memory_of(COUNTING, machine, x, weights, threads).end)
        if memory == 0:
            return link.NO_MEMORY
        room = memory_of(memory, machine, x, weights, threads)
        row_bytes = packing.row_bytes(machine, weights.rows)
        for j in range(y.cols):
            packing.copy_row(tiles, transpose_of(from_col(weights, j)), room.columns + j * row_bytes)
        columns = OperandB(data=room.columns, col_step=row_bytes, row_step=machine.itemsize, edge=0, to_pack=0)
        problem = gemm_problem(blocking.with_caches(machine), x, columns, y, room.scratch, threads)
        problem = replace(problem, bias=packing.copy_bias(tiles, operands.biases, room.bias))
        run(dot_products(), activated(problem, operands.activation, operands.saved), room.queue, threads)
        release(slot)
        return link.OK

    return forward


forward = link.units("skinny_forward", FORWARD, _build_forward, lazy=True)


@kernel
def dweights_bytes(machine, inputs, neurons):
    """Return the bytes of dweights.T."""
    return inputs * neurons * machine.itemsize


@kernel
def dweights_problem(machine, dz, x, edge, dweights, scratch, threads):
    """Return the GemmProblem dweights.T = dz.T @ x; `edge` (of x, packed) and `dweights` (dweights.T) are addresses."""
    size = machine.itemsize
    c = Matrix(data=dweights, rows=dz.cols, cols=x.cols, row_step=x.cols * size, col_step=size)
    return gemm_problem(machine, transpose_of(dz), unpacked_b(x, edge), c, scratch, threads)
