"""Every shape around the register tile and on both sides of every blocking size, with nothing written out of place.

Each result lies in the middle of a larger frame: NaN where the result belongs, canaries around it and behind the end of each
row. Operands lie in frames of NaN, so that an element read from outside would show in the result.
"""
import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastbp
import oracle
from fastbp._runtime import cpu
from fastbp.kernels import blocking
from fastbp.kernels.dense import blocks
from fastbp.kernels.sizes import PRESENT

CANARY = 12345.0

HERE = PRESENT.sizes


def framed(shape, dtype, inside=np.nan, around=CANARY):
    """(frame, view of its middle): one row above and below, one column to the left and two to the right."""
    frame = np.full((*shape[:-2], shape[-2] + 2, shape[-1] + 3), around, dtype)
    view = frame[..., 1:-1, 1:-2]
    view[...] = inside
    return frame, view


def assert_equal(frame, expected, *shape):
    if not np.array_equal(frame, expected):                 # a tenth of the time of the line below
        assert_array_equal(frame, expected, f"at the shape {shape}")


def hedged(array):
    """The same numbers in a frame of NaN."""
    return framed(array.shape, array.dtype, array, np.nan)[1]


def check(rng, batch, n_inputs, n_neurons, dtype):
    """All four functions of one shape against the oracle."""
    for name in ("dense_forward", "dense_relu_forward", "dense_backward", "dense_relu_backward"):
        arguments = oracle.operands(rng, name, batch, n_inputs, n_neurons, dtype)
        expected = oracle.expected(name, arguments)
        frames, views = zip(*(framed(e.shape, dtype) for e in expected), strict=True)
        hedges = {argument: hedged(array) for argument, array in arguments.items()}
        getattr(fastbp, name)(**hedges, out=views if len(views) > 1 else views[0])
        for frame, values in zip(frames, expected, strict=True):
            assert_equal(frame, framed(values.shape, dtype, values)[0], name, batch, n_inputs, n_neurons)


class Corner:
    """Operands of the largest shape, and the results of every smaller shape as corners of theirs.

    An element of a product depends on nothing but its row and its column: so y of the first rows, depths and columns is
    the corner of a partial sum over the depth. Results for all batch sizes lie in one frame, and are compared at once.
    """

    def __init__(self, rng, batch, width, dtype):
        self.dtype, self.width, self.batches = dtype, width, range(batch + 1)
        self.x, self.w, self.b, self.dvalues, self.z = (
            oracle.integers(rng, shape, dtype)
            for shape in ((batch, width), (width, width), (1, width), (batch, width), (batch, width)))
        self.dz = oracle.relu_backward(self.dvalues, self.z).astype(dtype)
        self.rows = np.concatenate([np.arange(n) for n in self.batches])    # of the operands, for each row of results
        self.first = np.cumsum([0, *self.batches])                          # row of results of each batch size
        self.inside = 1 + self.rows + np.repeat(self.first[:-1] + np.arange(batch + 1), self.batches)   # the same, framed
        self.forward = self.partial_sums(self.x, self.w)
        self.dinputs = {False: self.partial_sums(self.dvalues, self.w.T), True: self.partial_sums(self.dz, self.w.T)}
        self.dweights = {False: self.partial_sums(self.x.T, self.dvalues), True: self.partial_sums(self.x.T, self.dz)}
        ones = np.ones((1, batch))
        self.dbiases = {False: self.partial_sums(ones, self.dvalues), True: self.partial_sums(ones, self.dz)}

    def partial_sums(self, left, right):
        """left[:, :n] @ right[:n] for every n from 0 to the depth."""
        return np.stack([left[:, :n] @ right[:n] for n in range(left.shape[1] + 1)]).astype(self.dtype)

    def frame(self, columns, values=np.nan):
        """A frame for the rows of all batch sizes, one row of canaries between two of them."""
        frame = np.full((self.first[-1] + len(self.batches) + 1, columns + 3), CANARY, self.dtype)
        frame[self.inside, 1:-2] = values
        return frame

    def views(self, frame):
        return [frame[1 + self.first[n] + n:1 + self.first[n] + 2 * n, 1:-2] for n in self.batches]

    def check_forward(self, relu, n_inputs, n_neurons):
        function = fastbp.dense_relu_forward if relu else fastbp.dense_forward
        x, w, b = map(hedged, (self.x[:, :n_inputs], self.w[:n_inputs, :n_neurons], self.b[:, :n_neurons]))
        z = self.forward[n_inputs][self.rows, :n_neurons] + self.b[:, :n_neurons]
        frame = self.frame(n_neurons)
        for n, y in zip(self.batches, self.views(frame), strict=True):
            function(x[:n], w, b, out=y)
        assert_equal(frame, self.frame(n_neurons, oracle.relu_forward(z) if relu else z), n_inputs, n_neurons)

    def check_backward(self, relu, n_inputs, n_neurons):
        x, w = hedged(self.x[:, :n_inputs]), hedged(self.w[:n_inputs, :n_neurons])
        dvalues, z = hedged(self.dvalues[:, :n_neurons]), hedged(self.z[:, :n_neurons])
        dinputs = self.frame(n_inputs)
        dweights, inner = framed((len(self.batches), n_inputs, n_neurons), self.dtype)
        dbiases, sums = framed((len(self.batches), 1, n_neurons), self.dtype)
        for n, dx in zip(self.batches, self.views(dinputs), strict=True):
            out = dx, inner[n], sums[n]
            if relu:
                fastbp.dense_relu_backward(dvalues[:n], z[:n], x[:n], w, out=out)
            else:
                fastbp.dense_backward(dvalues[:n], x[:n], w, out=out)
        values = self.dinputs[relu][n_neurons][self.rows, :n_inputs]
        assert_equal(dinputs, self.frame(n_inputs, values), n_inputs, n_neurons)
        for frame, values in ((dweights, self.dweights[relu][:, :n_inputs, :n_neurons]),
                              (dbiases, self.dbiases[relu][:, :, :n_neurons])):
            assert_equal(frame, framed(values.shape, self.dtype, values)[0], n_inputs, n_neurons)


def wide_tile(dtype):
    return blocking.tiles(numba.from_dtype(dtype)).full


def around(*sizes):
    return sorted({size + step for size in sizes for step in (-1, 0, 1)})


@pytest.fixture
def corner(rng, dtype):
    tile = wide_tile(dtype)
    return Corner(rng, 2 * tile.rows + 1, 2 * tile.vecs * tile.lanes + 2, dtype)


def test_every_small_shape(corner):
    for n_inputs in range(corner.width + 1):
        for n_neurons in range(corner.width + 1):
            corner.check_forward(True, n_inputs, n_neurons)
            corner.check_backward(True, n_inputs, n_neurons)


def test_small_shapes_without_relu(corner, dtype):
    """The same kernels without their last step: here all small sizes and both sides of each multiple of a vector will do."""
    lanes = wide_tile(dtype).lanes
    sizes = sorted({*range(lanes + 2), *around(*range(lanes, corner.width, lanes))})
    for n_inputs in sizes:
        for n_neurons in sizes:
            corner.check_forward(False, n_inputs, n_neurons)
            corner.check_backward(False, n_inputs, n_neurons)


DEPTHS = around(blocking.KC, 2 * blocking.KC)
ROWS = around(blocking.UNPACKED_ROWS, blocking.MC, blocking.COPIED_MC, HERE.swapped_rows, HERE.few_rows,
              blocks.FUSED_ROWS, blocking.TASK_ROWS, 2 * blocking.TASK_ROWS)
ONE_PASS = 4 * blocks.FUSED_PARTITION_ROWS


@pytest.mark.parametrize("batch", ROWS)
def test_both_sides_of_each_block_of_rows(rng, dtype, batch):
    check(rng, batch, 67, 131, dtype)
    check(rng, batch, 5, 3, dtype)
    check(rng, batch, 2, 70, dtype)
    check(rng, 30, batch, 20, dtype)                        # the rows of dweights


def test_row_edge_tiles_take_rows_of_which_they_leave_less_empty():
    rows = blocking.row_edge_rows
    assert [rows(6, 24 + rest) for rest in range(6)] == [0, 7, 8, 3, 4, 0]
    assert rows(6, 5) == rows(4, 9) == 0


@pytest.mark.parametrize("rest", range(blocking.TALL))
def test_last_rows_in_full_tiles_and_in_row_edge_ones(rng, dtype, rest):
    """Of B in micropanels, and in place for few rows."""
    check(rng, rest + 1, 70, 130, dtype)
    check(rng, 4 * blocking.TALL + rest, 40, 70, dtype)
    check(rng, 10 * blocking.TALL + rest, 40, 70, dtype)


@pytest.mark.parametrize("depth", DEPTHS)
def test_both_sides_of_each_block_of_depth(rng, dtype, depth):
    check(rng, 7, depth, 70, dtype)                         # the depth of the forward pass
    check(rng, 7, 70, depth, dtype)                         # of dinputs
    check(rng, depth, 70, 9, dtype)                         # of dweights
    check(rng, blocking.UNPACKED_ROWS + 1, depth, depth, dtype)
    check(rng, HERE.few_rows + 1, depth, 70, dtype)         # of a B that tasks pack themselves
    check(rng, HERE.few_rows + 1, 70, depth, dtype)


@pytest.mark.parametrize("batch", [ONE_PASS - 1, ONE_PASS, ONE_PASS + 1, ONE_PASS + blocks.FUSED_ROWS - 1,
                                   (blocks.PARTITIONS + 1) * blocks.FUSED_PARTITION_ROWS + 5])
@pytest.mark.parametrize("n_inputs, n_neurons", [(1, 1), (3, 130), (131, 2), (66, 67)])
def test_where_the_backward_pass_becomes_one_pass(rng, dtype, batch, n_inputs, n_neurons):
    check(rng, batch, n_inputs, n_neurons, dtype)


@pytest.mark.parametrize("batch", [*around(blocks.NARROW_ROWS, 4 * blocks.NARROW_UNIT), 3 * blocks.FUSED_ROWS + 5])
def test_layers_of_few_inputs_and_neurons(rng, dtype, batch):
    """In frames, and where each row of a result follows the one before; weights by rows, by columns and otherwise."""
    few = 3 * wide_tile(dtype).lanes
    for n_inputs, n_neurons in ((1, 1), (2, 1), (1, 5), (3, 4), (few // 3, few // 3), (few // 2 + 1, few // 2 - 1),
                                (few - 1, 1), (few, 1)):
        check(rng, batch, n_inputs, n_neurons, dtype)
        arguments = oracle.operands(rng, "dense_relu_backward", batch, n_inputs, n_neurons, dtype)
        expected = oracle.expected("dense_relu_backward", arguments)
        w = arguments["weights"]
        for weights in (w, np.asfortranarray(w), np.repeat(np.repeat(w, 2, axis=1), 2, axis=0)[::2, ::2]):
            for result, values in zip(fastbp.dense_relu_backward(**arguments | {"weights": weights}), expected, strict=True):
                assert_equal(result, values, batch, n_inputs, n_neurons)


@pytest.mark.parametrize("batch", [blocks.NARROW_ROWS, 4 * blocks.NARROW_UNIT + 1, 2 * blocks.NARROW_PARTITION_ROWS + 5])
@pytest.mark.parametrize("n_inputs, n_neurons", [
    (13, 512), (20, 300), (3, 256), (1, 64), (6, 600), (blocks.NARROW, 70), (64, blocks.NARROW), (61, 9), (256, 1),
    (500, 2), (130, 4), (128, 10), (30, 5)])
def test_layers_of_few_inputs_or_neurons(rng, dtype, batch, n_inputs, n_neurons):
    """In frames, and on both ways to dweights; with x by columns, whose rows cannot be read in vectors."""
    check(rng, batch, n_inputs, n_neurons, dtype)
    arguments = oracle.operands(rng, "dense_relu_backward", batch, n_inputs, n_neurons, dtype)
    expected = oracle.expected("dense_relu_backward", arguments)
    for inputs in (arguments["inputs"], np.asfortranarray(arguments["inputs"])):
        for result, values in zip(fastbp.dense_relu_backward(**arguments | {"inputs": inputs}), expected, strict=True):
            assert_equal(result, values, batch, n_inputs, n_neurons)


@pytest.mark.parametrize("n_inputs, n_neurons", [(1, 70), (3, 130), (5, 9), (13, 512), (6, 600), (61, 9), (130, 3)])
def test_a_row_of_a_narrow_layer_does_not_depend_on_the_others(rng, dtype, n_inputs, n_neurons):
    """The same bits of dinputs in any batch that is long enough for narrow passes."""
    x, w, d, y = (rng.standard_normal(shape).astype(dtype) for shape in
                  ((700, n_inputs), (n_inputs, n_neurons), (700, n_neurons), (700, n_neurons)))
    whole, *_ = fastbp.dense_relu_backward(d, y, x, w)
    for first, rows in ((0, blocks.NARROW_ROWS), (5, 200), (650, 50)):
        part, *_ = fastbp.dense_relu_backward(*(a[first:first + rows] for a in (d, y, x)), w)
        assert_equal(part, whole[first:first + rows], first, rows, n_inputs, n_neurons)


def test_many_rows_of_a_layer_too_wide_for_one_pass(rng, dtype):
    """Too wide by its weights, and dz is too large to be kept whole."""
    n_neurons = blocking.DZ_BYTES // (ONE_PASS * dtype.itemsize) + 7
    n_inputs = blocks.FUSED_WEIGHTS // (n_neurons * dtype.itemsize) + 1
    check(rng, ONE_PASS + 1, n_inputs, n_neurons, dtype)


@pytest.mark.parametrize("batch", [1, blocking.UNPACKED_ROWS, blocking.MC + 1])
def test_both_sides_of_each_block_of_columns(rng, dtype, batch):
    for columns in around(cpu.caches().l3 // (blocking.NC_L3_PART * blocking.KC * dtype.itemsize)):
        check(rng, batch, columns, 20, dtype)
        check(rng, batch, 20, columns, dtype)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7, 14, *around(HERE.few_rows)])
def test_few_rows_of_wide_weights(rng, dtype, batch):
    """Both sides of each size of streamed and of swapped products, with columns that do not fill a tile."""
    width = wide_tile(dtype).vecs * wide_tile(dtype).lanes
    for n_inputs in around(HERE.streamed_inputs, 3 * HERE.streamed_k, blocking.CHAIN + HERE.streamed_k):
        for n_neurons in (width - 1, width, width + 1, 3 * width - 1):
            check(rng, batch, n_inputs, n_neurons, dtype)


@pytest.mark.parametrize("batch, width", [(65, 300), (149, 300), (151, 300), (HERE.swapped_most, 1030),
                                          (HERE.swapped_most + 1, 1030)])
def test_both_sides_of_the_rows_up_to_which_dinputs_are_swapped(rng, dtype, batch, width):
    check(rng, batch, width, width, dtype)


@pytest.mark.parametrize("batch", [1, 2, 7, blocking.UNPACKED_ROWS + 1, ONE_PASS + 1])
@pytest.mark.parametrize("order", ["F", "strided", "reversed"])
def test_inputs_that_are_read_by_columns_or_copied(rng, dtype, batch, order):
    """Not in frames, which would change how they lie in memory."""
    arguments = oracle.operands(rng, "dense_relu_backward", batch, 131, 67, dtype)
    x = arguments["inputs"]
    arguments["inputs"] = {"F": np.asfortranarray(x), "strided": np.repeat(x, 2, axis=1)[:, ::2],
                           "reversed": x[::-1, ::-1].copy()[::-1, ::-1]}[order]
    results = fastbp.dense_relu_backward(**arguments)
    for result, values in zip(results, oracle.expected("dense_relu_backward", arguments), strict=True):
        assert_equal(result, values, batch, 67)
    forward = {name: arguments[name] for name in ("inputs", "weights")}
    assert_equal(fastbp.dense_forward(**forward), *oracle.expected("dense_forward", forward), batch, 67)


@pytest.mark.parametrize("batch, n_inputs, n_neurons", [(0, 500, 400), (500, 0, 400), (500, 400, 0), (ONE_PASS, 0, 0)])
def test_nothing_along_one_axis(rng, dtype, batch, n_inputs, n_neurons):
    check(rng, batch, n_inputs, n_neurons, dtype)


@pytest.mark.parametrize("batch, n_inputs, n_neurons", [(3, 784, 130), (65, 784, 130), (ONE_PASS, 96, 70)])
def test_rounding_errors_are_bounded(rng, dtype, batch, n_inputs, n_neurons):
    x, w, b, dvalues = (rng.standard_normal(shape).astype(dtype) for shape in
                        ((batch, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (batch, n_neurons)))
    oracle.assert_rounded(fastbp.dense_forward(x, w, b), x, w, b)
    dinputs, dweights, dbiases = fastbp.dense_backward(dvalues, x, w)
    oracle.assert_rounded(dinputs, dvalues, w.T)
    oracle.assert_rounded(dweights, x.T, dvalues)
    oracle.assert_rounded(dbiases, np.ones((1, batch)), dvalues)
