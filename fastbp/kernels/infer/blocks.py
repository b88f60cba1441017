"""The sizes of predictions, which stand on top of the table in kernels/blocking.py."""
from ..._compile.compiler import formula
from .. import blocking

# Rows up to which weights are read in place, or as they were kept, in tiles as high as row-edge tiles. The time beside that of
# the layers' own algorithms, on AVX-512: 4 rows of 784-512-256-10 take 0.8, 8 rows 0.9 (kept 1.0), 16 rows 0.9 (kept 1.04);
# 8 and 16 rows of 64-128-10 take 0.9. With more rows, the higher tiles of other algorithms gain more.
FEW_ROWS = 16

# Rows of weights that a tile of few rows asks for ahead of the one it reads. Without it 8 rows of 784-512-256 take a tenth
# longer from micropanels, and a fifth longer in place; 4 or 16 rows ahead are no better.
WEIGHTS_AHEAD = 8

# Rows up to which a skinny layer whose columns are kept takes one dot product after another, without a job.
FEW_DOTTED_ROWS = 4

# The part of L2, one in so many, for what lies between two layers of a block of rows.
BETWEEN_L2_PART = 4

# Rows of a block, if a layer of the network is computed by the unit of its forward pass.
UNIT_ROWS = 4096


@formula
def block_rows(machine, rows, widest):
    """Return the rows of equal blocks that go through a network whose layers have up to `widest` neurons."""
    most = machine.l2 // BETWEEN_L2_PART // (2 * widest * machine.itemsize)
    return min(rows, blocking.even_block(rows, min(blocking.TASK_ROWS, max(blocking.MC, most)), blocking.MC))
