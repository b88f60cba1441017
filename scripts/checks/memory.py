"""Memory that tells who touches what is not theirs: pages between two walls, full of canaries.

To touch a wall, the page before the first byte or behind the last one, kills the process. A canary that is read is a NaN in
the result; one that is written is found afterwards.
"""
import ctypes
import mmap
import os

import numpy as np

CANARY = 0xFF                   # a NaN of any float dtype


def has_walls():
    return os.name == "posix" and hasattr(ctypes.CDLL(None), "mprotect")


class Room:
    """Bytes between two walls."""

    def __init__(self, size):
        page = mmap.PAGESIZE
        size = max(1, -(-size // page)) * page
        pages = mmap.mmap(-1, size + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        for wall in (start, start + page + size):
            if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(wall), page, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.bytes = np.frombuffer(pages, np.uint8, size, page)
        self._may_change = np.zeros(size, bool)

    def clear(self):
        """Nothing but canaries, and none that may be changed."""
        self.bytes[:] = CANARY
        self.clear_changes()

    def array(self, shape, dtype, strides, at_end=True, gap=0):
        """An array of that shape and strides in bytes, so many bytes from the wall behind it or the one before it."""
        first, span = extent(shape, dtype.itemsize, strides)
        offset = (len(self.bytes) - span - gap if at_end else gap) + first
        return np.ndarray(shape, dtype, self.bytes, offset, strides)

    def let_change(self, array):
        """Allow what lies in the room under the elements of an array to change."""
        start = array.__array_interface__["data"][0] - self.bytes.__array_interface__["data"][0]
        np.ndarray((*array.shape, array.itemsize), bool, self._may_change, start, (*array.strides, 1))[...] = True

    def clear_changes(self):
        """Allow no change any more."""
        self._may_change[:] = False

    def remember(self):
        self._before = self.bytes.copy()

    def restore(self):
        """Put back what was remembered."""
        self.bytes[:] = self._before

    def changed(self):
        """How many bytes have changed that may not."""
        return int(np.count_nonzero((self.bytes != self._before) & ~self._may_change))


def extent(shape, itemsize, strides):
    """(bytes before the first element, bytes in all) of the memory that such an array spans."""
    if 0 in shape:
        return 0, 0
    steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    first = -sum(step for step in steps if step < 0)
    return first, first + sum(step for step in steps if step > 0) + itemsize


class Rooms:
    """Rooms to use again: to make one takes longer than to compute in it."""

    def __init__(self):
        self._free, self._used = {}, []

    def take(self, size):
        """A clear room for that many bytes."""
        size = 1 << max(12, (size - 1).bit_length())
        rooms = self._free.setdefault(size, [])
        room = rooms.pop() if rooms else Room(size)
        room.clear()
        self._used.append((size, room))
        return room

    def used(self):
        return [room for _, room in self._used]

    def give_back(self):
        for size, room in self._used:
            self._free[size].append(room)
        self._used = []
