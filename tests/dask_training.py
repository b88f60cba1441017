"""A small training on Dask, and a cluster whose workers start fast, which several tests use."""
from contextlib import contextmanager

import dask
import dask.array as da
import numpy as np
from distributed import LocalCluster
from distributed.utils import get_mp_context

import fastbp
import fastbp.dask

ROWS, INPUTS, CLASSES = 2000, 12, 4
CHUNKS = 300, 0, 500, 700, 500


@contextmanager
def local_cluster(n_workers=2, **settings):
    """Yield a cluster of processes of one thread, forked from one that has imported what they need: imports take seconds.

    Users' workers import it themselves, by default, as those of test_readme.py do.
    """
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["distributed", "fastbp.dask"])
        with LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0", **settings) as cluster:
            yield cluster


def make(dtype=np.float32, loss=None, dropout=False, l2=0.0):
    layers = [fastbp.DenseReLU(INPUTS, 16, dtype=dtype, rng=1), fastbp.Dense(16, CLASSES, dtype=dtype, rng=2)]
    if dropout:
        layers.insert(1, fastbp.Dropout(0.3))
    return fastbp.Sequential(layers, loss or fastbp.SoftmaxCrossEntropy(), l2=l2)


def data(dtype=np.float32, rows=ROWS):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, INPUTS)).astype(dtype)
    return x, (x @ rng.standard_normal((INPUTS, CLASSES))).argmax(axis=1)


def cut(array, chunks=CHUNKS):
    return da.from_array(array, chunks=(chunks, *array.shape[1:]))


def train(client, network=None, optimizer=None, chunks=CHUNKS, x_y=None, **settings):
    """Train, and return (network, optimizer, history)."""
    network, optimizer, x_y = network or make(), optimizer or fastbp.Adam(), x_y or data()
    settings = {"epochs": 2, "batch_size": 128, "rng": 5, "progress": False} | settings
    history = fastbp.dask.fit(network, *(cut(a, chunks) for a in x_y), optimizer=optimizer, client=client, **settings)
    return network, optimizer, history


def bits(network):
    return [a.tobytes() for a in network.parameters()]
