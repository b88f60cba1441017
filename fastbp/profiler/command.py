"""The command python -m fastbp profile: where a step of a network on a large batch spends its time."""
import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .._arrays import operands
from .._files import atomic
from .._runtime import terminal
from ..demo import check_file, check_plot, positive

NEEDED = "matplotlib", "psutil", "rich", "threadpoolctl"       # The command needs these packages.
FREE_FRACTION = 0.9             # A step may take this fraction of the free memory.


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m fastbp profile`."""
    parser.add_argument("--layers", type=_sizes, required=True, metavar="784,512,128,10",
                        help="sizes, the number of inputs first; hidden layers have a ReLU")
    parser.add_argument("--batch", type=positive, required=True, help="rows")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--precision", choices=["float32", "float64", operands.BFLOAT16],
                        help="of the multiplications; default: the dtype")
    parser.add_argument("--threads", type=positive,
                        help="default: all cores that this process may use; others than fastbp never have more than those")
    parser.add_argument("--repeat", type=positive, default=5, help="steps of each, of which the median counts; default: 5")
    parser.add_argument("--torch", action="store_true", help="the same step by PyTorch as well, beside NumPy's")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="all numbers")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="a roofline, and the time of the layers")
    parser.add_argument("--html", type=Path, metavar="FILE.html", help="pictures and tables in one page")
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help="for ui.perfetto.dev and chrome://tracing")
    parser.add_argument("--memmap", type=Path, metavar="DIR",
                        help="a batch on disk, from and to files in this folder; inputs.npy and dvalues.npy are used if there")
    parser.add_argument("--keep", action="store_true",
                        help="with --memmap: keep the files, among them output.npy and dinputs.npy")
    parser.add_argument("--remeasure", action="store_true", help="this machine's peak and bandwidth, which are kept otherwise")


def _sizes(text):
    sizes = [positive(part) for part in text.split(",")]
    if len(sizes) < 2:
        raise argparse.ArgumentTypeError(f"expected at least two sizes, got {text!r}")
    return sizes


_sizes.__name__ = "list of sizes"           # argparse prints "invalid list of sizes value: '4,x'"


def run(options: argparse.Namespace) -> int:
    """Profile, write files and print tables. Return 1 if any of it fails, else 0. Raises ArgumentError first for wrong options.

    If a file cannot be written, a line on standard error says so, and the tables and the other files are still written.
    """
    _check(options)
    from . import measure, tables

    plan = measure.Plan(options.layers, options.batch, dtype=options.dtype, precision=options.precision,
                        threads=options.threads, repeat=options.repeat, torch=options.torch, remeasure=options.remeasure)
    try:
        if options.memmap:
            from . import stream
            report, recorded = stream.stream(plan, options.memmap, options.keep)
        else:
            _check_memory(plan)
            report, recorded = measure.measure(plan)
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        terminal.complain(f"{type(error).__name__}: {error}")
        return 1
    problems = _write(options, report, recorded)
    print(terminal.fill(f"{'-'.join(map(str, plan.sizes))}, {plan.batch:,} rows, {report.dtype}, multiplied in "
                        f"{report.precision}, threads: {plan.threads}", most=terminal.WIDEST))
    print(terminal.fill(report.machine, most=terminal.WIDEST))
    for text in tables.sections(report).values():
        print(f"\n{text}")
    for path, problem in problems.items():
        if problem is None:
            print(f"Written: {path}")
        else:
            terminal.complain(f"{type(problem).__name__}: {problem}")
    return int(any(problems.values()))


def _check(options):
    """Raise ArgumentError for options that cannot be fulfilled."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise argparse.ArgumentError(None, f"needs {', '.join(missing)}; install it: pip install 'fastbp[profile]'")
    if options.torch and find_spec("torch") is None:
        raise argparse.ArgumentError(None, "argument --torch: PyTorch is not installed")
    if options.keep and not options.memmap:
        raise argparse.ArgumentError(None, "argument --keep: needs --memmap")
    try:
        operands.multiplied(np.dtype(options.dtype), options.precision)
    except ValueError as error:
        raise argparse.ArgumentError(None, f"argument --precision: {error}") from None
    if options.plot:
        check_plot(options.plot)
    for name in ("json", "html", "trace"):
        path = getattr(options, name)
        if path:
            check_file(name, path)
    if options.memmap and not options.memmap.is_dir():
        raise argparse.ArgumentError(None, f"argument --memmap: there is no folder '{options.memmap}'")


def _check_memory(plan):
    """Raise MemoryError if a step takes more memory than is free. Otherwise the system might kill the process."""
    import psutil

    free = psutil.virtual_memory().available
    if plan.memory_bytes() > FREE_FRACTION * free:
        raise MemoryError(f"a step on {plan.batch:,} rows takes some {plan.memory_bytes() / 2**30:,.1f} GiB and "
                          f"{free / 2**30:,.1f} are free: give --memmap DIR, or a smaller --batch")


def _write(options, report, recorded):
    """Write the files that the options name. Return {path: None, or the error that kept it from being written}."""
    from . import page, pictures
    from .report import as_json

    files = {
        options.json: lambda: atomic.write(options.json, json.dumps(as_json(report), indent=1).encode()),
        options.plot: lambda: atomic.write(options.plot, pictures.picture(report, options.plot.suffix[1:].lower())),
        options.html: lambda: atomic.write(options.html, page.page(report).encode()),
        options.trace: lambda: recorded.export_chrome_trace(options.trace),
    }
    problems = {}
    for path, write in files.items():
        if path is not None:
            try:
                problems[path] = write()
            except (OSError, MemoryError, ValueError) as error:
                problems[path] = error
    return problems
