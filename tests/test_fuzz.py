"""Calls with random arguments; scripts/check fuzz tries many more, with new seeds."""
import numpy as np
import pytest
from checks import bounds, fuzz, memory, random_arrays

NETWORKS = [kind for kind in fuzz.KINDS if kind != "functions"]

pytestmark = pytest.mark.skipif(not memory.has_walls(), reason="no mprotect here")


def test_random_calls():
    faults, tried = fuzz.run(seed=0, cases=1000, jobs=1, kinds=["functions"])
    assert not faults and tried == {"functions": 1000}


def test_random_networks():
    faults, tried = fuzz.run(seed=0, cases=400, jobs=1, compiled=False, kinds=NETWORKS)
    assert not faults and set(tried) == set(NETWORKS) and tried.total() == 400


@pytest.mark.parametrize("dtype", random_arrays.FLOATS, ids=str)
def test_what_is_beyond_a_bound_is_a_difference(rng, dtype):
    left, right = rng.standard_normal((3, 50)).astype(dtype), rng.standard_normal((50, 4)).astype(dtype)
    left[1, 0], right[0, 3] = np.inf, np.nan
    exact, bound = bounds.product(left, right, None, dtype)
    result = exact.astype(dtype)
    assert not bounds.differences(result, exact, bound).any()
    for i, j, value in ((0, 0, exact[0, 0] + 2 * bound[0, 0]), (0, 1, np.nan), (0, 2, np.inf), (1, 0, -exact[1, 0]),
                        (1, 1, 0.0), (2, 3, 1.0)):
        wrong = result.copy()
        wrong[i, j] = value
        assert np.argwhere(bounds.differences(wrong, exact, bound)).tolist() == [[i, j]]
