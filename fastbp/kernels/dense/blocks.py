"""The sizes of the fused and of the narrow backward pass, which stand on top of the table in kernels/blocking.py.

They order the terms of sums, or choose between passes with different bits: so they are the same on every CPU.
"""

# ---- the partitions of a batch

# Partitions of the batch at most, each with dweights of its own.
PARTITIONS = 16

# Least rows of a partition of a fused pass, so that adding the partitions up at the end costs under 2 %.
FUSED_PARTITION_ROWS = 1024

# Least rows of a partition of a narrow pass, so that adding the partitions up at the end costs under 2 %.
NARROW_PARTITION_ROWS = 64

# ---- the fused backward pass

# Rows of a block: enough to amortise going over all dweights.
FUSED_ROWS = 192

# Bytes of dweights at most: they and weights.T stay in L3.
FUSED_WEIGHTS = 2 << 20

# ---- the backward pass of a narrow layer

# Inputs or neurons, whichever are fewer, up to which a layer is narrow: 2048 x 13 -> 512 takes half of the time.
NARROW = 32

# Rows from which on the backward pass of a narrow layer pays: 40 x 784 -> 10 takes half of the time.
NARROW_ROWS = 33

# Bytes of a narrow layer's dweights at most: a partition's stay in L2.
NARROW_WEIGHTS = 256 << 10

# Bytes of a row of x from which on a skinny layer is not narrow: separate products take 0.75 to 0.95 of the time for 6 000 to
# 30 000 rows, 256 to 784 inputs and 1 to 4 neurons on an AMX Xeon, and 0.75 for 2048 x 256 -> 1.
NARROW_ROW = 1024

# A multiple of the rows of all tiles, which the rows of a block are a multiple of.
NARROW_UNIT = 24

# Bytes of a block's dz: it stays in L2, and has enough rows to amortise reading and writing dweights.
NARROW_DZ = 96 << 10
