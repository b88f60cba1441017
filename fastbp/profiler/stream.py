"""The profile of a batch that is larger than memory: its rows are read from files and written to files, a block at a time.

All new files are made in a temporary folder inside the user's folder. It is always removed at the end. To keep the files, they
are moved out of it first.
"""
import contextlib
import copy
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from os.path import lexists
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

import fastbp

from .._runtime import terminal
from . import Profile, disk, measure, networks, profile
from .disk import Rows
from .measure import Plan
from .passes import Pass, total
from .report import Report, Streamed

MIB = 1 << 20                   # Bytes.
# The process may have this many bytes of anonymous memory.
LIMIT = 256 * MIB
# Python, Numba, kernels, their scratch memory and the log get this many bytes of it. They took 75 to 100 MiB when measured.
BASE = 128 * MIB
# The arrays that layers make from a block's rows get this many bytes of it.
BLOCK = 64 * MIB
# So many arrays of the size of the weights exist at once: the weights, their gradients of the block and of the batch, and the
# copy of another package.
COPIES = 4
# A block has at most this many rows, divided by the number of layers: more rows make more events.
BLOCK_ROWS = 1 << 16
# The log has room for this many events. A block of BLOCK_ROWS rows has fewer than 10 000.
CAPACITY = 1 << 16
# The header of a .npy file has this many bytes.
HEADER = 128

INPUTS = "inputs.npy", "dvalues.npy"        # These files are read.
OUTPUTS = "output.npy", "dinputs.npy"       # These files are written.
# Another process runs this code, to compile.
_CODE = "import sys; sys.path[:] = {path!r}; from fastbp.profiler import stream; stream.compile_for({arguments!r}, {rows!r})"


def stream(plan: Plan, folder: Path, keep: bool = False) -> tuple[Report, Profile]:
    """Profile one step on a batch in .npy files of plan.dtype, in C order. Return the report and the profile of the last block.

    In `folder`, it reads inputs.npy (plan.batch, plan.sizes[0]) and dvalues.npy (plan.batch, plan.sizes[-1]). If one is
    missing, it is filled with random numbers from a fixed seed. It writes output.npy, with the shape of dvalues, and
    dinputs.npy, with the shape of inputs. New files are removed at the end unless `keep` is true, and always after an error.
    Files that existed before are never changed.

    fastbp takes one step on the whole batch. Other packages take plan.repeat steps on the first block, and their seconds are
    multiplied by the batch's rows over the block's. Without torch, this process's anonymous memory stays below LIMIT for any
    batch.

    Raises ValueError if a file does not hold what was expected, if a file is too short or becomes so while it is being read, or
    if the weights leave no room for a block; FileExistsError if output.npy or dinputs.npy exists; OSError for a full disk, and
    for anything else that the system refuses.
    """
    folder, rows, shapes = Path(folder), block_rows(plan), _shapes(plan)
    disk.refuse(folder / name for name in OUTPUTS)
    existing = [name for name in INPUTS if lexists(folder / name)]
    missing = [name for name in shapes if name not in existing]
    files = {}
    with contextlib.ExitStack() as opened:
        for name in existing:
            files[name] = Rows.read(opened.enter_context((folder / name).open("rb")), shapes[name], plan.dtype)
        needed = sum(HEADER + math.prod(shapes[name]) * plan.dtype.itemsize for name in missing)
        with disk.room(folder, needed), disk.new_folder(folder, keep) as made, contextlib.ExitStack() as created:
            rates = disk.rates(made)
            for name in missing:
                file = created.enter_context((made / name).open("x+b"))
                files[name] = Rows.create(file, shapes[name], plan.dtype)
            _fill_randomly([files[name] for name in INPUTS if name in missing], rows)
            with measure.threads_of(plan):
                return _profile(plan, rows, [files[name] for name in shapes], rates)


def _shapes(plan):
    """Return {name: (rows, columns)} of the four files."""
    columns = plan.sizes[0], plan.sizes[-1]
    return {name: (plan.batch, n) for name, n in zip((*INPUTS, *OUTPUTS), (*columns, *reversed(columns)), strict=True)}


def block_rows(plan: Plan) -> int:
    """Return the rows of a block: as many as fit in anonymous memory; above 1024, a multiple of it.

    Raises ValueError if a single row has no room beside the weights.
    """
    weights = sum(m * n for m, n in pairwise(plan.sizes)) * plan.dtype.itemsize
    row = plan.row_bytes() * 3 // 2         # layers make two outputs in turn, and a gradient; NumPy makes no more
    room = LIMIT - BASE - COPIES * weights
    if row > room:
        most = (LIMIT - BASE - row) / COPIES
        raise ValueError(f"the weights have {weights / MIB:.1f} MiB, expected at most {most / MIB:.1f}: {COPIES} copies of "
                         f"them, a row of the batch and {BASE // MIB} MiB for the rest have to fit in {LIMIT // MIB} MiB")
    rows = max(1, min(min(room, BLOCK) // row, BLOCK_ROWS // (len(plan.sizes) - 1)))
    return min(plan.batch, rows - rows % 1024 if rows > 1024 else rows)


def _profile(plan, rows, files, rates):
    """Return the report of a step on the files of inputs, dvalues, output and dinputs, and the last profile.

    rates: the result of disk.rates.
    """
    scale = plan.batch / rows
    inputs, dvalues, *_ = files
    _compile(plan, rows)
    layers = plan.own_layers()

    def first_block():
        return [file.block(slice(0, rows)) for file in (inputs, dvalues)]

    memory = {"fastbp": measure.memory_of("fastbp", _copies(layers), *first_block())}
    done = step(_copies(layers), files, rows)
    rounds = []
    for turn in _rounds_of_peers(plan, layers, first_block(), memory):
        peers = {name: (np.array(seconds, np.float64) * scale).tolist() for name, seconds in turn.times.items()}
        rounds.append(measure.Round({"fastbp": done.times} | peers, done.last))
    byte_count = inputs.bytes + dvalues.bytes               # the results have as many
    disk_read, disk_write = rates
    streamed = Streamed(block=rows, read=byte_count, written=byte_count, seconds=done.seconds, disk_read=disk_read,
                        disk_write=disk_write, anonymous=done.anonymous, scaled=scale)
    return measure.report(plan, layers, rounds, done.passes, memory, streamed), done.last


def _copies(layers):
    """Return layers that share the weights. Their results are freed with them."""
    return [copy.copy(layer) for layer in layers]


def _rounds_of_peers(plan, layers, arrays, memory):
    """Return plan.repeat rounds of the other packages, and add to `memory`."""
    peers = plan.peers(layers)
    with terminal.progress(len(peers) * plan.repeat, "Others", "step") as advance:
        for name, theirs in peers.items():
            memory[name] = measure.memory_of(name, theirs, *arrays)
        return [measure.round_of(peers, *arrays, advance) for _ in range(plan.repeat)]


# ---- the step


class Step(NamedTuple):
    """A step on the whole batch.

    times      seconds of each layer's two passes
    passes     a Pass for each of these, without its tasks
    last       the profile of the last block
    gradients  (dweights, dbiases) of each layer
    seconds    the time with reads and writes until the results are on the disk, without the evaluation of the profiles
    anonymous  the peak of anonymous memory in bytes, sampled at the end of each block
    """

    times: list[list[float]]
    passes: list[Pass]
    last: Profile
    gradients: list[tuple[np.ndarray, np.ndarray]]
    seconds: float
    anonymous: int


def step(layers: Sequence[fastbp.Dense], files: Sequence["Rows"], rows: int) -> Step:
    """Run forward and backward on blocks of `rows` rows. files: inputs, dvalues, output and dinputs.

    Each block has a profile of its own, and only sums are kept, so that memory does not grow with the number of blocks. Raises
    ValueError if a file has become shorter, MemoryError if a profile had no room for the events of a block.
    """
    inputs, dvalues, output, dinputs = files
    gradients = [(np.zeros_like(layer.weights), np.zeros_like(layer.biases)) for layer in layers]
    times, passes, seconds, peak = np.zeros((len(layers), 2), np.float64), [], 0.0, 0
    for file in (inputs, dvalues):
        file.forget()
    for block in _blocks(len(inputs), rows, "Streaming"):
        with profile(capacity=CAPACITY) as recorded:
            start = time.perf_counter()
            for file in (inputs, dvalues):
                file.read_ahead(block.start, block.stop + rows)
            times += measure.step(layers, inputs.block(block), dvalues.block(block), out=output.block(block))
            np.copyto(dinputs.block(block), layers[0].dinputs)
            _add(gradients, layers)
            seconds += time.perf_counter() - start
        if recorded.dropped:
            raise MemoryError(f"a profile of {CAPACITY} events had no room for {recorded.dropped} more, of {rows} rows")
        passes, peak = _merged([*passes, *recorded.passes]), max(peak, anonymous())
    start = time.perf_counter()
    for file in files:
        file.check()
    for file in (output, dinputs):
        file.flush()
    return Step(times=times.tolist(), passes=passes, last=recorded, gradients=gradients,
                seconds=seconds + time.perf_counter() - start, anonymous=peak)


def _add(gradients, layers):
    """Add the layers' gradients to the sums, in place."""
    for (dweights, dbiases), layer in zip(gradients, layers, strict=True):
        np.add(dweights, layer.dweights, out=dweights)
        np.add(dbiases, layer.dbiases, out=dbiases)


def _merged(passes):
    """Return one Pass for each layer and direction, on the rows of all its passes together."""
    merged = {}
    for one in passes:
        key = one.name, one.call.weights
        if key in merged:
            before = merged[key]
            one = before._replace(call=before.call._replace(rows=before.call.rows + one.call.rows),
                                  seconds=before.seconds + one.seconds, kernels=total([*before.kernels, *one.kernels]))
        merged[key] = one._replace(tasks=[])
    return list(merged.values())


def _blocks(batch, rows, what) -> Iterator[slice]:
    """Yield the blocks of a batch as slices, with a progress bar on a terminal."""
    with terminal.progress(batch, what, "row", unit_scale=True) as advance:
        for start in range(0, batch, rows):
            block = slice(start, min(start + rows, batch))
            yield block
            advance(block.stop - block.start)


# ---- memory


def anonymous() -> int:
    """Return the bytes of this process's memory without a file behind it. Not on Linux: also private pages of files."""
    process = psutil.Process()
    if sys.platform != "linux":
        return process.memory_full_info().uss
    memory = process.memory_info()
    return memory.rss - memory.shared       # equals RssAnon in /proc/self/status: Linux counts pages of files as shared


def _compile(plan, rows):
    """Let another process compile what a step needs. Compiling takes 70 MiB more memory than reading from the disk cache.

    If that process fails, or cannot write a cache, this process compiles.
    """
    arguments = {"sizes": plan.sizes, "batch": plan.batch, "dtype": plan.dtype.name, "precision": plan.factors,
                 "threads": plan.threads}
    code = _CODE.format(path=sys.path, arguments=arguments, rows=rows)
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True)


def compile_for(arguments: dict[str, object], rows: int) -> None:
    """Take a step on a block and on the last, smaller one, in the other process. arguments: those of a Plan, by name."""
    plan = Plan(**arguments)
    layers = plan.own_layers()
    fastbp.set_num_threads(plan.threads)
    for count in {rows, plan.batch % rows or rows}:
        with profile(capacity=CAPACITY):
            measure.step(layers, *(np.zeros((count, size), plan.dtype) for size in (plan.sizes[0], plan.sizes[-1])))


def _fill_randomly(files, rows):
    """Fill the files with the random numbers that measure.measure gives a batch in memory."""
    rng = np.random.default_rng(networks.SEED)
    for file in files:
        for block in _blocks(len(file), rows, "Making up"):
            rng.standard_normal(dtype=file.dtype, out=file.block(block))
