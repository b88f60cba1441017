"""A row of y and of dinputs does not depend on its neighbours: it has the same bits in a batch of any number of rows."""
import numpy as np
import pytest

import fastbp

# The rows of batches, on both sides of where another algorithm begins.
BATCHES = 1, 2, 5, 13, 40, 64, 65, 200


@pytest.mark.parametrize("n_inputs, n_neurons", [(300, 500), (1030, 257), (65, 700), (700, 64), (520, 1024)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_in_every_batch(rng, dtype, n_inputs, n_neurons, threads):
    """Sums longer than a chain and than a KC block, and columns that leave the last tile empty in part."""
    fastbp.set_num_threads(threads)
    rows = max(BATCHES)
    x, weights, biases, dvalues = (rng.standard_normal(shape).astype(dtype) for shape in
                                   ((rows, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (rows, n_neurons)))
    output = fastbp.dense_relu_forward(x, weights, biases)
    dinputs, _, _ = fastbp.dense_relu_backward(dvalues, output, x, weights)
    for batch in BATCHES:
        for start in {0, rows - batch}:
            part = slice(start, start + batch)
            assert fastbp.dense_relu_forward(x[part], weights, biases).tobytes() == output[part].tobytes(), batch
            found, _, _ = fastbp.dense_relu_backward(dvalues[part], output[part], x[part], weights)
            assert found.tobytes() == dinputs[part].tobytes(), batch


def test_weights_and_inputs_of_other_layouts_have_the_same_bits(rng, dtype):
    """Those that cannot be streamed or swapped are packed."""
    x, weights, dvalues = (rng.standard_normal(shape).astype(dtype) for shape in ((7, 300), (300, 200), (7, 200)))
    expected = fastbp.dense_forward(x, weights), fastbp.dense_backward(dvalues, x, weights)[0]
    for other in (np.asfortranarray(weights), np.repeat(weights, 2, axis=1)[:, ::2], weights[::-1].copy()[::-1]):
        for inputs in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
            assert fastbp.dense_forward(inputs, other).tobytes() == expected[0].tobytes()
            assert fastbp.dense_backward(dvalues, inputs, other)[0].tobytes() == expected[1].tobytes()
