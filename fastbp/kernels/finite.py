"""Whether numbers are finite, and how large they are at most: sums over all of them, in one pass in vector registers."""
from .._jit import kernel
from . import tile
from .arithmetic import total

# The statuses of a training step that was not made: what would not be finite.
LOSS, PENALTY, GRADIENT = -1, -2, -3
NOT_FINITE = {LOSS: "loss", PENALTY: "penalty", GRADIENT: "gradient, or the step along it,"}

# Numbers up to here are safe: products of two of them are far below the largest float32, and so small beside it that a sum with
# one of them, which is rounded, does not overflow.
SAFE = 1e15


@kernel
def squares(row, address, count):
    """Return the sum of the squares of `count` numbers; inf or NaN if one is not finite, and also if a square overflows."""
    size, width = tile.itemsize(row), tile.width(row)
    one, other, pairs = tile.zeros(row), tile.zeros(row), count // (2 * width) * 2 * width
    for j in range(0, pairs, 2 * width):                # two sums, as an FMA waits four cycles for the one before
        v, w = tile.load(row, address + j * size, 0, 1, width), tile.load(row, address + (j + width) * size, 0, 1, width)
        one, other = one + v * v, other + w * w
    for j in range(pairs, count, width):
        v = tile.load(row, address + j * size, 0, 1, count - j)
        one = one + v * v
    return float(total(one + other))


@kernel
def sums(row, address, count):
    """Return the sum of `count` numbers, which are not negative."""
    size, added = tile.itemsize(row), tile.zeros(row)
    for j in range(0, count, tile.width(row)):
        added = added + tile.load(row, address + j * size, 0, 1, count - j)
    return float(total(added))


@kernel
def are_finite(row, address, count):
    """Return whether all of `count` numbers are finite."""
    size, zeros = tile.itemsize(row), tile.zeros(row)
    for j in range(0, count, tile.width(row)):
        zeros = zeros + tile.load(row, address + j * size, 0, 1, count - j) * 0.0       # a NaN for inf and NaN
    return total(zeros) == 0.0
