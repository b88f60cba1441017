"""The order of an epoch's rows."""
from ctypes import c_void_p, cast

import numpy as np

from .. import functional
from .._arrays.memory import INTEGER, address, shuffled
from .._compile import compiler
from ..kernels.train.shuffle import DRAWN, MOST_ROWS


def order_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return rng.permutation(count) as int64, in less time than NumPy takes: a third of a step of a tiny network."""
    if compiler.DISABLED or not DRAWN < count <= MOST_ROWS:     # NumPy shuffles a few rows before the call below begins
        return shuffled(rng, count)
    order, room = np.arange(count, dtype=INTEGER), np.empty(DRAWN, INTEGER)
    rows = address("order", order, INTEGER, count, written=True)
    drawn = address("room", room, INTEGER, DRAWN, written=True)
    shuffle, stream = functional.shuffle(), rng.bit_generator.ctypes
    with rng.bit_generator.lock:
        shuffle(rows, count, drawn, cast(stream.next_uint32, c_void_p).value, stream.state_address)
    return order
