"""C = A B.T by dot products: A and B are both read along their contiguous rows, and nothing is packed.

This is for few columns of C, which would leave a tile empty for the most part. A tile holds one vector of partial sums for each
of its rows x vecs elements of C; the lanes are added up at the end, in an order that is the same for all tiles. If the columns
of A are contiguous, and not its rows, some rows at a time are copied first.
"""
from ..._compile import link
from ..._compile.compiler import formula, kernel
from .. import blocking
from ..elementwise import activations
from ..matrix import Matrix
from ..schedule.queue import TASK
from ..schedule.records import read, replace
from ..simd import products, tile
from ..simd.vector import CACHE_LINE
from . import packing
from .problem import GemmProblem, activate_block, block_of


def _build(dtype):
    """Return the task that computes a block of C."""
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    activate, row_edge = activations.activate[dtype].address, blocking.row_edge(tiles.full)

    @kernel
    def multiply_block(here, problem, block):
        """Compute a Block of C. The rows of A are contiguous."""
        if block.j_end - block.j == 1:
            multiply(here, tiles.column_edge, problem, block)
        elif block.i_end - block.i <= tile.height(tiles.unpacked):
            multiply(here, tiles.unpacked, problem, block)
        else:
            i_edge = block.i_end - blocking.row_edge_rows(tile.height(tiles.full), block.i_end - block.i)
            multiply(here, tiles.full, problem, replace(block, i_end=i_edge))
            multiply(here, row_edge, problem, replace(block, i=i_edge))

    @kernel
    def with_copied_rows(problem, block, target):
        """Copy a Block's rows of A, whose columns are contiguous, to an address; return the GemmProblem with them for A."""
        size = machine.itemsize
        columns = Matrix(data=problem.a + block.i * size, rows=problem.depth, cols=block.i_end - block.i,
                         row_step=problem.a_col_step, col_step=size)
        row_step = packing.row_bytes(machine, problem.depth)
        packing.transpose(tiles, columns, Matrix(data=target, rows=columns.cols, cols=columns.rows, row_step=row_step,
                                                 col_step=size))
        return replace(problem, a=target - block.i * row_step, a_row_step=row_step, a_col_step=size)

    def dot(job_address, worker, task):
        """Compute a block of a GemmProblem whose OperandB is B in place: row j of B is column j of B.T."""
        problem, here = read(job_address, GemmProblem), blocking.with_caches(machine)
        block = block_of(problem, task)
        if problem.a_col_step == machine.itemsize:
            multiply_block(here, problem, block)
        else:
            scratch, rows = problem.scratch + worker * scratch_bytes(machine, problem.depth), copied_rows(machine)
            for i in range(block.i, block.i_end, rows):
                part = replace(block, i=i, i_end=min(i + rows, block.i_end))
                multiply_block(here, with_copied_rows(problem, part, scratch), part)
        activate_block(tiles, problem, activate(), block)
        return link.OK

    return dot


dot = link.units("dot", TASK, _build, lazy=True)


@formula
def copied_rows(machine):
    """Return how many rows of A are copied at a time: a cache line of each column, and no less than a tile has."""
    return blocking.round_up(machine.height, CACHE_LINE // machine.itemsize)


@formula
def scratch_bytes(machine, depth):
    """Return the bytes of a worker's scratch memory for an A whose columns are contiguous."""
    return copied_rows(machine) * packing.row_bytes(machine, depth)


@kernel
def multiply(machine, shape, problem, block):
    """Compute a Block of C. Rows of B stay in L2 while all of A goes over them, and a tile's rows of A in L1."""
    size, height, columns = tile.itemsize(shape), tile.height(shape), tile.width(shape) // tile.lanes(shape)
    rows_of_b = blocking.dot_block(machine, columns, problem.depth * size)
    for j_start in range(block.j, block.j_end, rows_of_b):                  # B (rows_of_b, K)
        j_end = min(j_start + rows_of_b, block.j_end)
        for i in range(block.i, block.i_end, height):                       # A (MR, K)
            rows = block.i_end - i
            a, a_offsets = problem.a + i * problem.a_row_step, products.row_offsets(shape, problem.a_row_step, rows)
            for j in range(j_start, j_end, columns):                        # C (MR, columns)
                b, cols = problem.b + j * problem.b_col_step, block.j_end - j
                b_offsets = products.column_offsets(shape, problem.b_col_step, cols)
                acc = tile.zeros(shape)
                for p in range(0, problem.depth, tile.lanes(shape)):
                    acc = products.dot(acc, a + p * size, a_offsets, b + p * size, b_offsets, problem.depth - p)
                c = problem.c + i * problem.c_row_step + j * size
                products.store_sums(acc, c, problem.c_row_step, rows, cols)
    if problem.bias != 0 or problem.relu != 0:
        finish(shape, problem, block)


@kernel
def finish(shape, problem, block):
    """Add the bias to what was stored, and apply the ReLU."""
    for i in range(block.i, block.i_end):
        for j in range(block.j, block.j_end):
            address = problem.c + i * problem.c_row_step + j * tile.itemsize(shape)
            z = tile.load_scalar(shape, address)
            if problem.bias != 0:
                z += tile.load_scalar(shape, problem.bias + j * tile.itemsize(shape))
            tile.store_scalar(shape, address, tile.zero(shape) if problem.relu != 0 and z <= 0 else z)
