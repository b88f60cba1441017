"""The records of a network that predicts, and copies of its arrays as its algorithms read them."""
from typing import NamedTuple

from numba import types

from ..._compile import link
from ..._compile.compiler import formula, kernel
from .. import blocking
from ..dense import select
from ..gemm import packing
from ..matrix import NO_MATRIX, Matrix, from_col, transpose_of
from ..schedule.arena import ALIGNMENT, acquire, release
from ..schedule.atomic import load
from ..schedule.queue import REGION_BYTES, run
from ..schedule.records import layout, read


class DenseLayer(NamedTuple):
    """A dense layer of a network, in memory."""

    forward: int                # the address of the unit of its forward pass
    rounded: int                # 1: factors are rounded to bfloat16; only `forward` does that
    inputs: int                 # K
    neurons: int                # N
    weights: int                # the address of weights (K, N)
    weights_row_step: int       # bytes from one row of weights to the next
    weights_col_step: int       # bytes from one column of weights to the next
    biases: int                 # the address of biases (N,), or 0
    biases_step: int            # bytes from one of these to the next
    activation: int
    kept: int                   # the address of what `keep` made of the layer, or 0


class Network(NamedTuple):
    """A network for predictions, in memory."""

    layers: int                 # the address of a DenseLayer for each dense layer
    count: int                  # how many
    kind: int                   # SOFTMAX or BINARY of train/losses.py, if the results are probabilities
    probabilities: int          # the address of the unit `loss` there; 0: the results are the scores


class Marks(NamedTuple):
    """The beginning of a table of Marks, which follow it in memory."""

    count: int                  # how many


class Mark(NamedTuple):
    """A word of memory that changes if an array is changed but for its numbers (_arrays/memory.py)."""

    address: int
    word: int


# The bytes of a Marks and of a Mark.
MARKS_BYTES, MARK_BYTES = layout(Marks).itemsize, layout(Mark).itemsize

# The bytes of a DenseLayer.
LAYER_BYTES = layout(DenseLayer).itemsize


@kernel
def weights_of(layer):
    """Return the Matrix of a layer's weights."""
    return Matrix(data=layer.weights, rows=layer.inputs, cols=layer.neurons, row_step=layer.weights_row_step,
                  col_step=layer.weights_col_step)


@kernel
def biases_of(layer):
    """Return the Matrix of a layer's biases, a row; or NO_MATRIX."""
    if layer.biases == 0:
        return NO_MATRIX
    return Matrix(data=layer.biases, rows=1, cols=layer.neurons, row_step=layer.neurons * layer.biases_step,
                  col_step=layer.biases_step)


@kernel
def have_changed(marks):
    """Return whether a word of the Marks at an address is another now."""
    for i in range(read(marks, Marks).count):
        mark = read(marks + MARKS_BYTES + i * MARK_BYTES, Mark)
        if load(mark.address) != mark.word:
            return True
    return False


# ---- copies


class Copies(NamedTuple):
    """Addresses of the copies of a layer's arrays that its algorithm reads."""

    weights: int                # micropanels for PACKED; for SKINNY the columns of weights, each a contiguous row
    biases: int                 # the biases, filled up to whole tiles
    end: int                    # the first byte behind all this


@formula
def copied_bytes(machine, inputs, neurons, algorithm):
    """Return the bytes of a layer's copies for PACKED or SKINNY: of weights, and of biases behind them."""
    if algorithm == select.SKINNY:
        weights = blocking.round_up(neurons * packing.row_bytes(machine, inputs), ALIGNMENT)
    else:
        weights = packing.packed_bytes(machine, inputs, neurons)
    return weights + blocking.round_up(packing.row_bytes(machine, neurons), ALIGNMENT)


@formula
def kept_algorithm(machine, inputs, neurons):
    """Return the algorithm whose copies `keep` makes: SKINNY or PACKED."""
    return select.SKINNY if select.is_skinny(machine, inputs, neurons) else select.PACKED


@kernel
def is_kept(machine, layer, algorithm):
    """Return whether `keep` has made the copies of a layer that an algorithm reads."""
    return layer.kept != 0 and kept_algorithm(machine, layer.inputs, layer.neurons) == algorithm


@kernel
def copies_at(memory, machine, layer, algorithm):
    """Return the Copies of a layer for PACKED or SKINNY in memory of copied_bytes."""
    end = memory + copied_bytes(machine, layer.inputs, layer.neurons, algorithm)
    biases = end - blocking.round_up(packing.row_bytes(machine, layer.neurons), ALIGNMENT)
    return Copies(weights=memory, biases=biases if layer.biases != 0 else 0, end=end)


def copier(dtype):
    """Return the kernel that makes a layer's copies."""
    tiles, machine, pack = blocking.tiles(dtype), blocking.machine(dtype), packing.pack[dtype].address

    @kernel
    def make_copies(layer, algorithm, memory, queue, threads):
        """Make the Copies of a layer for PACKED or SKINNY in memory of copied_bytes, and return them."""
        copies, weights = copies_at(memory, machine, layer, algorithm), weights_of(layer)
        if algorithm == select.SKINNY:
            for j in range(layer.neurons):
                column = copies.weights + j * packing.row_bytes(machine, layer.inputs)
                packing.copy_row(tiles, transpose_of(from_col(weights, j)), column)
        else:
            run(pack(), packing.pack_job(machine, weights, copies.weights), queue, threads)
        packing.copy_bias(tiles, biases_of(layer), copies.biases)
        return copies

    return make_copies


def _build_keep(dtype):
    machine, make_copies = blocking.machine(dtype), copier(dtype)

    def keep(layer_address, memory):
        """Make the copies of a DenseLayer that never changes, in memory of copied_bytes for kept_algorithm."""
        layer = read(layer_address, DenseLayer)
        queue, slot = acquire(REGION_BYTES)
        if queue == 0:
            return link.NO_MEMORY
        make_copies(layer, kept_algorithm(machine, layer.inputs, layer.neurons), memory, queue, 1)
        release(slot)
        return link.OK

    return keep


keep = link.units("keep", types.intp(types.intp, types.intp), _build_keep)
