"""One matrix product, C (+)= A B, with what happens to C on its way out. y, dinputs and dweights are such products.

A is read one element at a time: in place where its rows are contiguous (x in the forward pass, dz for dinputs), from a copy
where its columns are (x.T for dweights). B is read in vectors: packed in micropanels (packing.py), or in place where its rows
are contiguous.
"""
from typing import NamedTuple

from ..._compile import link
from ..._compile.compiler import formula, inlined, kernel
from .. import blocking
from ..elementwise.activations import IDENTITY, RELU
from ..matrix import Matrix
from ..schedule.arena import ALIGNMENT
from ..schedule.records import replace
from ..simd import tile
from ..simd.arithmetic import add_row, relu
from ..simd.vector import CACHE_LINE

# The row_step of a B that is packed. No distance of two rows has this value, though one may be 0.
PACKED = -1 << 63


class OperandB(NamedTuple):
    """B, packed or in place: an address, and strides in bytes.

    Tiles read whole rows of a B in place. `edge` is the address of a micropanel of the last columns, which do not fill a tile
    (packing.pack_edge); 0 where B may be read beyond its rows. A B to pack may have any strides.
    """

    data: int                   # the address of B's first element, or of its micropanels
    col_step: int               # bytes from one column to the next
    row_step: int               # bytes from one row to the next, or PACKED
    edge: int                   # the address of the last columns' micropanel, or 0
    to_pack: int                # 1: a task packs the micropanels of B that it needs, just before its tiles read them


class GemmProblem(NamedTuple):
    """The job of C (+)= A B, A (M, K), B (K, N), C (M, N), with bias and activation. A task is a block of C.

    Addresses are 0 where there is nothing; strides are in bytes.
    """

    tasks: int                  # blocks of C
    rows: int                   # M
    cols: int                   # N
    depth: int                  # K
    a: int                      # the address of A
    a_row_step: int             # bytes from one row of A to the next
    a_col_step: int             # this or a_row_step is the size of an element
    b: int                      # data of OperandB
    b_col_step: int             # col_step of OperandB
    b_row_step: int             # row_step of OperandB
    b_edge: int                 # edge of OperandB
    b_to_pack: int              # to_pack of OperandB
    c: int                      # the address of C
    c_row_step: int             # bytes from one row of C to the next
    accumulate: int             # 1: add to what is in C
    bias: int                   # the address of N numbers, filled up to whole tiles
    task_rows: int              # rows of a task's block of C
    task_cols: int              # columns of a task's block of C
    kc: int                     # K of a KC block
    mc: int                     # rows of an MC block
    scratch: int                # scratch_bytes for each worker, for copies of A
    relu: int                   # 1: apply a ReLU in registers
    activation: int             # an activation beyond the ReLU, for rows that a task has finished
    saved: int                  # where the activation's derivative goes
    saved_row_step: int         # bytes from one row of that to the next
    soon: int                   # memory that is needed after this product, from which each tile prefetches its share
    soon_too: int               # another stretch of it
    soon_bytes: int             # bytes of a tile's share
    transposed: int             # where the transpose of C goes (dense/swapped.py)
    transposed_rows: int        # rows of that
    transposed_row_step: int    # bytes from one row of that to the next
    numbers: int                # K in numbers; more than `depth` where that counts pairs of bfloat16 (rounding.py)


@formula
def packed_b(micropanels, col_step):
    """Return the OperandB of micropanels at an address."""
    return OperandB(data=micropanels, col_step=col_step, row_step=PACKED, edge=0, to_pack=0)


@formula
def unpacked_b(matrix, edge):
    """Return the OperandB of a Matrix in place, with the address of its edge or 0."""
    return OperandB(data=matrix.data, col_step=matrix.col_step, row_step=matrix.row_step, edge=edge, to_pack=0)


@formula
def b_to_pack(matrix):
    """Return the OperandB of a Matrix of any strides, which the product's tasks pack themselves."""
    return replace(unpacked_b(matrix, 0), to_pack=1)


@formula
def scratch_bytes(machine):
    """Return the bytes of a worker's memory: for a copied MC block, and for micropanels that it packs itself."""
    return copied_bytes(machine) + blocking.KC * blocking.group(machine) * machine.itemsize


@formula
def copied_bytes(machine):
    """Return the bytes of a copied MC block: the most that blocking.cut chooses, and what copy_columns writes beyond a tile."""
    return blocking.most_mc_bytes(machine) + blocking.blocks(blocking.TASK_ROWS, machine.unpacked_height) * ALIGNMENT


@formula
def gemm_problem(machine, a, b, c, scratch, threads):
    """Return the GemmProblem of Matrix a (M, K), OperandB b and Matrix c (M, N), whose rows are contiguous."""
    is_packed, to_pack = b.row_step == PACKED, b.to_pack != 0
    cut = blocking.cut(machine, a, c.cols, is_packed, to_pack)
    grid = blocking.grid(machine, c.rows, c.cols, threads, a.col_step != machine.itemsize)
    task_cols = grid.cols
    if not is_packed and not to_pack:
        task_cols = blocking.round_up(task_cols, machine.unpacked_width)
    tasks = blocking.blocks(c.rows, grid.rows) * blocking.blocks(c.cols, task_cols)
    return GemmProblem(tasks=tasks, rows=c.rows, cols=c.cols, depth=a.cols,
                       a=a.data, a_row_step=a.row_step, a_col_step=a.col_step,
                       b=b.data, b_col_step=b.col_step, b_row_step=b.row_step, b_edge=b.edge, b_to_pack=b.to_pack,
                       c=c.data, c_row_step=c.row_step, accumulate=0, bias=0,
                       task_rows=grid.rows, task_cols=task_cols, kc=cut.kc, mc=cut.mc, scratch=scratch,
                       relu=0, activation=IDENTITY, saved=0, saved_row_step=0, soon=0, soon_too=0, soon_bytes=0,
                       transposed=0, transposed_rows=0, transposed_row_step=0, numbers=a.cols)


@kernel
def activated(problem, activation, saved):
    """Return the problem with an activation of C. saved: the Matrix for what the activation saves, or no matrix."""
    return replace(problem, relu=int(activation == RELU), activation=activation if activation > RELU else IDENTITY,
                   saved=saved.data, saved_row_step=saved.row_step)


@kernel
def with_soon(machine, problem, soon, soon_too, size):
    """Return the problem that prefetches `size` bytes at each of two addresses while it multiplies; 0: at none."""
    tiles = blocking.blocks(problem.rows, machine.height) * blocking.blocks(problem.cols, machine.width)
    return replace(problem, soon=soon, soon_too=soon_too, soon_bytes=size // max(1, tiles))


class Block(NamedTuple):
    """Rows i … i_end of A and C, columns j … j_end of B and C, and p … p_end of K."""

    i: int
    i_end: int
    j: int
    j_end: int
    p: int
    p_end: int


@kernel
def block_of(problem, task):
    """Return the Block of a task, with all of K."""
    row_tasks = blocking.blocks(problem.rows, problem.task_rows)
    i, j = task % row_tasks * problem.task_rows, task // row_tasks * problem.task_cols
    return Block(i=i, i_end=min(i + problem.task_rows, problem.rows), j=j, j_end=min(j + problem.task_cols, problem.cols),
                 p=0, p_end=problem.depth)


@kernel
def activate_block(tiles, problem, activate, block):
    """Apply the activation beyond the ReLU to a block of C that is complete, by the unit at the address `activate`."""
    if problem.activation != IDENTITY:
        size = tile.itemsize(tiles.full)
        y = Matrix(data=problem.c + block.i * problem.c_row_step + block.j * size, rows=block.i_end - block.i,
                   cols=block.j_end - block.j, row_step=problem.c_row_step, col_step=size)
        at = problem.saved + block.i * problem.saved_row_step + block.j * size if problem.saved != 0 else 0
        saved = Matrix(data=at, rows=y.rows, cols=y.cols, row_step=problem.saved_row_step, col_step=size)
        link.call(activate, (problem.activation, y, saved))


class CopiedA(NamedTuple):
    """Rows of A in a worker's scratch memory, tile by tile (packing.copy_rows)."""

    data: int                   # address
    first: int                  # the first row that is copied; those before it are read in place


@inlined
def prefetch_share(problem, start):
    """Prefetch a tile's share of the memory that is needed soon: its reader would have to wait for it."""
    for offset in range(start, start + problem.soon_bytes, CACHE_LINE):
        if problem.soon != 0:
            tile.fetch(problem.soon + offset)
        if problem.soon_too != 0:
            tile.fetch(problem.soon_too + offset)


@inlined
def epilogue(acc, problem, c, rows, block):
    """Add what is in C already, and after the last of K bias and ReLU, then store the tile of C that begins the Block."""
    cols = problem.cols - block.j
    if block.p > 0 or problem.accumulate != 0:
        acc = acc + tile.load(acc, c, problem.c_row_step, rows, cols)
    if block.p_end >= problem.depth:
        if problem.bias != 0:
            acc = add_row(acc, problem.bias + block.j * tile.itemsize(acc))
        if problem.relu != 0:
            acc = relu(acc)
    tile.store(acc, c, problem.c_row_step, rows, cols)
