"""Shapes of dense layers for digests.py: a stratum for each algorithm that a pass may take, on vectors of 2 to 16 numbers.

Each function of a random generator returns (batch, n_inputs, n_neurons).
"""
from .digest_arrays import between, one

TRIES = 5                       # How often a shape is drawn again that is larger than MOST_WORK.
MOST_WORK = 12 << 20            # The most multiply-adds of a product, but for the HUGE ones.

# Sizes around those of vectors, tiles and blocks.
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 95, 96, 97, 127,
         128, 129, 130, 191, 193, 256, 257)


def _naive(rng):
    return one(rng, [(1, 1, 1), (1, 7, 3), (3, 4, 5), (2, 8, 8), (4, 4, 4), (1, 64, 2), (64, 1, 2), (1, 2, 64), (5, 5, 5),
                     (16, 4, 2), (9, 2, 7), (2, 3, 1)])


def _empty(rng):
    return one(rng, [(0, 5, 3), (5, 0, 3), (5, 3, 0), (0, 0, 0), (1, 0, 40), (0, 40, 40), (70, 0, 70), (0, 300, 2)])


def _few_neurons(rng):
    return one(rng, [1, 2, 5, 6, 7, 13, 33, 63, 64, 100, 400, 700]), between(rng, 49, 400), between(rng, 1, 4)


def _few_numbers(rng):
    """Return many rows of so few inputs and neurons that a row fills few vectors, for one size of vectors."""
    most = int(one(rng, [3, 6, 12, 24, 48]))
    inputs = between(rng, 1, most - 1)
    return one(rng, [64, 65, 100, 511, 512, 513, 1023, 2047, 2048, 2500, 4100]), inputs, between(rng, 1, most - inputs)


def _few_rows(rng):
    return between(rng, 1, 33), between(rng, 1, 200), between(rng, 64, 500)


def _few_inputs(rng):
    """Return so few inputs that dinputs may be dot products, with long rows of y."""
    return one(rng, [33, 63, 100, 250, 384, 400]), between(rng, 1, 4), between(rng, 100, 700)


def _in_place(rng):
    return between(rng, 1, 12), one(rng, [3, 50, 130, 700, 1100]), between(rng, 128, 400)


def _far(rng):
    """Return weights larger than an eighth of the last cache."""
    return between(rng, 13, 32), between(rng, 1000, 1100), between(rng, 1050, 1200)


def _few_inputs_in_place(rng):
    return between(rng, 13, 600), between(rng, 1, 12), between(rng, 128, 300)


def _deep(rng):
    """Return a shape with sums longer than a chain, or than a KC block, in one of the three products."""
    deep = one(rng, [255, 256, 257, 300, 511, 512, 513, 600, 1023, 1025, 1300, 2100])
    return rng.permutation([deep, between(rng, 13, 70), between(rng, 5, 70)])


def _any(rng):
    return tuple(one(rng, SIZES) for _ in range(3))


def _edges(rng):
    """Return numbers of rows and columns around the heights and widths of all tiles."""
    return between(rng, 13, 60), between(rng, 8, 140), between(rng, 5, 270)


def _many_rows(rng):
    return between(rng, 380, 1600), between(rng, 17, 60), between(rng, 33, 60)


def _fused(rng):
    """Return a batch of several partitions, for the fused backward pass."""
    batch = one(rng, [4096, 4097, 4100, 4300, 5000, 6200])
    return (batch, *one(rng, [(between(rng, 25, 45), between(rng, 25, 45)), (between(rng, 49, 90), between(rng, 1, 4)),
                              (one(rng, [1, 1, 2, 4]), between(rng, 64, 130)), (between(rng, 5, 12), between(rng, 128, 150))]))


def _memory(rng):
    """Return inputs larger than a second-level cache, with a depth of one KC block."""
    return between(rng, 2600, 4000), between(rng, 100, 130), between(rng, 5, 20)


def _blocks_of_dz(rng):
    """Return a dz of more than 16 MiB, in a backward pass that is not fused."""
    return one(rng, [3700, 4000]), between(rng, 2, 3), between(rng, 1150, 1250)


def _blocks_of_bfloat16(rng):
    """Return operands so large that a dz is rounded in blocks of rows."""
    return between(rng, 2060, 2200), between(rng, 100, 130), between(rng, 130, 160)


# The function of each kind of shape, and the kinds whose products may have more than MOST_WORK.
SHAPES = {"naive": _naive, "empty": _empty, "few neurons": _few_neurons, "few numbers": _few_numbers, "few rows": _few_rows,
          "few inputs": _few_inputs, "B in place": _in_place, "few inputs in place": _few_inputs_in_place, "deep": _deep,
          "any": _any, "edges": _edges, "many rows": _many_rows, "one pass": _fused, "memory": _memory, "far": _far,
          "blocks of dz": _blocks_of_dz, "blocks of bfloat16": _blocks_of_bfloat16}
HUGE = "far", "blocks of dz", "blocks of bfloat16"


def shape_of(rng, kind):
    """Return a shape of that kind: (batch, n_inputs, n_neurons)."""
    for _ in range(TRIES):
        shape = SHAPES[kind](rng)
        if kind in HUGE or shape[0] * shape[1] * shape[2] <= MOST_WORK:
            break
    return tuple(map(int, shape))
