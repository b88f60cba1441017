"""The rows that a step of a training on Dask takes, and the messages that its workers send each other."""
import dask.array as da
import numpy as np
import pytest

import fastbp
import fastbp.dask
from fastbp.dask.allreduce import messages, next_level
from fastbp.dask.plan import Plan, shares_of


@pytest.mark.parametrize("seed", range(200))
def test_each_row_is_taken_once(seed):
    rng = np.random.default_rng(seed)
    chunks = tuple(rng.integers(0, 50, rng.integers(1, 12)).tolist()) + (1,)
    shares, count = shares_of(chunks, count := int(rng.integers(1, 6))), count
    assert [chunk for share in shares for chunk in share] == list(range(len(chunks)))
    assert len(shares) == min(count, np.count_nonzero(chunks))
    plan = Plan(chunks, shares, int(rng.integers(1, sum(chunks) + 1)), int(rng.integers(9)) if rng.integers(2) else None)
    assert min(plan.share_rows) > 0 and plan.steps == -(-sum(chunks) // plan.batch_size)
    taken = {chunk: [] for chunk in range(len(chunks))}
    for step in range(plan.steps):
        rows = 0
        for share in range(len(shares)):
            start, end = plan.span(share, step, step + 1)
            pieces = [(chunk, np.arange(chunks[chunk])[which]) for chunk, which in plan.selections(share, 3, start, end)]
            assert sum(len(which) for _, which in pieces) == end - start <= plan.max_rows
            rows += end - start
            for chunk, which in pieces:
                taken[chunk].extend(which.tolist())
        assert rows == plan.rows_of(step)
        assert abs(rows - plan.batch_size) <= len(shares) or step == plan.steps - 1
    assert all(sorted(rows) == list(range(chunks[chunk])) for chunk, rows in taken.items())


def test_chunks_and_the_rows_of_each_are_in_another_order_each_epoch():
    plan = Plan(chunks=(40, 40, 40), shares=(range(3),), batch_size=10, key=1)

    def epoch_order(epoch):
        return [(chunk, tuple(rows.tolist())) for chunk, rows in plan.selections(0, epoch, 0, 120)]

    epochs = [epoch_order(epoch) for epoch in range(8)]
    assert epochs == [epoch_order(epoch) for epoch in range(8)]
    assert len({tuple(chunk for chunk, _ in order) for order in epochs}) > 1
    assert len({rows for order in epochs for _, rows in order}) == 8 * 3


class Term:
    """A sum, written down as it was formed; (a + b) and (b + a) are the same."""

    def __init__(self, text):
        self.text = text

    def __add__(self, other):
        return Term("".join(["(", *sorted([self.text, other.text]), ")"]))


def tree(first, end, size):
    """Return the sum of the leaves from first up to end, which are the first ones of a tree of `size` leaves."""
    if size == 1:
        return Term(chr(first))
    half = size // 2
    left = tree(first, min(end, first + half), half)
    return left + tree(first + half, end, half) if end > first + half else left


@pytest.mark.parametrize("seed", range(200))
def test_all_workers_get_the_same_sum_from_log_n_messages(seed):
    rng = np.random.default_rng(seed)
    shares = int(rng.integers(1, 40))
    workers = int(rng.integers(1, shares + 1))
    owners = [f"w{n}" for n in rng.integers(0, workers, shares)] if seed % 2 else [f"w{n}" for n in range(shares)]
    levels = (shares - 1).bit_length()
    nodes = {owner: {share: ((1.0,), Term(chr(share))) for share in range(shares) if owners[share] == owner}
             for owner in owners}
    received = dict.fromkeys(owners, 0)
    for level in range(levels):
        before = {owner: dict(mine) for owner, mine in nodes.items()}
        for sender, node, receiver in messages(owners, level):
            assert sender != receiver and node not in nodes[receiver]
            nodes[receiver][node] = before[sender][node]
            received[receiver] += 1
        nodes = {owner: next_level(mine, lambda a, b, node: a + b) for owner, mine in nodes.items()}
    for mine in nodes.values():
        assert mine.keys() == {0}
        assert mine[0][0] == (float(shares),) and mine[0][1].text == tree(0, shares, 1 << levels).text
    if not seed % 2:
        assert max(received.values()) <= levels


def test_no_client():
    x, network = da.zeros((4, 3), dtype=np.float32), fastbp.Sequential([fastbp.Dense(3, 2)], fastbp.SoftmaxCrossEntropy())
    with pytest.raises(ValueError, match="client is None and there is none, expected one as of distributed.Client"):
        fastbp.dask.fit(network, x, da.zeros(4, dtype=int), optimizer=fastbp.Adam(), epochs=1, batch_size=10)
