"""The cost of fastbp.profile, while it is active and while it is not."""
import time
from functools import partial

import numba
import numpy as np

from .base import Benchmark, function, normal

TURNS, CALLS = 15, 5            # A ratio is the median of so many turns, and a time the shortest of so many calls.
LOOKS = 1_000_000               # A call looks this many times whether a profile is active.


class Active(Benchmark):
    """The time of a step while a profile records it, divided by its time without a profile."""

    params = [["32 x 64 -> 64", "4096 x 784 -> 256"]]
    param_names = ["shape"]

    def prepare(self, shape):
        rows, n_inputs, n_neurons = (int(word) for word in shape.replace("->", "x").split("x"))
        layer, x, dvalues = function("DenseReLU")(n_inputs, n_neurons, rng=0), normal(rows, n_inputs), normal(rows, n_neurons)
        self.profile, self.step = function("profile"), lambda: (layer.forward(x), layer.backward(dvalues))
        return [self.step]

    def track_time(self, shape):
        ratios = []
        for _ in range(TURNS):
            with self.profile():
                recorded = fastest(self.step)
            ratios.append(recorded / fastest(self.step))
        return float(np.median(ratios))

    track_time.unit = "x"


class Inactive(Benchmark):
    """The time to look whether a profile is active. An atomic addition beside it keeps LLVM from leaving looks out."""

    def prepare(self):
        try:
            from fastbp.kernels.schedule import atomic, trace
        except ImportError:
            raise NotImplementedError("this commit has no profiles") from None

        def adding(counter, count):
            for _ in range(count):
                atomic.fetch_add(counter.ctypes.data, 1)

        def looking(counter, count):
            for _ in range(count):
                begun = trace.begin()
                atomic.fetch_add(counter.ctypes.data, 1)
                trace.finish(begun, 0, 0, 0, 0)

        counter = np.zeros(1, np.int64)
        self.calls = [partial(numba.njit(f), counter, LOOKS) for f in (adding, looking)]
        return self.calls

    def track_look(self):
        adding, looking = (fastest(call) for call in self.calls)
        return max(0.0, looking - adding) / LOOKS * 1e9

    track_look.unit = "ns"


def fastest(call):
    """Return the seconds of the fastest of a few calls."""
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
