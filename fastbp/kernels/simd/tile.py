"""A register tile as a Numba value: with vector.py, the only LLVM IR for float32 and float64 arithmetic.

`Shape(dtype, rows, vecs, lanes)` describes rows x vecs SIMD vectors of `lanes` elements. A tile of that shape is passed
around like a number, `acc = rank1(acc, ...)`, and LLVM keeps it in vector registers for a whole loop. The kernels above
are plain loops over these operations; only the shape differs between instruction sets.

Addresses and strides are integers, in bytes. No address needs alignment, so any NumPy array will do. A tile at the edge
of a matrix holds fewer valid `rows` and `cols`: nothing outside them is ever read from or written to memory.
"""
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_constant
from numba.extending import intrinsic, models, register_model, typeof_impl

from .vector import (
    CACHE_LINE,
    I8,
    I32,
    I64,
    at,
    const,
    dot,
    fetch_line,
    load_vector,
    masked_load,
    muladd,
    pair,
    splat,
    store_part,
    sum_of_lanes,
    valid_lanes,
)

BYTES = types.intp                      # how addresses, strides and counts are typed


class _BFloat16(types.Type):
    """A pair of bfloat16 numbers in the place of one float32, which is as what all but rank1 treats it.

    The two follow one another along the depth of a product, so that the product of two such elements is a sum of two.
    """

    bitwidth = 32


BFLOAT16 = _BFloat16("bfloat16")


class Shape(NamedTuple):
    """rows x vecs vectors of `lanes` elements of `dtype`, a Numba float type or BFLOAT16.

    `step` is how many elements of the depth of a product are multiplied at a time.
    """

    dtype: types.Type
    rows: int
    vecs: int
    lanes: int
    step: int = 1


class ShapeType(types.Opaque):
    """The type of a Shape inside compiled code: it has no bits, the shape is all in the type."""

    def __init__(self, shape):
        self.shape, self.has_pairs = shape, shape.dtype is BFLOAT16
        self.dtype = types.float32 if self.has_pairs else shape.dtype
        self.rows, self.vecs, self.lanes = shape.rows, shape.vecs, shape.lanes
        self.size = shape.dtype.bitwidth // 8
        self.elem = ir.FloatType() if self.dtype == types.float32 else ir.DoubleType()
        self.vec = ir.VectorType(self.elem, shape.lanes)
        self.array = ir.ArrayType(self.vec, shape.rows * shape.vecs)
        super().__init__(f"{type(self).__name__}({','.join(map(str, shape))})")


class TileType(ShapeType):
    """The type of a tile's value: an array of vectors, which LLVM splits over registers."""


register_model(ShapeType)(models.OpaqueModel)


@register_model(TileType)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, tile_type):
        super().__init__(manager, tile_type, tile_type.array)


@typeof_impl.register(Shape)
def _typeof_shape(shape, context):
    return ShapeType(shape)


@lower_constant(ShapeType)
def _constant_shape(context, builder, shape_type, shape):
    return context.get_dummy_value()


# ---- LLVM helpers


def split(b, t, tile):
    return [b.extract_value(tile, i) for i in range(t.rows * t.vecs)]


def join(b, t, vectors):
    tile = ir.Constant(t.array, ir.Undefined)
    for i, v in enumerate(vectors):
        tile = b.insert_value(tile, v, i)
    return tile


def _is_whole(b, t, cols):
    return b.icmp_signed(">=", cols, const(t.vecs * t.lanes))


def _each_row(b, t, rows):
    """The rows of a tile in turn, each in a branch of its own that is taken if the row is valid."""
    for i in range(t.rows):
        with b.if_then(b.icmp_signed("<", const(i), rows), likely=True):
            yield i


def _fewer(b, a, n):
    """The smaller of a value and a constant."""
    return b.select(b.icmp_signed("<", a, const(n)), a, const(n))


def _pointer(b, t, address, stride, i, j):
    """A pointer to the j-th vector of row i of a matrix."""
    return at(b, address, b.add(b.mul(stride, i), const(j * t.lanes * t.size)), t.vec)


def _vector_of(b, t, memory, i, j):
    """A pointer to the j-th vector of row i of a tile in memory; in registers, i would have to be a constant."""
    return b.gep(memory, [const(0), b.add(b.mul(i, const(t.vecs)), const(j))], inbounds=True)


def _tile_of(shape):
    return TileType(shape.shape)


# ---- operations


@intrinsic
def width(typing_context, shape):
    """Columns of a tile."""
    return BYTES(shape), lambda c, b, sig, args: const(shape.vecs * shape.lanes)


@intrinsic
def height(typing_context, shape):
    """Rows of a tile."""
    return BYTES(shape), lambda c, b, sig, args: const(shape.rows)


@intrinsic
def lanes(typing_context, shape):
    """Elements of a vector."""
    return BYTES(shape), lambda c, b, sig, args: const(shape.lanes)


@intrinsic
def itemsize(typing_context, shape):
    """Bytes of an element."""
    return BYTES(shape), lambda c, b, sig, args: const(shape.size)


@intrinsic
def step(typing_context, shape):
    """Elements of the depth of a product that are multiplied at a time: the depth is a multiple of it."""
    return BYTES(shape), lambda c, b, sig, args: const(shape.shape.step)


@intrinsic
def zeros(typing_context, shape):
    """A tile of zeros."""
    t = _tile_of(shape)
    return t(shape), lambda c, b, sig, args: ir.Constant(t.array, None)


@intrinsic
def zero(typing_context, shape):
    """0 of the tile's dtype."""
    return shape.dtype(shape), lambda c, b, sig, args: ir.Constant(shape.elem, 0.0)


@intrinsic
def load(typing_context, shape, address, row_stride, rows, cols):
    """The tile at `address`, zeros outside its valid rows and cols."""
    t = _tile_of(shape)

    def generate(c, b, sig, args):
        _, address, stride, rows, cols = args
        out = cgutils.alloca_once(b, t.array)
        b.store(ir.Constant(t.array, None), out)
        with b.if_else(_is_whole(b, t, cols), likely=True) as (whole, edge):
            with whole:
                for i in _each_row(b, t, rows):
                    for j in range(t.vecs):
                        vector = b.load(_pointer(b, t, address, stride, const(i), j), align=1)
                        b.store(vector, _vector_of(b, t, out, const(i), j))
            with edge:
                copy = cgutils.alloca_once(b, t.array)
                b.store(ir.Constant(t.array, None), copy)
                masks = [valid_lanes(b, t, cols, j) for j in range(t.vecs)]
                with cgutils.for_range(b, _fewer(b, rows, t.rows)) as row:
                    for j in range(t.vecs):
                        vector = masked_load(b, t, _pointer(b, t, address, stride, row.index, j), masks[j])
                        b.store(vector, _vector_of(b, t, copy, row.index, j))
                b.store(b.load(copy), out)
        return b.load(out)

    return t(shape, *[BYTES] * 4), generate


@intrinsic
def store(typing_context, tile, address, row_stride, rows, cols):
    """Write the valid rows and cols of a tile to `address`."""
    t = tile

    def generate(c, b, sig, args):
        tile, address, stride, rows, cols = args
        with b.if_else(_is_whole(b, t, cols), likely=True) as (whole, edge):
            with whole:
                vectors = split(b, t, tile)
                for i in _each_row(b, t, rows):
                    for j in range(t.vecs):
                        b.store(vectors[i * t.vecs + j], _pointer(b, t, address, stride, const(i), j), align=1)
            with edge:
                copy = cgutils.alloca_once(b, t.array)
                b.store(tile, copy)
                with cgutils.for_range(b, _fewer(b, rows, t.rows)) as row:
                    source = b.ptrtoint(_vector_of(b, t, copy, row.index, 0), I64)
                    store_part(b, t, source, b.add(address, b.mul(stride, row.index)), cols)
        return c.get_dummy_value()

    return types.void(t, *[BYTES] * 4), generate


@intrinsic
def row_offsets(typing_context, shape, row_stride, rows):
    """Offsets of a tile's rows, a tuple; those past the valid rows repeat the last valid one, so that they can be read."""
    t = shape

    def generate(c, b, sig, args):
        _, stride, rows = args
        last = b.sub(rows, const(1))
        offsets = []
        for i in range(t.rows):
            row = b.select(b.icmp_signed("<", const(i), rows), const(i), last)
            offsets.append(b.mul(row, stride))
        return c.make_tuple(b, sig.return_type, offsets)

    return types.UniTuple(BYTES, t.rows)(shape, BYTES, BYTES), generate


@intrinsic
def multiples(typing_context, shape, step):
    """(0, step, 2 step, …), one for each row of a tile."""
    def generate(c, b, sig, args):
        return c.make_tuple(b, sig.return_type, [b.mul(args[1], const(i)) for i in range(shape.rows)])

    return types.UniTuple(BYTES, shape.rows)(shape, BYTES), generate


@intrinsic
def in_registers(typing_context, numbers):
    """The same numbers, of which LLVM does not know any more how they were computed.

    From multiples it would derive a dozen addresses to count up in a loop, more than there are registers.
    """
    def generate(c, b, sig, args):
        identity = ir.FunctionType(I64, [I64])
        kept = [b.asm(identity, "", "=r,0", [b.extract_value(args[0], i)], False) for i in range(numbers.count)]
        return c.make_tuple(b, sig.return_type, kept)

    return numbers(numbers), generate


@intrinsic
def rank1(typing_context, tile, a, offsets, b_row):
    """tile[i, :] += A[i] * B[:], with A[i] at a + offsets[i] and B contiguous at b_row."""
    t = tile

    def generate(c, b, sig, args):
        tile, a, offsets, b_row = args
        fma, acc = dot(b, t) if t.has_pairs else muladd(b, t), split(b, t, tile)
        row = [load_vector(b, t, b_row, j * t.lanes * t.size) for j in range(t.vecs)]
        for i in range(t.rows):
            scalar = splat(b, t.vec, b.load(at(b, a, b.extract_value(offsets, i), t.elem), align=1))
            for j in range(t.vecs):
                acc[i * t.vecs + j] = fma(scalar, row[j], acc[i * t.vecs + j])
        return join(b, t, acc)

    return t(t, BYTES, types.UniTuple(BYTES, t.rows), BYTES), generate


@intrinsic
def prefetch(typing_context, shape, address, row_stride):
    """Ask for the cache lines of a tile that will be loaded or stored; a row's last one, as its first need not be aligned."""
    def generate(c, b, sig, args):
        _, address, stride = args
        row_bytes = shape.vecs * shape.lanes * shape.size
        for i in range(shape.rows):
            for offset in (*range(0, row_bytes, CACHE_LINE), row_bytes - 1):
                fetch_line(b, at(b, address, b.add(b.mul(stride, const(i)), const(offset)), I8))
        return c.get_dummy_value()

    return types.void(shape, BYTES, BYTES), generate


@intrinsic
def fetch(typing_context, address):
    """Ask for one cache line."""
    def generate(c, b, sig, args):
        fetch_line(b, at(b, args[0], const(0), I8))
        return c.get_dummy_value()

    return types.void(BYTES), generate


@intrinsic
def inner(typing_context, tile, a, a_offsets, b_address, b_offsets, count):
    """tile[i, j] += A[i, :] * B[j, :] lane by lane, `count` lanes of rows at a + a_offsets[i] and b + b_offsets[j]."""
    t = tile

    def generate(c, b, sig, args):
        tile, a, a_offsets, b_address, b_offsets, count = args
        fma, acc = muladd(b, t), split(b, t, tile)
        out = cgutils.alloca_once(b, t.array)

        def update(read):
            right = [read(at(b, b_address, b.extract_value(b_offsets, j), t.vec)) for j in range(t.vecs)]
            parts = []
            for i in range(t.rows):
                left = read(at(b, a, b.extract_value(a_offsets, i), t.vec))
                parts += [fma(left, right[j], acc[i * t.vecs + j]) for j in range(t.vecs)]
            b.store(join(b, t, parts), out)

        with b.if_else(b.icmp_signed(">=", count, const(t.lanes)), likely=True) as (full, edge):
            with full:
                update(lambda pointer: b.load(pointer, align=1))
            with edge:
                mask = valid_lanes(b, t, count, 0)
                update(lambda pointer: masked_load(b, t, pointer, mask))
        return b.load(out)

    return t(t, BYTES, types.UniTuple(BYTES, t.rows), BYTES, types.UniTuple(BYTES, t.vecs), BYTES), generate


@intrinsic
def column_offsets(typing_context, shape, column_stride, cols):
    """Like row_offsets for the `vecs` columns of a tile of inner products."""
    t = shape

    def generate(c, b, sig, args):
        _, stride, cols = args
        last = b.sub(cols, const(1))
        offsets = [b.mul(b.select(b.icmp_signed("<", const(j), cols), const(j), last), stride) for j in range(t.vecs)]
        return c.make_tuple(b, sig.return_type, offsets)

    return types.UniTuple(BYTES, t.vecs)(shape, BYTES, BYTES), generate


@intrinsic
def store_sums(typing_context, tile, address, row_stride, rows, cols):
    """Write the sum of the lanes of each vector: element (i, j) of a rows x cols matrix at `address`."""
    t = tile

    def generate(c, b, sig, args):
        tile, address, stride, rows, cols = args
        vectors = split(b, t, tile)
        for i in range(t.rows):
            for j in range(t.vecs):
                valid = b.and_(b.icmp_signed("<", const(i), rows), b.icmp_signed("<", const(j), cols))
                with b.if_then(valid):
                    pointer = at(b, address, b.add(b.mul(stride, const(i)), const(j * t.size)), t.elem)
                    b.store(sum_of_lanes(b, vectors[i * t.vecs + j]), pointer, align=1)
        return c.get_dummy_value()

    return types.void(t, *[BYTES] * 4), generate


@intrinsic
def add_row(typing_context, tile, address):
    """Add the row vector at `address` (a bias) to every row of a tile."""
    t = tile

    def generate(c, b, sig, args):
        tile, address = args
        row = [load_vector(b, t, address, j * t.lanes * t.size) for j in range(t.vecs)]
        return join(b, t, [b.fadd(v, row[k % t.vecs]) for k, v in enumerate(split(b, t, tile))])

    return t(t, BYTES), generate


def _stopped(b, t, z):
    """Where a ReLU stops the gradient: `z <= 0` is false for a NaN, which passes."""
    return b.fcmp_ordered("<=", z, ir.Constant(t.vec, None))


@intrinsic
def relu(typing_context, tile):
    """0 where an element is stopped, else the element; a NaN stays a NaN."""
    t = tile

    def generate(c, b, sig, args):
        zero = ir.Constant(t.vec, None)
        return join(b, t, [b.select(_stopped(b, t, v), zero, v) for v in split(b, t, args[0])])

    return t(t), generate


@intrinsic
def mask(typing_context, dvalues, z):
    """0 where z is stopped, else dvalues: assigned, not multiplied, so that an inf there becomes 0."""
    t = dvalues

    def generate(c, b, sig, args):
        zero = ir.Constant(t.vec, None)
        pairs = zip(*(split(b, t, a) for a in args), strict=True)
        return join(b, t, [b.select(_stopped(b, t, z), zero, d) for d, z in pairs])

    return t(t, t), generate


@intrinsic
def transpose(typing_context, tile):
    """The transpose of a square tile, `lanes` rows of one vector, by log2(lanes) rounds of pairwise shuffles."""
    t = tile
    if t.rows != t.lanes or t.vecs != 1:
        raise TypeError(f"only a square tile can be transposed, not {t}")

    def generate(c, b, sig, args):
        rows = split(b, t, args[0])
        step = 1
        while step < t.lanes:
            low = [k if not k & step else t.lanes + k - step for k in range(t.lanes)]
            high = [k + step if not k & step else t.lanes + k for k in range(t.lanes)]
            low, high = (ir.Constant(ir.VectorType(I32, t.lanes), order) for order in (low, high))
            for i in range(t.lanes):
                if not i & step:
                    x, y = rows[i], rows[i + step]
                    rows[i], rows[i + step] = b.shuffle_vector(x, y, low), b.shuffle_vector(x, y, high)
            step *= 2
        return join(b, t, rows)

    return t(t), generate


@intrinsic
def pairs_across(typing_context, first, second):
    """Two vectors of float32 rounded to bfloat16, as one of pairs: element by element."""
    t = first

    def generate(c, b, sig, args):
        return join(b, t, [pair(b, t, *(split(b, t, a)[0] for a in args))])

    return t(t, t), generate


@intrinsic
def pairs_along(typing_context, two):
    """A row of two vectors of float32 rounded to bfloat16, as one of pairs: the elements 0 and 1, 2 and 3, and so on."""
    t, half = two, TileType(two.shape._replace(vecs=1))

    def generate(c, b, sig, args):
        low, high = split(b, t, args[0])
        evens, odds = (ir.Constant(ir.VectorType(I32, t.lanes), list(range(k, 2 * t.lanes, 2))) for k in (0, 1))
        return join(b, half, [pair(b, half, b.shuffle_vector(low, high, evens), b.shuffle_vector(low, high, odds))])

    return half(t), generate


@intrinsic
def load_scalar(typing_context, shape, address):
    """One element of the tile's dtype."""
    return shape.dtype(shape, BYTES), lambda c, b, sig, args: b.load(at(b, args[1], const(0), shape.elem), align=1)


@intrinsic
def store_scalar(typing_context, shape, address, value):
    """Write one element of the tile's dtype."""
    def generate(c, b, sig, args):
        b.store(args[2], at(b, args[1], const(0), shape.elem), align=1)
        return c.get_dummy_value()

    return types.void(shape, BYTES, shape.dtype), generate
