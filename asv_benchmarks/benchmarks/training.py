"""An epoch of a network's training, shuffled, with the loss and the optimiser; and an optimiser's pass alone."""
import numpy as np

from .base import Benchmark, dense_layers, function, normal

# Each training has a number of rows, a batch size, and the sizes of the network's layers.
NETWORKS = {
    "digits 64-100-10, 1800 rows in batches of 200": (1800, 200, [64, 100, 10]),
    "digits 64-256-128-10, 1800 rows in batches of 64": (1800, 64, [64, 256, 128, 10]),
    "table 100-256-10, 20000 rows in batches of 200": (20000, 200, [100, 256, 10]),
}


class Training(Benchmark):
    params = [list(NETWORKS)]
    param_names = ["network"]

    def prepare(self, network):
        rows, self.batch, sizes = NETWORKS[network]
        self.network = function("Sequential", loss=function("SoftmaxCrossEntropy")())(dense_layers(sizes))
        self.optimizer, self.rng = function("Adam")(), np.random.default_rng(0)
        self.inputs, self.labels = normal(rows, sizes[0]), np.arange(rows) % sizes[-1]
        return [self.epoch]

    def epoch(self):
        self.network.fit(self.inputs, self.labels, epochs=1, batch_size=self.batch, optimizer=self.optimizer, rng=self.rng,
                         progress=False)

    def time_epoch(self, network):
        self.epoch()


class Optimizers(Benchmark):
    """An optimiser's pass over ten million parameters."""

    params = [["SGD", "Adam"]]
    param_names = ["optimizer"]

    def prepare(self, optimizer):
        self.values, self.gradient = normal(10_000, 1000), normal(1000, 10_000).reshape(10_000, 1000)
        self.optimizer = function(optimizer)(1e-6)
        return [self.step]

    def step(self):
        self.optimizer.update([self.values], [self.gradient])

    def time_step(self, optimizer):
        self.step()
