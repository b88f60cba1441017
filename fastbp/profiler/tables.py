"""Profiles as text, at most 100 columns wide."""
from collections import defaultdict
from collections.abc import Sequence
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..kernels.activations import IDENTITY, NAMES
from .passes import Pass, total
from .report import Report, Streamed, bound

WIDTH = 100
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
    table = _table("call", "calls", "ms", "share", "GFLOP/s", "GB/s")
    for name, group in sorted(groups.items(), key=lambda item: -sum(p.seconds for p in item[1])):
        seconds, flops, count = (sum(values) for values in zip(*((p.seconds, *p.work) for p in group), strict=True))
        table.add_row(name, f"{len(group):,}", *_measures(seconds, everything, flops, count), style="bold")
        for kernel in total(k for p in group for k in p.kernels):
            table.add_row(f"  {kernel.name}", "", *_measures(kernel.seconds, everything, *kernel.work))
        table.add_section()
    notes = [f"{dropped:,} events found no room: give profile(capacity=...) more"] if dropped else []
    return _text(table if passes else "No call of fastbp was recorded.", *notes)


def title(p: Pass) -> str:
    """What was called, on which shape."""
    call = p.call
    if p.name == "relu":
        return f"relu {call.rows:,} {p.dtype}"
    if p.name == "update":
        return f"update of {call.inputs:,} parameters {p.dtype}"
    activation = f" {NAMES[call.activation].replace('relu', 'ReLU')}" if call.activation != IDENTITY else ""
    return f"{p.name} {call.rows:,} x {call.inputs} → {call.neurons}{activation} {p.dtype}"


def sections(report: Report) -> dict[str, str]:
    """All tables of a report, by name."""
    found = {"Time of a step": totals(report), "Kernels of fastbp's step": step(report), "Memory": memory(report)}
    return found | ({"Disk": disk(report.streamed)} if report.streamed else {})


def step(report: Report) -> str:
    """A step of a network: its layers, their passes and kernels, and what others take."""
    peers = [name for name in report.seconds if name != "fastbp"]
    everything = sum(p.seconds for layer in report.layers for p in layer.passes)
    table = _table("kernel", "ms", "share", "GFLOP/s", "peak", "GB/s", "memory", "FLOP/B", "bound by", *peers)
    for layer in report.layers:
        table.add_row(layer.name, style="bold")
        for p in layer.passes:
            others = [_ms(p.peers[name]) for name in peers]
            table.add_row(f" {p.name}", *_rates(p.seconds, p.work, everything, report.ceilings), *others, style="bold")
            for kernel in p.kernels:
                table.add_row(f"  {kernel.name}", *_rates(kernel.seconds, kernel.work, everything, report.ceilings))
        table.add_section()
    return _text(table, LEGEND.format(f"{' and '.join(peers)}: milliseconds" if peers else ""))


def memory(report: Report) -> str:
    """How long a step takes, and the memory of new arrays in it, with fastbp and with others."""
    counted = {name: used for name, used in report.memory.items() if used.first is not None}
    table = _table("MiB of new arrays", *(f"{name} {when}" for name in counted for when in ("first", "later")))
    for i, layer in enumerate(report.layers):
        for j, p in enumerate(layer.passes):
            counts = (those[i][j] for used in counted.values() for those in (used.first, used.later))
            table.add_row(f"{layer.name} {p.name}", *map(_mebibytes, counts))
    peaks = ", ".join(f"{_mebibytes(used.peak)} MiB after the steps of {name}" for name, used in report.memory.items())
    return _text(table, "first, later: in the first step and in each later one.",
                 f"fastbp's scratch memory, used again by every pass: {_mebibytes(report.workspace)} MiB",
                 f"Resident in this process: {peaks}")


def disk(streamed: Streamed) -> str:
    """What was read and written, and how fast the disk alone is."""
    count, rate = streamed.read + streamed.written, (streamed.read + streamed.written) / streamed.seconds / 1e9
    return _text(f"In blocks of {streamed.block:,} rows {_mebibytes(count)} MiB were read and written in "
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


def _table(first, *columns):
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _text(*parts):
    console = Console(file=StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    for part in parts:
        console.print(part, highlight=False, markup=False)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines() if line.strip())
