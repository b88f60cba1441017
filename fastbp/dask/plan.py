"""The plan of a training: which rows each step takes.

The chunks of the data are dealt out in shares, one for each worker. A share is a run of whole chunks; the sizes of shares
differ where whole chunks cannot be dealt out evenly. Of N rows in all, a share of n rows gives to step s of an epoch, in
batches of b rows, its rows from s b n // N up to (s + 1) b n // N. So every step takes from each share in proportion to the
share's size.

Each share has its own order of rows in each epoch: its chunks one after another in a random order, and the rows of each chunk
in a random order. So a step needs only one or two chunks of each share.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .._arrays.memory import shuffled


@dataclass(frozen=True)
class Plan:
    """The numbers from which the order of rows follows.

    chunks: the number of rows of each chunk.
    shares: the numbers of the chunks of each share.
    batch_size: the rows of a step.
    key: the seed of the random orders; None if all rows are taken as they lie.
    """

    chunks: tuple[int, ...]
    shares: tuple[range, ...]
    batch_size: int
    key: int | None

    @cached_property
    def share_rows(self) -> list[int]:
        """The number of rows of each share."""
        return [sum(self.chunks[chunk] for chunk in share) for share in self.shares]

    @cached_property
    def rows(self) -> int:
        """The number of all rows."""
        return sum(self.chunks)

    @property
    def steps(self) -> int:
        """The number of steps of an epoch."""
        return -(-self.rows // self.batch_size)

    @property
    def max_rows(self) -> int:
        """The largest number of rows that a step takes from one share."""
        return -(-self.batch_size * max(self.share_rows) // self.rows)

    def span(self, share: int, first: int, end: int) -> tuple[int, int]:
        """Return (start, end) of the positions in a share's order that the steps from `first` up to `end` take."""
        return tuple(min(step * self.batch_size, self.rows) * self.share_rows[share] // self.rows for step in (first, end))

    def rows_of(self, step: int) -> int:
        """Return the number of rows that all shares give to a step: the batch size, up to one row more or less a share."""
        spans = [self.span(share, step, step + 1) for share in range(len(self.shares))]
        return sum(end - start for start, end in spans)

    def chunk_order(self, share: int, epoch: int) -> list[int]:
        """Return the numbers of a share's chunks that have rows, in the order of an epoch."""
        chunks = [chunk for chunk in self.shares[share] if self.chunks[chunk]]
        return chunks if self.key is None else [chunks[i] for i in shuffled(self._rng(epoch, 0, share), len(chunks))]

    def slices(self, share: int, epoch: int, start: int, end: int) -> Iterator[tuple[int, slice]]:
        """Yield (chunk, slice) for the positions from start up to end in a share's order.

        A slice counts the chunk's rows in the order in which they are taken.
        """
        order = self.chunk_order(share, epoch)
        return ((order[place], piece) for place, piece in split([self.chunks[chunk] for chunk in order], start, end))

    def selections(self, share: int, epoch: int, start: int, end: int) -> Iterator[tuple[int, slice | np.ndarray]]:
        """Yield (chunk, rows) like `slices`, where rows, a slice or an array of indices, count as the rows lie in the chunk."""
        for chunk, piece in self.slices(share, epoch, start, end):
            yield chunk, piece if self.key is None else shuffled(self._rng(epoch, 1, chunk), self.chunks[chunk])[piece]

    def _rng(self, *numbers):
        return np.random.default_rng((self.key, *numbers))


def split(sizes: list[int], start: int, end: int) -> Iterator[tuple[int, slice]]:
    """Yield (number, slice) for sequences of these sizes, laid end to end: which slice of which lies from start up to end."""
    offset = 0
    for number, size in enumerate(sizes):
        first, last = max(start - offset, 0), min(end - offset, size)
        if first < last:
            yield number, slice(first, last)
        offset += size


def shares_of(chunks: tuple[int, ...], count: int) -> tuple[range, ...]:
    """Return up to `count` runs of chunks, as equal in rows as whole chunks allow. Each of them has rows.

    chunks: the number of rows of each.
    """
    ends = np.cumsum(chunks)
    filled = np.flatnonzero(chunks)
    count = min(count, len(filled))
    cuts = [0]
    for share in range(1, count):
        left = filled[filled >= cuts[-1]]
        nearest = int(np.argmin(np.abs(ends[left] - ends[-1] * share / count)))
        cuts.append(int(left[min(nearest, len(left) - 1 - (count - share))]) + 1)
    return tuple(range(start, end) for start, end in zip(cuts, [*cuts[1:], len(chunks)], strict=False))
