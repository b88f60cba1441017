"""The making of arrays, and the one gate through which their addresses go to compiled code.

Compiled code trusts the address that it gets. So a caller that hands over an address says which array should be there, and
`address` raises before anything runs if the array is another one. That happens if another package has changed NumPy's
defaults, if a pickle or a memory map has brought back read-only memory, or if a user has assigned something else. For the same
reason every array is made with an explicit dtype. (Only functional.py hands arrays themselves to compiled code, which checks
them itself: kernels/objects.py.)
"""
from collections.abc import Sequence
from ctypes import Structure, addressof, c_char, c_int64
from typing import ClassVar

import numpy as np

from ..kernels.objects import ALIGNED_BYTES

# The size of a cache line, in bytes.
CACHE_LINE = 64

# The dtype of the integers that compiled code reads.
INTEGER = np.dtype(np.int64)

# The dtype of the numbers that compiled code reads beside a record.
FLOAT = np.dtype(np.float64)


class _Memory(np.ndarray):
    """The memory of a large array.

    Its class is not the array's, so that a view of the array refers to the array and not to this memory: a layer counts the
    references to its results.
    """


def empty(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Return a new array. A large one begins at a cache line: a vector that lies across two of them takes twice the time."""
    size = shape[0] * shape[1] * dtype.itemsize
    if size < ALIGNED_BYTES:
        return np.empty(shape, dtype)
    memory = _Memory(size + CACHE_LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, -memory.ctypes.data % CACHE_LINE)


def shuffled(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return rng.permutation(count) as int64. NumPy's method makes its array by np.arange, whose defaults others may change."""
    order = np.arange(count, dtype=INTEGER)
    rng.shuffle(order)
    return order


def is_room(array: object, shape: tuple[int, int], dtype: np.dtype) -> bool:
    """Return whether compiled code may write an array of that shape and dtype, in C order, into `array`."""
    return type(array) is np.ndarray and array.dtype is dtype and array.shape == shape and array.flags.carray


def address(name: str, array: np.ndarray, dtype: np.dtype, count: int, *, written: bool = False) -> int:
    """Return the address of an array's first element, for compiled code that reads `count` elements one after another.

    written: whether compiled code also writes there. Raises TypeError unless the array is an ndarray of that dtype. Raises
    ValueError for another number of elements, for an order other than C, and for read-only memory that would be written.
    """
    if type(array) is np.ndarray and array.dtype is dtype and array.size == count and array.flags.carray and count:
        return addressof(c_char.from_buffer(array))     # a quarter of the time of __array_interface__
    _check(name, array, dtype, written)
    if array.size != count:
        raise ValueError(f"{name} has {array.size} elements, expected {count}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} has strides {array.strides}, expected C order, without gaps")
    return _pointer(array)


class _Fields(Structure):
    """The fields of NumPy's PyArrayObject after those of every object; numpy/ndarraytypes.h publishes them."""

    _fields_: ClassVar = [("data", c_int64), ("dimensions", c_int64), ("shape", c_int64), ("strides", c_int64),
                          ("base", c_int64), ("dtype", c_int64), ("flags", c_int64)]


def marks(array: np.ndarray) -> list[tuple[int, int]]:
    """Return (address, word) of 64-bit words in memory. One of them is another after an array's shape, dtype or memory is.

    Whoever holds the array may compare them in their order: the last ones lie where others point. If NumPy does not keep the
    fields of an array where they are expected, the only word is one that differs already.
    """
    fields = _Fields.from_address(id(array) + object.__basicsize__)
    start, dimensions, flags = addressof(fields), fields.dimensions & 0xFFFFFFFF, fields.flags & 0xFFFFFFFF
    if (fields.data, dimensions, fields.dtype, flags) != (_pointer(array), array.ndim, id(array.dtype), array.flags.num):
        return [(start, ~fields.data)]
    found = [(start + getattr(_Fields, name).offset, getattr(fields, name))
             for name in ("data", "dimensions", "shape", "strides", "dtype", "flags")]
    for pointer in (fields.shape, fields.strides):
        found += [(pointer + 8 * i, word) for i, word in enumerate((c_int64 * array.ndim).from_address(pointer))]
    return found


def address_of_rows(name: str, array: np.ndarray, dtype: np.dtype, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the address of a matrix that compiled code reads, and the bytes from one row to the next.

    The elements of a row must be contiguous, and no row may come before the one above it. Raises as `address`.
    """
    _check(name, array, dtype, False)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    step = array.strides[0] if len(array) > 1 else shape[1] * array.itemsize       # the stride of a single row may be anything
    if not has_contiguous_rows(array) or step < 0:
        raise ValueError(f"{name} has strides {array.strides}, expected rows without gaps, the first one first")
    return _pointer(array), step


def address_of_order(name: str, order: np.ndarray, rows: int) -> int:
    """Return the address of `rows` row numbers, each from 0 to `rows` - 1, that a kernel gathers by. Raises as `address`."""
    found = address(name, order, INTEGER, rows)
    if rows and not 0 <= order.min() <= order.max() < rows:
        raise ValueError(f"{name} has numbers from {order.min()} to {order.max()}, expected 0 to {rows - 1}")
    return found


def has_contiguous_rows(array: np.ndarray) -> bool:
    """Return whether the elements of each row of a 2-D array are contiguous."""
    return len(array) == 0 or array.shape[1] <= 1 or array.strides[1] == array.itemsize


def overlapping(arrays: Sequence[np.ndarray]) -> tuple[int, int] | None:
    """Return the indices of two arrays that share memory, the lower one first, or None if no arrays do."""
    spans = sorted((*_span(array), i) for i, array in enumerate(arrays) if array.size)
    for k, (_, end, i) in enumerate(spans):
        for start, _, j in spans[k + 1:]:
            if start >= end:
                break
            if _share(arrays[i], arrays[j]):
                return min(i, j), max(i, j)
    return None


def _check(name, array, dtype, written):
    """Raise TypeError unless an array is an ndarray of that dtype, and ValueError if it is read-only and would be written."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is of type {type(array).__name__}, expected a numpy.ndarray of {dtype}")
    if array.dtype != dtype:
        raise TypeError(f"{name} has dtype {array.dtype}, expected {dtype}")
    if written and not array.flags.writeable:
        raise ValueError(f"{name} is read-only, expected an array that can be written")


def _pointer(array):
    """Return the address of an array's first element."""
    return array.__array_interface__["data"][0]


def _span(array):
    """Return the address of an array's first byte, and the address after its last byte."""
    if array.flags.c_contiguous:
        start = _pointer(array)
        return start, start + array.nbytes
    return np.lib.array_utils.byte_bounds(array)


def _share(a, b):
    """Return whether two arrays whose spans overlap share an element, and True where that takes too long to find out."""
    if a.flags.c_contiguous and b.flags.c_contiguous:
        return True
    try:
        return np.shares_memory(a, b, max_work=1000)
    except np.exceptions.TooHardError:
        return True
