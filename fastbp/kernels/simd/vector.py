"""SIMD vectors in LLVM IR: what tile.py builds its operations from.

`b` is the IR builder; `t` is a tile's type, of which `vec` (the vector type), `elem`, `lanes` and `size` (bytes of an
element) count here. No address needs alignment.
"""
from llvmlite import ir
from numba.core import cgutils

from ..._runtime import cpu

I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
CACHE_LINE = 64


def const(n):
    """An integer as wide as an address."""
    return ir.Constant(I64, n)


def at(b, address, offset, ty):
    """A pointer to a `ty` at an address plus an offset, both integers."""
    return b.inttoptr(b.add(address, offset), ty.as_pointer())


def splat(b, ty, scalar):
    """A vector with the scalar in every lane."""
    undef = ir.Constant(ty, ir.Undefined)
    one = b.insert_element(undef, scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(one, undef, ir.Constant(ir.VectorType(I32, ty.count), [0] * ty.count))


def load_vector(b, t, address, offset=0):
    """The vector at an address plus a constant offset."""
    return b.load(at(b, address, const(offset), t.vec), align=1)


def muladd(b, t):
    """A function (x, y, z) -> x * y + z: one FMA where the CPU has it and two operations where it does not.

    `llvm.fma` would call the C library there.
    """
    signature = ir.FunctionType(t.vec, [t.vec] * 3)
    function = cgutils.get_or_insert_function(b.module, signature, f"llvm.fmuladd.v{t.lanes}f{t.size * 8}")
    return lambda x, y, z: b.call(function, [x, y, z])


class _BFloat(ir.types.Type):
    """llvmlite has no name for LLVM's bfloat."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


def dot(b, t):
    """A function (x, y, z) -> z + x[0] * y[0] + x[1] * y[1], lane by lane, of pairs of bfloat16 in the place of a float32."""
    if cpu.has_bfloat16_dot() and t.lanes * t.size == CACHE_LINE:
        pairs = ir.VectorType(_BFloat(), 2 * t.lanes)
        signature = ir.FunctionType(t.vec, [t.vec, pairs, pairs])
        function = cgutils.get_or_insert_function(b.module, signature, "llvm.x86.avx512bf16.dpbf16ps.512")
        return lambda x, y, z: b.call(function, [z, b.bitcast(x, pairs), b.bitcast(y, pairs)])
    fma = muladd(b, t)

    def second_then_first(x, y, z):
        return fma(_first(b, t, x), _first(b, t, y), fma(_second(b, t, x), _second(b, t, y), z))

    return second_then_first


def _bits(t):
    return ir.VectorType(I32, t.lanes)


def _each(t, number):
    return ir.Constant(_bits(t), [number] * t.lanes)


def _first(b, t, pairs):
    """The first number of each pair, as float32: bfloat16 is its upper half."""
    return b.bitcast(b.shl(b.bitcast(pairs, _bits(t)), _each(t, 16)), t.vec)


def _second(b, t, pairs):
    return b.bitcast(b.and_(b.bitcast(pairs, _bits(t)), _each(t, 0xFFFF0000)), t.vec)


def pair(b, t, x, y):
    """Two vectors of float32, rounded to bfloat16, as one of pairs."""
    first, second = (_rounded(b, t, v) for v in (x, y))
    return b.bitcast(b.or_(b.lshr(first, _each(t, 16)), b.and_(second, _each(t, 0xFFFF0000))), t.vec)


def _rounded(b, t, x):
    """The bits of float32 whose upper half is the nearest bfloat16, the even one of two; a NaN becomes a quiet one."""
    bits = b.bitcast(x, _bits(t))
    odd = b.and_(b.lshr(bits, _each(t, 16)), _each(t, 1))
    nearest = b.add(bits, b.add(odd, _each(t, 0x7FFF)))
    return b.select(b.fcmp_unordered("uno", x, x), b.or_(bits, _each(t, 0x400000)), nearest)


def valid_lanes(b, t, cols, j):
    """The mask of those lanes of the j-th vector of a row that lie within `cols` columns."""
    lanes = ir.VectorType(I32, t.lanes)
    index = ir.Constant(lanes, [j * t.lanes + i for i in range(t.lanes)])
    width = const((j + 1) * t.lanes)
    cols = b.select(b.icmp_signed("<", cols, width), cols, width)               # before it loses its upper half
    return b.icmp_signed("<", index, splat(b, lanes, b.trunc(cols, I32)))


def _masked(b, t, name, returns, arguments):
    signature = ir.FunctionType(returns, [a.type for a in arguments])
    suffix = f"v{t.lanes}f{t.size * 8}.p0"
    typed = "" if t.vec.as_pointer().is_opaque else f"v{t.lanes}f{t.size * 8}"
    function = cgutils.get_or_insert_function(b.module, signature, f"llvm.masked.{name}.{suffix}{typed}")
    return b.call(function, arguments)


def masked_load(b, t, pointer, mask):
    """The lanes of the mask, and 0 in the others, which are not read."""
    return _masked(b, t, "load", t.vec, [pointer, ir.Constant(I32, 1), mask, ir.Constant(t.vec, None)])


def store_part(b, t, source, target, cols):
    """Copy the first `cols` columns, fewer than all, of a tile's row at one address to another; `cols` is no constant.

    AVX-512 has a masked store for it. That of AVX2 takes some 20 cycles on AMD's CPUs, and older ones have none: there
    the row is copied in vectors, or in the largest power of two that it has, and the last piece ends where the row does.
    """
    if t.lanes * t.size == CACHE_LINE:
        for j in range(t.vecs):
            vector, pointer = load_vector(b, t, source, j * CACHE_LINE), at(b, target, const(j * CACHE_LINE), t.vec)
            _masked(b, t, "store", ir.VoidType(), [vector, pointer, ir.Constant(I32, 1), valid_lanes(b, t, cols, j)])
        return
    lanes = t.lanes
    while lanes:
        wanted = b.icmp_signed(">=", cols, const(lanes))
        if lanes < t.lanes:
            wanted = b.and_(wanted, b.icmp_signed("<", cols, const(2 * lanes)))
        with b.if_then(wanted):
            _copy_pieces(b, t, source, target, cols, lanes)
        lanes //= 2


def _copy_pieces(b, t, source, target, cols, lanes):
    """Copy `cols` columns, between `lanes` and twice as many or a whole row, in pieces of `lanes`."""
    ty = ir.VectorType(t.elem, lanes) if lanes > 1 else t.elem

    def copy(col):
        offset = b.mul(col, const(t.size))
        b.store(b.load(at(b, source, offset, ty), align=1), at(b, target, offset, ty), align=1)

    copy(const(0))
    if lanes == t.lanes:
        for col in range(lanes, (t.vecs - 1) * lanes, lanes):
            with b.if_then(b.icmp_signed(">=", cols, const(col + lanes))):
                copy(const(col))
    copy(b.sub(cols, const(lanes)))


def take(b, vector, lanes):
    """The vector of those lanes."""
    lanes = list(lanes)
    order = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), order)


def fetch_line(b, pointer):
    """Ask for a cache line."""
    typed = "" if pointer.type.is_opaque else "i8"
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(b.module, signature, f"llvm.prefetch.p0{typed}")
    b.call(function, [pointer, I32(0), I32(3), I32(1)])         # to read, into all caches, data


def sum_of_lanes(b, vector):
    """The sum of the lanes, by halves."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        vector = b.fadd(take(b, vector, range(half)), take(b, vector, range(half, 2 * half)))
    return b.extract_element(vector, ir.Constant(I32, 0))
