"""Dask workers that are killed, stopped or added while they compute. Nothing may be lost, and no sum may be wrong."""
import os
import signal
import threading
import time

import dask.array as da
import numpy as np
import pytest
from distributed import Client, Status

import fastbp
import fastbp.dask
from dask_training import bits, data, local_cluster, train


@pytest.fixture
def cluster():
    with local_cluster() as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster) as client:
        yield client


def pids(cluster):
    """Return the ids of the processes of running workers. If one is killed while it starts, closing the cluster may hang."""
    processes = [nanny.process for nanny in cluster.workers.values() if nanny.process]
    return [process.pid for process in processes if process.status == Status.running and process.pid]


def kill(cluster, count=1):
    killed = pids(cluster)[:count]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return killed


def slowly(chunk, path=None, block_info=None):
    """Return the chunk after 0.3 s, and leave a file in a folder as a note that it was read."""
    if path is not None:
        name, = block_info[0]["chunk-location"][:1]
        (path / f"{name}.{time.time_ns()}").touch()
        time.sleep(0.3)
    return chunk


@pytest.mark.parametrize("killed, is_backward", [(1, False), (2, True)])
def test_workers_are_killed_in_the_passes_of_a_layer(cluster, client, tmp_path, killed, is_backward):
    rng = np.random.default_rng(0)
    weights, values = rng.standard_normal((12, 5)), rng.standard_normal((800, 12))

    def results(path):
        x = da.from_array(values, (100, -1)).map_blocks(slowly, path=path, dtype=values.dtype, meta=values[:0])
        y = fastbp.dask.dense_relu_forward(x, weights)
        return [y, *fastbp.dask.dense_relu_backward(y, y, x, weights)] if is_backward else [y]

    expected = [array.compute() for array in results(None)]
    futures = client.compute(results(tmp_path))
    while len(list(tmp_path.iterdir())) < 3:
        time.sleep(0.01)
    kill(cluster, killed)
    for got, exact in zip(client.gather(futures), expected, strict=True):
        assert got.tobytes() == exact.tobytes()
    chunks = [path.stem for path in tmp_path.iterdir()]
    assert len(chunks) > len(set(chunks)) == 8          # some were read again


@pytest.mark.parametrize("batch_size, rows", [(20, 8000), (1000, 40_000)])
def test_workers_are_killed_in_a_training(cluster, client, batch_size, rows):
    settings = {"chunks": (rows // 8,) * 8, "x_y": data(rows=rows), "epochs": 6, "batch_size": batch_size}
    expected, _, expected_history = train(client, **settings)
    kills, over = [], threading.Event()

    def repeat():
        while not over.wait(0.7) and len(kills) < 2:
            kills.extend(kill(cluster))

    thread = threading.Thread(target=repeat)

    def begin(network, history):
        """In the middle of it: the chunks are loaded."""
        if not kills and not thread.is_alive():
            thread.start()
        thread.join(1.5 if len(kills) < 2 else 0)

    try:
        network, _, history = train(client, callbacks=[begin], **settings)
    finally:
        over.set()
        thread.join()
    assert kills
    assert bits(network) == bits(expected) and history == expected_history


def test_a_worker_is_killed_in_a_training_without_callbacks(cluster, client):
    settings = {"epochs": 12, "batch_size": 10}
    expected, _, expected_history = train(client, **settings)
    timer = threading.Timer(1.0, kill, [cluster])
    timer.start()
    network, _, history = train(client, **settings)
    assert not timer.is_alive(), "it was over before the worker was killed"
    assert bits(network) == bits(expected) and history == expected_history


def test_all_workers_are_killed(cluster, client):
    expected, _, expected_history = train(client, epochs=4)

    def end(network, history):
        if len(history.loss) == 2:
            kill(cluster, 2)

    network, _, history = train(client, epochs=4, callbacks=[end])
    assert bits(network) == bits(expected) and history == expected_history


def test_all_workers_are_killed_in_a_later_epoch_than_the_last_that_the_client_has_seen(cluster, client):
    settings = {"epochs": 12, "batch_size": 10}
    expected, _, expected_history = train(client, **settings)
    timer = threading.Timer(1.0, kill, [cluster, 2])
    timer.start()
    network, _, history = train(client, **settings)
    assert not timer.is_alive(), "it was over before the workers were killed"
    assert bits(network) == bits(expected) and history == expected_history


def test_a_slow_worker_and_a_new_one_change_nothing(cluster, client):
    settings = {"epochs": 4, "shares": 4, "batch_size": 32}
    expected, slow = train(client, **settings)[0], pids(cluster)[0]

    def disturb(network, history):
        if len(history.loss) == 1:
            os.kill(slow, signal.SIGSTOP)
            threading.Timer(2, os.kill, (slow, signal.SIGCONT)).start()
        elif len(history.loss) == 2:
            cluster.scale(3)
            client.wait_for_workers(3)

    network = train(client, callbacks=[disturb], **settings)[0]
    assert len(client.nthreads()) == 3
    assert bits(network) == bits(expected)
