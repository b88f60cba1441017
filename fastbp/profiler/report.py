"""What `python -m fastbp profile` finds out, for tables, pictures, pages and JSON."""
from typing import NamedTuple

from .machine import Ceilings
from .passes import Kernel
from .work import Work


class PassReport(NamedTuple):
    """A layer's forward or backward pass; peers are the seconds that others take for it, by name."""

    name: str
    seconds: float
    work: Work
    kernels: list[Kernel]
    peers: dict[str, float]


class LayerReport(NamedTuple):
    """A layer by name, "784 → 512 ReLU", and its two passes."""

    name: str
    passes: list[PassReport]


class Memory(NamedTuple):
    """Bytes. first, later: of new arrays in the first step and in each later one, for each layer's two passes, at their most;
    peak: resident in this process after these steps. None where nobody counts them.
    """

    first: list[list[int]] | None
    later: list[list[int]] | None
    peak: int


class Streamed(NamedTuple):
    """A batch on disk: rows of a block, bytes read and written, seconds, and the disk's own bytes a second both ways.

    The seconds are those of the steps of all blocks, with the reads and writes, until the results are on the disk. Others than
    fastbp took their steps on the first block only: their seconds are `scaled` times as many as were measured.
    """

    block: int
    read: int
    written: int
    seconds: float
    disk_read: float
    disk_write: float
    anonymous: int              # the most bytes of memory that no file stood behind while the batch was streamed
    scaled: float

    @property
    def share(self) -> float:
        """Of the seconds: how much the disk alone takes, reading and writing one after the other at its own rates."""
        return (self.read / self.disk_read + self.written / self.disk_write) / self.seconds


class Report(NamedTuple):
    """A step of a network. seconds are of the step, by name: "fastbp" first; the kernels are those of fastbp's median step."""

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
        """The network, the batch and what is multiplied."""
        return f"{'-'.join(map(str, self.sizes))}, {self.batch:,} rows, {self.precision}"


def plain(value):
    """A report as JSON has it: named tuples become objects."""
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def bound(work: Work, ceilings: Ceilings) -> str:
    """What binds it on this machine: the one of the two that takes longer at its ceiling."""
    if not work.flops and not work.bytes:
        return ""
    return "arithmetic" if work.flops / ceilings.flops >= work.bytes / ceilings.bandwidth else "memory"
