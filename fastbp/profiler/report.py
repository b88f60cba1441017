"""The report of `python -m fastbp profile`, as data for tables, pictures, pages and JSON."""
from typing import NamedTuple

from .machine import Ceilings
from .passes import Kernel
from .work import Work


class PassReport(NamedTuple):
    """A layer's forward or backward pass. peers: {other package: the seconds that it takes for the pass}."""

    name: str
    seconds: float
    work: Work
    kernels: list[Kernel]
    peers: dict[str, float]


class LayerReport(NamedTuple):
    """A layer with its name, for example "784 → 512 ReLU", and its two passes."""

    name: str
    passes: list[PassReport]


class Memory(NamedTuple):
    """Bytes of memory that a package takes.

    first, later: the peak of new arrays in each layer's two passes, in the first step and in each later one; None if nothing
    counts them. peak: resident bytes of this process after these steps.
    """

    first: list[list[int]] | None
    later: list[list[int]] | None
    peak: int


class Streamed(NamedTuple):
    """A batch on disk.

    seconds: the time of the steps of all blocks, with reads and writes, until the results are on the disk. Other packages than
    fastbp took their steps on the first block only; the report has `scaled` times their measured seconds.
    """

    block: int                  # rows
    read: int                   # bytes
    written: int                # bytes
    seconds: float
    disk_read: float            # bytes a second that the disk alone reads
    disk_write: float           # bytes a second that the disk alone writes
    anonymous: int              # the peak of memory without a file behind it while the batch was streamed, in bytes
    scaled: float

    @property
    def disk_fraction(self) -> float:
        """Return the fraction of the seconds that the disk alone would take to read and then write at its own rates."""
        return (self.read / self.disk_read + self.written / self.disk_write) / self.seconds


class Report(NamedTuple):
    """A step of a network. seconds: {package: those of its step}, "fastbp" first. Kernels are those of fastbp's median step."""

    sizes: list[int]
    batch: int
    dtype: str
    precision: str
    threads: int
    repeat: int
    machine: str
    ceilings: Ceilings
    seconds: dict[str, float]
    layers: list[LayerReport]
    memory: dict[str, Memory]
    workspace: int              # bytes of fastbp's scratch memory
    streamed: Streamed | None

    @property
    def title(self) -> str:
        """Return the network's sizes, the rows of the batch and the dtype of the factors."""
        return f"{'-'.join(map(str, self.sizes))}, {self.batch:,} rows, {self.precision}"


def as_json(value):
    """Return a report as dicts, lists, numbers and strings, ready for JSON. A named tuple becomes a dict."""
    if hasattr(value, "_asdict"):
        return {name: as_json(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


def bound(work: Work, ceilings: Ceilings) -> str:
    """Return "arithmetic" or "memory", whichever takes longer at its ceiling on this machine; "" if there is no work."""
    if not work.flops and not work.bytes:
        return ""
    return "arithmetic" if work.flops / ceilings.flops >= work.bytes / ceilings.bandwidth else "memory"
