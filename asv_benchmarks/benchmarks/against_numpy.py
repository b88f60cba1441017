"""Ratios of fastbp's time to NumPy's, in the same process and in turns: below 1, fastbp is faster.

The clock of a machine may change by half between two commits, and every time with it. It changes both times of a ratio, so that
the ratio still shows what a commit has changed.
"""
import math
import os
import time

import numpy as np
from threadpoolctl import threadpool_limits

import fastbp

from .base import THREADS, Benchmark, function, normal

# Names and sizes of the layers that are compared.
SHAPES = {f"{rows} x {n_inputs} -> {n_neurons}": (rows, n_inputs, n_neurons) for rows, n_inputs, n_neurons in [
    (32, 64, 64), (1, 1024, 1024), (128, 784, 128), (256, 512, 512), (4096, 784, 256), (100_000, 16, 16)]}
TURNS = int(os.environ.get("FASTBP_BENCH_TURNS", 11))           # fastbp and NumPy take this many turns each.
SECONDS = 0.02                  # A turn of fastbp or NumPy takes about this many seconds.
QUIET = 0.12                    # Seconds before a turn with threads: OpenBLAS's and TBB's spin for 0.1 s after a product.


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
    """Return our shortest time divided by theirs. Other work on the machine only adds to a time, so the shortest count."""
    shortest = [math.inf, math.inf]
    for _ in range(TURNS):
        for i, call in enumerate((ours, theirs)):
            time.sleep(quiet)
            shortest[i] = min(shortest[i], shortest_of_a_turn(call))
    return round(shortest[0] / shortest[1], 3)


def shortest_of_a_turn(call):
    """Return the seconds of the shortest call of a turn, which has at least one."""
    shortest, now = math.inf, time.perf_counter()
    end = now + SECONDS
    while now < end:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        shortest = min(shortest, now - start)
    return shortest
