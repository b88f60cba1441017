"""Products of tiles: the rank-1 update of the microkernel, dot products of rows, and the offsets of the rows they read."""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .tile import BYTES, TileType, join, split
from .vector import (
    I32,
    I64,
    at,
    const,
    interleaved,
    load_vector,
    masked_load,
    muladd,
    pair_muladd,
    splat,
    sums_of_lanes,
    take,
    valid_lanes,
)


@intrinsic
def rank1(typing_context, tile, a, offsets, b_row):
    """Return tile[i, :] + A[i] * B[:], with A[i] at a + offsets[i] and a contiguous B at b_row."""
    return tile(tile, BYTES, types.UniTuple(BYTES, tile.rows), BYTES), _rank1(tile)


@intrinsic
def rank1_of_panels(typing_context, tile, a, offsets, b_row, panel_step):
    """Return what rank1 does, with each vector of B `panel_step` bytes after the one before it."""
    return tile(tile, BYTES, types.UniTuple(BYTES, tile.rows), BYTES, BYTES), _rank1(tile)


def _rank1(t):
    """Return the generator of rank1 and rank1_of_panels."""
    def generate(c, b, sig, args):
        tile, a, offsets, b_row, *panel_step = args
        fma, acc = pair_muladd(b, t) if t.has_pairs else muladd(b, t), split(b, t, tile)
        if panel_step:
            row = [load_vector(b, t, b.add(b_row, b.mul(panel_step[0], const(j))), 0) for j in range(t.vecs)]
        else:
            row = [load_vector(b, t, b_row, j * t.lanes * t.size) for j in range(t.vecs)]
        for i in range(t.rows):
            scalar = splat(b, t.vec, b.load(at(b, a, b.extract_value(offsets, i), t.elem), align=1))
            for j in range(t.vecs):
                acc[i * t.vecs + j] = fma(scalar, row[j], acc[i * t.vecs + j])
        return join(b, t, acc)

    return generate


@intrinsic
def dot(typing_context, tile, a, a_offsets, b_address, b_offsets, count):
    """Return tile[i, j] + A[i, :] * B[j, :], lane by lane: store_sums adds the lanes up.

    Row i of A is at a + a_offsets[i], row j of B at b_address + b_offsets[j]. Only `count` of the lanes are read if that is
    fewer than all.
    """
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
def row_offsets(typing_context, shape, row_stride, rows):
    """Return the offsets of a tile's rows. Those past the valid rows repeat the last valid one, so that they can be read."""
    return _offsets(shape, shape.rows)


@intrinsic
def column_offsets(typing_context, shape, column_stride, cols):
    """Return the offsets of the `vecs` columns of a tile of dot products, those past the valid columns as in row_offsets."""
    return _offsets(shape, shape.vecs)


def _offsets(shape, count):
    """Return the signature and the generator of an intrinsic of (shape, stride, valid) that returns `count` offsets."""
    def generate(c, b, sig, args):
        _, stride, valid = args
        last = b.sub(valid, const(1))
        offsets = [b.mul(b.select(b.icmp_signed("<", const(k), valid), const(k), last), stride) for k in range(count)]
        return c.make_tuple(b, sig.return_type, offsets)

    return types.UniTuple(BYTES, count)(shape, BYTES, BYTES), generate


@intrinsic
def multiples(typing_context, shape, step):
    """Return (0, step, 2 step, …), one for each row of a tile."""
    def generate(c, b, sig, args):
        return c.make_tuple(b, sig.return_type, [b.mul(args[1], const(i)) for i in range(shape.rows)])

    return types.UniTuple(BYTES, shape.rows)(shape, BYTES), generate


@intrinsic
def in_registers(typing_context, numbers):
    """Return the numbers unchanged: an optimisation barrier.

    LLVM no longer knows how they were computed. From `multiples` it would derive a dozen addresses and count each of them up
    in the loop, which is more than there are registers.
    """
    def generate(c, b, sig, args):
        identity = ir.FunctionType(I64, [I64])
        kept = [b.asm(identity, "", "=r,0", [b.extract_value(args[0], i)], False) for i in range(numbers.count)]
        return c.make_tuple(b, sig.return_type, kept)

    return numbers(numbers), generate


@intrinsic
def store_sums(typing_context, tile, address, row_stride, rows, cols):
    """Write the sum of the lanes of vector (i, j) as element (i, j) of a rows x cols matrix at `address`."""
    t = tile

    def generate(c, b, sig, args):
        tile, address, stride, rows, cols = args
        runs = []                                       # sums of one row: (vector that holds them, first lane, row, columns)
        for place, sums in sums_of_lanes(b, split(b, t, tile)):
            for lane in range(sums.type.count):
                i, j = divmod(place + lane, t.vecs)
                if lane == 0 or j == 0:
                    runs.append((sums, lane, i, []))
                runs[-1][3].append(j)
        for sums, lane, i, columns in runs:
            row = b.add(address, b.mul(stride, const(i)))
            is_valid, is_whole = b.icmp_signed("<", const(i), rows), b.icmp_signed("<", const(columns[-1]), cols)
            with b.if_then(is_valid, likely=True), b.if_else(is_whole, likely=True) as (whole, edge):
                with whole:
                    run = take(b, sums, range(lane, lane + len(columns)))
                    b.store(run, at(b, row, const(columns[0] * t.size), run.type), align=1)
                with edge:
                    for k, j in enumerate(columns[:-1]):
                        with b.if_then(b.icmp_signed("<", const(j), cols)):
                            number = b.extract_element(sums, ir.Constant(I32, lane + k))
                            b.store(number, at(b, row, const(j * t.size), t.elem), align=1)
        return c.get_dummy_value()

    return types.void(t, *[BYTES] * 4), generate


@intrinsic
def sums(typing_context, tile):
    """Return the tile whose element (i, j) is the sum of the lanes of vector (i, j): a row is one vector of `vecs` lanes.

    Raises TypeError unless the tile has a multiple of `lanes` vectors, and `lanes` one of `vecs`. It adds up as many vectors as
    there are lanes at a time, in log2(lanes) rounds: in each, two vectors become one.
    """
    t = tile
    if t.rows * t.vecs % t.lanes or t.lanes % t.vecs:
        raise TypeError(f"only groups of {t.lanes} vectors can be added up, and whole rows, not {t}")
    result = TileType(t.shape._replace(vecs=1, lanes=t.vecs))

    def generate(c, b, sig, args):
        vectors, rows = split(b, t, args[0]), []
        for first in range(0, len(vectors), t.lanes):
            group, step = vectors[first:first + t.lanes], 1
            while len(group) > 1:
                group = [b.fadd(*interleaved(b, *group[i:i + 2], step)) for i in range(0, len(group), 2)]
                step *= 2
            rows += [take(b, group[0], range(j, j + t.vecs)) for j in range(0, t.lanes, t.vecs)]
        return join(b, result, rows)

    return result(t), generate
