"""Which rows a step takes: the chunks of the data in shares, one for each worker, and the order of the rows of each share.

Of N rows in all, a share of n rows gives to step s of an epoch, in batches of b rows, its rows from s b n // N to
(s + 1) b n // N, in the share's own order, so that every step takes from all shares, by their sizes. That order is one of whole
chunks, with the rows of each in an order of its own, so that a step needs only one or two chunks of each share.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .._memory import shuffled


@dataclass(frozen=True)
class Plan:
    """What the order of rows follows from."""

    chunks: tuple[int, ...]     # rows of each
    shares: tuple[range, ...]   # the chunks of each
    batch: int
    key: int | None             # of the random orders; None: all is taken as it lies

    @cached_property
    def share_rows(self) -> list[int]:
        return [sum(self.chunks[chunk] for chunk in share) for share in self.shares]

    @cached_property
    def rows(self) -> int:
        return sum(self.chunks)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-self.rows // self.batch)

    @property
    def most_rows(self) -> int:
        """That a step takes of one share."""
        return -(-self.batch * max(self.share_rows) // self.rows)

    def span(self, share: int, first: int, end: int) -> tuple[int, int]:
        """(first, end) of the share's rows, in its order, that the steps from first to end take."""
        return tuple(min(step * self.batch, self.rows) * self.share_rows[share] // self.rows for step in (first, end))

    def rows_of(self, step: int) -> int:
        """How many all shares give to a step: the batch, up to one row a share."""
        spans = [self.span(share, step, step + 1) for share in range(len(self.shares))]
        return sum(end - start for start, end in spans)

    def order(self, share: int, epoch: int) -> list[int]:
        """The share's chunks, in the order of an epoch."""
        chunks = [chunk for chunk in self.shares[share] if self.chunks[chunk]]
        return chunks if self.key is None else [chunks[i] for i in shuffled(self._rng(epoch, 0, share), len(chunks))]

    def slices(self, share: int, epoch: int, start: int, end: int) -> Iterator[tuple[int, slice]]:
        """(chunk, which of its rows, in the epoch's order of them) of the share's rows from start to end."""
        order = self.order(share, epoch)
        return ((order[place], taken) for place, taken in parts([self.chunks[chunk] for chunk in order], start, end))

    def pieces(self, share: int, epoch: int, start: int, end: int) -> Iterator[tuple[int, slice | np.ndarray]]:
        """The same, with the rows as they lie in the chunk."""
        for chunk, taken in self.slices(share, epoch, start, end):
            yield chunk, taken if self.key is None else shuffled(self._rng(epoch, 1, chunk), self.chunks[chunk])[taken]

    def _rng(self, *numbers):
        return np.random.default_rng((self.key, *numbers))


def parts(sizes: list[int], start: int, end: int) -> Iterator[tuple[int, slice]]:
    """(which, what of it) of things of these sizes, one after another, that lies from start to end."""
    before = 0
    for which, size in enumerate(sizes):
        first, last = max(start - before, 0), min(end - before, size)
        if first < last:
            yield which, slice(first, last)
        before += size


def shares_of(chunks: tuple[int, ...], count: int) -> tuple[range, ...]:
    """Up to `count` runs of chunks, as equal in rows as whole chunks allow, none of them without rows."""
    ends = np.cumsum(chunks)
    filled = np.flatnonzero(chunks)
    count = min(count, len(filled))
    cuts = [0]
    for share in range(1, count):
        left = filled[filled >= cuts[-1]]
        nearest = int(np.argmin(np.abs(ends[left] - ends[-1] * share / count)))
        cuts.append(int(left[min(nearest, len(left) - 1 - (count - share))]) + 1)
    return tuple(range(a, b) for a, b in zip(cuts, [*cuts[1:], len(chunks)], strict=False))
