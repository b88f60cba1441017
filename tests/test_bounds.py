"""No byte outside an array is read: operands and results lie against pages that kill the process that touches them.

In a process of its own, which prints each shape before it computes it: what it printed last is what killed it.
"""
import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastbp
import oracle

# Batch, inputs, neurons: products of one row, with B in place, packed, by inner products, in one pass, and of few neurons.
SHAPES = ((1, 100, 92), (2, 33, 257), (3, 100, 65), (12, 64, 41), (7, 33, 12), (100, 7, 11), (30, 5, 13), (300, 92, 1),
          (40, 65, 2), (70, 3, 2), (1025, 7, 9), (5000, 1, 11), (5000, 92, 1), (4100, 45, 2), (4100, 13, 13), (4100, 2, 1),
          (4100, 1, 70))
PATIENCE = 300                  # seconds until a process that hangs is given up


def guarded(array, at_end):
    """The same numbers in pages of their own between two walls, against the end of the last or the start of the first."""
    page, size = mmap.PAGESIZE, array.nbytes
    room = -(-size // page) * page
    pages = mmap.mmap(-1, room + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    for wall in (start, start + page + room):
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(wall), page, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    view = np.frombuffer(pages, array.dtype, array.size, page + (room - size if at_end else 0)).reshape(array.shape)
    view[...] = array
    return view


def check(shape, dtype, at_end):
    rng = np.random.default_rng(0)
    for name in ("dense_relu_forward", "dense_relu_backward"):
        arguments = oracle.operands(rng, name, *shape, dtype)
        expected = oracle.expected(name, arguments)
        out = [guarded(np.zeros(e.shape, dtype), at_end) for e in expected]
        operands = {argument: guarded(array, at_end) for argument, array in arguments.items()}
        getattr(fastbp, name)(**operands, out=tuple(out) if len(out) > 1 else out[0])
        for result, values in zip(out, expected, strict=True):
            assert_array_equal(result, values, f"{name} {shape}")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None) if os.name == "posix" else None, "mprotect"), reason="no mprotect here")
@pytest.mark.parametrize("at_end", [True, False])
def test_nothing_is_touched_outside_the_arrays(dtype, at_end):
    answer = subprocess.run([sys.executable, "-X", "faulthandler", __file__, dtype.name, str(int(at_end))], text=True,
                            capture_output=True, timeout=PATIENCE, check=False, cwd=Path(__file__).parent)
    assert answer.returncode == 0, answer.stdout[-200:] + answer.stderr[-2000:]


if __name__ == "__main__":
    for shape in SHAPES:
        print(shape, flush=True)
        check(shape, np.dtype(sys.argv[1]), sys.argv[2] == "1")
