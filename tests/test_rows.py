"""A row of y, of dinputs and of predictions does not depend on its neighbours: it has the same bits in a batch of any size."""
import numba
import numpy as np
import pytest
from checks import rows as checked

import fastbp
from fastbp.kernels.elementwise.activations import NAMES

# The rows of batches, on both sides of where another algorithm begins.
BATCHES = 1, 2, 5, 13, 40, 64, 65, 200

# Layers that are naive with few rows. With more they are skinny, their dinputs are dot products, or they are packed: on some
# instruction set at least.
TINY = (16, 1), (64, 1), (128, 1), (127, 1), (8, 4), (16, 4), (32, 3), (33, 2), (64, 2), (1, 16), (1, 32), (1, 64), (1, 128), \
    (2, 32), (2, 64), (1, 100), (4, 3), (16, 7), (3, 20), (5, 5), (1, 1)


def operands(rng, dtype, rows, n_inputs, n_neurons):
    """Return x, weights, biases and dvalues."""
    shapes = (rows, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (rows, n_neurons)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def assert_rows_are_alone(x, weights, biases, dvalues, batches):
    """Assert that the rows of y and dinputs have the same bits in batches of so many rows."""
    rows = len(x)
    output = fastbp.dense_relu_forward(x, weights, biases)
    dinputs, _, _ = fastbp.dense_relu_backward(dvalues, output, x, weights)
    for batch in batches:
        for start in {0, rows - batch}:
            part = slice(start, start + batch)
            assert fastbp.dense_relu_forward(x[part], weights, biases).tobytes() == output[part].tobytes(), batch
            found, _, _ = fastbp.dense_relu_backward(dvalues[part], output[part], x[part], weights)
            assert found.tobytes() == dinputs[part].tobytes(), batch


@pytest.mark.parametrize("n_inputs, n_neurons", [
    (300, 500), (1030, 257), (65, 700), (700, 64), (520, 1024), (20, 300), (61, 9), (300, 3), (1, 200)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_in_every_batch(rng, dtype, n_inputs, n_neurons, threads):
    """Sums longer than a chain and than a KC block, and columns that leave the last tile empty in part."""
    fastbp.set_num_threads(threads)
    assert_rows_are_alone(*operands(rng, dtype, max(BATCHES), n_inputs, n_neurons), BATCHES)


@pytest.mark.parametrize("n_inputs, n_neurons", TINY)
def test_layers_that_are_tiny_with_few_rows(rng, dtype, n_inputs, n_neurons):
    assert_rows_are_alone(*operands(rng, dtype, 40, n_inputs, n_neurons), (1, 2, 3, 4, 8, 33))


@pytest.mark.parametrize("n_inputs, n_neurons", [(40, 60), (300, 3), (1, 100), (200, 1)])
def test_batches_that_are_long_enough_for_one_pass(rng, dtype, n_inputs, n_neurons):
    assert_rows_are_alone(*operands(rng, dtype, 5000, n_inputs, n_neurons), (1, 33, 700, 4096))


@pytest.mark.parametrize("n_inputs, n_neurons", [(300, 200), (100, 3), (16, 4), (31, 2), (1000, 1), (4, 3)])
def test_weights_and_inputs_of_other_layouts_have_the_same_bits(rng, dtype, n_inputs, n_neurons):
    """Weights that cannot be streamed or swapped are packed, and rows of a skinny layer that are not contiguous are copied."""
    for rows in (1, 7, 100):
        x, weights, _, dvalues = operands(rng, dtype, rows, n_inputs, n_neurons)
        expected = fastbp.dense_forward(x, weights), fastbp.dense_backward(dvalues, x, weights)[0]
        for other in (np.asfortranarray(weights), np.repeat(weights, 2, axis=1)[:, ::2], weights[::-1].copy()[::-1]):
            for inputs in (x, np.asfortranarray(x), np.asfortranarray(np.concatenate([x, x]))[:rows],
                           np.repeat(x, 2, axis=1)[:, ::2]):
                assert fastbp.dense_forward(inputs, other).tobytes() == expected[0].tobytes()
                assert fastbp.dense_backward(dvalues, inputs, other)[0].tobytes() == expected[1].tobytes()


@pytest.mark.parametrize("activation", NAMES)
def test_rows_of_predictions(activation, dtype):
    """Of networks whose layers are naive, skinny, streamed and packed, by predict, by frozen ones, and inside @njit."""
    rng = np.random.default_rng(3)
    for sizes, loss in (((4, 32, 3), fastbp.SoftmaxCrossEntropy()), ((20, 64, 2), None),
                        ((64, 16, 1), fastbp.BinaryCrossEntropy()), ((300, 530, 40, 2), None)):
        layers = [fastbp.Dense(a, b, activation=activation, dtype=dtype, rng=rng)
                  for a, b in zip(sizes, sizes[1:-1], strict=False)]
        network = fastbp.Sequential([*layers, fastbp.Dense(*sizes[-2:], dtype=dtype, rng=rng)], loss)
        frozen, x = network.frozen(), rng.standard_normal((300, sizes[0])).astype(dtype)
        whole = network.predict(x)
        for batch in (1, 2, 4, 5, 16, 17, 33, 64, 65):
            for predict in network.predict, frozen:
                assert predict(x[7:7 + batch]).tobytes() == whole[7:7 + batch].tobytes(), (sizes, batch)
    assert in_compiled_code(frozen, x).tobytes() == whole.tobytes()


@numba.njit
def in_compiled_code(frozen, x):
    """Return the predictions for each row of x by a call of its own."""
    out = np.empty((len(x), 2), x.dtype)
    for i in range(len(x)):
        out[i] = frozen(x[i])[0]
    return out


def test_rows_of_other_dtypes_and_orders_are_converted(rng):
    """A copy in another dtype of one row of an array in Fortran order is in C order."""
    network = fastbp.Sequential([fastbp.Dense(40, 2, rng=0)])
    x = np.asfortranarray(rng.standard_normal((9000, 40)))
    whole = network.predict(x)
    for part in (slice(5, 6), slice(0, 3), slice(4000, 4100), slice(8999, 9000)):
        assert network.predict(x[part]).tobytes() == whole[part].tobytes()


@pytest.mark.filterwarnings("ignore:precision 'bfloat16' is not faster here:RuntimeWarning")
def test_rows_of_bfloat16(rng):
    """Of batches that are all rounded, or all computed in float32: select.is_rounded looks at the rows."""
    for n_inputs, n_neurons, batches in ((5, 3, BATCHES), (700, 90, (140, 200, 333)), (130, 64, BATCHES[:3])):
        x, weights, biases, dvalues = operands(rng, np.float32, max(batches), n_inputs, n_neurons)
        whole = fastbp.dense_forward(x, weights, biases, precision="bfloat16")
        dinputs, _, _ = fastbp.dense_backward(dvalues, x, weights, precision="bfloat16")
        for batch in batches:
            part = slice(max(batches) - batch, max(batches))
            found = fastbp.dense_forward(x[part], weights, biases, precision="bfloat16")
            assert found.tobytes() == whole[part].tobytes()
            found, _, _ = fastbp.dense_backward(dvalues[part], x[part], weights, precision="bfloat16")
            assert found.tobytes() == dinputs[part].tobytes()


@pytest.mark.filterwarnings("ignore:precision 'bfloat16' is not faster here:RuntimeWarning")
def test_random_layers_and_networks():
    """As scripts/check bits tries them at length."""
    for number in range(6):
        assert checked.layer_faults(number) == []
        assert checked.network_faults(number) == []
