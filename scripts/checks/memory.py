"""Memory that shows whether code touches bytes outside its arrays: pages between two walls, filled with canaries.

A wall is a page before the first byte or behind the last one: touching it kills the process. A canary that is read becomes a
NaN in the result; a canary that is written is found afterwards.
"""
import ctypes
import mmap
import os

import numpy as np

CANARY = 0xFF                   # A number whose bytes all have this value is a NaN in every float dtype.


def has_walls():
    """Return whether this system can make walls."""
    return os.name == "posix" and hasattr(ctypes.CDLL(None), "mprotect")


class Room:
    """The bytes between two walls."""

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
        """Fill the room with canaries, none of which may change."""
        self.bytes[:] = CANARY
        self.clear_changes()

    def array(self, shape, dtype, strides, at_end=True, gap=0):
        """Return an array in the room, `gap` bytes before the wall at its end or behind the wall at its start."""
        first, span = extent(shape, dtype.itemsize, strides)
        offset = (len(self.bytes) - span - gap if at_end else gap) + first
        return np.ndarray(shape, dtype, self.bytes, offset, strides)

    def let_change(self, array):
        """Allow the bytes of an array's elements to change."""
        start = array.__array_interface__["data"][0] - self.bytes.__array_interface__["data"][0]
        np.ndarray((*array.shape, array.itemsize), bool, self._may_change, start, (*array.strides, 1))[...] = True

    def clear_changes(self):
        """Allow no byte to change."""
        self._may_change[:] = False

    def remember(self):
        """Remember all bytes, for restore() and changed()."""
        self._before = self.bytes.copy()

    def restore(self):
        """Put the remembered bytes back."""
        self.bytes[:] = self._before

    def changed(self):
        """Return how many bytes differ from the remembered ones, of those that must not change."""
        return int(np.count_nonzero((self.bytes != self._before) & ~self._may_change))


def extent(shape, itemsize, strides):
    """Return (bytes before the first element, bytes in all) of the memory that such an array spans."""
    if 0 in shape:
        return 0, 0
    steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    first = -sum(step for step in steps if step < 0)
    return first, first + sum(step for step in steps if step > 0) + itemsize


class Rooms:
    """A store of rooms that are used again: to make a room takes longer than to compute in it."""

    def __init__(self):
        self._free, self._used = {}, []

    def take(self, size):
        """Return a clear room of at least that many bytes."""
        size = 1 << max(12, (size - 1).bit_length())
        rooms = self._free.setdefault(size, [])
        room = rooms.pop() if rooms else Room(size)
        room.clear()
        self._used.append((size, room))
        return room

    def used(self):
        """Return the rooms that were taken and not given back."""
        return [room for _, room in self._used]

    def give_back(self):
        """Give all taken rooms back, to be taken again."""
        for size, room in self._used:
            self._free[size].append(room)
        self._used = []
