"""Thousands of steps leave memory, threads and open files as they were; scripts/check endurance takes a million."""
from pathlib import Path

import pytest
from checks import child


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it reads /proc, which is not here")
def test_nothing_grows():
    status, output, errors = child.run("import sys; from checks import endurance; sys.exit(endurance.main(sys.argv[1:]))",
                                       "--small", 20_000, "--large", 200, "--seed", 0)
    assert status == 0, output + errors
