"""The sizes of predictions, which stand on top of the table in kernels/blocking.py."""
from ..._compile.compiler import formula
from .. import blocking

# Rows up to which weights are read in place, in tiles as high as the rows are many.
FEW_ROWS = 16

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
