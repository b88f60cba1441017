"""A comparison of a training step of one layer with NumPy's, PyTorch's and JAX's.

A ratio is the time of the fastest of the others divided by fastbp's: above 1, fastbp is faster.
"""
import statistics

import contest

# Shapes (batch, inputs, neurons), from toys to a transformer's.
SHAPES = [(1, 4, 3), (3, 4, 3), (300, 2, 64), (32, 64, 64), (200, 64, 100), (64, 784, 128), (128, 784, 512), (1, 1024, 1024),
          (16, 1024, 1024), (256, 512, 512), (100, 333, 77), (1023, 257, 129), (1024, 1024, 1024), (4096, 784, 256),
          (65536, 64, 64), (20000, 784, 128), (100000, 16, 16), (2048, 4096, 1024)]


def main():
    parser = contest.options(__doc__)
    parser.add_argument("--shapes", nargs="+", metavar="BATCH,INPUTS,NEURONS", help="default: a list from toy to transformer")
    parser.add_argument("--readme", action="store_true",
                        help="write the tables into .docs/benchmarks.md, and the first dtype's on most threads into README.md")
    chosen = parser.parse_args()
    shapes = [tuple(map(int, shape.split(","))) for shape in chosen.shapes] if chosen.shapes else SHAPES
    peers = contest.installed(chosen.peers)
    counts = contest.thread_counts(chosen.threads)
    tables = [table(shapes, peers, dtype, threads, chosen.precision or dtype, chosen.turns)
              for dtype in chosen.dtype for threads in counts]
    if chosen.readme:
        for page, shown in ((contest.README, [tables[counts.index(max(counts))]]), (contest.BENCHMARKS, tables)):
            contest.write(page, "compare", "\n".join([contest.machine() + ". Microseconds a step:\n", *shown]))


def table(shapes, peers, dtype, threads, precision, turns):
    """Print and return the table of one dtype and number of threads."""
    contestants = [contest.Contestant(name, threads, dtype, precision) for name in ("fastbp", *peers)]
    title = f"{dtype}{'' if precision == dtype else f' in {precision}'}, {threads} thread{'s' * (threads > 1)}"
    lines = [f"| {title} | fastbp | {' | '.join(peers)} | ratio |", "| --- |" + " ---: |" * (len(peers) + 2)]
    print(*lines, sep="\n", flush=True)
    ratios = []
    for shape in shapes:
        ours, *theirs = contest.medians(contestants, shape, turns)
        ratios.append(min(theirs) / ours)
        batch, n_inputs, n_neurons = shape
        cells = " | ".join(microseconds(t) for t in (ours, *theirs))
        lines.append(f"| {batch} × {n_inputs} → {n_neurons} | {cells} | {ratios[-1]:.2f} |")
        print(lines[-1], flush=True)
    for contestant in contestants:
        contestant.close()
    lines.append(f"| geometric mean |{' |' * (1 + len(peers))} {statistics.geometric_mean(ratios):.2f} |\n")
    print(lines[-1], f"lowest {min(ratios):.2f}, {sum(r < 1 for r in ratios)} of {len(ratios)} below 1\n", flush=True)
    return "\n".join(lines)


def microseconds(seconds):
    return f"{seconds * 1e6:.1f}" if seconds < 1e-4 else f"{seconds * 1e6:,.0f}"


if __name__ == "__main__":
    main()
