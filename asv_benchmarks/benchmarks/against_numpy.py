"""fastbp's time over NumPy's in the same process, turn by turn: below 1, fastbp is faster.

The clock of a machine may change by half between two commits, and with it every time. It changes both of these times,
so that their ratio still shows what a commit did.
"""
import math
import os
import time

import numpy as np
from threadpoolctl import threadpool_limits

import fastbp

from .base import THREADS, Benchmark, function, normal

SHAPES = {f"{rows} x {n_inputs} -> {n_neurons}": (rows, n_inputs, n_neurons) for rows, n_inputs, n_neurons in [
    (32, 64, 64), (1, 1024, 1024), (128, 784, 128), (256, 512, 512), (4096, 784, 256), (100_000, 16, 16)]}
TURNS = int(os.environ.get("FASTBP_BENCH_TURNS", 11))
SECONDS = 0.02                  # of calls in a turn of each
QUIET = 0.12                    # before it, where there are threads: OpenBLAS's spin for 0.1 after a product, TBB's as well


class TimeOverNumPys(Benchmark):
    params = [list(SHAPES), THREADS]
    param_names = ["shape", "threads"]
    unit = "x"

    def prepare(self, shape, threads):
        rows, n_inputs, n_neurons = SHAPES[shape]
        inputs, weights, biases = normal(rows, n_inputs), normal(n_inputs, n_neurons), normal(1, n_neurons)
        dvalues, output = normal(rows, n_neurons), np.empty((rows, n_neurons), np.float32)
        gradients = [np.empty_like(a) for a in (inputs, weights, biases)]
        threadpool_limits(fastbp.get_num_threads())
        forward, backward = function("dense_relu_forward"), function("dense_relu_backward")

        def numpy_forward():
            np.matmul(inputs, weights, out=output)
            np.add(output, biases, out=output)
            np.maximum(output, 0, out=output)

        def numpy_backward():
            dz = np.where(output > 0, dvalues, 0)
            np.matmul(dz, weights.T, out=gradients[0])
            np.matmul(inputs.T, dz, out=gradients[1])
            np.sum(dz, axis=0, keepdims=True, out=gradients[2])

        self.forward = lambda: forward(inputs, weights, biases, out=output), numpy_forward
        self.backward = lambda: backward(dvalues, output, inputs, weights, out=tuple(gradients)), numpy_backward
        return *self.forward, *self.backward

    def track_forward(self, shape, threads):
        return ratio(*self.forward, quiet=QUIET * (threads != 1))

    def track_backward(self, shape, threads):
        return ratio(*self.backward, quiet=QUIET * (threads != 1))

    track_forward.pretty_name = "forward: fastbp's time over NumPy's"
    track_backward.pretty_name = "backward: fastbp's time over NumPy's"


def ratio(ours, theirs, quiet):
    """The shortest time of ours over the shortest of theirs: what else runs on the machine only ever adds to one."""
    shortest = [math.inf, math.inf]
    for _ in range(TURNS):
        for i, call in enumerate((ours, theirs)):
            time.sleep(quiet)
            shortest[i] = min(shortest[i], shortest_of_a_turn(call))
    return round(shortest[0] / shortest[1], 3)


def shortest_of_a_turn(call):
    """Seconds of the shortest of its calls, at least one."""
    shortest, now = math.inf, time.perf_counter()
    end = now + SECONDS
    while now < end:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        shortest = min(shortest, now - start)
    return shortest
