"""Scratch memory: no algorithm writes beyond what it asked for, and each gives all of it back, whatever becomes of the call."""
import ctypes
import json

import pytest
from checks import child

import scratch


@pytest.fixture(scope="module")
def found():
    """What scratch.py found, in a process whose compiled code has another allocator."""
    status, output, errors = child.run("import scratch; scratch.main()")
    assert status == 0, errors
    return json.loads(output)


def test_scratch_memory_is_enough_and_is_given_back(found):
    """By several threads, with memory and without, and of calls that are refused."""
    assert not found["faults"], json.dumps(found["faults"], indent=1)


def test_every_unit_and_every_thread_took_part(found):
    """But for the units of a profile, which take no scratch memory."""
    assert set(found["unbound"]) <= {"clock", "record"}
    assert found["workers"] == list(range(found["threads"]))


def test_the_canaries_tell():
    allocator = scratch.Allocator()
    for offset in (-1, 100, 100 + scratch.ALIGNMENT, 2 * 100):
        address = allocator.allocate(100 + scratch.ALIGNMENT)
        ctypes.memset(address, 0, 100)
        assert address % scratch.ALIGNMENT == 0 and not allocator.faults
        ctypes.memset(address + offset, 0, 1)
        allocator.free(address)
        assert len(allocator.end()) == 1
    address = allocator.allocate(100 + scratch.ALIGNMENT)
    assert allocator.end() == ["100 bytes were not given back"]
    allocator.free(address)
    assert allocator.end() == ["memory was given back that was not taken"]
