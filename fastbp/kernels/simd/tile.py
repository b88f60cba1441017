"""Register tiles as Numba values: their type, their way from memory and back, and their transpose.

`Shape(dtype, rows, vecs, lanes)` describes rows x vecs SIMD vectors of `lanes` elements. A tile of that shape is passed
around like a number, `acc = rank1(acc, …)`, and LLVM keeps it in vector registers for a whole loop. The kernels are plain
loops over the operations of this file, of products.py and of arithmetic.py. Only the shape differs between instruction sets.
These three files and vector.py hold all LLVM IR for float32 and float64 arithmetic.

Addresses and strides are integers, in bytes. No address needs alignment, so any NumPy array will do. A tile at the edge of a
matrix has fewer valid `rows` and `cols`: memory outside them is never read or written.
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
    I64,
    at,
    const,
    fetch_line,
    interleaved,
    masked_load,
    pair,
    pair_along,
    store_part,
    valid_lanes,
)

# The Numba type of addresses, strides and counts: a signed integer as wide as an address.
BYTES = types.intp


class _BFloat16(types.Type):
    """Two bfloat16 in one 32-bit element. Only products.rank1 looks inside; all other operations treat it as a float32.

    The two numbers follow one another along the K of a product, so the product of two elements is a sum of two products.
    """

    bitwidth = 32


# The dtype of a Shape whose elements are pairs of bfloat16.
BFLOAT16 = _BFloat16("bfloat16")


class Shape(NamedTuple):
    """The shape of a tile: rows x vecs vectors of `lanes` elements."""

    dtype: types.Type           # a Numba float type or BFLOAT16
    rows: int                   # rows of the tile
    vecs: int                   # vectors of a row
    lanes: int                  # elements of a vector
    step: int = 1               # elements of K that are multiplied at a time; K is a multiple of it


class ShapeType(types.Opaque):
    """The type of a Shape inside compiled code. Its values have no bits: the type alone holds the shape."""

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


# ---- helpers that emit LLVM IR. `c` is Numba's context, `b` the IR builder, `t` a TileType


def split(b, t, tile):
    """Return the vectors of a tile, row by row."""
    return [b.extract_value(tile, i) for i in range(t.rows * t.vecs)]


def join(b, t, vectors):
    """Return the tile of these vectors."""
    tile = ir.Constant(t.array, ir.Undefined)
    for i, v in enumerate(vectors):
        tile = b.insert_value(tile, v, i)
    return tile


def _is_whole(b, t, cols):
    """Return whether `cols` columns fill the rows of a tile."""
    return b.icmp_signed(">=", cols, const(t.vecs * t.lanes))


def _each_row(b, t, rows):
    """Yield the number of each row of a tile, inside a branch that is taken if the row is valid."""
    for i in range(t.rows):
        with b.if_then(b.icmp_signed("<", const(i), rows), likely=True):
            yield i


def _fewer(b, a, n):
    """Return the smaller of a value and a constant."""
    return b.select(b.icmp_signed("<", a, const(n)), a, const(n))


def _pointer(b, t, address, stride, i, j):
    """Return a pointer to the j-th vector of row i of a matrix."""
    return at(b, address, b.add(b.mul(stride, i), const(j * t.lanes * t.size)), t.vec)


def _vector_of(b, t, memory, i, j):
    """Return a pointer to the j-th vector of row i of a tile in memory. In registers, i would have to be a constant."""
    return b.gep(memory, [const(0), b.add(b.mul(i, const(t.vecs)), const(j))], inbounds=True)


def _tile_of(shape):
    """Return the TileType of tiles of that ShapeType."""
    return TileType(shape.shape)


# ---- sizes


@intrinsic
def width(typing_context, shape):
    """Return the number of columns of a tile."""
    return BYTES(shape), lambda c, b, sig, args: const(shape.vecs * shape.lanes)


@intrinsic
def height(typing_context, shape):
    """Return the number of rows of a tile."""
    return BYTES(shape), lambda c, b, sig, args: const(shape.rows)


@intrinsic
def lanes(typing_context, shape):
    """Return the number of elements of a vector."""
    return BYTES(shape), lambda c, b, sig, args: const(shape.lanes)


@intrinsic
def itemsize(typing_context, shape):
    """Return the bytes of an element."""
    return BYTES(shape), lambda c, b, sig, args: const(shape.size)


# ---- tiles in memory


@intrinsic
def zeros(typing_context, shape):
    """Return a tile of zeros."""
    t = _tile_of(shape)
    return t(shape), lambda c, b, sig, args: ir.Constant(t.array, None)


@intrinsic
def zero(typing_context, shape):
    """Return a 0 of the tile's dtype."""
    return shape.dtype(shape), lambda c, b, sig, args: ir.Constant(shape.elem, 0.0)


@intrinsic
def load(typing_context, shape, address, row_stride, rows, cols):
    """Return the tile at `address`. Outside the first `rows` rows and `cols` columns nothing is read, and its elements are 0.

    `rows` and `cols` may be more than the tile has.
    """
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
def gather(typing_context, shape, address, order, row_stride, rows, cols):
    """Return the tile of one vector a row whose row i is row number order[i] of a matrix at `address`, as `load` reads rows.

    order: the address of the rows' 64-bit numbers, of which the first `rows` are read.
    """
    t = _tile_of(shape)

    def generate(c, b, sig, args):
        _, address, order, stride, rows, cols = args
        out = cgutils.alloca_once(b, t.array)
        b.store(ir.Constant(t.array, None), out)

        def row_at(i):
            number = b.load(at(b, order, b.mul(i, const(8)), I64), align=8)
            return at(b, address, b.mul(number, stride), t.vec)

        mask = valid_lanes(b, t, cols, 0)
        with b.if_else(b.icmp_signed(">=", rows, const(t.rows)), likely=True) as (all_rows, some_rows):
            with all_rows, b.if_else(_is_whole(b, t, cols), likely=True) as (whole, edge):
                with whole:
                    b.store(join(b, t, [b.load(row_at(const(i)), align=1) for i in range(t.rows)]), out)
                with edge:
                    b.store(join(b, t, [masked_load(b, t, row_at(const(i)), mask) for i in range(t.rows)]), out)
            with some_rows:
                copy = cgutils.alloca_once(b, t.array)
                b.store(ir.Constant(t.array, None), copy)
                with cgutils.for_range(b, rows) as row:
                    b.store(masked_load(b, t, row_at(row.index), mask), _vector_of(b, t, copy, row.index, 0))
                b.store(b.load(copy), out)
        return b.load(out)

    return t(shape, *[BYTES] * 5), generate


@intrinsic
def store(typing_context, tile, address, row_stride, rows, cols):
    """Write the first `rows` rows and `cols` columns of a tile to `address`; these may be more than the tile has."""
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
def load_scalar(typing_context, shape, address):
    """Return the element at an address, of the tile's dtype."""
    return shape.dtype(shape, BYTES), lambda c, b, sig, args: b.load(at(b, args[1], const(0), shape.elem), align=1)


@intrinsic
def store_scalar(typing_context, shape, address, value):
    """Write an element of the tile's dtype to an address."""
    def generate(c, b, sig, args):
        b.store(args[2], at(b, args[1], const(0), shape.elem), align=1)
        return c.get_dummy_value()

    return types.void(shape, BYTES, shape.dtype), generate


@intrinsic
def prefetch(typing_context, shape, address, row_stride):
    """Prefetch the cache lines of a tile that will be loaded or stored.

    The last byte of each row is prefetched as well: a row need not begin at a cache line, and may reach into one more.
    """
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
    """Prefetch the cache line at an address."""
    def generate(c, b, sig, args):
        fetch_line(b, at(b, args[0], const(0), I8))
        return c.get_dummy_value()

    return types.void(BYTES), generate


# ---- the elements of a tile in another order


@intrinsic
def transpose(typing_context, tile):
    """Return the transpose of a square tile, `lanes` rows of one vector, by log2(lanes) rounds of pairwise shuffles.

    Raises TypeError for any other tile.
    """
    t = tile
    if t.rows != t.lanes or t.vecs != 1:
        raise TypeError(f"only a square tile can be transposed, not {t}")

    def generate(c, b, sig, args):
        rows = split(b, t, args[0])
        step = 1
        while step < t.lanes:
            for i in range(t.lanes):
                if not i & step:
                    rows[i], rows[i + step] = interleaved(b, rows[i], rows[i + step], step)
            step *= 2
        return join(b, t, rows)

    return t(t), generate


@intrinsic
def pairs_across(typing_context, first, second):
    """Return the pairs of the elements of two tiles of float32 in the same places, rounded to bfloat16."""
    t = first

    def generate(c, b, sig, args):
        vectors = zip(*(split(b, t, a) for a in args), strict=True)
        return join(b, t, [pair(b, t, low, high) for low, high in vectors])

    return t(t, t), generate


@intrinsic
def pairs_along(typing_context, two):
    """Return the pairs of the elements 0 and 1, 2 and 3, … of each row of two vectors of float32, rounded to bfloat16."""
    t, half = two, TileType(two.shape._replace(vecs=1))

    def generate(c, b, sig, args):
        vectors = split(b, t, args[0])
        return join(b, half, [pair_along(b, half, low, high) for low, high in zip(vectors[::2], vectors[1::2], strict=True)])

    return half(t), generate
