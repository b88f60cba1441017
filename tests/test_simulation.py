"""The simulated steps of scripts/cluster, beside numbers that can be worked out by hand."""
import pytest
from measure.simulation import Cost, step

MESSAGE, BYTE, LATENCY, BANDWIDTH = 1e-3, 1e-9, 5e-5, 1e9
COST = Cost(MESSAGE, BYTE, LATENCY, BANDWIDTH, spread=0.0)
SIZE = 2_000_000
LEVEL = SIZE / BANDWIDTH + LATENCY + MESSAGE + BYTE * SIZE


def test_one_worker_sends_nothing():
    assert step(1, 0.1, [(SIZE, 1.0)], COST) == pytest.approx(0.1)


@pytest.mark.parametrize("count, levels", [(2, 1), (8, 3), (64, 6)])
def test_workers_that_are_as_fast_as_each_other(count, levels):
    assert step(count, 0.1, [(SIZE, 1.0)], COST) == pytest.approx(0.1 + levels * LEVEL)


def test_what_is_sent_early_costs_only_the_time_of_its_thread():
    pieces = [(SIZE // 2, 0.5), (SIZE // 2, 1.0)]
    half = MESSAGE + BYTE * SIZE / 2
    assert step(2, 0.1, pieces, COST) == pytest.approx(0.1 + 2 * half + SIZE / 2 / BANDWIDTH + LATENCY)


def test_the_slowest_worker_is_waited_for():
    steps = [step(count, 0.1, [(SIZE, 1.0)], COST._replace(spread=0.1)) for count in (1, 8, 64)]
    assert steps[1] - steps[0] > 2 * LEVEL and steps[2] - steps[1] > 3 * LEVEL
