"""A network in memory, as training steps find it: records that the caller writes and keeps alive."""
from typing import NamedTuple


class Layer(NamedTuple):
    """A dense layer, or a dropout of the layer before: addresses, 0 where there is none."""

    inputs: int
    neurons: int
    activation: int
    forward: int                # its units
    backward: int               # dense.backward; where there is a product, dinputs.backward_inputs
    weights: int
    biases: int
    dweights: int
    dbiases: int
    y: int                      # of a batch
    slope: int
    dvalues: int                # the gradient with respect to y; y itself where that is no longer needed then
    least: int                  # of a dropout (dropout.py), else -1
    factor: int
    dz: int                     # of a batch, in panels, where dweights are not kept, but computed in blocks
    product: int                # room for the Product of these (dweights.py),
    row_block: int              # and of so many rows


LAYER_BYTES = 8 * len(Layer._fields)


class Training(NamedTuple):
    """A network, its data, its optimiser, and how far it is: addresses, and sizes in elements."""

    layers: int                 # addresses of so many Layer
    count: int
    first: int                  # the first layer whose inputs need no gradient
    upper: int                  # a call does these layers' backward, from upper - 1 down to lower; with upper == count also
    lower: int                  # all that is before it, and with lower == 0 what follows (training.py)
    inputs: int
    work: int                   # multiply-adds of a forward pass of a row
    rows: int
    batch: int
    x: int
    x_row: int                  # in bytes
    order: int                  # the rows in the order to take them, 64-bit integers; 0: as they are
    gathered: int               # room for a batch of them
    targets: int                # as losses.py takes them
    targets_row: int
    targets_bytes: int          # of a row
    targets_order: int
    gathered_targets: int
    weights: int                # of the rows, float64; 0: all are 1
    gathered_weights: int
    loss: int
    loss_numbers: int           # as losses.py takes them; the first is overwritten
    gradient_factor: int        # float64: the gradient of a row of the loss, without its weight
    loss_factor: int            # float64: a row's part in the loss
    penalty: int                # float64: l2, and whether it is shared out among the rows of a batch (1) or not (0)
    shards: int                 # of a batch, at most (blocking.shards)
    distance: int               # bytes from one's gradients to the next one's
    statuses: int               # room for an integer for each
    sums: int                   # room for those of losses.py, of each
    update: int                 # the optimiser's Update; 0: only the gradients are wanted
    results: int                # float64: sums of the rows' losses, penalty included, of their weights, and of what is right;
                                # and the last batch's loss without the penalty
    progress: int               # the next row, and the key of the next dropout
    check: int                  # whether to stop at a loss that is not finite; of the step the Update says it
