"""Profiles a batch that is larger than memory: its rows come from files and go to files, a block at a time.

Everything that it makes lies in a temporary folder inside the user's, which goes at the end, however it ends; to keep the
files is to move them out of it first.
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

from .. import terminal
from . import Profile, disk, measure, networks, profile
from .disk import Rows
from .measure import Plan
from .passes import Pass, total
from .report import Report, Streamed

MIB = 1 << 20
LIMIT = 256 * MIB               # of anonymous memory
BASE = 128 * MIB                # of it, for Python, Numba, kernels, their scratch memory and the log: 75 to 100 were measured
BLOCK = 64 * MIB                # of it, for what the layers make of a block's rows
COPIES = 4                      # of the weights: they, their gradients of a block and of the batch; later those of a peer
BLOCK_ROWS = 1 << 16            # at most, for all layers together: the more rows, the more events
CAPACITY = 1 << 16              # of the log; a block of that many rows has fewer than 10,000 events
HEADER = 128                    # bytes of a .npy file's

INPUTS, OUTPUTS = ("inputs.npy", "dvalues.npy"), ("output.npy", "dinputs.npy")
_CODE = "import sys; sys.path[:] = {path!r}; from fastbp.profiler import stream; stream.compile_for({arguments!r}, {rows!r})"


def stream(plan: Plan, folder: Path, keep: bool = False) -> tuple[Report, Profile]:
    """Profile one step on a batch in files: .npy, of plan.dtype, in C order.

    It reads inputs.npy (plan.batch, plan.sizes[0]) and dvalues.npy (plan.batch, plan.sizes[-1]) in `folder`, or makes up those
    that are not there, from a fixed seed. It writes output.npy, of the shape of dvalues, and dinputs.npy, of that of inputs.
    What it has made is removed at the end, unless `keep`, and after any error. Files that were there are never changed.

    fastbp takes one step on the whole batch. Others take plan.repeat steps on the first block, and their seconds are
    multiplied to those of the batch. Returns the profile of the last block as well. Without torch, this process's anonymous
    memory stays below LIMIT for any batch.

    Raises ValueError if a file does not hold what was expected, or ends before its end, also while it is being read, or if the
    weights leave no room for a block; FileExistsError if output.npy or dinputs.npy is there; OSError for a full disk, and for
    whatever else the system refuses.
    """
    folder, rows, shapes = Path(folder), block_rows(plan), _shapes(plan)
    disk.refuse(folder / name for name in OUTPUTS)
    there = [name for name in INPUTS if lexists(folder / name)]
    missing = [name for name in shapes if name not in there]
    files = {}
    with contextlib.ExitStack() as opened:
        for name in there:
            files[name] = Rows.read(opened.enter_context((folder / name).open("rb")), shapes[name], plan.dtype)
        needed = sum(HEADER + math.prod(shapes[name]) * plan.dtype.itemsize for name in missing)
        with disk.room(folder, needed), disk.new_folder(folder, keep) as made, contextlib.ExitStack() as created:
            rates = disk.rates(made)
            for name in missing:
                file = created.enter_context((made / name).open("x+b"))
                files[name] = Rows.create(file, shapes[name], plan.dtype)
            _make_up([files[name] for name in INPUTS if name in missing], rows)
            with measure.threads_of(plan):
                return _profile(plan, rows, [files[name] for name in shapes], rates)


def _shapes(plan):
    """{name: (rows, columns)} of the four files."""
    columns = plan.sizes[0], plan.sizes[-1]
    return {name: (plan.batch, n) for name, n in zip((*INPUTS, *OUTPUTS), (*columns, *reversed(columns)), strict=True)}


def block_rows(plan: Plan) -> int:
    """How many rows a block has: as many as fit in anonymous memory, and a multiple of 1024 if they are more than that.

    Raises ValueError if, beside the weights, there is no room for a single row.
    """
    weights = sum(m * n for m, n in pairwise(plan.sizes)) * plan.dtype.itemsize
    row = plan.row_bytes() * 3 // 2         # layers make two outputs in turn and a gradient; what NumPy makes is no more
    room = LIMIT - BASE - COPIES * weights
    if row > room:
        most = (LIMIT - BASE - row) / COPIES
        raise ValueError(f"the weights have {weights / MIB:.1f} MiB, expected at most {most / MIB:.1f}: {COPIES} copies of "
                         f"them, a row of the batch and {BASE // MIB} MiB for the rest have to fit in {LIMIT // MIB} MiB")
    rows = max(1, min(min(room, BLOCK) // row, BLOCK_ROWS // (len(plan.sizes) - 1)))
    return min(plan.batch, rows - rows % 1024 if rows > 1024 else rows)


def _profile(plan, rows, files, rates):
    """The report of a step on files of inputs, dvalues, output and dinputs; `rates` is what disk.rates says."""
    times_as_many = plan.batch / rows
    _compile(plan, rows)
    layers = plan.own_layers()

    def first_block():
        return [file.block(slice(0, rows)) for file in files[:2]]

    memory = {"fastbp": measure.memory_of("fastbp", _copies(layers), *first_block())}
    done = step(_copies(layers), files, rows)
    rounds = [({"fastbp": done.times} | {name: (np.array(seconds, np.float64) * times_as_many).tolist()
                                         for name, seconds in times.items()}, done.last)
              for times in _rounds_of_peers(plan, layers, first_block(), memory)]
    count = sum(file.bytes for file in files[:2])           # results are as large as what they are made from
    streamed = Streamed(rows, count, count, done.seconds, *rates, done.anonymous, times_as_many)
    return measure.report(plan, layers, rounds, done.passes, memory, streamed), done.last


def _copies(layers):
    """Layers of the same weights; what they make goes when they go."""
    return [copy.copy(layer) for layer in layers]


def _rounds_of_peers(plan, layers, arrays, memory):
    """Their seconds in each of plan.repeat rounds; adds to `memory`."""
    peers = plan.peers(layers)
    with terminal.progress(len(peers) * plan.repeat, "Others", "step") as advance:
        for name, theirs in peers.items():
            memory[name] = measure.memory_of(name, theirs, *arrays)
        return [measure.round_of(peers, *arrays, advance)[0] for _ in range(plan.repeat)]


# ---- the step


class Step(NamedTuple):
    """Of the whole batch.

    times      seconds of each layer's two passes
    passes     a Pass for each of them, without its tasks
    last       the profile of the last block
    gradients  (dweights, dbiases) of each layer
    seconds    with reads and writes, until the results are on the disk; without the evaluation of the profiles
    anonymous  the most bytes, of the samples at the end of each block
    """

    times: list[list[float]]
    passes: list[Pass]
    last: Profile
    gradients: list[tuple[np.ndarray, np.ndarray]]
    seconds: float
    anonymous: int


def step(layers: Sequence[fastbp.Dense], files: Sequence["Rows"], rows: int) -> Step:
    """Forward and backward, so many rows at a time. files: inputs, dvalues, output and dinputs.

    A block is profiled for itself, and only sums are kept, so that memory does not grow with their number. Raises ValueError
    if a file has become shorter, MemoryError if a profile had no room for the events of a block.
    """
    inputs, dvalues, output, dinputs = files
    gradients = [(np.zeros_like(layer.weights), np.zeros_like(layer.biases)) for layer in layers]
    times, passes, seconds, most = np.zeros((len(layers), 2), np.float64), [], 0.0, 0
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
        passes, most = _merged([*passes, *recorded.passes]), max(most, anonymous())
    start = time.perf_counter()
    for file in files:
        file.check()
    for file in (output, dinputs):
        file.flush()
    return Step(times.tolist(), passes, recorded, gradients, seconds + time.perf_counter() - start, most)


def _add(gradients, layers):
    for (dweights, dbiases), layer in zip(gradients, layers, strict=True):
        np.add(dweights, layer.dweights, out=dweights)
        np.add(dbiases, layer.dbiases, out=dbiases)


def _merged(passes):
    """The passes of a layer in one direction as a single one, on all of their rows."""
    found = {}
    for one in passes:
        key = one.name, one.call.weights
        if key in found:
            before = found[key]
            one = before._replace(call=before.call._replace(rows=before.call.rows + one.call.rows),
                                  seconds=before.seconds + one.seconds, kernels=total([*before.kernels, *one.kernels]))
        found[key] = one._replace(tasks=[])
    return list(found.values())


def _blocks(batch, rows, what) -> Iterator[slice]:
    """The blocks of a batch, with a progress bar on a terminal."""
    with terminal.progress(batch, what, "row", unit_scale=True) as advance:
        for start in range(0, batch, rows):
            block = slice(start, min(start + rows, batch))
            yield block
            advance(block.stop - block.start)


# ---- memory


def anonymous() -> int:
    """Bytes of memory in this process that no file stands behind; other systems than Linux count private pages of files too."""
    process = psutil.Process()
    if sys.platform != "linux":
        return process.memory_full_info().uss
    memory = process.memory_info()
    return memory.rss - memory.shared       # RssAnon of /proc/self/status: what Linux calls shared are the pages of files


def _compile(plan, rows):
    """Let another process compile what a step needs: that takes 70 MiB more than to read it from the disk cache.

    If it fails, or cannot write a cache, this process compiles.
    """
    arguments = plan.sizes, plan.batch, plan.dtype.name, plan.factors, plan.threads
    code = _CODE.format(path=sys.path, arguments=arguments, rows=rows)
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True)


def compile_for(arguments: tuple, rows: int) -> None:
    """Take a step on a block, and on the last one: what the other process does. arguments: of a Plan."""
    plan = Plan(*arguments)
    layers = plan.own_layers()
    fastbp.set_num_threads(plan.threads)
    for count in {rows, plan.batch % rows or rows}:
        with profile(capacity=CAPACITY):
            measure.step(layers, *(np.zeros((count, size), plan.dtype) for size in (plan.sizes[0], plan.sizes[-1])))


def _make_up(files, rows):
    """Fill these with the numbers that a batch in memory has."""
    rng = np.random.default_rng(networks.SEED)
    for file in files:
        for block in _blocks(len(file), rows, "Making up"):
            rng.standard_normal(dtype=file.dtype, out=file.block(block))
