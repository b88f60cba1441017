"""A comparison of whole trainings with scikit-learn's and an eager PyTorch loop, and of an optimiser's pass with copying.

A ratio is the time of another divided by fastbp's: above 1, fastbp is faster. The implementations take turns, each in a process
of its own. They train for the same number of epochs on the same data, with all cores.
"""
import argparse
import statistics
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import contest
import numpy as np

# The packages that fastbp is compared with, and all that take turns.
PEERS = ("sklearn", "torch")
CONTESTANTS = ("fastbp", *PEERS)

# Each job has data, a dtype, parameters of scikit-learn's MLPClassifier, and the smallest ratio to each that is promised.
JOBS = {
    "digits, defaults": ("digits", "float64", {}, {"sklearn": 4, "torch": 4}),
    "digits, defaults, float32": ("digits", "float32", {}, {"sklearn": 4, "torch": 4}),
    "digits, 256 and 128, batch 64": ("digits", "float64", {"hidden_layer_sizes": [256, 128], "batch_size": 64},
                                      {"sklearn": 4}),
    "50 000 × 100, hidden 256": ("normal", "float64", {"hidden_layer_sizes": [256], "max_iter": 5}, {"sklearn": 1.7}),
}
TURN = 1.0                      # A turn of an implementation takes at least this many seconds.
PARAMETERS = 10_000_000         # The optimiser's pass is over this many parameters.
BANDWIDTH = 0.8                 # It must read and write bytes at this part of the speed of copying, or faster.


# ---- in the process of one implementation


def data(name, dtype):
    """Return x (rows, features) and the labels (rows,) of a job."""
    if name == "digits":
        from fastbp.demo import load_digits
        digits = load_digits()
        return digits.images.astype(dtype) * 16, digits.labels
    rng = np.random.default_rng(0)
    return rng.standard_normal((50_000, 100)).astype(dtype), rng.integers(0, 10, 50_000)


def estimator(module):
    """Return a function fit(x, y, parameters, epochs) that trains the classifier of a module and returns its epochs."""
    def fit(x, y, parameters, epochs):
        return module.MLPClassifier(random_state=0, **parameters | {"max_iter": epochs}).fit(x, y).n_iter_
    return fit


def fastbp_fit():
    import fastbp.sklearn
    return estimator(fastbp.sklearn)


def sklearn_fit():
    import sklearn.neural_network
    return estimator(sklearn.neural_network)


def torch_fit():
    import torch
    from torch import nn

    def fit(x, y, parameters, epochs):
        torch.manual_seed(0)
        x, y = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))
        sizes = [x.shape[1], *parameters.get("hidden_layer_sizes", [100]), 10]
        layers = [layer for ends in pairwise(sizes) for layer in (nn.Linear(*ends, dtype=x.dtype), nn.ReLU())]
        model, batch = nn.Sequential(*layers[:-1]), parameters.get("batch_size", 200)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
        for _ in range(epochs):
            order = torch.randperm(len(x))
            for start in range(0, len(x), batch):
                part = order[start:start + batch]
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
        return epochs
    return fit


# Each function returns fit(x, y, parameters, epochs) of an implementation, which returns the number of epochs.
FITS = {"fastbp": fastbp_fit, "sklearn": sklearn_fit, "torch": torch_fit}


def work(name):
    """Answer questions about an implementation in its process: a job with its number of epochs, null with a fit's seconds."""
    warnings.simplefilter("ignore")                     # warnings that a job ended before it converged
    fit, prepared = FITS[name](), []

    def prepare(job):
        which, dtype, parameters, epochs = job
        prepared[:] = *data(which, dtype), parameters, epochs
        return fit(*prepared)

    def seconds():
        """Return the mean seconds of a fit over a turn: the first fit finds the cores as another implementation left them."""
        start, fits = time.perf_counter(), 0
        while time.perf_counter() - start < TURN:
            fit(*prepared)
            fits += 1
        return (time.perf_counter() - start) / fits

    contest.answer(prepare, seconds)


# ---- in the process that compares


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9, help="of each implementation (default: 9)")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="JOB", help="default: all")
    parser.add_argument("--readme", action="store_true", help="write the table into .docs/benchmarks.md")
    chosen = parser.parse_args()
    lines = fits(chosen.jobs, contest.installed(PEERS), chosen.turns)
    lines.append(optimizer())
    print(lines[-1], flush=True)
    if chosen.readme:
        contest.write(contest.BENCHMARKS, "train", "\n".join([contest.machine() + ".", "", *lines, ""]).replace(" *", ""))


def fits(jobs, peers, turns):
    """Print and return the table of trainings."""
    lines = [f"| seconds a fit | epochs | fastbp | {' | '.join(peers)} | {' | '.join(f'over {peer}' for peer in peers)} |",
             "| --- |" + " ---: |" * (2 + 2 * len(peers))]
    print(*lines, sep="\n", flush=True)
    contestants = [contest.Contestant(name, contest.thread_counts(None)[-1], script=__file__) for name in ("fastbp", *peers)]
    for name in jobs:
        which, dtype, parameters, least = JOBS[name]
        epochs = contestants[0].ask([which, dtype, parameters, parameters.get("max_iter", 200)])
        seconds = contest.medians(contestants, [which, dtype, parameters, epochs], turns)
        ratios = [theirs / seconds[0] for theirs in seconds[1:]]
        marks = [f"{ratio:.2f}{'' if ratio >= least.get(peer, 0) else ' *'}" for peer, ratio in zip(peers, ratios, strict=True)]
        lines.append(f"| {name} | {epochs} | {' | '.join(f'{s:.3f}' for s in seconds)} | {' | '.join(marks)} |")
        print(lines[-1], flush=True)
    for contestant in contestants:
        contestant.close()
    print("*: less than promised\n", flush=True)
    return [*lines, ""]


def optimizer():
    """Return a line about Adam's pass over many parameters: its bytes a second, beside the faster of two ways to copy."""
    import fastbp
    values, gradient = np.ones(PARAMETERS, np.float32), np.full(PARAMETERS, 0.1, np.float32)
    target, adam = np.ones_like(values), fastbp.Adam()
    threads = fastbp.get_num_threads()
    parts = list(zip(np.array_split(target, threads), np.array_split(values, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        steps = (lambda: adam.update([values], [gradient]), lambda: np.copyto(target, values),
                 lambda: list(pool.map(lambda pair: np.copyto(*pair), parts)))
        seconds = [[] for _ in steps]
        for _ in range(15):
            for step, times in zip(steps, seconds, strict=True):
                start = time.perf_counter()
                step()
                times.append(time.perf_counter() - start)
    ours, *copies = map(statistics.median, seconds)
    speed, copy = 7 * values.nbytes / ours / 1e9, 2 * values.nbytes / min(copies) / 1e9
    return (f"Adam's pass over {PARAMETERS:,} float32 parameters: {ours * 1e3:.1f} ms, {speed:.1f} GB/s, {speed / copy:.0%} of "
            f"copying ({copy:.1f} GB/s){'' if speed >= BANDWIDTH * copy else ' *'}")


if __name__ == "__main__":
    if len(sys.argv) == 6 and sys.argv[1] in FITS:
        sys.path.remove(str(Path(__file__).parent))     # no implementation must import one of the scripts
        work(sys.argv[1])
    else:
        main()
