"""A layer's passes on Dask arrays: their results, how often they read the data, and what they refuse before they compute."""
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
import fastbp.dask
from fastbp.kernels.elementwise.activations import NAMES

ROWS, INPUTS, NEURONS = 100, 7, 5
CHUNKS = (30, 0, 25, 45)


@pytest.fixture
def arrays(dtype):
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape).astype(dtype)
            for shape in ((ROWS, INPUTS), (INPUTS, NEURONS), (1, NEURONS), (ROWS, NEURONS))]


def cut(array, chunks=CHUNKS):
    return da.from_array(array, chunks=(chunks, -1))


def close(got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    relative, absolute = (1e-4, 1e-5) if got.dtype == np.float32 else (1e-12, 1e-13)
    assert_allclose(got, expected, rtol=relative, atol=absolute)


@pytest.mark.parametrize("chunks", [CHUNKS, (ROWS,), (ROWS // 2,) * 2, (1,) * ROWS])
@pytest.mark.parametrize("relu", [False, True])
def test_the_functions(arrays, chunks, relu):
    x, weights, biases, dvalues = arrays
    forward, backward = (fastbp.dense_relu_forward, fastbp.dense_relu_backward) if relu else (
        fastbp.dense_forward, fastbp.dense_backward)
    lazy_forward, lazy_backward = (getattr(fastbp.dask, function.__name__) for function in (forward, backward))
    y = lazy_forward(cut(x, chunks), weights, biases)
    gradients = lazy_backward(cut(dvalues, chunks), *((y,) if relu else ()), cut(x, chunks), weights)
    assert y.chunks == (chunks, (NEURONS,)) and gradients[0].chunks == (chunks, (INPUTS,))
    expected = forward(x, weights, biases)
    expected = expected, *backward(dvalues, *((expected,) if relu else ()), x, weights)
    for lazy, exact in zip((y, *gradients), expected, strict=True):
        assert lazy.dtype == exact.dtype and lazy.shape == exact.shape
        close(lazy.compute(), exact)


def test_what_other_arrays_may_be(arrays):
    x, weights, biases, dvalues = arrays
    y = fastbp.dense_forward(x, weights, biases)
    lazy = fastbp.dask.dense_forward(cut(x), cut(weights, (3, 4)), da.from_array(biases[0], 2))
    close(lazy.compute(), y)
    for other in (dvalues, cut(dvalues, (50, 50))):
        for got, expected in zip(fastbp.dask.dense_backward(other, cut(x), weights), fastbp.dense_backward(dvalues, x, weights),
                                 strict=True):
            close(got.compute(), expected)
    one = fastbp.dask.dense_forward(da.from_array(x[0], -1), weights)
    close(one.compute(), fastbp.dense_forward(x[0], weights))
    mixed = fastbp.dask.dense_forward(cut(x.astype(np.float32)), weights.astype(np.float64))
    assert mixed.dtype == mixed.compute().dtype == np.float64


def test_later_changes_of_weights_are_not_seen(arrays):
    x, weights, biases, _ = arrays
    expected = fastbp.dense_forward(x, weights, biases)
    y = fastbp.dask.dense_forward(cut(x), weights, biases)
    weights[:] = 0
    biases[:] = 0
    close(y.compute(), expected)


def test_unknown_chunks(arrays):
    x, weights, biases, dvalues = arrays
    lazy, chosen = cut(x), x[:, 0] > 0
    some, lazy_dvalues = lazy[lazy[:, 0] > 0], cut(dvalues)[lazy[:, 0] > 0]
    assert np.isnan(some.chunks[0]).all()
    y = fastbp.dask.dense_relu_forward(some, weights, biases)
    gradients = fastbp.dask.dense_relu_backward(lazy_dvalues, y, some, weights)
    expected = fastbp.dense_relu_forward(x[chosen], weights, biases)
    expected = expected, *fastbp.dense_relu_backward(dvalues[chosen], expected, x[chosen], weights)
    for got, exact in zip((y, *gradients), expected, strict=True):
        close(got.compute(), exact)
    with pytest.raises(ValueError, match="dvalues has chunks of .* expected those of inputs, .*: some sizes are unknown"):
        fastbp.dask.dense_backward(cut(dvalues, (50, 50)), some, weights)


def test_columns_that_are_cut_are_joined_with_a_warning(arrays):
    x, weights, _, _ = arrays
    with pytest.warns(RuntimeWarning, match=r"inputs is cut along its columns .* inputs.rechunk\(\{1: -1\}\)") as caught:
        y = fastbp.dask.dense_forward(da.from_array(x, (40, 3)), weights)
        fastbp.Dense(INPUTS, NEURONS, dtype=x.dtype).forward(da.from_array(x, (40, 3)))
    assert [warning.filename for warning in caught] == [__file__] * 2
    close(y.compute(), fastbp.dense_forward(x, weights))


def counted(x, reads):
    """Return x as a Dask array that notes in `reads` each chunk that is read."""
    def read(block_info=None):
        place = block_info[None]["array-location"][0]
        reads.append(place)
        return x[slice(*place)]

    return da.map_blocks(read, chunks=(CHUNKS, (INPUTS,)), dtype=x.dtype, meta=x[:0])


def test_x_is_read_once(arrays):
    x, weights, biases, dvalues = arrays
    lazy = counted(x, reads := [])
    y = fastbp.dask.dense_relu_forward(lazy, weights, biases)
    dask.compute(y, *fastbp.dask.dense_relu_backward(cut(dvalues), y, lazy, weights))
    assert sorted(reads) == [(0, 30), (30, 30), (30, 55), (55, 100)]


def test_nothing_is_computed_before_it_is_asked_for(arrays):
    x, weights, biases, dvalues = arrays
    lazy = counted(x, reads := [])
    layer = fastbp.DenseReLU(INPUTS, NEURONS, dtype=x.dtype)
    layer.forward(lazy)
    layer.backward(cut(dvalues))
    fastbp.Sequential([layer]).predict(lazy)
    with pytest.raises(ValueError, match="inputs has shape"):
        fastbp.dask.dense_forward(lazy, weights[1:])
    assert reads == []


def test_gradients_are_added_in_one_order(arrays):
    """The order is that of a tree that adds eight at a time, whatever else runs."""
    x, weights, _, dvalues = (a.astype(np.float32) for a in arrays)
    chunks = (2,) * (ROWS // 2)
    of_chunks = [fastbp.dense_backward(dvalues[i:i + 2], x[i:i + 2], weights)[1:] for i in range(0, ROWS, 2)]
    while len(of_chunks) > 1:
        of_chunks = [[sum(some[1:], start=some[0]) for some in zip(*of_chunks[i:i + 8], strict=True)]
                     for i in range(0, len(of_chunks), 8)]
    for scheduler in ("synchronous", "threads", "threads"):
        gradients = fastbp.dask.dense_backward(cut(dvalues, chunks), cut(x, chunks), weights)[1:]
        for got, expected in zip(dask.compute(*gradients, scheduler=scheduler), of_chunks[0], strict=True):
            assert_array_equal(got, expected)


BAD = [
    ("dense_forward", lambda x, w, b, d: (x, w[1:], b)),
    ("dense_forward", lambda x, w, b, d: (x, w[0], b)),
    ("dense_forward", lambda x, w, b, d: (x, w, b[:, 1:])),
    ("dense_relu_forward", lambda x, w, b, d: (x, w.astype(complex), b)),
    ("dense_relu_forward", lambda x, w, b, d: (x.astype("M8[s]"), w, b)),
    ("dense_forward", lambda x, w, b, d: (x[:, :, None], w, b)),
    ("dense_backward", lambda x, w, b, d: (d[1:], x, w)),
    ("dense_backward", lambda x, w, b, d: (d[:, 1:], x, w)),
    ("dense_backward", lambda x, w, b, d: (d, x[:, 1:], w)),
    ("dense_relu_backward", lambda x, w, b, d: (d, d[1:], x, w)),
    ("dense_relu_backward", lambda x, w, b, d: (d, None, x, w)),
]


@pytest.mark.parametrize("name, bad", BAD)
def test_what_does_not_fit_is_refused_in_the_same_words(arrays, name, bad):
    x, weights, biases, dvalues = arrays
    with pytest.raises((ValueError, TypeError)) as eager:
        getattr(fastbp, name)(*bad(x, weights, biases, dvalues))
    with pytest.raises(type(eager.value)) as lazy:
        getattr(fastbp.dask, name)(*bad(cut(x), weights, biases, cut(dvalues)))
    assert str(lazy.value) == str(eager.value)


def test_inputs_may_be_called_x_as_they_once_were(arrays):
    x, weights, biases, dvalues = arrays
    new, old = ([fastbp.dask.dense_forward(weights=weights, biases=biases, **inputs),
                 *fastbp.dask.dense_relu_backward(dvalues, dvalues, weights=weights, **inputs)]
                for inputs in ({"inputs": cut(x)}, {"x": cut(x)}))
    for got, expected in zip(dask.compute(*old), dask.compute(*new), strict=True):
        assert_array_equal(got, expected)
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        fastbp.dask.dense_forward(weights=weights, inputs=cut(x), x=cut(x))


def test_numpy_arrays_are_sent_to_the_other_functions(arrays):
    x, weights, _, _ = arrays
    with pytest.raises(TypeError, match="inputs is of type ndarray, expected a dask.array.Array: fastbp has functions for Num"):
        fastbp.dask.dense_forward(x, weights)


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"need_dinputs": False}])
def test_a_layer(arrays, activation, settings):
    x, weights, biases, dvalues = arrays
    eager, lazy = (fastbp.Dense(INPUTS, NEURONS, activation=activation, dtype=x.dtype, rng=1, **settings) for _ in range(2))
    y = lazy.forward(cut(x))
    dinputs = lazy.backward(cut(dvalues))
    expected, expected_dinputs = eager.forward(x), eager.backward(dvalues)
    close(y.compute(), expected)
    assert (dinputs is None) == (expected_dinputs is None) == ("need_dinputs" in settings)
    for name in ("dinputs", "dweights", "dbiases"):
        got, exact = getattr(lazy, name), getattr(eager, name)
        assert (got is None) == (exact is None)
        if exact is not None:
            close(got.compute(), exact)
    close(lazy.forward(x), expected)                    # and then NumPy again
    lazy.backward(dvalues)
    close(lazy.dweights, eager.dweights)
    with pytest.raises(TypeError, match="out is of type ndarray, expected None: inputs is a Dask array"):
        lazy.forward(cut(x), out=np.empty_like(expected))


def test_relu(arrays):
    x = arrays[0]
    layer = fastbp.ReLU()
    y, dinputs = layer.forward(cut(x)), layer.backward(cut(2 * x))
    assert_array_equal(y.compute(), np.maximum(x, 0))
    assert_array_equal(dinputs.compute(), np.where(x > 0, 2 * x, 0))
    with pytest.raises(ValueError, match="dvalues has shape"):
        layer.backward(cut(x[:, 1:]))


def test_dropout(arrays):
    x = np.ones_like(arrays[0])
    layer = fastbp.Dropout(0.5, rng=1)
    assert layer.forward(cut(x), training=False).compute().all()
    y, dinputs = dask.compute(layer.forward(cut(x)), layer.backward(cut(x)))
    assert_array_equal(y, dinputs)
    assert set(np.unique(y)) == {0, 2} and y.dtype == x.dtype
    assert not np.array_equal(y, layer.forward(cut(x)).compute())


def test_each_chunk_drops_other_places():
    y = fastbp.Dropout(0.5, rng=1).forward(da.ones((60, INPUTS), chunks=(20, -1))).compute()
    assert len({chunk.tobytes() for chunk in np.split(y, 3)}) == 3


@pytest.mark.parametrize("loss", [None, fastbp.SoftmaxCrossEntropy(), fastbp.BinaryCrossEntropy()])
def test_predict(arrays, loss):
    x = arrays[0]
    network = fastbp.Sequential([fastbp.DenseReLU(INPUTS, 9, dtype=x.dtype), fastbp.Dropout(0.5),
                                 fastbp.Dense(9, NEURONS, dtype=x.dtype)], loss)
    expected = network.predict(x)
    predicted = network.predict(cut(x))
    assert predicted.chunks == (CHUNKS, (NEURONS,)) and predicted.dtype == x.dtype
    network.dense[0].weights[:] = 0
    assert_array_equal(predicted.compute(), expected)
    with pytest.raises(ValueError, match=r"x has shape \(100, 6\), expected \(rows, 7\)"):
        network.predict(cut(x)[:, 1:])


def test_a_task_computes_on_one_thread(arrays, monkeypatch):
    x, weights, biases, _ = arrays
    before, seen = fastbp._runtime.threads.state.words[fastbp._runtime.threads.state.THREADS], []
    forward = fastbp.functional._forward

    def watched(*arguments, **named):
        seen.append(fastbp._runtime.threads.state.words[fastbp._runtime.threads.state.THREADS])
        return forward(*arguments, **named)

    monkeypatch.setattr(fastbp.functional, "_forward", watched)
    fastbp.dask.dense_forward(cut(x), weights, biases).compute(scheduler="threads")
    assert seen == [1] * len(CHUNKS)
    assert fastbp._runtime.threads.state.words[fastbp._runtime.threads.state.THREADS] == before


def test_no_warning(arrays):
    x, weights, biases, dvalues = arrays
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = fastbp.dask.dense_relu_forward(cut(x), weights, biases)
        dask.compute(*fastbp.dask.dense_relu_backward(cut(dvalues), y, cut(x), weights))
