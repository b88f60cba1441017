"""The order of an epoch's rows: that of NumPy's permutation, which takes the same random numbers."""
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fastbp._training.order import order_of
from fastbp.kernels.train.shuffle import DRAWN

COUNTS = 0, 1, 2, 33, DRAWN, DRAWN + 1, DRAWN + 2, 1023, 1024, 1025, 2048, 3000, 70_001


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_the_order_and_what_is_drawn_next_are_numpys(name):
    ours, numpys = (np.random.Generator(getattr(np.random, name)(5)) for _ in range(2))
    for count in COUNTS:
        assert_array_equal(order_of(ours, count), numpys.permutation(count), f"of {count} rows")
        assert ours.integers(1 << 62) == numpys.integers(1 << 62)


def test_a_class_of_the_users_own_is_asked_by_numpy_alone():
    """Its `ctypes` may say anything: no address from there is called."""
    class Liar(np.random.PCG64):
        ctypes = None

    ours, numpys = (np.random.Generator(bits(5)) for bits in (Liar, np.random.PCG64))
    assert_array_equal(order_of(ours, 3000), numpys.permutation(3000))

    class Reversed(np.random.Generator):
        def shuffle(self, x, axis=0):
            x[:] = x[::-1].copy()

    assert_array_equal(order_of(Reversed(np.random.PCG64(5)), 3000), np.arange(3000)[::-1])
