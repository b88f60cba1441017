"""Trainings on Dask workers. Here the workers are processes that talk over the loopback address."""
import _thread
import copy
import signal
import threading
import time

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, Lock
from numpy.testing import assert_allclose

import fastbp
import fastbp.dask
from dask_training import CHUNKS, CLASSES, INPUTS, ROWS, bits, cut, data, local_cluster, make, train
from fastbp.dask import coordinator, worker
from fastbp.dask.coordinator import Training
from fastbp.dask.plan import Plan, shares_of


@pytest.fixture(scope="module")
def cluster():
    with local_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster) as client:
        yield client


@pytest.mark.parametrize("optimizer, loss, settings", [
    (fastbp.Adam(), None, {}), (fastbp.SGD(0.1, momentum=0.9), fastbp.MeanSquaredError(), {"l2": 0.01}),
    (fastbp.AdamW(), None, {"dropout": True}), (fastbp.SGD(), fastbp.BinaryCrossEntropy(), {"dtype": np.float64})])
@pytest.mark.parametrize("batch_size", [64, 1000, 5000])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_share_has_the_bits_of_fit(client, optimizer, loss, settings, batch_size, weighted):
    x, y = data(settings.get("dtype", np.float32))
    if loss is not None:
        y = np.eye(CLASSES, dtype=x.dtype)[y]
    weights = np.linspace(0, 2, ROWS) if weighted else None
    optimizer, expected_optimizer = copy.deepcopy(optimizer), copy.deepcopy(optimizer)
    expected = make(loss=loss, **settings)
    expected_history = expected.fit(x, y, epochs=2, batch_size=batch_size, optimizer=expected_optimizer, shuffle=False,
                                    sample_weight=weights, rng=7)
    network, _, history = train(client, make(loss=loss, **settings), optimizer, x_y=(x, y), shares=1, shuffle=False,
                                batch_size=batch_size, rng=7, sample_weight=None if weights is None else cut(weights))
    assert bits(network) == bits(expected)
    assert history == expected_history and optimizer.iterations == expected_optimizer.iterations


def order(plan, epoch):
    """Return the rows of the data that each step takes, as plan.py says."""
    starts = np.cumsum([0, *plan.chunks])
    return [np.concatenate([starts[chunk] + np.arange(plan.chunks[chunk])[which] for share in range(len(plan.shares))
                            for chunk, which in plan.selections(share, epoch, *plan.span(share, step, step + 1))])
            for step in range(plan.steps)]


@pytest.mark.parametrize("shares", [1, 2, 3, 4])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_more_shares_are_the_same_up_to_rounding(client, shares, shuffle, weighted):
    x, y = data(np.float64)
    weights = np.linspace(0, 2, ROWS) if weighted else None
    network, _, history = train(client, make(np.float64, l2=0.01), x_y=(x, y), shares=shares, shuffle=shuffle,
                                sample_weight=None if weights is None else cut(weights))
    key = int(np.random.default_rng(5).integers(1 << 62, size=2)[1])
    plan = Plan(CHUNKS, shares_of(CHUNKS, shares), 128, key if shuffle else None)
    expected, optimizer, losses = make(np.float64, l2=0.01), fastbp.Adam(), []
    for epoch in range(2):
        steps = order(plan, epoch)
        assert sorted(np.concatenate(steps)) == list(range(ROWS))
        losses.append(sum(expected.fit(x[rows], y[rows], epochs=1, batch_size=len(rows), optimizer=optimizer, shuffle=False,
                                       sample_weight=None if weights is None else weights[rows]).loss[0] * len(rows)
                          for rows in steps) / ROWS)
    for got, exact in zip(network.parameters(), expected.parameters(), strict=True):
        assert_allclose(got, exact, rtol=1e-9, atol=1e-12)
    assert_allclose(history.loss, losses, rtol=1e-9)


def test_the_bits_do_not_depend_on_the_workers(client):
    network = train(client, shares=3)[0]
    assert bits(train(client, shares=3)[0]) == bits(network)
    for n_workers, processes in ((1, True), (4, False)):
        with local_cluster(n_workers, processes=processes) as cluster, Client(cluster) as other:
            assert bits(train(other, shares=3)[0]) == bits(network)
    assert bits(train(client, shares=2)[0]) != bits(network)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("shares", [2, 3])
def test_the_bits_do_not_depend_on_the_pieces_that_gradients_are_sent_in(monkeypatch, dropout, shares):
    layers = [fastbp.DenseReLU(INPUTS, 300, rng=1), fastbp.DenseReLU(300, 40, rng=2), fastbp.Dense(40, CLASSES, rng=3)]
    if dropout:
        layers = [fastbp.Dropout(0.1), layers[0], fastbp.Dropout(0.3), *layers[1:]]
    networks = []
    with local_cluster(processes=False) as cluster, Client(cluster) as client:
        for least in (1 << 30, 1):
            monkeypatch.setattr(worker, "PIECE", least)
            network = fastbp.Sequential(copy.deepcopy(layers), fastbp.SoftmaxCrossEntropy())
            networks.append(train(client, network, shares=shares)[0])
    assert bits(networks[0]) == bits(networks[1])


@pytest.mark.parametrize("shares, suffix", [(1, "safetensors"), (2, "npz")])
def test_another_client_goes_on_from_a_checkpoint(tmp_path, client, shares, suffix):
    """The order of rows, and the places that a dropout drops, are those of the checkpoint, not of the other client's rng."""
    path = tmp_path / f"training.{suffix}"
    settings = {"shares": shares, "epochs": 4}
    expected, expected_optimizer, expected_history = train(client, make(dropout=True), **settings)

    class Dies(Exception):
        pass

    def die(network, history):
        if len(history.loss) == 2:
            raise Dies

    with local_cluster() as cluster, Client(cluster) as other, pytest.raises(Dies):
        train(other, make(dropout=True), checkpoint=path, checkpoint_every=5, callbacks=[die], **settings)
    network, optimizer, history = train(client, make(dropout=True), checkpoint=path, **settings | {"rng": 99, "shares": 4})
    assert bits(network) == bits(expected) and history == expected_history
    assert optimizer.iterations == expected_optimizer.iterations
    network, _, history = train(client, make(dropout=True), checkpoint=path, **settings)
    assert bits(network) == bits(expected) and history == expected_history          # it was over


@pytest.mark.parametrize("other, message", [
    ({"batch_size": 100}, "batch_size is 100, expected 128"), ({"shuffle": False}, "shuffle is False, expected True"),
    ({"optimizer": fastbp.SGD()}, "optimizer is SGD, expected Adam"), ({"chunks": (1000, 1000)}, "chunks of x is .1000, 1000."),
    ({"network": make(np.float64)}, "network is .*float64"),
])
def test_a_checkpoint_of_another_training_is_refused(tmp_path, client, other, message):
    path = tmp_path / "training.npz"
    train(client, checkpoint=path, epochs=1)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=f"{message}.*: that of the training in .*; a new one needs another file"):
        train(client, checkpoint=path, epochs=1, **other)
    assert path.read_bytes() == content


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, client):
    path = tmp_path / "network.npz"
    make().save(path)
    with pytest.raises(ValueError, match="is of format None, expected 1: it is no training"):
        train(client, checkpoint=path)


@pytest.mark.parametrize("shares", [1, 2])
def test_a_loss_that_is_not_finite_ends_the_training_before_its_batch(client, shares):
    x, y = data()
    x[1000, 0] = np.inf
    network, expected, optimizer = make(), make(), fastbp.Adam()
    with pytest.raises(FloatingPointError, match="not finite in batch .* of epoch 1, .*as they were before"):
        train(client, network, optimizer, x_y=(x, y), shares=shares, shuffle=False)
    assert np.isfinite(np.concatenate([a.ravel() for a in network.parameters()])).all()
    if shares == 1:
        rows = optimizer.iterations * 128
        assert rows == 1000 // 128 * 128
        expected.fit(x[:rows], y[:rows], epochs=1, batch_size=128, optimizer=fastbp.Adam(), shuffle=False)
        assert bits(network) == bits(expected)
    train(client, network, optimizer, x_y=(x, y), shares=shares, check_finite=False, epochs=1)
    assert not np.isfinite(network.dense[0].weights).all()


@pytest.mark.parametrize("shares", [1, 2, 3])
@pytest.mark.parametrize("spoil", ["x", "l2", "rate"])
def test_a_gradient_or_a_penalty_that_is_not_finite_ends_the_training_before_its_batch(client, shares, spoil):
    x, y = data()
    layers = [fastbp.Dense(INPUTS, 16, activation="tanh", rng=1), fastbp.Dense(16, CLASSES, rng=2)]
    network = fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy(), l2=1.0 if spoil == "l2" else 0.0)
    optimizer = fastbp.SGD(1e40 if spoil == "rate" else 0.1, momentum=0.9)
    if spoil == "x":
        x[1000, 0] = np.inf                             # a tanh makes it finite
    if spoil == "l2":
        layers[0].weights[0, 0] = 1e25
    before = bits(network)
    with pytest.raises(FloatingPointError, match=f"^the {'penalty' if spoil == 'l2' else 'gradient, or the step along it,'} is "
                                                 "not finite in batch .* of epoch 1, .*as they were before"):
        train(client, network, optimizer, x_y=(x, y), shares=shares, shuffle=False)
    assert all(np.isfinite(a).all() for a in network.parameters())
    assert optimizer.iterations == 0 and bits(network) == before or spoil == "x" and 0 < optimizer.iterations < 16


@pytest.mark.parametrize("shares", [1, 2])
@pytest.mark.parametrize("largest", [2.0, 1e-310, 1e308])
def test_weights_of_which_whole_chunks_or_batches_are_0(client, shares, largest):
    """Weights may be of any size, as only their ratios count. A batch whose weights are 0 is a step of 0."""
    x, y = data(np.float64)
    weights = np.linspace(0.5, 1, ROWS)
    weights[300:800] = 0                                # the third chunk; the second one is empty
    networks = []
    for scaled in (weights, weights * largest):
        network, optimizer, history = train(client, make(np.float64), fastbp.SGD(0.1), x_y=(x, y), shares=shares, shuffle=False,
                                            batch_size=100, sample_weight=cut(scaled))
        assert optimizer.iterations == 2 * 20 and np.isfinite(history.loss).all()
        networks.append(network)
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    expected = make(np.float64)
    expected.fit(x, y, epochs=2, batch_size=100, optimizer=fastbp.SGD(0.1), sample_weight=weights, shuffle=False)
    if shares == 1:
        assert bits(networks[0]) == bits(expected)


@pytest.mark.parametrize("weights, message", [
    (np.zeros(ROWS), "^sample_weight has only zeros, expected others"),
    (np.where(np.arange(ROWS) == 900, -1, 1), "chunk 3 of 5 .* sample_weight has numbers that are negative or not finite"),
    (np.where(np.arange(ROWS) == 900, np.inf, 0), "chunk 3 of 5 .* sample_weight has numbers that are negative or not finite")])
def test_weights_that_are_refused(client, weights, message):
    network = make()
    before = bits(network)
    with pytest.raises(ValueError, match=message):
        train(client, network, sample_weight=cut(weights.astype(float)))
    assert bits(network) == before


def test_a_single_callback(client):
    told = []
    train(client, epochs=2, callbacks=lambda network, history: told.append(len(history.loss)))
    assert told == [1, 2]
    with pytest.raises(TypeError, match="callbacks is 3, expected functions of the network and the History"):
        train(client, callbacks=3)


def test_a_chunk_that_cannot_be_loaded_is_named(client):
    x, y = (cut(a) for a in data())

    def load(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 3:
            raise OSError("no such file")
        return block

    bad = x.map_blocks(load, dtype=x.dtype, meta=x._meta)
    network = make()
    before = bits(network)
    with pytest.raises(RuntimeError, match="chunk 3 of 5 of x, y and sample_weight cannot be computed: OSError: no such file"):
        fastbp.dask.fit(network, bad, y, optimizer=fastbp.Adam(), epochs=1, batch_size=10, client=client)
    with pytest.raises(ValueError, match="chunk 2 of 5 .* targets has classes from 0 to 9, expected 0 to 3"):
        fastbp.dask.fit(network, x, da.where(da.arange(ROWS, chunks=y.chunks) == 700, 9, y), optimizer=fastbp.Adam(), epochs=1,
                        batch_size=10, client=client)
    assert bits(network) == before


def test_ctrl_c_keeps_what_was_learnt(client, monkeypatch):
    network, optimizer, timers = make(), fastbp.Adam(), []
    before, advance = bits(network), Training.advance

    def interrupted(self, end):
        if self.epoch and not timers:
            timers.append(threading.Timer(0.01, _thread.interrupt_main))
            timers[0].start()
        return advance(self, end)

    monkeypatch.setattr(Training, "advance", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted after .* of 1000 epochs; what was learnt is kept") as caught:
        history = train(client, network, optimizer, epochs=1000)[2]
    timers[0].join()
    assert history.interrupted and caught[0].filename == train.__code__.co_filename
    assert optimizer.iterations >= 10 and bits(network) != before
    network.fit(*data(), epochs=1, batch_size=128, optimizer=optimizer)
    train(client, network, optimizer)


def test_ctrl_c_leaves_no_lock_behind(client, monkeypatch):
    acquire, came = Lock.acquire, []

    def interrupted(self, *arguments, **settings):
        result = acquire(self, *arguments, **settings)
        if not came:
            came.append(signal.raise_signal(signal.SIGINT))
        return result

    monkeypatch.setattr(Lock, "acquire", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted after 0 of 2 epochs"):
        train(client)
    with client.as_current():
        assert not Lock("fastbp").locked()


def test_ctrl_c_leaves_no_task_behind(client, monkeypatch):
    submit, came = Client.submit, []

    def interrupted(self, function, *arguments, **settings):
        future = submit(self, function, *arguments, **settings)
        if function is coordinator._train and not came:     # the first of two, which waits for the second one's gradients
            time.sleep(0.5)
            came.append(signal.raise_signal(signal.SIGINT))
        return future

    monkeypatch.setattr(Client, "submit", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted after 0 of 2 epochs"):
        train(client)
    deadline = time.monotonic() + 20
    while any(client.processing().values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_workers_use_as_many_threads_as_dask_gives_them(monkeypatch):
    from fastbp._runtime import state

    fastbp.set_num_threads(64)
    fastbp.dense_forward(np.ones((2, 2)), np.ones((2, 2)))
    if state.words[state.THREADS] != 64:
        pytest.skip("kernels are serial here: there is no threading layer")
    seen, run_of = [], worker.run_of

    def watched(*arguments):
        seen.append(state.words[state.THREADS])
        return run_of(*arguments)

    monkeypatch.setattr(worker, "run_of", watched)
    with LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=":0") as cluster, \
            Client(cluster) as client:
        train(client)
    assert seen[0] == 64 and set(seen[1:]) == {3} and state.words[state.THREADS] == 64      # the first only compiles


def test_warmup(client):
    fastbp.dask.warmup(client, np.float32)
    with pytest.raises(TypeError, match="dtypes holds int64, expected float32 or float64"):
        fastbp.dask.warmup(client, int)


X, Y = (cut(a) for a in data())


@pytest.mark.parametrize("arguments, settings, error, message", [
    ((data()[0], Y), {}, TypeError, "x is of type ndarray, expected a dask.array.Array"),
    ((X, data()[1]), {}, TypeError, "y is of type ndarray, expected a dask.array.Array"),
    ((X[:, 1:], Y), {}, ValueError, r"x has shape \(2000, 11\), expected \(rows, 12\)"),
    ((X, Y[1:]), {}, ValueError, r"y has shape \(1999,\), expected 2000 rows"),
    ((X[:0], Y[:0]), {}, ValueError, r"x has shape \(0, 12\), expected at least one row"),
    ((X, Y), {"epochs": 0}, ValueError, "epochs is 0, expected an integer of at least 1"),
    ((X, Y), {"batch_size": 1.5}, ValueError, "batch_size is 1.5"),
    ((X, Y), {"optimizer": "adam"}, TypeError, "optimizer is 'adam', expected one such as"),
    ((X, Y), {"shares": 0}, ValueError, "shares is 0, expected an integer of at least 1"),
    ((X, Y), {"checkpoint": "a.txt"}, ValueError, "path is 'a.txt', with the suffix '.txt'"),
])
def test_what_does_not_fit_is_refused_before_anything_is_computed(client, arguments, settings, error, message):
    settings = {"optimizer": fastbp.Adam(), "epochs": 1, "batch_size": 10, "client": client} | settings
    network = make()
    before = bits(network)
    with pytest.raises(error, match=message):
        fastbp.dask.fit(network, *arguments, **settings)
    assert bits(network) == before
