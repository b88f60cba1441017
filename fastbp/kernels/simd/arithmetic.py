"""Arithmetic of tiles: `+ - * /` of two tiles or of a tile and a number, and functions of each element.

A formula reads in a kernel as it does in NumPy. A product and a sum may become one FMA. A comparison is with a number, and
chooses between two tiles: `where_above(t, 0, a, b)`.
"""
import math
import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

from .tile import BYTES, TileType, join, split
from .vector import I64, at, const, load_vector, splat, sum_of_lanes, take, valid_lanes

# LLVM's flag that lets a product and a sum become one FMA.
_CONTRACT = ("contract",)

# Bits of the mantissa, and bias of the exponent, by the bytes of an element.
_MANTISSA = {4: (23, 127), 8: (52, 1023)}


def _operator(function, instruction):
    """Make a Python operator of tiles, or of a tile and a number, an LLVM instruction of each vector."""
    @infer_global(function)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            tiles = [a for a in args if isinstance(a, TileType)]
            if len(args) == 2 and tiles and all(a == tiles[0] or isinstance(a, types.Float | types.Integer) for a in args):
                return signature(tiles[0], *args)

    def lower(context, builder, sig, args):
        t = sig.return_type
        x, y = (_vectors(context, builder, t, kind, value) for kind, value in zip(sig.args, args, strict=True))
        results = [getattr(builder, instruction)(a, b, flags=_CONTRACT) for a, b in zip(x, y, strict=True)]
        return join(builder, t, results)

    for left, right in ((TileType, TileType), (TileType, types.Number), (types.Number, TileType)):
        lower_builtin(function, left, right)(lower)


def _vectors(context, builder, t, kind, value):
    """Return the vectors of a tile, or, for a number, as many vectors with the number in every lane."""
    if isinstance(kind, TileType):
        return split(builder, t, value)
    return [splat(builder, t.vec, context.cast(builder, value, kind, t.dtype))] * (t.rows * t.vecs)


for _function, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"),
                                (operator.truediv, "fdiv")):
    _operator(_function, _instruction)


def _of_each(b, t, tile, function):
    """Return the tile of a function of each vector."""
    return join(b, t, [function(v) for v in split(b, t, tile)])


def _llvm(b, t, name, *vectors):
    """Call LLVM's intrinsic of that name on vectors."""
    function = ir.FunctionType(t.vec, [t.vec] * len(vectors))
    return b.call(cgutils.get_or_insert_function(b.module, function, f"llvm.{name}.v{t.lanes}f{t.size * 8}"), vectors)


@intrinsic
def sqrt(typing_context, tile):
    """Return the square roots, correctly rounded."""
    return tile(tile), lambda c, b, sig, args: _of_each(b, tile, args[0], lambda v: _llvm(b, tile, "sqrt", v))


@intrinsic
def magnitude(typing_context, tile):
    """Return the absolute values."""
    return tile(tile), lambda c, b, sig, args: _of_each(b, tile, args[0], lambda v: _llvm(b, tile, "fabs", v))


@intrinsic
def with_sign(typing_context, tile, other):
    """Return the magnitudes of the first tile with the signs of the second."""
    def generate(c, b, sig, args):
        pairs = zip(*(split(b, tile, a) for a in args), strict=True)
        return join(b, tile, [_llvm(b, tile, "copysign", x, y) for x, y in pairs])

    return tile(tile, tile), generate


@intrinsic
def where_above(typing_context, tile, bound, above, otherwise):
    """Return `above` where an element is greater than `bound`, a number, else, and for a NaN, `otherwise`.

    `above` and `otherwise` are tiles or numbers.
    """
    t = tile

    def generate(c, b, sig, args):
        x, limit, yes, no = (_vectors(c, b, t, kind, value) for kind, value in zip(sig.args, args, strict=True))
        return join(b, t, [b.select(b.fcmp_ordered(">", v, n), p, q) for v, n, p, q in zip(x, limit, yes, no, strict=True)])

    return t(tile, bound, above, otherwise), generate


@intrinsic
def clamped(typing_context, tile, least, most):
    """Return the elements limited to the numbers from `least` to `most`; a NaN stays a NaN."""
    t = tile

    def generate(c, b, sig, args):
        x, low, high = (_vectors(c, b, t, kind, value) for kind, value in zip(sig.args, args, strict=True))
        results = []
        for v, a, z in zip(x, low, high, strict=True):
            v = b.select(b.fcmp_ordered("<", v, a), a, v)
            results.append(b.select(b.fcmp_ordered(">", v, z), z, v))
        return join(b, t, results)

    return t(tile, least, most), generate


@intrinsic
def add_row(typing_context, tile, address):
    """Return the tile with the row vector at `address` (the biases) added to each of its rows."""
    t = tile

    def generate(c, b, sig, args):
        tile, address = args
        row = [load_vector(b, t, address, j * t.lanes * t.size) for j in range(t.vecs)]
        return join(b, t, [b.fadd(v, row[k % t.vecs]) for k, v in enumerate(split(b, t, tile))])

    return t(t, BYTES), generate


def _stopped(b, t, z):
    """Return where a ReLU stops the gradient: where z <= 0. A NaN passes, as that is false for it."""
    return b.fcmp_ordered("<=", z, ir.Constant(t.vec, None))


@intrinsic
def relu(typing_context, tile):
    """Return max(element, 0); a NaN stays a NaN."""
    t = tile

    def generate(c, b, sig, args):
        zero = ir.Constant(t.vec, None)
        return join(b, t, [b.select(_stopped(b, t, v), zero, v) for v in split(b, t, args[0])])

    return t(t), generate


@intrinsic
def mask(typing_context, dvalues, z):
    """Return 0 where z <= 0, else dvalues. The 0 is assigned, not multiplied by, so that an inf becomes 0."""
    t = dvalues

    def generate(c, b, sig, args):
        zero = ir.Constant(t.vec, None)
        pairs = zip(*(split(b, t, a) for a in args), strict=True)
        return join(b, t, [b.select(_stopped(b, t, z), zero, d) for d, z in pairs])

    return t(t, t), generate


@intrinsic
def within(typing_context, tile, cols, value):
    """Return the first `cols` columns of a tile of one row, with a number in the others."""
    t = tile

    def generate(c, b, sig, args):
        rest = _vectors(c, b, t, value, args[2])
        vectors = zip(split(b, t, args[0]), rest, strict=True)
        return join(b, t, [b.select(valid_lanes(b, t, args[1], j), v, r) for j, (v, r) in enumerate(vectors)])

    return t(tile, BYTES, value), generate


@intrinsic
def total(typing_context, tile):
    """Return the sum of all elements, a number."""
    t = tile

    def generate(c, b, sig, args):
        vectors = split(b, t, args[0])
        while len(vectors) > 1:
            vectors = [b.fadd(*vectors[i:i + 2]) if i + 1 < len(vectors) else vectors[i] for i in range(0, len(vectors), 2)]
        return sum_of_lanes(b, vectors[0])

    return t.dtype(tile), generate


@intrinsic
def highest(typing_context, tile):
    """Return the largest element, a number."""
    t = tile

    def generate(c, b, sig, args):
        first, *others = split(b, t, args[0])
        for v in others:
            first = b.select(b.fcmp_ordered(">", v, first), v, first)
        while first.type.count > 1:
            half = first.type.count // 2
            low, high = take(b, first, range(half)), take(b, first, range(half, 2 * half))
            first = b.select(b.fcmp_ordered(">", high, low), high, low)
        return b.extract_element(first, ir.Constant(ir.IntType(32), 0))

    return t.dtype(tile), generate


@intrinsic
def times_power(typing_context, tile, exponents):
    """Return tile * 2**n, where an element of `exponents` is n + 1.5 * 2**(bits of the mantissa): so n is in its last bits.

    It multiplies twice, by 2 to the power of each half of n: 2**n may overflow or underflow where the result does not.
    """
    t = tile
    bits, bias = _MANTISSA[t.size]
    ints = ir.VectorType(ir.IntType(8 * t.size), t.lanes)

    def each(number):
        return ir.Constant(ints, [number] * t.lanes)

    def generate(c, b, sig, args):
        magic = b.bitcast(ir.Constant(t.vec, [1.5 * 2**bits] * t.lanes), ints)
        results = []
        for x, e in zip(*(split(b, t, a) for a in args), strict=True):
            n = b.sub(b.bitcast(e, ints), magic)
            half = b.ashr(n, each(1))
            for part in (half, b.sub(n, half)):
                power = b.bitcast(b.shl(b.add(part, each(bias)), each(bits)), t.vec)
                x = b.fmul(x, power)
            results.append(x)
        return join(b, t, results)

    return t(tile, tile), generate


@intrinsic
def parted(typing_context, tile):
    """Return tiles (m, n) with tile = m * 2**n and m from sqrt(1/2) to sqrt(2), for positive, normal, finite elements."""
    t = tile
    bits, _ = _MANTISSA[t.size]
    ints = ir.VectorType(ir.IntType(8 * t.size), t.lanes)
    shift = ir.Constant(ints, [bits] * t.lanes)

    def generate(c, b, sig, args):
        least, mantissas, exponents = b.bitcast(ir.Constant(t.vec, [math.sqrt(0.5)] * t.lanes), ints), [], []
        for x in split(b, t, args[0]):
            word = b.bitcast(x, ints)
            n = b.ashr(b.sub(word, least), shift)
            mantissas.append(b.bitcast(b.sub(word, b.shl(n, shift)), t.vec))
            exponents.append(b.sitofp(n, t.vec))
        return c.make_tuple(b, sig.return_type, [join(b, t, mantissas), join(b, t, exponents)])

    return types.UniTuple(t, 2)(tile), generate


@intrinsic
def wide(typing_context, tile):
    """Return the tile in float64."""
    t = TileType(tile.shape._replace(dtype=types.float64))

    def generate(c, b, sig, args):
        return args[0] if t == tile else join(b, t, [b.fpext(v, t.vec) for v in split(b, tile, args[0])])

    return t(tile), generate


@intrinsic
def polynomial(typing_context, tile, coefficients):
    """Return c[0] + c[1] x + c[2] x**2 + … for a tuple c of numbers, by Horner's rule."""
    t = tile

    def generate(c, b, sig, args):
        constants = [splat(b, t.vec, c.cast(b, b.extract_value(args[1], i), coefficients.dtype, t.dtype))
                     for i in range(len(coefficients))]
        results = []
        for x in split(b, t, args[0]):
            value = constants[-1]
            for constant in reversed(constants[:-1]):
                value = b.fadd(b.fmul(value, x, flags=_CONTRACT), constant, flags=_CONTRACT)
            results.append(value)
        return join(b, t, results)

    return t(tile, coefficients), generate


@intrinsic
def number(typing_context, address):
    """Return the float64 at an address."""
    def generate(c, b, sig, args):
        return b.load(at(b, args[0], const(0), ir.DoubleType()), align=1)

    return types.float64(BYTES), generate


@intrinsic
def kept(typing_context, tile, key, index, least, factor):
    """Return the elements times a factor in random places, and 0 in the others: a dropout.

    The elements are numbered from `index` on. Element e is kept if the first 63 bits of random number e are `least` or more.
    These are the random numbers of the stream that begins at `key`, and depend on nothing else (SplitMix64: Steele, Lea and
    Flood, Fast splittable pseudorandom number generators, OOPSLA 2014).
    """
    t = tile
    words = ir.VectorType(I64, t.lanes)

    def each(n):
        return ir.Constant(words, [n] * t.lanes)

    def generate(c, b, sig, args):
        vectors, key, index, least, factors = args[0], *args[1:4], _vectors(c, b, t, factor, args[4])
        results = []
        for j, v in enumerate(split(b, t, vectors)):
            lanes = ir.Constant(words, list(range(j * t.lanes + 1, (j + 1) * t.lanes + 1)))
            z = b.add(splat(b, words, key), b.mul(b.add(splat(b, words, index), lanes), each(0x9E3779B97F4A7C15)))
            z = b.mul(b.xor(z, b.lshr(z, each(30))), each(0xBF58476D1CE4E5B9))
            z = b.mul(b.xor(z, b.lshr(z, each(27))), each(0x94D049BB133111EB))
            z = b.lshr(b.xor(z, b.lshr(z, each(31))), each(1))
            stays = b.icmp_signed(">=", z, splat(b, words, least))
            results.append(b.select(stays, b.fmul(v, factors[j]), ir.Constant(t.vec, None)))
        return join(b, t, results)

    return t(tile, BYTES, BYTES, BYTES, factor), generate
