"""Random numbers, arrays of all layouts, and what a case is, for digests.py."""
from typing import NamedTuple

import numpy as np

SEED = 27                       # The seed of all cases.
# The layouts of arrays. One is drawn, so those that stand here more often are more frequent.
LAYOUTS = ("C",) * 10 + ("F", "F", "rows apart", "columns apart", "rows back", "columns back", "unaligned", "read-only",
                         "swapped", "repeated")


class Case(NamedTuple):
    """A function whose results are digested, a name that says all about it, and a number of threads."""

    name: str
    run: object
    threads: int


def one(rng, of):
    """Return a random item of a sequence."""
    return of[rng.integers(len(of))]


def between(rng, least, most):
    """Return a random integer from least to most."""
    return int(rng.integers(least, most + 1))


def threads_of(rng):
    """Return a random number of threads: 1 in a sixth of the cases, else 2 or 3."""
    return one(rng, (1, 2, 2, 2, 3, 3))


def numbers(rng, shape, dtype, style="normal"):
    """Return an array of random numbers, made element by element, without a product that could round in another way."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind != "f":
        return rng.integers(0 if dtype.kind == "u" else -4, 5, shape).astype(dtype)
    values = rng.standard_normal(shape, np.float64 if dtype == np.float64 else np.float32).astype(dtype)
    if style == "whole":
        values = np.rint(2 * values)
    elif style == "special" and values.size:
        info = np.finfo(dtype)
        places = rng.integers(0, values.size, 3)
        values.flat[places] = rng.choice([np.inf, -np.inf, np.nan, -0.0, info.smallest_subnormal, info.max / 4], 3)
    return values


def laid_out(values, layout):
    """Return (an array of these numbers in memory of that layout, all of the memory)."""
    dtype, shape = values.dtype.newbyteorder() if layout == "swapped" else values.dtype, values.shape
    if layout == "F":
        memory = np.zeros(shape[::-1], dtype)
        view = memory.T
    elif layout == "unaligned":
        memory = np.zeros(values.nbytes + 1, np.uint8)
        view = memory[1:].view(dtype).reshape(shape)
    elif layout in ("rows apart", "columns apart", "rows back", "columns back") and len(shape) == 2:
        rows, columns = {"rows apart": ((1, 1), (1, 3)), "columns apart": ((1, 1), (2, 0)), "rows back": ((-1, 1), (1, 2)),
                         "columns back": ((1, 1), (-1, 0))}[layout]
        memory = np.zeros((shape[0], shape[1] * abs(columns[0]) + columns[1]), dtype)
        view = memory[::rows[0], :memory.shape[1] - columns[1]][:, ::columns[0]]
    else:
        memory = view = np.zeros(shape, dtype)
    if layout == "repeated" and len(shape) == 2 and shape[0]:
        return np.broadcast_to(values[:1], shape), values
    view[...] = values
    view.flags.writeable = layout != "read-only"
    return view, memory


class Operands:
    """A maker of random operands of one call. It describes them as it makes them."""

    def __init__(self, rng, dtype, is_plain=False):
        self.rng, self.dtype, self.is_plain, self.said = rng, dtype, is_plain, []
        self.style = str(rng.choice(["normal", "whole", "special"], p=[0.8, 0.12, 0.08]))

    def __call__(self, name, shape, dtype=None):
        layout = "C" if self.is_plain or self.rng.random() < 0.3 else one(self.rng, LAYOUTS)
        dtype = np.dtype(dtype or (one(self.rng, ("float32", "float64", "float16", "int8", "bool", "uint16"))
                                   if self.dtype == "mixed" else self.dtype))
        self.said.append(f"{name} {'x'.join(map(str, shape))} {dtype} {layout}")
        return laid_out(numbers(self.rng, shape, dtype, self.style), layout)[0]

    def __str__(self):
        return ", ".join([*self.said, self.style])
