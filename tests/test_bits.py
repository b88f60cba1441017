"""The same bits of steps of all kinds: in other processes, in chunks, from files, and with other load on the machine."""
from checks import bits


def test_steps_of_all_kinds():
    done, faults = bits.check(seed=0, seconds=0, busy=1)
    assert min(done.values()) > 0 and not faults
