"""The inner loop of a product as machine code: packed FMAs on the widest vectors, and no tile on the stack."""
import re
from functools import cache

import pytest
from numba import njit, types

from fastbp._compile import compiler, link
from fastbp._runtime import cpu
from fastbp.kernels import blocking
from fastbp.kernels.gemm import amx, loops, peak, streamed
from fastbp.kernels.schedule.queue import TASK
from fastbp.kernels.simd import tile

REGISTER = {"avx512": "zmm", "avx2": "ymm", "baseline": "xmm"}
DTYPES = loops.DTYPES if cpu.has_bfloat16_dot() else link.FLOATS
MULTIPLY = {"avx512": "vfmadd", "avx2": "vfmadd", "baseline": "mul"}


def inner_loops(assembly, multiply):
    """The instructions of each block that jumps back to its own start and multiplies vectors."""
    blocks = re.split(r"^(\.\w+):", assembly, flags=re.M)
    for label, body in zip(blocks[1::2], blocks[2::2], strict=True):
        back = re.search(rf"^\s+j\w+\s+{re.escape(label)}\b.*$", body, re.M)
        loop = body[:back.end()] if back else ""
        if re.search(rf"^\s+{multiply}", loop, re.M):
            yield [line.strip() for line in loop.splitlines() if line.strip()]


def multiplications(dtype):
    """The instruction that multiplies vectors."""
    if dtype is tile.BFLOAT16:
        return "vdpbf16ps"
    return MULTIPLY[cpu.instruction_set()] + (".*pd" if dtype == types.float64 else ".*ps")


@cache
def loops_of(build, *arguments, signature, multiply):
    """Return the inner loops of build(*arguments), which is compiled once for all tests that look at it."""
    function = njit(**compiler.FLAGS, no_cpython_wrapper=True)(build(*arguments))
    function.compile(signature)
    return list(inner_loops(function.inspect_asm(function.signatures[0]), multiply))


@pytest.mark.parametrize("dtype, which", [(t, which) for t in DTYPES for which in ("full", "column_edge", "unpacked")
                                          if t is not tile.BFLOAT16 or which != "unpacked" and not cpu.has_amx()], ids=str)
def test_tile_stays_in_registers(dtype, which):
    multiply = multiplications(dtype)
    found = loops_of(loops.build_micropanels, which, dtype, signature=loops.SIGNATURE, multiply=multiply)
    shape = getattr(blocking.tiles(dtype), which)
    counts = [sum(bool(re.match(multiply, line)) for line in loop) for loop in found]
    unrolled = shape.rows * shape.vecs * blocking.UNROLL
    assert counts.count(unrolled) >= 2, (shape, counts)                     # A in place, and copied
    for loop in found:
        assert any(REGISTER[cpu.instruction_set()] in line for line in loop)
        assert not [line for line in loop if re.search(r"[xyz]mm", line) and "(%rsp" in line]


@pytest.mark.parametrize("dtype", [types.float32, types.float64], ids=str)
def test_streamed_tiles_stay_in_registers(dtype):
    """Full, row-edge and low tiles, each with one load of a vector of B for all of its rows."""
    multiply = multiplications(dtype)
    found = loops_of(streamed._build, dtype, signature=TASK, multiply=multiply)
    full = blocking.tiles(dtype).full
    counts = [sum(bool(re.match(multiply, line)) for line in loop) for loop in found]
    for rows in {full.rows, blocking.row_edge(full).rows, streamed.LOW}:
        assert rows * full.vecs * blocking.UNROLL in counts, (rows, counts)
    for loop in found:
        assert not [line for line in loop if re.search(r"[xyz]mm", line) and "(%rsp" in line]


@pytest.mark.parametrize("dtype", [types.float32, types.float64], ids=str)
def test_column_edge_tiles_come_in_pairs(dtype):
    multiply = multiplications(dtype)
    found = loops_of(loops.build_micropanels, "column_edge", dtype, signature=loops.SIGNATURE, multiply=multiply)
    shape = blocking.tiles(dtype).column_edge
    assert 2 * shape.rows * shape.vecs * blocking.UNROLL in [
        sum(bool(re.match(multiply, line)) for line in loop) for loop in found]


@pytest.mark.parametrize("dtype", [types.float32, types.float64], ids=str)
def test_column_edge_tiles_beside_each_other(dtype):
    """Two and three vectors a row, each from a micropanel of its own, wherever a full tile has more than that."""
    multiply = multiplications(dtype)
    found = loops_of(loops.build_micropanels, "column_edge", dtype, signature=loops.SIGNATURE, multiply=multiply)
    counts = [sum(bool(re.match(multiply, line)) for line in loop) for loop in found]
    full = blocking.tiles(dtype).full
    for vecs in range(2, full.vecs):
        assert counts.count(full.rows * vecs * blocking.UNROLL) >= 2, (vecs, counts)     # A in place, and copied
    for loop in found:
        assert not [line for line in loop if "(%rsp" in line]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_peak_is_that_of_a_loop_without_anything_else(dtype):
    """Addresses are counted up in integers."""
    found = loops_of(peak.build, dtype, signature=peak.SIGNATURE, multiply=multiplications(dtype))
    assert found
    assert not [line for loop in found for line in loop if re.match("v?cvt", line)]


@pytest.mark.skipif(not cpu.has_amx(), reason="not compiled for AMX: test_instruction_sets.py has a process that is")
@pytest.mark.parametrize("which, products", [("full", 4), ("column_edge", 2)])
def test_amx_loops_hold_little_else(which, products):
    found = loops_of(amx.build, which, tile.BFLOAT16, signature=loops.SIGNATURE, multiply="tdpbf16ps")
    assert max(sum("tdpbf16ps" in line for line in loop) for loop in found) % products == 0
    for loop in found:
        assert sum("tileloadd" in line for line in loop) <= 2 * sum("tdpbf16ps" in line for line in loop)
        assert not [line for line in loop if re.search(r"[xyz]mm", line)]
