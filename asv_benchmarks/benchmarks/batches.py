"""A training step of one layer, 64 inputs and 64 neurons, for batches from one row to a million."""
from .base import Benchmark, function, normal


class OneLayer(Benchmark):
    params = [[1, 10, 100, 1000, 10_000, 100_000, 1_000_000]]
    param_names = ["rows"]

    def prepare(self, rows):
        self.layer = function("DenseReLU", rng=0)(64, 64)
        self.inputs, self.dvalues = normal(rows, 64), normal(rows, 64)
        return [self.step]

    def step(self):
        self.layer.forward(self.inputs)
        self.layer.backward(self.dvalues)


class Batches(OneLayer):
    def time_step(self, rows):
        self.step()
