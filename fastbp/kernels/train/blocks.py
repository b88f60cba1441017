"""Sizes of a training step: the shards of its batch, and the blocks of dweights that an optimiser computes as it needs them.

Python asks for them when a session begins; what a product in them is cut into is in kernels/blocking.py.
"""
from itertools import pairwise

from ..._compile.compiler import formula
from ..._runtime import state
from .. import blocking

# Number of shards that a small network's batch is split into. Splitting takes 0.75 to 1 times as long as threading each pass.
SHARDS = 2

# Least rows of a shard.
SHARD_ROWS = 64

# Parameters for each row of the batch up to which it is split: each shard packs all weights, and has gradients to add up.
SHARD_PARAMETERS = 1024

# Inputs and neurons of a layer up to which a network may be transposed: a sum of as many terms is one chain.
TRANSPOSED_WIDTH = blocking.CHAIN

# Parameters up to which a network may be transposed. 64-128-128-10 takes 0.8 of the time at batches of 32 and 64, and the same
# at 200; with more parameters packing pays.
TRANSPOSED_PARAMETERS = 1 << 15

# Parameters for each row of the batch up to which it is transposed, as few rows leave a vector empty for the most part. At one
# row 24-8-2 takes 0.4 of the time, 8-64-64-4 takes 1.1; at 8 rows 0.9.
TRANSPOSED_ROW_PARAMETERS = 1024

# Rows of a transposed shard, or a multiple: whole vectors of any type.
TRANSPOSED_SHARD_ROWS = 16

# Bytes of a chunk's inputs and outputs of all layers, which stay in L2. Between 24 and 384 KiB nothing depends on it but 5 %.
CHUNK_BYTES = 192 << 10

# Least and most rows of a chunk, multiples of a full tile's columns. A sum over a chunk's rows is one chain.
CHUNK_ROWS = 64, blocking.CHAIN

# Multiply-adds of a forward pass that are worth a shard of a transposed batch.
TRANSPOSED_SHARD_WORK = 1 << 17

# Multiply-adds of a block of dweights: some 10 us, which is how long a thread may wait for the last one.
BLOCK_WORK = 1 << 18

# Multiply-adds that take as long as the update of an element of dweights.
UPDATE_WORK = 32

# Columns of dz that take as long to multiply as x to copy.
COPY_COLS = 24

# Rows of tiles of dweights that L2 must have room for, if dweights are to be computed in blocks.
BLOCK_TILES = 4


def chunk_rows(itemsize, batch, widths):
    """Return the rows of a chunk of a transposed batch; 0 if the batch is not to be transposed (transposed.py).

    widths: the inputs of a network of dense layers, and the neurons of each layer.
    """
    parameters = sum(inputs * neurons for inputs, neurons in pairwise(widths))
    most_parameters = min(TRANSPOSED_PARAMETERS, batch * TRANSPOSED_ROW_PARAMETERS)
    if max(widths) > TRANSPOSED_WIDTH or not 0 < parameters <= most_parameters:
        return 0
    least, most = CHUNK_ROWS
    return max(least, min(most, CHUNK_BYTES // (itemsize * sum(widths)) // least * least))


def shards(batch, parameters, is_transposed=False):
    """Return the number of shards for a training step's batch: from sizes alone, never from the threads."""
    most = max(1, min(SHARDS, batch // SHARD_ROWS)) if parameters <= batch * SHARD_PARAMETERS else 1
    return max(1, min(most, batch * parameters // TRANSPOSED_SHARD_WORK)) if is_transposed else most


@formula
def shard_rows(rows, shards, is_transposed):
    """Return the rows of each of up to `shards` shards of a batch of so many rows; the last one may have fewer."""
    return blocking.round_up(blocking.blocks(rows, shards), TRANSPOSED_SHARD_ROWS if is_transposed else 1)


def in_blocks(batch, row_bytes):
    """Return whether dweights of a training step are better computed in blocks.

    They are if a block and a batch's dz, with rows of so many bytes, stay in L2.
    """
    return max(batch, BLOCK_TILES * blocking.TALL) * row_bytes <= state.words[state.L2]


def block_rows(dtype, batch, neurons):
    """Return the rows of dweights in a block: whole tiles."""
    height = blocking.tiles(dtype).full.rows
    return max(1, round(BLOCK_WORK / (batch + UPDATE_WORK) / (neurons + COPY_COLS) / height)) * height
