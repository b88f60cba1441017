"""Measures of other sizes on this machine.

Without options: a row for this CPU in the table of fastbp/kernels/sizes.py. For each size of a row, the values below are tried
in turns on the shapes for which they matter. The numbers are geometric means of the speed-ups over the present value. A value
that gains more than 2 % takes its place, and at the end the row is printed, to be pasted.

--constants NAME ... tries other values of constants of fastbp/kernels/blocking.py and fastbp/kernels/dense/blocks.py, which are
compiled in and the same for all CPUs. Each value has a process of its own, which compiles all kernels.

Nothing is changed. On a machine that does other work at the same time, run it twice and take what both runs agree on.
"""
import statistics
import tempfile
from itertools import product
from typing import NamedTuple

import contest

from fastbp._runtime import cpu
from fastbp.kernels import blocking, sizes
from fastbp.kernels.dense import blocks

# A value is worth a change from this speed-up on.
GAIN = 1.02


class Trial(NamedTuple):
    """The values of a size to try, and the shapes (batch, inputs, neurons) for which the size matters."""

    values: tuple[int, ...]
    shapes: tuple[tuple[int, int, int], ...]


# Layers (inputs, neurons) that few rows go through.
WIDE = (256, 256), (784, 128), (784, 512), (1024, 1024)


def rows_of(*rows):
    """Return the shapes of so many rows of the layers WIDE."""
    return tuple((count, *layer) for count, layer in product(rows, WIDE))


# What is tried for each size. Shapes lie between the values, so that two values that follow one another differ on some of them.
TRIALS = {
    "few_rows": Trial((16, 32, 64, 96, 128), rows_of(24, 48, 80, 128)),
    "streamed_inputs": Trial((16, 32, 64, 128, 256), tuple(product((4, 16, 40), (24, 48, 96, 192), (128, 512)))),
    "streamed_k": Trial((16, 32, 64, 128, 256), rows_of(1, 4, 16, 48)),
    "swapped_rows": Trial((5, 9, 13, 17, 25, 65), rows_of(6, 10, 14, 20, 40)),
    "swapped_most": Trial((64, 128, 256, 512, 1024), rows_of(80, 160, 320, 640)),
    "thread_work": Trial(tuple(1 << bits for bits in range(17, 23)),
                         ((16, 64, 64), (32, 64, 64), (64, 64, 64), (128, 64, 64), (64, 128, 128), (32, 784, 32),
                          (16, 256, 256), (1, 1024, 1024), (256, 64, 64), (2000, 16, 16))),
}

# Shapes (batch, inputs, neurons) for which the constants may matter.
SHAPES = [(32, 64, 64), (64, 784, 128), (1, 1024, 1024), (8, 1024, 1024), (256, 512, 512), (1024, 1024, 1024), (16384, 64, 64),
          (8192, 784, 128), (50000, 16, 16), (5000, 8, 8)]

# The constants, each with factors of its present value.
FACTORS = {"KC": (0.5, 2), "MC_L2_PART": (0.5, 2), "COPIED_MC": (0.5, 2), "AHEAD": (0, 2), "SHALLOW_K": (0.5, 2),
           "NC_L3_PART": (0.5, 2), "UNROLL": (0.5, 2), "TASK_ROWS": (0.5, 2), "UNPACKED_ROWS": (0.5, 2),
           "UNPACKED_KC": (0.5, 2), "NARROW_ROWS": (0.5, 2), "NARROW": (0.5, 2), "NARROW_DZ": (0.5, 2),
           "NARROW_PARTITION_ROWS": (0.5, 2), "FUSED_ROWS": (0.5, 2), "PARTITIONS": (0.5, 2), "DOT_L2_PART": (0.5, 2),
           "TASKS_A_THREAD": (0.5, 2)}


def main():
    parser = contest.options(__doc__)
    parser.add_argument("--fields", nargs="+", default=list(TRIALS), choices=list(TRIALS), metavar="FIELD",
                        help=f"of a row; default: {' '.join(TRIALS)}")
    parser.add_argument("--constants", nargs="+", choices=list(FACTORS), metavar="NAME", help=" ".join(FACTORS))
    chosen = parser.parse_args()
    print(contest.machine())
    if not chosen.constants:
        print_row(chosen.fields, chosen.dtype, max(contest.thread_counts(chosen.threads)), chosen.turns)
        return
    for dtype in chosen.dtype:
        for threads in contest.thread_counts(chosen.threads):
            for name in chosen.constants:
                try_constant(name, dtype, threads, chosen.turns)


# ---- a row


def print_row(fields, dtypes, most_threads, turns):
    """Print the gain of each value of the fields, then the row of the best ones."""
    best = sizes.PRESENT.sizes
    for field in fields:
        threads = most_threads if field == "thread_work" else 1
        if field == "thread_work" and threads == 1:
            print(f"{field}: not tried on one thread")
            continue
        present = getattr(best, field)
        gains = gains_of(field, best, dtypes, threads, turns)
        value = max(gains, key=gains.get)
        best = best._replace(**{field: value if gains[value] > GAIN else present})
        tried = ", ".join(f"{value} {gain:.3f}" for value, gain in gains.items())
        print(f"{field}: {tried} -> {getattr(best, field)}", flush=True)
    row = sizes.PRESENT._replace(sizes=best)
    if sizes.PRESENT == sizes.DEFAULT:
        row = sizes.Row(family=cpu.model(), names=(cpu.host(),), sizes=best)
    print(f"\n{'the row is as it was' if row == sizes.PRESENT else 'for the TABLE in fastbp/kernels/sizes.py'}:")
    print(f"    Row({row.family!r}, {row.names},\n        {row.sizes}),")


def gains_of(field, base, dtypes, threads, turns):
    """Return {value: its speed-up over the value in `base`}: geometric means over shapes and dtypes."""
    trial = TRIALS[field]
    values = sorted({*trial.values, getattr(base, field)})
    seconds = [seconds_of(field, values, base, shape, dtype, threads, turns) for dtype in dtypes for shape in trial.shapes]
    sizes.use(sizes.PRESENT.sizes)
    present = values.index(getattr(base, field))
    return {value: statistics.geometric_mean(each[present] / each[i] for each in seconds) for i, value in enumerate(values)}


def seconds_of(field, values, base, shape, dtype, threads, turns):
    """Return the seconds of a step for each value: medians over turns, in which all values have one process."""
    step, = contest.fastbp_steps(*contest.operands(*shape, dtype), threads, dtype)
    seconds = [[] for _ in values]
    for _ in range(turns):
        for value, times in zip(values, seconds, strict=True):
            sizes.use(base._replace(**{field: value}))
            times.append(contest.timed(step))
    return [statistics.median(times) for times in seconds]


# ---- a constant


def try_constant(name, dtype, threads, turns):
    """Print the gain of each other value of one constant."""
    present = getattr(blocking if hasattr(blocking, name) else blocks, name)
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
