"""Steps made apart, as Dask's: gradient() and update() of batches of one shard and of two, against textbook.py in float64."""
import numpy as np
import pytest
from numpy.testing import assert_allclose

import fastbp
import textbook
from fastbp._training.session import TrainingSession
from fastbp.kernels.train import blocks

MOST, INPUTS, HIDDEN, OUTPUTS = 512, 20, 30, 3
ROWS = MOST, 1, 257, 2, 1, 129, MOST, 3         # of batches one after another: a single row makes one shard, all others two


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_each_batch_has_the_gradient_of_its_own_rows(rng, dtype, activation, weighted):
    """Neither what an earlier, larger batch left behind, nor less than all of its shards."""
    assert blocks.shards(MOST, (INPUTS + OUTPUTS) * HIDDEN) == 2
    network = fastbp.Sequential([fastbp.Dense(INPUTS, HIDDEN, activation=activation, dtype=dtype, rng=0),
                                 fastbp.Dense(HIDDEN, OUTPUTS, dtype=dtype, rng=1)], fastbp.SoftmaxCrossEntropy())
    copy, states = textbook.Network(network), [{} for _ in range(4)]
    run = TrainingSession(network._specs(), INPUTS, network.loss, fastbp.SGD(0.05, momentum=0.9), MOST, apart=True)
    places = [(array.ctypes.data - run.summed.ctypes.data) // dtype.itemsize for array in run.gradients]
    for step, rows in enumerate(ROWS):
        x, y = rng.standard_normal((rows, INPUTS)).astype(dtype), rng.integers(0, OUTPUTS, rows)
        weights = rng.uniform(0.5, 2, rows) if weighted else np.ones(rows)
        run.use(x, y, weights if weighted else None)
        run.start()
        run.advance(1)
        found = run.gradient()
        loss, expected, right = copy.gradients(x, y, weights, 0)
        assert_allclose(run.batch_loss, loss, rtol=1e-4 if dtype == np.float32 else 1e-12)
        assert run.results[2] == right
        for i, (place, (values, gradient, is_weights)) in enumerate(zip(places, expected, strict=True)):
            close = {"rtol": 1e-3, "atol": 2e-6} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-13}
            assert_allclose(found[place:place + gradient.size].reshape(gradient.shape), gradient, **close)
            textbook.momentum(values, gradient, states[i], 0.05, step, is_weights)
        run.update()
    for array, other in zip(network.parameters(), copy.parameters, strict=True):
        assert_allclose(array, other, rtol=1e-3 if dtype == np.float32 else 1e-9, atol=1e-5 if dtype == np.float32 else 1e-12)
