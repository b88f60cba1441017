"""Sizes of a training step: the shards of its batch, and the blocks of dweights that an optimiser computes as it needs them.

Python asks for them when a session begins; what a product in them is cut into is in kernels/blocking.py.
"""
from ..._runtime import state
from .. import blocking

# Number of shards that a small network's batch is split into. Splitting takes 0.75 to 1 times as long as threading each pass.
SHARDS = 2

# Least rows of a shard.
SHARD_ROWS = 64

# Parameters for each row of the batch up to which it is split: each shard packs all weights, and has gradients to add up.
SHARD_PARAMETERS = 1024

# Multiply-adds of a block of dweights: some 10 us, which is how long a thread may wait for the last one.
BLOCK_WORK = 1 << 18

# Multiply-adds that take as long as the update of an element of dweights.
UPDATE_WORK = 32

# Columns of dz that take as long to multiply as x to copy.
COPY_COLS = 24

# Rows of tiles of dweights that L2 must have room for, if dweights are to be computed in blocks.
BLOCK_TILES = 4


def shards(batch, parameters):
    """Return the number of shards for a training step's batch: from sizes alone, never from the threads."""
    return max(1, min(SHARDS, batch // SHARD_ROWS)) if parameters <= batch * SHARD_PARAMETERS else 1


def in_blocks(batch, row_bytes):
    """Return whether dweights of a training step are better computed in blocks.

    They are if a block and a batch's dz, with rows of so many bytes, stay in L2.
    """
    return max(batch, BLOCK_TILES * blocking.TALL) * row_bytes <= state.words[state.L2]


def block_rows(dtype, batch, neurons):
    """Return the rows of dweights in a block: whole tiles."""
    height = blocking.tiles(dtype).full.rows
    return max(1, round(BLOCK_WORK / (batch + UPDATE_WORK) / (neurons + COPY_COLS) / height)) * height
