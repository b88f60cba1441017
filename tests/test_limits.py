"""Sizes beyond 32 bits, and too little memory; scripts/check limits goes further."""
import sys
from pathlib import Path

import pytest
from checks import limits

linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it reads /proc, which is not here")


def test_more_rows_than_32_bits_count_bytes_of():
    assert not limits.repeated_row((2**32 >> 4) + 3)


@pytest.mark.skipif(sys.platform == "win32", reason="memory that is only promised is not had by mmap here")
def test_rows_far_apart():
    assert not limits.far_rows()


@linux
def test_without_memory():
    faults, refused, done = limits.scarce(seed=0, tries=20)
    assert not faults
    assert refused and done
