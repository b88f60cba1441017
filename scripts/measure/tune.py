"""A trial of other values of the blocking table (fastbp/kernels/blocking.py), which prints what to change.

Each value has a process of its own, and is compared with the present value in turns, over shapes for which it may matter. The
printed number is the geometric mean of the speed-ups. A value that gains more than 2 % is printed as a change to make; nothing
is changed.
"""
import statistics
import tempfile

import contest

from fastbp.kernels import blocking

# Shapes (batch, inputs, neurons) for which the constants may matter.
SHAPES = [(32, 64, 64), (64, 784, 128), (1, 1024, 1024), (8, 1024, 1024), (256, 512, 512), (1024, 1024, 1024), (16384, 64, 64),
          (8192, 784, 128), (50000, 16, 16), (5000, 8, 8)]
GAIN = 1.02                     # A value is worth a change from this speed-up on.
# The constants to try, each with factors of its present value.
FACTORS = {"KC": (0.5, 2), "MC_L2_PART": (0.5, 2), "COPIED_MC": (0.5, 2), "AHEAD": (0, 2), "SHALLOW_K": (0.5, 2),
           "NC_L3_PART": (0.5, 2), "UNROLL": (0.5, 2), "TASK_ROWS": (0.5, 2), "UNPACKED_ROWS": (0.5, 2),
           "FEW_ROWS": (0.5, 2), "STREAMED_K": (0.5, 2), "SWAPPED_ROWS": (0.5, 2), "SWAPPED_MOST": (0.5, 2),
           "UNPACKED_KC": (0.5, 2),
           "NARROW_ROWS": (0.5, 2), "NARROW": (0.5, 2), "NARROW_DZ": (0.5, 2), "NARROW_PARTITION_ROWS": (0.5, 2),
           "FUSED_ROWS": (0.5, 2), "PARTITIONS": (0.5, 2),
           "DOT_L2_PART": (0.5, 2), "THREAD_WORK": (0.25, 4), "TASKS_A_THREAD": (0.5, 2)}


def main():
    parser = contest.options(__doc__)
    parser.add_argument("--names", nargs="+", default=list(FACTORS), choices=list(FACTORS), metavar="NAME")
    parser.set_defaults(turns=5)
    chosen = parser.parse_args()
    print(contest.machine())
    for dtype in chosen.dtype:
        for threads in contest.thread_counts(chosen.threads):
            for name in chosen.names:
                tune(name, dtype, threads, chosen.turns)


def tune(name, dtype, threads, turns):
    """Print the gain of each other value of one constant."""
    present = getattr(blocking, name)
    values = [int(present * factor) for factor in FACTORS[name]]
    with tempfile.TemporaryDirectory() as folder:
        contestants = [contest.Contestant("fastbp", threads, dtype, dtype, {name: value}, f"{folder}/{value}")
                       for value in (present, *values)]
        times = [contest.medians(contestants, shape, turns) for shape in SHAPES]
        for contestant in contestants:
            contestant.close()
    for value, *gains in zip(values, *([base / t for t in others] for base, *others in times), strict=True):
        gain = statistics.geometric_mean(gains)
        each = " ".join(f"{g:.2f}" for g in gains)
        change = f"  <- change {present} to {value}" if gain > GAIN else ""
        print(f"{dtype} {threads}T {name:18} {present:6} -> {value:6}  {gain:.3f}   {each}{change}", flush=True)


if __name__ == "__main__":
    main()
