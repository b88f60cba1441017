"""A small training on Dask, which several tests use."""
import dask.array as da
import numpy as np

import fastbp
import fastbp.dask

ROWS, INPUTS, CLASSES = 2000, 12, 4
CHUNKS = 300, 0, 500, 700, 500


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
