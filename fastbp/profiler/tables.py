"""Profiles as tables in ASCII, as wide as the terminal, but at most 100 columns."""
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import reduce
from io import StringIO

from rich.box import Box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from .._runtime import terminal
from ..kernels.elementwise.activations import IDENTITY, NAMES
from .passes import Pass, total
from .report import Report, Streamed, bound
from .work import add

# rich draws only a line below the header of a table.
BOX = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
# This text explains the columns of the kernels' table.
LEGEND = ("peak, memory: shares of what this machine can do, as measured; over 100% of peak, its clock was slower then. "
          "FLOP/B: operations for each byte of the "
          "layer's arrays; faster than memory are those that were still in a cache. "
          "threads, copies: what a pass waits for, and small copies. {}")


def calls(passes: Sequence[Pass], dropped: int = 0) -> str:
    """Return a table of the calls of each shape, and of their kernels. The calls that took longest come first."""
    groups = defaultdict(list)
    for p in passes:
        groups[title(p)].append(p)
    total_seconds = sum(p.seconds for p in passes)
    header, rows = ("call", "calls", "ms", "share", "GFLOP/s", "GB/s"), []
    for name, group in sorted(groups.items(), key=lambda item: -sum(p.seconds for p in item[1])):
        seconds = sum(p.seconds for p in group)
        rows.append((name, f"{len(group):,}", *_measures(seconds, total_seconds, reduce(add, (p.work for p in group)))))
        for kernel in total(k for p in group for k in p.kernels):
            rows.append((f"  {kernel.name}", "", *_measures(kernel.seconds, total_seconds, kernel.work)))
    notes = [f"{dropped:,} events found no room: give profile(capacity=...) more"] if dropped else []
    return _text(_width(), *(_tables(header, rows, _width()) if passes else ["No call of fastbp was recorded."]), *notes)


def title(p: Pass) -> str:
    """Return what was called, on which shape: "forward 300 x 70 → 50 ReLU float32"."""
    call = p.call
    if p.name == "relu":
        return f"relu {call.rows:,} {p.dtype}"
    if p.name == "update":
        return f"update of {call.inputs:,} parameters {p.dtype}"
    activation = f" {NAMES[call.activation].replace('relu', 'ReLU')}" if call.activation != IDENTITY else ""
    return f"{p.name} {call.rows:,} x {call.inputs} → {call.neurons}{activation} {p.dtype}"


def sections(report: Report, width: int | None = None) -> dict[str, str]:
    """Return {name: table} of a report, in lines of `width` columns; None means the terminal's width."""
    width = width or _width()
    tables = {"Time of a step": totals(report), "Kernels of fastbp's step": step(report, width),
              "Memory": memory(report, width)}
    return tables | ({"Disk": disk(report.streamed, width)} if report.streamed else {})


def step(report: Report, width: int) -> str:
    """Return a table of a network's step: layers, their passes and kernels, and the times of other packages."""
    peers = [name for name in report.seconds if name != "fastbp"]
    total_seconds = sum(p.seconds for layer in report.layers for p in layer.passes)
    header = "kernel", "ms", "share", "GFLOP/s", "peak", "GB/s", "memory", "FLOP/B", "bound by", *peers
    rows = []
    for layer in report.layers:
        rows.append((layer.name,))
        for p in layer.passes:
            others = [_ms(p.peers[name]) for name in peers]
            rows.append((f" {p.name}", *_rates(p.seconds, p.work, total_seconds, report.ceilings), *others))
            for kernel in p.kernels:
                rows.append((f"  {kernel.name}", *_rates(kernel.seconds, kernel.work, total_seconds, report.ceilings)))
    return _text(width, *_tables(header, rows, width), LEGEND.format(f"{' and '.join(peers)}: milliseconds" if peers else ""))


def memory(report: Report, width: int) -> str:
    """Return a table of the memory of new arrays in a step, by fastbp and by other packages."""
    counted = {name: used for name, used in report.memory.items() if used.first is not None}
    header, rows = ["MiB of new arrays", *(f"{name} {when}" for name in counted for when in ("first", "later"))], []
    for i, layer in enumerate(report.layers):
        for j, p in enumerate(layer.passes):
            counts = (step[i][j] for used in counted.values() for step in (used.first, used.later))
            rows.append((f"{layer.name} {p.name}", *map(_mebibytes, counts)))
    peaks = ", ".join(f"{_mebibytes(used.peak)} MiB after the steps of {name}" for name, used in report.memory.items())
    return _text(width, *_tables(header, rows, width), "first, later: in the first step and in each later one.",
                 f"fastbp's scratch memory, used again by every pass: {_mebibytes(report.workspace)} MiB",
                 f"Resident in this process: {peaks}")


def disk(streamed: Streamed, width: int) -> str:
    """Return a text of the bytes that were read and written, and of the speed of the disk alone."""
    byte_count = streamed.read + streamed.written
    rate = byte_count / streamed.seconds / 1e9
    return _text(width, f"In blocks of {streamed.block:,} rows {_mebibytes(byte_count)} MiB were read and written in "
                 f"{streamed.seconds:.2f} s, until they were on the disk: {rate:.2f} GB/s.",
                 f"The disk alone reads {streamed.disk_read / 1e9:.2f} GB/s and writes {streamed.disk_write / 1e9:.2f}, which "
                 f"is {streamed.disk_fraction:.0%} of that time.",
                 f"At most {_mebibytes(streamed.anonymous)} MiB of memory had no file behind it.",
                 f"Others than fastbp took steps on the first block; their times are multiplied by {streamed.scaled:,.1f}.")


def totals(report: Report) -> str:
    """Return lines of the time of a step in each package."""
    own = report.seconds["fastbp"]
    return "\n".join(f"{name:7} {_ms(seconds):>10} ms" + ("" if name == "fastbp" else f", {seconds / own:.2f} times fastbp's")
                     for name, seconds in report.seconds.items())


def _measures(seconds, total_seconds, work):
    """Return the cells: milliseconds, part of all time, GFLOP/s, GB/s."""
    rates = (f"{amount / seconds / 1e9:.1f}" if amount and seconds else "" for amount in (work.flops, work.bytes))
    return _ms(seconds), f"{seconds / total_seconds:.1%}" if total_seconds else "", *rates


def _rates(seconds, work, total_seconds, ceilings):
    """Return the cells of a kernel in the table of a step, between its name and the times of other packages."""
    time, time_fraction, flops, bandwidth = _measures(seconds, total_seconds, work)
    limits = (work.flops, ceilings.flops), (work.bytes, ceilings.bandwidth)
    of_peak, of_memory = (f"{amount / seconds / limit:.0%}" if amount and seconds else "" for amount, limit in limits)
    intensity = f"{work.flops / work.bytes:.1f}" if work.flops and work.bytes else ""
    return time, time_fraction, flops, of_peak, bandwidth, of_memory, intensity, bound(work, ceilings)


def _ms(seconds):
    milliseconds = seconds * 1e3
    return f"{milliseconds:.{3 if milliseconds < 10 else 1 if milliseconds < 1000 else 0}f}"


def _mebibytes(count):
    return f"{count / 2**20:,.1f}"


def _width():
    return terminal.width()


def _tables(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[Table]:
    """Yield tables of the rows, none wider than `width`. There is one, or several that each begin with the first column."""
    console, columns = _console(width), []
    for column in range(1, len(header)):
        wider = _table(header, rows, [*columns, column])
        if columns and Measurement.get(console, console.options.update(max_width=1 << 16), wider).maximum > width:
            yield _table(header, rows, columns)
            columns = []
        columns.append(column)
    yield _table(header, rows, columns)


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
