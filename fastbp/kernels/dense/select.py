"""The choice of an algorithm for each pass of a dense layer, from sizes, strides, dtype and machine alone.

`forward` and `backward` are pure functions. Everything else obeys them: the passes (passes.py) start what they name, and no
kernel asks again. `python -m fastbp plan BATCH INPUTS NEURONS` prints their answer, and the reason beside each name below.
"""
from typing import NamedTuple

from ..._compile.compiler import formula
from .. import blocking
from ..elementwise.activations import RELU
from . import blocks


class Algorithm(NamedTuple):
    """An algorithm, as `plan` prints it."""

    name: str                   # its name
    reason: str                 # why it is chosen


# The numbers by which compiled code knows the algorithms of ALGORITHMS, in its order.
NAIVE, SKINNY, STREAMED, UNPACKED, PACKED, SWAPPED, DOT, NARROW, FUSED, SEPARATE = range(10)

# The algorithms, in the order of their numbers.
ALGORITHMS = (
    Algorithm("naive", f"up to {blocking.NAIVE_WORK} multiply-adds, tiles and jobs take longer than the arithmetic"),
    Algorithm("skinny", f"up to {blocking.SKINNY_NEURONS} neurons would leave a tile empty for the most part, so x is read in "
                        "vectors"),
    Algorithm("streamed", "few rows go over a few rows of B at a time, which are read once, as they lie in memory: packing B "
                          "would take longer"),
    Algorithm("unpacked", "so few rows read B in place in less time than packing it takes"),
    Algorithm("packed", "B is copied into micropanels, which tiles read in one stretch; no other way is faster"),
    Algorithm("swapped", "dz.T of few rows is smaller than weights.T, in whose place it is packed: the product is weights @ "
                         "dz.T"),
    Algorithm("dot", "so few inputs leave a tile empty for the most part, and dot products read rows of weights in place"),
    Algorithm("narrow", f"inputs or neurons are at most {blocks.NARROW}, so dweights are small: blocks of rows stay in the "
                        "caches, and one pass over memory computes all results"),
    Algorithm("fused", "the batch is long and dweights stay in the caches, so one pass over memory computes all results"),
    Algorithm("separate", "the batch is short, or weights outgrow the caches: each result is a product of its own"),
)


class Backward(NamedTuple):
    """The algorithms of a backward pass: of the whole, and of its two products."""

    whole: int                  # NAIVE, NARROW, FUSED or SEPARATE
    dinputs: int                # NAIVE if the whole is; DOT or PACKED; if the whole is SEPARATE, also STREAMED or SWAPPED
    dweights: int               # NAIVE if the whole is, else SKINNY, UNPACKED or PACKED


@formula
def forward(machine, x, weights, activation):
    """Return the algorithm of y = activation(x @ weights + biases): NAIVE, SKINNY, STREAMED or PACKED."""
    # Naive loops compute no other activation than IDENTITY and RELU, which are the numbers 0 and 1.
    if x.rows * x.cols * weights.cols <= blocking.NAIVE_WORK and activation <= RELU:
        return NAIVE
    if is_skinny(machine, x.cols, weights.cols):
        return SKINNY
    return STREAMED if is_streamed(machine, x, weights) else PACKED


@formula
def backward(machine, x, weights, activation):
    """Return the Backward of dinputs, dweights and dbiases."""
    # The tiniest passes come first: they take less than 2 µs, in which the other rules would be seen.
    if x.rows * weights.rows * weights.cols <= blocking.NAIVE_WORK and activation <= RELU:
        return Backward(whole=NAIVE, dinputs=NAIVE, dweights=NAIVE)
    dinputs, dweights = dinputs_product(machine, x.rows, weights), dweights_product(machine, x, weights.cols)
    if is_narrow(machine, x, weights):
        # Few rows are taken as many are: weights are small.
        dinputs, dweights = DOT if dinputs == DOT else PACKED, SKINNY if fills_by_inputs(machine, x, weights) else UNPACKED
        return Backward(whole=NARROW, dinputs=dinputs, dweights=dweights)
    if dweights != SKINNY and is_fused(x.rows, weights.rows * weights.cols * machine.itemsize):
        # A block's dz is packed for dweights in any case: its rows are read once more, while they are in L2.
        return Backward(whole=FUSED, dinputs=dinputs, dweights=PACKED)
    return Backward(whole=SEPARATE, dinputs=dinputs, dweights=dweights)


@formula
def dinputs_product(machine, rows, weights):
    """Return the algorithm of dinputs (rows, K) = dz (rows, N) @ weights.T: DOT, STREAMED, SWAPPED or PACKED."""
    if weights.col_step != machine.itemsize:
        return PACKED
    if is_dotted(machine, weights):
        return DOT
    if weights.rows < machine.sizes.streamed_inputs:
        return PACKED
    if rows > machine.sizes.few_rows:
        return SWAPPED if is_swapped(machine, rows, weights) else PACKED
    is_aliased = weights.row_step % blocking.ALIASED_BYTES == 0 and blocking.has_column_edge(machine, rows)
    return STREAMED if rows < machine.sizes.swapped_rows or is_aliased else SWAPPED


@formula
def dweights_product(machine, x, neurons):
    """Return the algorithm of dweights = x.T @ dz: SKINNY, UNPACKED or PACKED."""
    if x.col_step == machine.itemsize and is_skinny(machine, x.cols, neurons):
        return SKINNY
    return UNPACKED if x.cols <= blocking.UNPACKED_ROWS and neurons >= machine.unpacked_width else PACKED


# ---- the rules


@formula
def is_swapped(machine, rows, weights):
    """Return whether packing dz.T and transposing dinputs.T takes no longer than packing weights.T."""
    return rows <= machine.sizes.swapped_most and rows * (weights.rows + weights.cols) <= weights.rows * weights.cols


@formula
def is_skinny(machine, inputs, neurons):
    """Return whether x of a layer is better read in vectors than number by number.

    Rows have no say: y is summed in an order of its own then.
    """
    return neurons <= blocking.SKINNY_NEURONS and inputs >= blocking.SKINNY_INPUTS * machine.lanes


@formula
def is_dotted(machine, weights):
    """Return whether dinputs are dot products with the rows of weights. Rows have no say, as for is_skinny."""
    is_wide = weights.cols >= blocking.DOT_VECTORS * machine.lanes
    return weights.rows * blocking.DOT_LANES <= machine.lanes and is_wide and weights.col_step == machine.itemsize


@formula
def is_streamed(machine, x, weights):
    """Return whether weights are better read in place, as they lie in memory. Tiles read beyond a row into the next one."""
    if x.rows > machine.sizes.few_rows or weights.rows < machine.sizes.streamed_inputs or weights.cols < machine.width:
        return False
    is_by_rows = weights.col_step == machine.itemsize and weights.row_step >= weights.cols * machine.itemsize
    return is_by_rows and x.col_step == machine.itemsize


@formula
def is_narrow(machine, x, weights):
    """Return whether a layer has so few inputs or neurons that its backward pass needs no copies but of weights.T."""
    inputs, neurons = weights.rows, weights.cols
    if x.rows < blocks.NARROW_ROWS or min(inputs, neurons) > blocks.NARROW or min(inputs, neurons) == 0:
        return False
    is_long_row = inputs * machine.itemsize >= blocks.NARROW_ROW and x.col_step == machine.itemsize
    if is_long_row and is_skinny(machine, inputs, neurons):
        return False
    # By columns, x is read number by number, which fills vectors only along many neurons.
    is_read_well = x.col_step == machine.itemsize or inputs <= neurons
    return is_read_well and inputs * neurons * machine.itemsize <= blocks.NARROW_WEIGHTS


@formula
def fills_by_inputs(machine, x, weights):
    """Return whether dweights take fewer vectors along the inputs than along the neurons, and x can be read so."""
    by_inputs = weights.cols * blocking.blocks(weights.rows, machine.lanes)
    return x.col_step == machine.itemsize and by_inputs < weights.rows * blocking.blocks(weights.cols, machine.lanes)


@formula
def is_fused(rows, weights_bytes):
    """Return whether a backward pass goes over the batch once."""
    return rows >= 4 * blocks.FUSED_PARTITION_ROWS and weights_bytes <= blocks.FUSED_WEIGHTS


@formula
def is_rounded(limit, rows, inputs, neurons):
    """Return whether a pass at the precision bfloat16 rounds its factors; it computes in float32 where that takes less time.

    The work of rounding grows with the elements of x, weights and dz, and what it saves with their product. So the quotient is
    1/rows + 1/inputs + 1/neurons, for any two of a layer's three products. limit: blocking.rounded_limit().
    """
    parts = blocking.ROUNDED_PARTS
    return parts // max(1, rows) + parts // max(1, inputs) + parts // max(1, neurons) <= limit
