"""No byte outside an array is touched; scripts/check walls does this for every shape."""
import numpy as np
import pytest
from checks import memory, walls

pytestmark = pytest.mark.skipif(not memory.has_walls(), reason="no mprotect here")


def test_nothing_is_touched_outside_the_arrays(dtype):
    faults, checked = walls.run("some", [dtype.name])
    assert not faults and checked == 2 * len(list(walls.SHAPES["some"](dtype)))


def test_a_wall_kills_who_touches_it():
    for at_end, index in ((1, 4), (0, -1)):
        code = f"""
import ctypes, numpy as np
from checks.memory import Room
array = Room(100).array((4,), np.dtype(np.float64), (8,), bool({at_end}))
array[:] = 1
ctypes.c_double.from_address(array.ctypes.data + 8 * {index}).value
"""
        status, _, errors = walls.child.run(code)
        assert status not in (0, 1, None), errors


def test_canaries_tell_what_was_written():
    room = memory.Rooms().take(100)
    array = room.array((3, 2), np.dtype(np.float32), (-16, 4), gap=5)
    array[...] = 0
    room.let_change(array[1])
    room.remember()
    array[1] = 1
    assert room.changed() == 0
    array[2, 1] = 1
    room.bytes[-1] = 0
    assert room.changed() == 2 + 1                              # two bytes of 1.0 are not 0
