"""A comparison of a training step of layers of random shapes with NumPy's and PyTorch's, which lists where fastbp is slower.

Shapes are log-uniform: batch 1 to 300 000, inputs and neurons 1 to 3 000, up to 40 GFLOP a step. Each run draws and prints a
new seed. For each slower shape it prints what limits it: arithmetic at the speed of this machine's products, or memory traffic
at the speed of its copies, whichever takes longer; and what percentage of that speed fastbp and the fastest other one reach.
"""
import statistics
import time

import contest
import numpy as np

MOST = 300_000, 3_000, 3_000    # The largest batch, number of inputs, and number of neurons.
FLOP = 40e9                     # A step has at most this many floating-point operations.


def main():
    parser = contest.options(__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int)
    parser.set_defaults(peers=("numpy", "torch"), turns=3)
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    print(f"{contest.machine()}; seed {seed}")
    peers = contest.installed(chosen.peers)
    for dtype in chosen.dtype:
        for threads in contest.thread_counts(chosen.threads):
            sweep(random_shapes(seed, chosen.count), peers, dtype, threads, chosen.precision or dtype, chosen.turns)


def random_shapes(seed, count):
    """Return `count` random shapes (batch, inputs, neurons)."""
    rng = np.random.default_rng(seed)
    shapes = []
    while len(shapes) < count:
        shape = [int(most ** rng.random()) for most in MOST]
        if 6 * np.prod(shape, dtype=float) <= FLOP:
            shapes.append(shape)
    return shapes


def sweep(shapes, peers, dtype, threads, precision, turns):
    """Compare all shapes, and print a summary and the slower ones."""
    contestants = [contest.Contestant(name, threads, dtype, precision) for name in ("fastbp", *peers)]
    speeds = machine_speeds(dtype)
    ratios, slower = [], []
    for i, shape in enumerate(shapes):
        ours, *theirs = contest.medians(contestants, shape, turns)
        ratios.append(min(theirs) / ours)
        if ratios[-1] < 1:
            slower.append((ratios[-1], shape, ours, min(theirs), peers[theirs.index(min(theirs))]))
        print(f"\r{i + 1} of {len(shapes)} shapes, {len(slower)} slower", end="", flush=True)
    for contestant in contestants:
        contestant.close()
    ranks = sorted(ratios)
    print(f"\r{dtype} {precision}, {threads} thread(s), {len(ratios)} shapes: "
          f"geometric mean {statistics.geometric_mean(ratios):.2f}, lowest {ranks[0]:.2f}, "
          f"5 % are below {ranks[len(ranks) // 20]:.2f}, "
          f"at 1.0 or more {sum(r >= 1 for r in ratios) / len(ratios):.1%}")
    for ratio, shape, ours, theirs, peer in sorted(slower):
        batch, n_inputs, n_neurons = shape
        print(f"  {ratio:.2f}  {batch:7} x {n_inputs:4} -> {n_neurons:4}  {ours * 1e6:10.1f} us, {peer} {theirs * 1e6:10.1f}; "
              f"{reason(shape, np.dtype(dtype).itemsize, speeds, threads, ours, theirs)}")
    print(flush=True)


def machine_speeds(dtype):
    """Return (FLOP/s, bytes/s) of one thread: the best of eight large products, and of eight copies larger than the caches."""
    a, big = np.ones((1024, 1024), dtype), np.ones(1 << 25, np.uint8)
    product, copy = np.empty_like(a), np.empty_like(big)
    from threadpoolctl import threadpool_limits
    with threadpool_limits(1):
        products = min(seconds(lambda: np.matmul(a, a, out=product)) for _ in range(8))
    copies = min(seconds(lambda: np.copyto(copy, big)) for _ in range(8))
    return 2 * len(a) ** 3 / products, 2 * big.nbytes / copies


def seconds(function):
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def reason(shape, itemsize, speeds, threads, ours, theirs):
    """Return what limits a step, and what parts of that limit fastbp and the fastest other one reach, as text."""
    batch, n_inputs, n_neurons = (float(n) for n in shape)
    arithmetic = 6 * batch * n_inputs * n_neurons / speeds[0] / threads
    memory = itemsize * (3 * batch * (n_inputs + n_neurons) + 3 * n_inputs * n_neurons) / speeds[1]
    floor, name = max((arithmetic, "arithmetic"), (memory, "memory"))
    return f"{name} binds it: {floor / ours:.0%} of that, they {floor / theirs:.0%}"


if __name__ == "__main__":
    main()
