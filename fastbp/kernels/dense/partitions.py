"""The partitions of a batch in a fused or narrow backward pass: they follow from its size alone, never from the threads."""
from typing import NamedTuple

from ..._compile.compiler import formula
from .. import blocking
from . import blocks


class Partitions(NamedTuple):
    """The partitions of a batch."""

    count: int                  # how many partitions
    rows: int                   # rows of each but the last


@formula
def _even(rows, least, multiple):
    """Return Partitions of equal rows, a multiple: `least` or more, if the batch has as many."""
    count = max(1, min(blocks.PARTITIONS, rows // least))
    each = blocking.round_up(blocking.blocks(rows, count), multiple)
    return Partitions(count=blocking.blocks(rows, each), rows=each)


@formula
def fused(rows):
    """Return the Partitions of a fused backward pass over so many rows."""
    return _even(rows, blocks.FUSED_PARTITION_ROWS, blocks.FUSED_ROWS)


@formula
def narrow(rows):
    """Return the Partitions of a narrow layer's backward pass over so many rows."""
    return _even(rows, blocks.NARROW_PARTITION_ROWS, blocks.NARROW_UNIT)
