"""Profiles as text in ASCII, as wide as the terminal and at most 100 columns."""
from collections import defaultdict
from collections.abc import Iterator, Sequence
from io import StringIO

from rich.box import Box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from .. import terminal
from ..kernels.activations import IDENTITY, NAMES
from .passes import Pass, total
from .report import Report, Streamed, bound

BOX = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)      # a line below the header
LEGEND = ("peak, memory: shares of what this machine can do, as measured; over 100% of peak, its clock was slower then. "
          "FLOP/B: operations for each byte of the "
          "layer's arrays; faster than memory are those that were still in a cache. "
          "threads, copies: what a pass waits for, and small copies. {}")


def calls(passes: Sequence[Pass], dropped: int = 0) -> str:
    """The calls of each shape, and their kernels, those that took longest first."""
    groups = defaultdict(list)
    for p in passes:
        groups[title(p)].append(p)
    everything = sum(p.seconds for p in passes)
    header, rows = ("call", "calls", "ms", "share", "GFLOP/s", "GB/s"), []
    for name, group in sorted(groups.items(), key=lambda item: -sum(p.seconds for p in item[1])):
        seconds, flops, count = (sum(values) for values in zip(*((p.seconds, *p.work) for p in group), strict=True))
        rows.append((name, f"{len(group):,}", *_measures(seconds, everything, flops, count)))
        for kernel in total(k for p in group for k in p.kernels):
            rows.append((f"  {kernel.name}", "", *_measures(kernel.seconds, everything, *kernel.work)))
    notes = [f"{dropped:,} events found no room: give profile(capacity=...) more"] if dropped else []
    return _text(_width(), *(_tables(header, rows, _width()) if passes else ["No call of fastbp was recorded."]), *notes)


def title(p: Pass) -> str:
    """What was called, on which shape."""
    call = p.call
    if p.name == "relu":
        return f"relu {call.rows:,} {p.dtype}"
    if p.name == "update":
        return f"update of {call.inputs:,} parameters {p.dtype}"
    activation = f" {NAMES[call.activation].replace('relu', 'ReLU')}" if call.activation != IDENTITY else ""
    return f"{p.name} {call.rows:,} x {call.inputs} → {call.neurons}{activation} {p.dtype}"


def sections(report: Report, width: int | None = None) -> dict[str, str]:
    """Return all tables of a report, by name, in lines of so many columns; None: as many as the terminal has."""
    width = width or _width()
    found = {"Time of a step": totals(report), "Kernels of fastbp's step": step(report, width),
             "Memory": memory(report, width)}
    return found | ({"Disk": disk(report.streamed, width)} if report.streamed else {})


def step(report: Report, width: int) -> str:
    """Return a table of a network's step: its layers, their passes and kernels, and what others take."""
    peers = [name for name in report.seconds if name != "fastbp"]
    everything = sum(p.seconds for layer in report.layers for p in layer.passes)
    header = "kernel", "ms", "share", "GFLOP/s", "peak", "GB/s", "memory", "FLOP/B", "bound by", *peers
    rows = []
    for layer in report.layers:
        rows.append((layer.name,))
        for p in layer.passes:
            others = [_ms(p.peers[name]) for name in peers]
            rows.append((f" {p.name}", *_rates(p.seconds, p.work, everything, report.ceilings), *others))
            for kernel in p.kernels:
                rows.append((f"  {kernel.name}", *_rates(kernel.seconds, kernel.work, everything, report.ceilings)))
    return _text(width, *_tables(header, rows, width), LEGEND.format(f"{' and '.join(peers)}: milliseconds" if peers else ""))


def memory(report: Report, width: int) -> str:
    """How long a step takes, and the memory of new arrays in it, with fastbp and with others."""
    counted = {name: used for name, used in report.memory.items() if used.first is not None}
    header, rows = ["MiB of new arrays", *(f"{name} {when}" for name in counted for when in ("first", "later"))], []
    for i, layer in enumerate(report.layers):
        for j, p in enumerate(layer.passes):
            counts = (those[i][j] for used in counted.values() for those in (used.first, used.later))
            rows.append((f"{layer.name} {p.name}", *map(_mebibytes, counts)))
    peaks = ", ".join(f"{_mebibytes(used.peak)} MiB after the steps of {name}" for name, used in report.memory.items())
    return _text(width, *_tables(header, rows, width), "first, later: in the first step and in each later one.",
                 f"fastbp's scratch memory, used again by every pass: {_mebibytes(report.workspace)} MiB",
                 f"Resident in this process: {peaks}")


def disk(streamed: Streamed, width: int) -> str:
    """What was read and written, and how fast the disk alone is."""
    count, rate = streamed.read + streamed.written, (streamed.read + streamed.written) / streamed.seconds / 1e9
    return _text(width, f"In blocks of {streamed.block:,} rows {_mebibytes(count)} MiB were read and written in "
                 f"{streamed.seconds:.2f} s, until they were on the disk: {rate:.2f} GB/s.",
                 f"The disk alone reads {streamed.disk_read / 1e9:.2f} GB/s and writes {streamed.disk_write / 1e9:.2f}, which "
                 f"is {streamed.share:.0%} of that time.",
                 f"At most {_mebibytes(streamed.anonymous)} MiB of memory had no file behind it.",
                 f"Others than fastbp took steps on the first block; their times are multiplied by {streamed.scaled:,.1f}.")


def totals(report: Report) -> str:
    """The seconds of a step."""
    own = report.seconds["fastbp"]
    return "\n".join(f"{name:7} {_ms(seconds):>10} ms" + ("" if name == "fastbp" else f", {seconds / own:.2f} times fastbp's")
                     for name, seconds in report.seconds.items())


def _measures(seconds, everything, flops, count):
    rates = (f"{amount / seconds / 1e9:.1f}" if amount and seconds else "" for amount in (flops, count))
    return _ms(seconds), f"{seconds / everything:.1%}" if everything else "", *rates


def _rates(seconds, work, everything, ceilings):
    time, share, flops, count = _measures(seconds, everything, *work)
    of_peak, of_memory = (f"{amount / seconds / most:.0%}" if amount and seconds else ""
                          for amount, most in zip(work, ceilings, strict=True))
    intensity = f"{work.flops / work.bytes:.1f}" if work.flops and work.bytes else ""
    return time, share, flops, of_peak, count, of_memory, intensity, bound(work, ceilings)


def _ms(seconds):
    milliseconds = seconds * 1e3
    return f"{milliseconds:.{3 if milliseconds < 10 else 1 if milliseconds < 1000 else 0}f}"


def _mebibytes(count):
    return f"{count / 2**20:,.1f}"


def _width():
    return terminal.width()


def _tables(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[Table]:
    """Yield tables of these rows that are not wider than that: one, or more that each begin with the first column."""
    console, taken = _console(width), []
    for column in range(1, len(header)):
        wider = _table(header, rows, [*taken, column])
        if taken and Measurement.get(console, console.options.update(max_width=1 << 16), wider).maximum > width:
            yield _table(header, rows, taken)
            taken = []
        taken.append(column)
    yield _table(header, rows, taken)


def _table(header, rows, columns):
    table = Table(box=BOX, pad_edge=False, padding=0)
    table.add_column(terminal.in_ascii(header[0]), overflow="fold")
    for column in columns:
        table.add_column(terminal.in_ascii(header[column]), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(terminal.in_ascii(row[column]) if column < len(row) else "" for column in (0, *columns)))
    return table


def _console(width):
    return Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)


def _text(width, *parts):
    console = _console(width)
    for part in parts:
        console.print(terminal.in_ascii(part) if isinstance(part, str) else part, highlight=False, markup=False)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines() if line.strip())
