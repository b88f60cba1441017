"""The loops of one product, C (+)= A B, cut so that what is used again stays in a cache.

    LOOP 5  NC blocks      columns of B and C that stay in L3; no loop here: each task computes one of them
    LOOP 4  KC blocks      a micropanel of B stays in L2; C is kept in memory between two blocks
    LOOP 3  MC blocks      rows of A and C that stay in L2 while all micropanels of B go over them; independent of each other
    LOOP 2  NR columns     a micropanel of B, and as many columns of C; independent of each other
    LOOP 1  MR rows        a tile of C in registers; independent of each other
    microkernel            rank-1 updates of the tile, one for each row of the micropanel

Loops and their numbers are those of Goto and van de Geijn (Anatomy of high-performance matrix multiplication, ACM TOMS 34,
2008) and of BLIS. Tasks split C over rows and columns into a grid of task_rows x task_cols, never over K: an element of C is
always summed in the same order.

Sums go in chains of blocking.CHAIN terms, because long sums of one term after another round worse than OpenBLAS's.
"""
from functools import partial
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import inlined, kernel
from .. import blocking
from ..elementwise import activations
from ..matrix import Matrix
from ..schedule.queue import TASK
from ..schedule.records import read, record_type, replace
from ..schedule.trace import in_memory
from ..simd import products, tile
from . import amx, packing, rounding
from .packing import copied_tile_bytes, row_edge_rows
from .problem import (
    PACKED,
    Block,
    CopiedA,
    GemmProblem,
    activate_block,
    block_of,
    copied_bytes,
    epilogue,
    prefetch_share,
    scratch_bytes,
)

# The dtypes that have products: Numba's float types, and pairs of bfloat16.
DTYPES = *link.FLOATS, tile.BFLOAT16

# The signature of the units of loops 2 and 1: (address of the problem, CopiedA, Block) -> status.
SIGNATURE = types.intp(types.intp, record_type(CopiedA), record_type(Block))


# ---- loops 5, 4 and 3


def _build(dtype):
    """Return the task of loops 5, 4 and 3, which computes a block of C."""
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    mc_block, bytes_of = _mc_block(dtype), rounding.scratch_bytes if dtype is tile.BFLOAT16 else scratch_bytes
    activate = activations.activate[dtype if dtype in link.FLOATS else link.FLOATS[0]].address

    def gemm(job_address, worker, task):
        problem = read(job_address, GemmProblem)                                # A (M, K), B (K, N), C (M, N)
        scratch = problem.scratch + worker * bytes_of(blocking.with_caches(machine))
        whole = block_of(problem, task)                                         # LOOP 5: the task, C (task_rows, NC)
        for p in range(0, max(1, problem.depth), problem.kc):                   # LOOP 4: A (·, KC), B (KC, NC); once for K = 0
            for i in range(whole.i, whole.i_end, problem.mc):                   # LOOP 3: A (MC, KC), C (MC, NC)
                block = replace(whole, i=i, i_end=min(i + problem.mc, whole.i_end), p=p, p_end=min(p + problem.kc, whole.p_end))
                mc_block(job_address, scratch, block)
                if block.p_end == problem.depth:
                    activate_block(tiles, problem, activate(), block)
        return link.OK

    return gemm


def _mc_block(dtype):
    """Return the kernel that multiplies an MC block by whichever tiles fit."""
    tiles, machine = blocking.tiles(dtype), blocking.machine(dtype)
    full, column_edge = _full[dtype].address, column_edge_tiles[dtype].address      # full() is an address (_compile/link.py)
    copy_rows = amx.copy_rows if blocking.by_amx(dtype) else packing.copy_rows

    @kernel
    def packed_block(job_address, scratch, block):
        """Multiply rows of A by micropanels for the widest tiles that fit."""
        copied = copy_rows(tiles, tiles.full, read(job_address, GemmProblem), scratch, block)
        edge = blocking.column_edge(machine, block.j, block.j_end)
        link.call(full(), (job_address, copied, replace(block, j_end=min(edge, block.j_end))))
        if edge < block.j_end:
            link.call(column_edge(), (job_address, copied, replace(block, j=edge)))

    @kernel
    def rounded_block(job_address, scratch, block):
        """Multiply rows of A, which are rounded to pairs of bfloat16 first."""
        problem = rounding.round_a(tiles, read(job_address, GemmProblem), scratch, block)
        beyond = scratch + rounding.rounded_bytes(machine, block.i_end - block.i, block.p_end - block.p)
        packed_block(in_memory(problem), beyond, block)

    if dtype is tile.BFLOAT16:
        return rounded_block
    unpacked, pack = unpacked_tiles[dtype].address, packing.pack[dtype].address

    @kernel
    def block_to_pack(problem, scratch, block):
        """Multiply rows of A by columns of B that are packed a group of micropanels at a time.

        blocking.packs_in_tasks says when, and why. All groups are packed in the same memory.
        """
        size, depth = machine.itemsize, block.p_end - block.p
        micropanels = scratch + copied_bytes(blocking.with_caches(machine))
        packed = replace(problem, b_col_step=depth * size, b_row_step=PACKED)
        copied = copy_rows(tiles, tiles.full, packed, scratch, block)
        for j in range(block.j, block.j_end, blocking.group(machine)):
            j_end = min(j + blocking.group(machine), block.j_end)
            edge = blocking.column_edge(machine, j, j_end)
            source = problem.b + block.p * problem.b_row_step + j * problem.b_col_step
            packing.pack_here(pack(), machine, Matrix(data=source, rows=depth, cols=j_end - j, row_step=problem.b_row_step,
                                                      col_step=problem.b_col_step), micropanels)
            b, columns = micropanels - j * depth * size, replace(block, j=j)
            whole = replace(packed, b=b - block.p * machine.width * size)
            link.call(full(), (in_memory(whole), copied, replace(columns, j_end=min(edge, j_end))))
            if edge < j_end:
                beside = replace(packed, b=b - block.p * machine.edge_width * size)
                link.call(column_edge(), (in_memory(beside), copied, replace(columns, j=edge, j_end=j_end)))

    @kernel
    def mc_block(job_address, scratch, block):
        """Multiply rows of A by a B that is packed, to pack, or in place."""
        problem = read(job_address, GemmProblem)
        if problem.b_to_pack != 0:
            block_to_pack(problem, scratch, block)
        elif problem.b_row_step == PACKED:
            packed_block(job_address, scratch, block)
        else:
            copied = copy_rows(tiles, tiles.unpacked, problem, scratch, block)
            link.call(unpacked(), (job_address, copied, block))

    return mc_block


# ---- loops 2 and 1


class PanelOfB(NamedTuple):
    """NR columns of B in a KC block: a micropanel, columns of a B in place, or column-edge micropanels beside each other."""

    data: int                   # the address of the first row
    row_step: int               # bytes from one row to the next
    panel_step: int             # bytes from one vector of a row to the next
    is_packed: bool


class RowsOfA(NamedTuple):
    """MR rows of A in a KC block: A itself, read in place, or a copy."""

    data: int                   # their address in A
    copy: int                   # their address in the copy
    in_place: bool              # whether A itself is read


def build_micropanels(which, dtype):
    """Return the function of loops 2 and 1 for tiles of one kind: "full", "column_edge" or "unpacked"."""
    if which == "column_edge":
        return _build_column_edge(dtype)
    shape, is_unpacked = getattr(blocking.tiles(dtype), which), which == "unpacked"
    row_edge, has_chains = blocking.row_edge(shape), dtype in link.FLOATS and not is_unpacked
    row_tiles, chained_row_tiles = _row_tiles(is_unpacked, False), _row_tiles(is_unpacked, True)

    def micropanels(job_address, copied, block):
        """Multiply a Block. Only unpacked-B tiles have B in place, and their rows of A are always copied."""
        problem = read(job_address, GemmProblem)
        width, size = tile.width(shape), tile.itemsize(shape)
        i_edge = block.i_end - row_edge_rows(shape, problem, block.i_end - block.i)
        for j in range(block.j, block.j_end, width):                            # LOOP 2: B (KC, NR), C (MC, NR)
            data, row_step = problem.b + j * problem.b_col_step, problem.b_row_step
            is_packed = not is_unpacked or (problem.b_edge != 0 and problem.cols - j < width)
            if is_packed:
                data, row_step = problem.b_edge if is_unpacked else data, width * size
            b = PanelOfB(data=data + block.p * row_step, row_step=row_step, panel_step=0, is_packed=is_packed)
            rows, edge_rows = replace(block, j=j, i_end=i_edge), replace(block, j=j, i=i_edge)
            if has_chains and block.p_end - block.p > blocking.CHAIN:
                chained_row_tiles(shape, problem, copied, rows, b)
                if row_edge != shape:
                    chained_row_tiles(row_edge, problem, copied, edge_rows, b)
            else:
                row_tiles(shape, problem, copied, rows, b)
                if row_edge != shape:
                    row_tiles(row_edge, problem, copied, edge_rows, b)
        return link.OK

    return micropanels


def _build_column_edge(dtype):
    """Return the function of loops 2 and 1 for columns that do not fill a full tile: up to three micropanels of one vector."""
    shape, has_chains = blocking.tiles(dtype).column_edge, dtype in link.FLOATS
    row_edge, tiles_beside, are_beside = blocking.row_edge(shape), _tiles_beside(dtype), blocking.tiles(dtype).full.vecs > 2
    row_tiles, pair_tiles = _row_tiles(False, has_chains), _pair_tiles(has_chains)

    def micropanels(job_address, copied, block):
        """Multiply a Block."""
        if are_beside and block.j_end - block.j > tile.width(shape):
            tiles_beside(job_address, copied, block)
            return link.OK
        problem = read(job_address, GemmProblem)
        b = edge_panel(shape, problem, block)
        i_edge = block.i_end - row_edge_rows(shape, problem, block.i_end - block.i)
        i_pairs = pair_tiles(shape, problem, copied, replace(block, i_end=i_edge), b)
        row_tiles(shape, problem, copied, replace(block, i=i_pairs, i_end=i_edge), b)
        if row_edge != shape:
            row_tiles(row_edge, problem, copied, replace(block, i=i_edge), b)
        return link.OK

    return micropanels


def _tiles_beside(dtype):
    """Return the kernel for two or three column-edge micropanels, which one tile reads beside each other.

    100 columns are a tile of 64 and one of 48, in place of three of 16. It is a function of its own: with it, the loop of pairs
    would have too few registers.
    """
    edge, has_chains = blocking.tiles(dtype).column_edge, dtype in link.FLOATS
    two, three = edge._replace(vecs=2), edge._replace(vecs=3)
    two_edge, three_edge = blocking.row_edge(two), blocking.row_edge(three)
    row_tiles = _row_tiles(False, has_chains, are_beside=True)

    @kernel
    def tiles_beside(job_address, copied, block):
        """Multiply a Block of two or three column-edge micropanels."""
        problem = read(job_address, GemmProblem)
        b, i_edge = edge_panel(edge, problem, block), block.i_end - row_edge_rows(edge, problem, block.i_end - block.i)
        rows, edge_rows = replace(block, i_end=i_edge), replace(block, i=i_edge)
        if block.j_end - block.j > 2 * tile.width(edge):
            row_tiles(three, problem, copied, rows, b)
            if three_edge != three:
                row_tiles(three_edge, problem, copied, edge_rows, b)
        else:
            row_tiles(two, problem, copied, rows, b)
            if two_edge != two:
                row_tiles(two_edge, problem, copied, edge_rows, b)

    return tiles_beside


@kernel
def edge_panel(shape, problem, block):
    """Return the PanelOfB of the column-edge micropanels of a Block."""
    row_step = tile.width(shape) * tile.itemsize(shape)
    return PanelOfB(data=problem.b + block.j * problem.b_col_step + block.p * row_step, row_step=row_step,
                    panel_step=tile.width(shape) * problem.b_col_step, is_packed=True)


def _row_tiles(is_unpacked, has_chains, are_beside=False):
    """Return the function of loop 1. has_chains: sums are cut into chains; are_beside: each vector of B is a micropanel."""
    @inlined
    def row_tiles(shape, problem, copied, block, b):
        """Compute the tiles of a Block's rows in one PanelOfB. Chains are added up in C, which stays in L1."""
        height, width, size, depth = tile.height(shape), tile.width(shape), tile.itemsize(shape), block.p_end - block.p
        offsets = products.in_registers(products.multiples(shape, problem.a_row_step))
        chain = blocking.even_block(depth, blocking.CHAIN, blocking.UNROLL) if has_chains else depth
        a, copy = problem.a + block.i * problem.a_row_step + block.p * size, copy_at(shape, copied, block, depth)
        c = problem.c + block.i * problem.c_row_step + block.j * size
        for i in range(block.i, block.i_end, height):                           # LOOP 1: A (MR, KC), C (MR, NR)
            if depth > blocking.SHALLOW_K:
                tile.prefetch(shape, c, problem.c_row_step)
            if problem.soon_bytes > 0:
                tiles_before = i // height * blocking.blocks(problem.cols, width) + block.j // width
                prefetch_share(problem, tiles_before * problem.soon_bytes)
            in_place = not is_unpacked and i < copied.first         # the rows of A
            if has_chains:
                for q in range(block.p, max(block.p_end, block.p + 1), chain):  # once for K = 0
                    steps, done = min(chain, block.p_end - q), q - block.p
                    rows = RowsOfA(data=a + done * size, copy=copy + done * height * size, in_place=in_place)
                    part = PanelOfB(data=b.data + done * b.row_step, row_step=b.row_step, panel_step=b.panel_step,
                                    is_packed=b.is_packed)
                    acc = multiplied(shape, steps, offsets, rows, part)
                    epilogue(acc, problem, c, block.i_end - i, replace(block, p=q, p_end=q + steps))
            else:
                acc = multiplied(shape, depth, offsets, RowsOfA(data=a, copy=copy, in_place=in_place), b)
                epilogue(acc, problem, c, block.i_end - i, block)
            if in_place:
                a += height * problem.a_row_step
            else:
                copy += copied_tile_bytes(shape, depth)
            c += height * problem.c_row_step

    @inlined
    def multiplied(shape, steps, offsets, a, b):
        """Return a tile of A B from RowsOfA and a PanelOfB. offsets: the distances of rows in A, for A in place."""
        height, width, size = tile.height(shape), tile.width(shape), tile.itemsize(shape)
        acc, copied_offsets = tile.zeros(shape), products.multiples(shape, size)
        if are_beside:
            row_step = tile.lanes(shape) * size
            if a.in_place:
                return microkernel_of_panels(acc, steps, a.data, offsets, size, b.data, row_step, b.panel_step)
            return microkernel_of_panels(acc, steps, a.copy, copied_offsets, height * size, b.data, row_step, b.panel_step)
        if not is_unpacked and a.in_place:
            return microkernel(acc, steps, a.data, offsets, size, b.data, width * size)
        if not is_unpacked or b.is_packed:
            return microkernel(acc, steps, a.copy, copied_offsets, height * size, b.data, width * size)
        return microkernel(acc, steps, a.copy, copied_offsets, height * size, b.data, b.row_step)

    return row_tiles


@kernel
def copy_at(shape, copied, block, depth):
    """Return the address of the first copied row of a Block, which begins with a tile."""
    return copied.data + max(0, block.i - copied.first) // tile.height(shape) * copied_tile_bytes(shape, depth)


@kernel
def rows_of_pairs(height, copied, block):
    """Return the row up to which two tiles at a time compute a Block: both read A in place, or both a copy."""
    if block.p_end == block.p:
        return block.i
    end = block.i_end if copied.first <= block.i else min(block.i_end, copied.first)
    return block.i + max(0, end - block.i) // (2 * height) * 2 * height


def _pair_tiles(has_chains):
    """Return the function that computes two tiles at a time, one below the other, for tiles of one vector a row.

    One such tile has fewer sums than two FMA units of latency 4 can add to at a time: it reaches three quarters of the peak.
    """
    @inlined
    def pair_tiles(shape, problem, copied, block, b):
        """Compute the tiles of a Block's rows in one PanelOfB; return the row of the first that is left, if they are odd."""
        i_end, size, depth = rows_of_pairs(tile.height(shape), copied, block), tile.itemsize(shape), block.p_end - block.p
        if block.i < copied.first:
            offsets = products.in_registers(products.multiples(shape, problem.a_row_step))
            pairs(shape, problem, replace(block, i_end=i_end), b, problem.a + block.i * problem.a_row_step + block.p * size,
                  tile.height(shape) * problem.a_row_step, offsets, size)
        else:
            pairs(shape, problem, replace(block, i_end=i_end), b, copy_at(shape, copied, block, depth),
                  copied_tile_bytes(shape, depth), products.multiples(shape, size), tile.height(shape) * size)
        return i_end

    @inlined
    def pairs(shape, problem, block, b, a, below, offsets, a_step):
        """Compute a Block of pairs. A tile's rows of A are at these offsets from `a`, the next tile's `below` bytes on."""
        height, width, size, depth = tile.height(shape), tile.width(shape), tile.itemsize(shape), block.p_end - block.p
        chain = blocking.even_block(depth, blocking.CHAIN, blocking.UNROLL) if has_chains else depth
        for i in range(block.i, block.i_end, 2 * height):                       # A (2 MR, KC), C (2 MR, NR)
            if problem.soon_bytes > 0:
                tiles_before = i // height * blocking.blocks(problem.cols, width) + 2 * (block.j // width)
                prefetch_share(problem, tiles_before * problem.soon_bytes)
                prefetch_share(problem, (tiles_before + 1) * problem.soon_bytes)
            c = problem.c + i * problem.c_row_step + block.j * size
            for p in range(block.p, block.p_end, chain):
                steps, upper, lower = min(chain, block.p_end - p), tile.zeros(shape), tile.zeros(shape)
                at, row = a + (p - block.p) * a_step, b.data + (p - block.p) * width * size
                for _ in range(steps // blocking.UNROLL):
                    for _ in range(blocking.UNROLL):
                        upper = products.rank1(upper, at, offsets, row)
                        lower = products.rank1(lower, at + below, offsets, row)
                        at += a_step
                        row += width * size
                for _ in range(steps % blocking.UNROLL):
                    upper = products.rank1(upper, at, offsets, row)
                    lower = products.rank1(lower, at + below, offsets, row)
                    at += a_step
                    row += width * size
                part = replace(block, p=p, p_end=p + steps)
                epilogue(upper, problem, c, height, part)
                epilogue(lower, problem, c + height * problem.c_row_step, height, part)
            a += 2 * below

    return pair_tiles


@inlined
def microkernel_of_panels(acc, depth, a, row_offsets, a_step, b, b_step, panel_step):
    """Return acc + A B as microkernel does, with each vector of a row of B `panel_step` bytes after the one before it."""
    for _ in range(depth // blocking.UNROLL):
        for _ in range(blocking.UNROLL):
            acc = products.rank1_of_panels(acc, a, row_offsets, b, panel_step)
            a += a_step
            b += b_step
    for _ in range(depth % blocking.UNROLL):
        acc = products.rank1_of_panels(acc, a, row_offsets, b, panel_step)
        a += a_step
        b += b_step
    return acc

@inlined
def microkernel(acc, depth, a, row_offsets, a_step, b, b_step):
    """Return acc + A B. row_offsets: the distance of each of the tile's rows of A from `a`.

    Steps that are constants where this is inlined are constants in its loop.
    """
    for _ in range(depth // blocking.UNROLL):
        for _ in range(blocking.UNROLL):
            acc = products.rank1(acc, a, row_offsets, b)                        # acc (MR, NR) += A (MR, 1) B (1, NR)
            a += a_step
            b += b_step
    for _ in range(depth % blocking.UNROLL):
        acc = products.rank1(acc, a, row_offsets, b)
        a += a_step
        b += b_step
    return acc


def _build_tiles(which, dtype):
    """Return the function of loops 2 and 1 for tiles of one kind, by AMX where the CPU has it."""
    return (amx.build if blocking.by_amx(dtype) else build_micropanels)(which, dtype)


# The units for column-edge tiles (blocking.has_column_edge says when they are needed) and for unpacked-B tiles are lazy, as few
# shapes need both.
_full = link.units("full", SIGNATURE, partial(_build_tiles, "full"), DTYPES)
column_edge_tiles = link.units("column_edge", SIGNATURE, partial(_build_tiles, "column_edge"), DTYPES, lazy=True)
unpacked_tiles = link.units("unpacked", SIGNATURE, partial(build_micropanels, "unpacked"), lazy=True)
gemm = link.units("gemm", TASK, _build, DTYPES)
