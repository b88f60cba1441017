"""A million small steps and ten thousand large ones leave memory, threads and open files as they were."""
import gc
import os
import sys
from pathlib import Path

import numpy as np

import fastbp

from . import report

WARM = 0.1                      # This part of the steps is taken before memory, threads and files are first counted.
MOST_GROWTH = 4 << 20           # The allocator may keep this many bytes; one lost array a step would be far more.


def held():
    """Return (bytes in memory, threads, open files) of this process."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def kinds(rng):
    """Return two dictionaries, of small and of large steps: {name: (part of the steps, a function that takes one)}."""
    def layer(rows, n_inputs, n_neurons, **options):
        dense = fastbp.Dense(n_inputs, n_neurons, rng=0, **options)
        x = rng.standard_normal((rows, n_inputs)).astype(dense.weights.dtype)
        return lambda: dense.backward(dense.forward(x))

    def functions():
        x, w = rng.standard_normal((9, 7)), rng.standard_normal((7, 5))
        return lambda: fastbp.dense_relu_backward(fastbp.dense_relu_forward(x, w), np.ones((9, 5)), x, w)

    def promoted():
        x, w = [[1, 2, 3]], np.ones((3, 4), np.float16)
        return lambda: fastbp.relu_forward(fastbp.dense_forward(x, w))

    def refused():
        x, w = np.ones((2, 3)), np.ones((4, 5))

        def refused():
            try:
                fastbp.dense_forward(x, w)
            except ValueError:
                return
            raise AssertionError("no error")
        return refused

    def fit(rows):
        network = fastbp.Sequential([fastbp.Dense(6, 5, activation="tanh", rng=0), fastbp.Dropout(0.1),
                                     fastbp.Dense(5, 3, rng=1)], fastbp.SoftmaxCrossEntropy())
        x, y, optimizer = rng.standard_normal((rows, 6)).astype(np.float32), rng.integers(0, 3, rows), fastbp.Adam()
        return lambda: network.fit(x, y, epochs=1, batch_size=32, optimizer=optimizer, progress=False, rng=0)

    def profiled():
        dense, x = fastbp.Dense(8, 8, rng=0), np.ones((16, 8), np.float32)

        def profiled():
            with fastbp.profile():
                dense.backward(dense.forward(x))
        return profiled

    small = {"a layer's step": (0.7, layer(16, 8, 8)),
             "another dtype's": (0.1, layer(5, 9, 4, dtype=np.float64, activation="gelu")), "functions": (0.1, functions()),
             "promoted lists": (0.05, promoted()), "refused": (0.04, refused()), "a fit": (0.008, fit(64)),
             "a profile": (0.002, profiled())}
    large = {"packed": (0.3, layer(600, 300, 200)), "fused": (0.4, layer(5000, 40, 30)), "a larger fit": (0.2, fit(5000)),
             "bfloat16": (0.1, layer(600, 100, 100, precision="bfloat16"))}
    return small, large


def run(small_steps, large_steps, seed):
    """Take so many small and large steps; return (faults, steps taken)."""
    rng = np.random.default_rng(seed)
    faults, taken = [], 0
    for steps_by_name, steps in zip(kinds(rng), (small_steps, large_steps), strict=True):
        for name, (part, step) in steps_by_name.items():
            count = max(10, round(part * steps))
            warm = max(5, round(WARM * count))
            _repeat(step, warm)
            before = held()
            _repeat(step, count - warm)
            after = held()
            taken += count
            grown = [b - a for a, b in zip(before, after, strict=True)]
            print(f"{count:9,} x {name:18} {grown[0] / 1024:8.0f} KiB, {grown[1]} threads, {grown[2]} files more", flush=True)
            if grown[0] > MOST_GROWTH or grown[1] > 0 or grown[2] > 0:
                faults.append(f"{name}: {grown} more bytes, threads and files after {count - warm} steps")
    return faults, taken


def _repeat(step, count):
    for _ in range(count):
        step()
    gc.collect()


def main(arguments):
    parser = report.options(sys.modules[__name__], small=1_000_000, large=10_000)
    chosen = parser.parse_args(arguments)
    if not Path("/proc/self/statm").exists():
        print("skipped: it reads /proc, which is not here")
        return 0
    faults, steps = run(chosen.small, chosen.large, chosen.seed)
    return report.close(faults, steps=steps)
