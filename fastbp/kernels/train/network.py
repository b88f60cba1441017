"""A network in memory, as training steps find it: records that the caller writes and keeps alive."""
from typing import NamedTuple

from ..schedule.records import layout


class Layer(NamedTuple):
    """A dense layer, or a dropout of the layer before. Fields that a kind of layer does not need are 0."""

    inputs: int                 # inputs of the layer: K
    neurons: int                # neurons of the layer, or a dropout's outputs: N
    activation: int             # its number in activations.py
    forward: int                # the address of its unit of the forward pass
    backward: int               # the address of its unit of the backward pass; with a problem, of dinputs.backward_inputs
    weights: int                # the address of weights (inputs, neurons)
    biases: int                 # the address of biases (1, neurons); 0: there are none
    dweights: int               # the address of dweights (inputs, neurons) of the first shard
    dbiases: int                # the address of dbiases (1, neurons) of the first shard
    y: int                      # the address of a batch's outputs (rows, neurons)
    saved: int                  # the address of gelu's derivatives (rows, neurons); 0: not needed
    dvalues: int                # the address of the gradient with respect to y (rows, neurons); y's where y is not needed then
    least: int                  # rate * 2**63 of a dropout (dropout.py); -1: a dense layer
    factor: float               # 1 / (1 - rate) of a dropout
    dz: int                     # the address of a batch's dz in micropanels, where dweights are computed in blocks; else 0
    problem: int                # the address of room for the GemmProblem of dweights that are computed in blocks (dweights.py)
    block_rows: int             # rows of a block of these dweights


# The bytes of a Layer.
LAYER_BYTES = layout(Layer).itemsize


class Training(NamedTuple):
    """A network, its data, its optimiser, and how far it is: addresses, and sizes in elements."""

    layers: int                 # the address of the Layer records
    count: int                  # layers
    first: int                  # the number of the first layer with parameters: its inputs need no gradient
    upper: int                  # a call does the backward pass of the layers upper - 1 … lower; with upper == count also all
    lower: int                  # that comes before that pass, and with lower == 0 what comes after it (run.py)
    inputs: int                 # inputs of the network
    work: int                   # multiply-adds of a forward pass of a row
    rows: int                   # rows of the data
    batch: int                  # the most rows of a batch
    x: int                      # the address of the data (rows, inputs)
    x_row: int                  # bytes from one row of x to the next
    order: int                  # the address of the rows' 64-bit numbers in the order to take them; 0: as they are
    gathered: int               # the address of room for a batch of x (batch, inputs)
    targets: int                # the address of targets, as losses.py takes them
    targets_row: int            # bytes of a row of targets; 0: they are labels
    targets_bytes: int          # bytes from one row of targets, or label, to the next
    targets_order: int          # the order of targets and weights, as `order` is that of x
    gathered_targets: int       # the address of room for a batch of targets
    weights: int                # the address of the rows' weights, float64; 0: all are 1
    gathered_weights: int       # the address of room for a batch of weights
    loss: int                   # the kind of loss in losses.py
    least: float                # the least loss of an element
    most: float                 # the largest loss of an element
    gradient_factor: float      # the factor of a row's gradient, beside the row's weight
    loss_factor: float          # the factor of a row's loss, beside the row's weight
    l2: float                   # the factor of the penalty l2 / 2 * Σ w² of all weights
    shared: int                 # 1: l2 is divided by the weight of a batch's rows
    shard: int                  # the address of the unit that does a shard: that of shard.py, or of transposed.py
    shards: int                 # the most shards of a batch (train/blocks.py)
    chunk_rows: int             # rows of a shard that are taken through all layers at a time, transposed; 0: all, as they are
    distance: int               # bytes from a shard's gradients to the next one's
    statuses: int               # the address of room for each shard's status, int64
    sums: int                   # the address of room for the Sums of losses.py of each shard
    update: int                 # the address of the optimiser's Update; 0: only the gradients are wanted
    results: int                # the address of the Results
    progress: int               # the address of the Progress
    check: int                  # 1: stop at a loss that is not finite; the Update says whether to check the step


class Results(NamedTuple):
    """The sums of an epoch so far, over its rows."""

    losses: float               # the mean loss of each batch, penalty included, times its rows
    weights: float              # the rows' weights
    right: float                # how many rows or elements are right


class Progress(NamedTuple):
    """The state of a training between two steps."""

    row: int                    # the number of the next row of the epoch
    key: int                    # the key of the next step's first dropout
    batch_loss: float           # the last batch's loss without the penalty
