"""Rounding errors of long sums beside NumPy's; scripts/check accuracy prints tables of them."""
import numpy as np
import pytest
from checks import accuracy


@pytest.mark.parametrize("rows, layer", [(300, (300, 200)), (1000, (300, 200)), (5000, (8, 6))])
@pytest.mark.parametrize("kind", accuracy.KINDS)
def test_errors_are_no_larger_than_numpys(rng, dtype, rows, layer, kind):
    for name, ours, numpys in accuracy.compare(rng, rows, layer, kind, dtype):
        assert not accuracy.is_worse(ours, numpys), f"{name}: {ours}, NumPy {numpys}"


def test_sums_over_millions_of_rows_stay_useful(rng):
    for name, ours, numpys in accuracy.compare(rng, 2_000_000, (3, 2), "far from 0", np.dtype(np.float32)):
        assert ours[1] < 8, f"{name}: {ours}, NumPy {numpys}"
