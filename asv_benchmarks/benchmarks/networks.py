"""A training step of typical networks: forward, then backward through all layers, without a loss and an update."""
from .base import Benchmark, dense_layers, normal

# Each network has a number of rows, and the sizes of its layers.
NETWORKS = {
    "controller 4-16-1, 1 row": (1, [4, 16, 1]),
    "digits 64-128-10, 32 rows": (32, [64, 128, 10]),
    "MNIST 784-512-128-10, 128 rows": (128, [784, 512, 128, 10]),
    "MNIST 784-512-128-10, 4096 rows": (4096, [784, 512, 128, 10]),
    "transformer block 768-3072-768, 512 rows": (512, [768, 3072, 768]),
}


class Networks(Benchmark):
    params = [list(NETWORKS)]
    param_names = ["network"]

    def prepare(self, network):
        rows, sizes = NETWORKS[network]
        self.layers = dense_layers(sizes)
        self.inputs, self.dvalues = normal(rows, sizes[0]), normal(rows, sizes[-1])
        return [self.step]

    def step(self):
        values, gradient = self.inputs, self.dvalues
        for layer in self.layers:
            values = layer.forward(values)
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)

    def time_step(self, network):
        self.step()
