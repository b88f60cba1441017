"""SIMD vectors in LLVM IR: the pieces that tile.py, products.py and arithmetic.py build their operations from.

The functions emit IR. `b` is the IR builder. `t` is a TileType, of which four fields are used here: `vec` (the vector's LLVM
type), `elem` (the element's LLVM type), `lanes` and `size` (bytes of an element). No address needs alignment.
"""
from llvmlite import ir
from numba.core import cgutils

from ..._runtime import cpu

# LLVM's integer types.
I8, I32, I64 = (ir.IntType(bits) for bits in (8, 32, 64))

# Bytes of a cache line. The module that makes arrays for Python has the same constant; kernels import nothing about arrays.
CACHE_LINE = 64

# Bytes of an AVX-512 vector.
AVX512_BYTES = 64


def const(n):
    """Return a constant as wide as an address."""
    return ir.Constant(I64, n)


def at(b, address, offset, ty):
    """Return a pointer to a `ty` at an address plus an offset, both integers."""
    return b.inttoptr(b.add(address, offset), ty.as_pointer())


def splat(b, ty, scalar):
    """Return a vector with the scalar in every lane."""
    undef = ir.Constant(ty, ir.Undefined)
    one = b.insert_element(undef, scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(one, undef, ir.Constant(ir.VectorType(I32, ty.count), [0] * ty.count))


def load_vector(b, t, address, offset=0):
    """Return the vector at an address plus a constant offset."""
    return b.load(at(b, address, const(offset), t.vec), align=1)


def muladd(b, t):
    """Return a function (x, y, z) -> x * y + z: one FMA if the CPU has it, else two instructions.

    `llvm.fma` would call the C library on a CPU without FMA.
    """
    signature = ir.FunctionType(t.vec, [t.vec] * 3)
    function = cgutils.get_or_insert_function(b.module, signature, f"llvm.fmuladd.v{t.lanes}f{t.size * 8}")
    return lambda x, y, z: b.call(function, [x, y, z])


class _BFloat(ir.types.Type):
    """LLVM's type bfloat, for which llvmlite has no name."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


def pair_muladd(b, t):
    """Return a function (x, y, z) -> z + x[0] * y[0] + x[1] * y[1], where each lane of x and y is a pair of bfloat16.

    It is one instruction of AVX512-BF16. No other CPU multiplies vectors of bfloat16.
    """
    pairs = ir.VectorType(_BFloat(), 2 * t.lanes)
    signature = ir.FunctionType(t.vec, [t.vec, pairs, pairs])
    function = cgutils.get_or_insert_function(b.module, signature, "llvm.x86.avx512bf16.dpbf16ps.512")
    return lambda x, y, z: b.call(function, [z, b.bitcast(x, pairs), b.bitcast(y, pairs)])


def _bits(t):
    """Return the type of a vector's lanes as 32-bit integers."""
    return ir.VectorType(I32, t.lanes)


def _each(t, number):
    """Return a vector of 32-bit integers with the number in every lane."""
    return ir.Constant(_bits(t), [number] * t.lanes)


def pair(b, t, x, y):
    """Round two vectors of float32 to bfloat16, and return the vector of their pairs."""
    if _rounds(t):
        shorts, order = ir.VectorType(ir.IntType(16), 2 * t.lanes), [k // 2 + k % 2 * t.lanes for k in range(2 * t.lanes)]
        return b.bitcast(take(b, b.bitcast(_round_two(b, t, x, y), shorts), order), t.vec)
    first, second = (_rounded(b, t, v) for v in (x, y))
    return b.bitcast(b.or_(b.lshr(first, _each(t, 16)), b.and_(second, _each(t, 0xFFFF0000))), t.vec)


def pair_along(b, t, low, high):
    """Round the elements of two vectors of float32 to bfloat16, and return the vector of the pairs 0 and 1, 2 and 3, …"""
    if _rounds(t):
        return b.bitcast(_round_two(b, t, low, high), t.vec)
    evens, odds = (ir.Constant(ir.VectorType(I32, t.lanes), list(range(k, 2 * t.lanes, 2))) for k in (0, 1))
    return pair(b, t, b.shuffle_vector(low, high, evens), b.shuffle_vector(low, high, odds))


def _rounds(t):
    """Return whether the CPU has an instruction that rounds two vectors to bfloat16. It takes subnormal numbers for 0."""
    return cpu.has_bfloat16_dot() and t.lanes * t.size == AVX512_BYTES


def _round_two(b, t, low, high):
    """Return the vector of the elements of two vectors of float32, one after the other, rounded by one instruction."""
    signature = ir.FunctionType(ir.VectorType(_BFloat(), 2 * t.lanes), [t.vec] * 2)
    function = cgutils.get_or_insert_function(b.module, signature, "llvm.x86.avx512bf16.cvtne2ps2bf16.512")
    return b.call(function, [high, low])


def _rounded(b, t, x):
    """Return the bits of float32 whose upper half is the nearest bfloat16, ties to even. A NaN becomes a quiet NaN."""
    bits = b.bitcast(x, _bits(t))
    odd = b.and_(b.lshr(bits, _each(t, 16)), _each(t, 1))
    nearest = b.add(bits, b.add(odd, _each(t, 0x7FFF)))         # a tie is rounded up if the last kept bit is odd
    quiet = b.or_(bits, _each(t, 0x400000))
    return b.select(b.fcmp_unordered("uno", x, x), quiet, nearest)


def valid_lanes(b, t, cols, j):
    """Return the mask of the lanes of a row's j-th vector that lie within the first `cols` columns of the row."""
    lanes = ir.VectorType(I32, t.lanes)
    index = ir.Constant(lanes, [j * t.lanes + i for i in range(t.lanes)])
    width = const((j + 1) * t.lanes)
    cols = b.select(b.icmp_signed("<", cols, width), cols, width)               # then 32 bits hold it
    return b.icmp_signed("<", index, splat(b, lanes, b.trunc(cols, I32)))


def _masked(b, t, name, returns, arguments):
    """Call LLVM's masked load or store of a vector."""
    signature = ir.FunctionType(returns, [a.type for a in arguments])
    suffix = f"v{t.lanes}f{t.size * 8}.p0"
    typed = "" if t.vec.as_pointer().is_opaque else f"v{t.lanes}f{t.size * 8}"
    function = cgutils.get_or_insert_function(b.module, signature, f"llvm.masked.{name}.{suffix}{typed}")
    return b.call(function, arguments)


def masked_load(b, t, pointer, mask):
    """Return the vector at a pointer with 0 in the lanes outside the mask, which are not read."""
    return _masked(b, t, "load", t.vec, [pointer, ir.Constant(I32, 1), mask, ir.Constant(t.vec, None)])


def store_part(b, t, source, target, cols):
    """Copy the first `cols` columns of a tile's row from one address to another. `cols` is less than the row, and no constant.

    AVX-512 has a masked store for this. AVX2's masked store takes some 20 cycles on AMD's CPUs, and older instruction sets
    have none. There the columns are copied in pieces: vectors, or, if they do not fill one, the largest power of two that they
    fill. The last piece ends with the last column, and may overlap the one before.
    """
    if t.lanes * t.size == AVX512_BYTES:
        for j in range(t.vecs):
            vector, pointer = load_vector(b, t, source, j * AVX512_BYTES), at(b, target, const(j * AVX512_BYTES), t.vec)
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
    """Copy `cols` columns in pieces of `lanes` columns: at least one piece, and less than two, unless a piece is a vector."""
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
    """Return the vector of the lanes with these numbers."""
    lanes = list(lanes)
    order = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), order)


def interleaved(b, x, y, step):
    """Return two vectors of the elements of x and y: those whose number does not have the bit `step`, and those that do.

    In both, the elements of x stand where the number does not have that bit, and those of y where it does.
    """
    lanes = x.type.count
    without = [k if not k & step else lanes + k - step for k in range(lanes)]
    having = [k + step if not k & step else lanes + k for k in range(lanes)]
    orders = (ir.Constant(ir.VectorType(I32, lanes), order) for order in (without, having))
    return [b.shuffle_vector(x, y, order) for order in orders]


def fetch_line(b, pointer):
    """Prefetch the cache line of a pointer."""
    typed = "" if pointer.type.is_opaque else "i8"
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(b.module, signature, f"llvm.prefetch.p0{typed}")
    b.call(function, [pointer, I32(0), I32(3), I32(1)])         # for reading, into all caches, data


def sums_of_lanes(b, vectors):
    """Yield (place, sums): `sums` are those of the lanes of some vectors, from number `place` on, as elements of one vector.

    Each sum has the bits of sum_of_lanes. But two vectors share each addition: 16 sums take 15 additions, and not 64.
    """
    place, lanes = 0, vectors[0].type.count
    while place < len(vectors):
        count, groups, width = 1, 1, lanes              # so many vectors; each holds `groups` sums of `width` numbers
        while 2 * count <= min(lanes, len(vectors) - place):
            count *= 2
        parts = vectors[place:place + count]
        while width > 1:
            half = width // 2
            low = [group * width + lane for group in range(groups) for lane in range(half)]
            high = [lane + half for lane in low]
            if len(parts) > 1:
                low, high = (_lanes_of_two(order, lanes) for order in (low, high))
                parts = [b.fadd(b.shuffle_vector(x, y, low), b.shuffle_vector(x, y, high))
                         for x, y in zip(parts[::2], parts[1::2], strict=True)]
                groups *= 2
            else:
                parts = [b.fadd(take(b, parts[0], low), take(b, parts[0], high))]
            width = half
        yield place, parts[0]
        place += count


def _lanes_of_two(order, lanes):
    """Return the constant of a shuffle that takes these lanes of a vector, then the same of another."""
    return ir.Constant(ir.VectorType(I32, 2 * len(order)), [*order, *(lane + lanes for lane in order)])


def sum_of_lanes(b, vector):
    """Return the sum of the lanes, by adding one half of them to the other until one is left."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        vector = b.fadd(take(b, vector, range(half)), take(b, vector, range(half, 2 * half)))
    return b.extract_element(vector, ir.Constant(I32, 0))
