"""The peak of a core: the microkernel alone, on data in L1, does as many multiply-adds a second as the core can."""
from functools import cache

from numba import types

from ..._compile import compiler
from .. import blocking
from ..matrix import matrix
from ..simd import products, tile
from .loops import microkernel

# Bytes of A and B, which stay in L1. A smaller K would leave 3 % of the time to the loop around the microkernel.
BYTES = 24 << 10


def depth(dtype):
    """Return the K of the product."""
    shape = blocking.tiles(dtype).full
    return BYTES // ((shape.rows + shape.vecs * shape.lanes) * dtype.bitwidth // 8) // blocking.UNROLL * blocking.UNROLL


def flops(dtype):
    """Return the floating-point operations of one repeat."""
    shape = blocking.tiles(dtype).full
    return 2 * depth(dtype) * shape.rows * shape.vecs * shape.lanes * (2 if dtype is tile.BFLOAT16 else 1)


def room(dtype):
    """Return the bytes of the memory that `peak` needs for A, B and C."""
    shape = blocking.tiles(dtype).full
    width = shape.vecs * shape.lanes
    return (depth(dtype) * (shape.rows + width) + shape.rows * width) * dtype.bitwidth // 8


# The signature of the compiled function: (memory, repeats) -> status.
SIGNATURE = types.intp(types.Array(types.uint8, 1, "C"), types.intp)


def build(dtype):
    """Return the function (memory, repeats) of a dtype, before it is compiled."""
    shape, steps = blocking.tiles(dtype).full, depth(dtype)

    def repeat(memory, repeats):
        size, height, width = tile.itemsize(shape), tile.height(shape), tile.width(shape)
        a = matrix(memory).data                         # not ctypes.data: it is unsigned, and Numba makes its sums floats
        b = a + steps * height * size
        row_offsets = products.in_registers(products.multiples(shape, size))
        acc = tile.zeros(shape)
        for _ in range(repeats):
            acc = microkernel(acc, steps, a, row_offsets, height * size, b, width * size)  # acc (MR, NR) += A (MR, K) B (K, NR)
        tile.store(acc, b + steps * width * size, width * size, height, width)
        return 0

    return repeat


@cache
def peak(dtype):
    """Return the function (memory, repeats) of a Numba float type or BFLOAT16; `memory` must be `room` bytes of zeros."""
    return compiler.entry(build(dtype), SIGNATURE, f"python_peak-{dtype}")
