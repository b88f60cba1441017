"""The innermost loop of a product alone, on data in L1: as many multiply-adds a second as a core can do."""
from functools import cache

from numba import types

from ..._compile import compiler
from .. import blocking
from ..matrix import matrix
from ..simd import tile
from .loops import microkernel

BYTES = 24 << 10                # of A and B, which stay in L1: a shorter depth leaves 3 % to the loop around it


def depth(dtype):
    """Of the product."""
    shape = blocking.tiles(dtype).full
    return BYTES // ((shape.rows + shape.vecs * shape.lanes) * dtype.bitwidth // 8) // blocking.UNROLL * blocking.UNROLL


def flops(dtype):
    """Floating-point operations of a repeat."""
    shape = blocking.tiles(dtype).full
    return 2 * depth(dtype) * shape.rows * shape.vecs * shape.lanes * (2 if dtype is tile.BFLOAT16 else 1)


def room(dtype):
    """Bytes that `peak` reads, and writes."""
    shape = blocking.tiles(dtype).full
    width = shape.vecs * shape.lanes
    return (depth(dtype) * (shape.rows + width) + shape.rows * width) * dtype.bitwidth // 8


SIGNATURE = types.intp(types.Array(types.uint8, 1, "C"), types.intp)


def build(dtype):
    shape, steps = blocking.tiles(dtype).full, depth(dtype)

    def repeat(memory, repeats):
        size, height, width = tile.itemsize(shape), tile.height(shape), tile.width(shape)
        a = matrix(memory).data                         # signed: Numba makes floats of sums with ctypes.data, which is not
        b = a + steps * height * size
        rows = tile.in_registers(tile.multiples(shape, size))
        acc = tile.zeros(shape)
        for _ in range(repeats):
            acc = microkernel(acc, steps, a, rows, height * size, b, width * size)
        tile.store(acc, b + steps * width * size, width * size, height, width)
        return 0

    return repeat


@cache
def peak(dtype):
    """peak(memory, repeats) for a Numba float type or BFLOAT16; memory are zeros."""
    return compiler.entry(build(dtype), SIGNATURE, f"python_peak-{dtype}")
