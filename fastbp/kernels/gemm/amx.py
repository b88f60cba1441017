"""bfloat16 products in Intel's AMX tile registers: loops 2 and 1 of loops.py for CPUs that have these.

There are eight registers of 16 rows of 64 bytes. Four hold a block of 32 x 32 of C, two 32 rows of A, 16 pairs of bfloat16
each, and two 16 rows of B, 32 pairs each. One instruction multiplies 16 x 32 by 32 x 16 numbers:

    C (0 1)  +=  A (4)  B (6 7)        the depth is a multiple of 16 pairs, filled up with zeros
      (2 3)        (5)

(Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18; TDPBF16PS in volume 2.)
"""
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..._compile import link
from ..._compile.compiler import kernel
from .. import blocking
from ..schedule.records import read, replace
from ..simd import tile
from ..simd.tile import BYTES
from ..simd.vector import I8, I64, const
from .problem import CopiedA, GemmProblem, epilogue

# Rows of a tile register, and bytes of a row.
ROWS, ROW_BYTES = 16, 64

# The only palette: eight registers of that size.
PALETTE = 1

# LLVM's types of no result and of an address.
VOID, POINTER = ir.VoidType(), I8.as_pointer()


def build(which, dtype):
    """Return the function of loops 2 and 1 of a product for "full" or "column_edge" blocks, as loops.build_micropanels does."""
    shape = getattr(blocking.tiles(dtype), which)
    row = shape._replace(rows=1)

    def micropanels(job_address, copied, block):
        problem = read(job_address, GemmProblem)
        height, width, size, depth = tile.height(shape), tile.width(shape), tile.itemsize(shape), block.p_end - block.p
        is_added = int(block.p > 0 or problem.accumulate != 0)
        is_final = block.p_end >= problem.depth and (problem.bias != 0 or problem.relu != 0)
        alone = replace(problem, accumulate=0)                                  # the tile registers hold what C held before
        memory = room(shape)
        configure()
        for j in range(block.j, block.j_end, width):                           # LOOP 2: B (KC, NR), C (MC, NR)
            b, cols = problem.b + j * problem.b_col_step + block.p * width * size, problem.cols - j
            for i in range(block.i, block.i_end, height):                       # LOOP 1: A (MR, KC), C (MR, NR)
                rows = block.i_end - i
                a = problem.a + i * problem.a_row_step + block.p * size
                c = problem.c + i * problem.c_row_step + j * size
                if rows >= height and cols >= width and not is_final:
                    multiply(shape, a, problem.a_row_step, b, depth, rows, c, problem.c_row_step, is_added)
                else:
                    if is_added != 0:
                        for r in range(min(height, rows)):
                            before = tile.load(row, c + r * problem.c_row_step, 0, 1, cols)
                            tile.store(before, memory + r * width * size, 0, 1, width)
                    multiply(shape, a, problem.a_row_step, b, depth, rows, memory, width * size, is_added)
                    for r in range(min(height, rows)):
                        acc = tile.load(row, memory + r * width * size, 0, 1, width)
                        epilogue(acc, alone, c + r * problem.c_row_step, 1, replace(block, j=j, p=0))
        release()
        return link.OK

    return micropanels


@kernel
def copy_rows(tiles, shape, problem, scratch, block):
    """Return the CopiedA of no rows: tile registers read the rows of A in place, also where a tile has fewer."""
    return CopiedA(data=scratch, first=block.i_end)


# ---- instructions


def _instruction(b, name, *arguments):
    """Emit the instruction of that name."""
    signature = ir.FunctionType(VOID, [a.type for a in arguments])
    b.call(cgutils.get_or_insert_function(b.module, signature, f"llvm.x86.{name}"), arguments)


def _load(b, register, address, stride):
    """Emit the load of a tile register from rows `stride` bytes apart."""
    _instruction(b, "tileloadd64", I8(register), b.inttoptr(address, POINTER), stride)


@intrinsic
def configure(typing_context):
    """Configure this thread's eight tile registers. A thread that does not release them slows down everything else."""
    def generate(c, b, sig, args):
        registers = 8
        words = bytearray(64)
        words[0] = PALETTE
        words[16:16 + 2 * registers] = ROW_BYTES.to_bytes(2, "little") * registers
        words[48:48 + registers] = bytes([ROWS]) * registers
        config = cgutils.global_constant(b, "tile_config", cgutils.make_bytearray(words))
        _instruction(b, "ldtilecfg", b.bitcast(config, POINTER))
        return c.get_dummy_value()
    return types.void(), generate


@intrinsic
def release(typing_context):
    """Release the tile registers."""
    def generate(c, b, sig, args):
        _instruction(b, "tilerelease")
        return c.get_dummy_value()
    return types.void(), generate


@intrinsic
def room(typing_context, shape):
    """Return the address of memory for a block of that shape, on the stack."""
    def generate(c, b, sig, args):
        return b.ptrtoint(cgutils.alloca_once(b, ir.ArrayType(I8, shape.rows * shape.vecs * shape.lanes * shape.size)), I64)
    return BYTES(shape), generate


@intrinsic
def multiply(typing_context, shape, a, a_row, b_address, depth, rows, c, c_row, is_added):
    """Write A B to C: A by rows a_row bytes apart, B a micropanel, C by rows c_row bytes apart.

    If is_added is not 0, A B is added to C. For up to 16 rows only the upper half of C is read and written.
    """
    def generate(context, b, sig, args):
        _, *operands, rows, c, c_row, is_added = args
        halves = shape.vecs * shape.lanes * shape.size // ROW_BYTES
        with b.if_else(b.icmp_signed(">", rows, const(ROWS))) as (both_halves, upper_half):
            with both_halves:
                _multiply(b, 2, halves, *operands, Target(data=c, row_step=c_row, is_added=is_added))
            with upper_half:
                _multiply(b, 1, halves, *operands, Target(data=c, row_step=c_row, is_added=is_added))
        return context.get_dummy_value()
    return types.void(shape, *[BYTES] * 8), generate


class Target(NamedTuple):
    """C of a product, as values of LLVM."""

    data: ir.Value              # the address
    row_step: ir.Value          # bytes from one row to the next
    is_added: ir.Value          # whether the product is added to what is there


def _multiply(b, high, wide, a, a_row, b_address, depth, target):
    """Emit the product of A B in high x wide tile registers, and their stores to a Target."""
    b_row = const(wide * ROW_BYTES)
    lower = [b.mul(a_row, const(ROWS * i)) for i in range(high)]
    corners = {2 * i + j: b.add(b.add(target.data, b.mul(target.row_step, const(ROWS * i))), const(j * ROW_BYTES))
               for i in range(high) for j in range(wide)}
    with b.if_else(b.icmp_signed("!=", target.is_added, const(0))) as (added, alone):
        with added:
            for register, corner in corners.items():
                _load(b, register, corner, target.row_step)
        with alone:
            for register in corners:
                _instruction(b, "tilezero", I8(register))
    with cgutils.for_range(b, b.sdiv(depth, const(ROWS))) as step:
        a = b.add(a, b.mul(step.index, const(ROW_BYTES)))
        b_address = b.add(b_address, b.mul(step.index, const(ROWS * wide * ROW_BYTES)))
        for i in range(high):
            _load(b, 4 + i, b.add(a, lower[i]), a_row)
            for j in range(wide):
                if i == 0:
                    _load(b, 6 + j, b.add(b_address, const(j * ROW_BYTES)), b_row)
                _instruction(b, "tdpbf16ps", I8(2 * i + j), I8(4 + i), I8(6 + j))
    for register, corner in corners.items():
        _instruction(b, "tilestored64", I8(register), b.inttoptr(corner, POINTER), target.row_step)
