"""An epoch of a network's training, shuffled, with the loss and the optimiser; and an optimiser's pass alone."""
from itertools import pairwise

import numpy as np

from .base import Benchmark, function, normal

NETWORKS = {
    "digits 64-100-10, 1800 rows in batches of 200": (1800, 200, [64, 100, 10]),
    "digits 64-256-128-10, 1800 rows in batches of 64": (1800, 64, [64, 256, 128, 10]),
    "table 100-256-10, 20000 rows in batches of 200": (20000, 200, [100, 256, 10]),
}


class Training(Benchmark):
    params = [list(NETWORKS), ["float32", "float64"]]
    param_names = ["network", "dtype"]

    def prepare(self, network, dtype):
        rows, self.batch, sizes = NETWORKS[network]
        *hidden, last = pairwise(sizes)
        layers = [*(function("DenseReLU", rng=0, dtype=dtype)(*ends) for ends in hidden),
                  function("Dense", rng=0, dtype=dtype)(*last)]
        self.network = function("Sequential", loss=function("SoftmaxCrossEntropy")())(layers)
        self.optimizer, self.rng = function("Adam")(), np.random.default_rng(0)
        self.inputs, self.labels = normal(rows, sizes[0], dtype=dtype), np.arange(rows) % sizes[-1]
        return [self.epoch]

    def epoch(self):
        self.network.fit(self.inputs, self.labels, epochs=1, batch_size=self.batch, optimizer=self.optimizer, rng=self.rng,
                         progress=False)

    def time_epoch(self, network, dtype):
        self.epoch()


class Optimizers(Benchmark):
    params = [["SGD", "Adam"], [10_000, 10_000_000]]
    param_names = ["optimizer", "parameters"]

    def prepare(self, optimizer, parameters):
        self.values, self.gradient = normal(1, parameters), normal(2, parameters // 2).reshape(1, parameters)
        self.optimizer = function(optimizer)(1e-6)
        return [self.step]

    def step(self):
        self.optimizer.update([self.values], [self.gradient])

    def time_step(self, optimizer, parameters):
        self.step()
