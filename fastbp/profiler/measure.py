"""Runs the steps of a network turn by turn with those of others, and finds out what fastbp's consist of."""
import contextlib
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import psutil

import fastbp

from .. import _config, _cpu, _operands, _state, _threads, terminal
from . import Profile, networks, profile
from .machine import Ceilings, ceilings
from .passes import Pass, total
from .report import LayerReport, Memory, PassReport, Report, Streamed
from .work import Work

WARM_UP = 3                     # steps
MEASURED_AGAIN = 3              # times at most: the clock of a machine that others share changes for minutes
QUIET = 0.12                    # seconds before a step: threads of OpenBLAS go on spinning for 0.1 after its last product


class Plan:
    """What to profile: layers of `sizes`, the number of inputs first, on a batch of rows; `factors` is what they multiply."""

    def __init__(self, sizes: Sequence[int], batch: int, dtype: str = "float32", precision: str | None = None,
                 threads: int | None = None, repeat: int = 5, torch: bool = False, remeasure: bool = False):
        self.sizes, self.batch, self.dtype, self.repeat, self.torch = list(sizes), batch, np.dtype(dtype), repeat, torch
        self.factors = str(_operands.multiplied(self.dtype, precision))
        self.threads, self.remeasure = threads or fastbp.get_num_threads(), remeasure
        self.cores = min(self.threads, _cpu.cores())        # threads of others, and of what the machine can do

    @property
    def names(self) -> list[str]:
        """Of who takes a step, fastbp first."""
        return ["fastbp", "numpy", *(["torch"] if self.torch else [])]

    def row_bytes(self) -> int:
        """Of a row of inputs, all outputs and their gradients."""
        return 2 * sum(self.sizes) * self.dtype.itemsize

    def memory_bytes(self) -> int:
        """Of the arrays of all that take a step, with NumPy's intermediate results."""
        return len(self.names) * (self.batch * self.row_bytes() * 3 // 2 + 3 * self.dtype.itemsize * sum(
            n * m for n, m in pairwise(self.sizes)))

    def layers(self) -> dict[str, list]:
        """The layers of everyone that takes a step, with the same weights."""
        ours = self.own_layers()
        return {"fastbp": ours} | self.peers(ours)

    def own_layers(self) -> list[fastbp.Dense]:
        """Those of fastbp."""
        return networks.fastbp_layers(self.sizes, self.dtype, self.factors if self.factors == _operands.BFLOAT16 else None)

    def peers(self, ours: Sequence[fastbp.Dense]) -> dict[str, list]:
        """Those of everyone else, with copies of the weights."""
        found = {"numpy": networks.numpy_layers(ours, self.cores)}
        return found | ({"torch": networks.torch_layers(ours, self.cores)} if self.torch else {})


def measure(plan: Plan) -> tuple[Report, Profile]:
    """Profile steps on a batch in memory; returns fastbp's median step as well.

    Raises MemoryError where there is not enough memory, RuntimeError where the machine's peak cannot be measured.
    """
    with threads_of(plan):
        rng = np.random.default_rng(networks.SEED)
        x, dvalues = (rng.standard_normal((plan.batch, size), plan.dtype) for size in (plan.sizes[0], plan.sizes[-1]))
        layers, memory = plan.layers(), {}
        steps = len(layers) * (WARM_UP + plan.repeat)
        with terminal.progress(steps, "Profiling", "step") as advance:
            for name in layers:
                memory[name] = memory_of(name, layers[name], x, dvalues)
                advance(WARM_UP)
            rounds = [round_of(layers, x, dvalues, advance) for _ in range(plan.repeat)]
        chosen = median_round(rounds)
        return report(plan, layers["fastbp"], rounds, chosen.passes, memory), chosen


def round_of(layers, x, dvalues, advance):
    """A step of each: {name: seconds of each layer's two passes}, and the profile of fastbp's."""
    times, found = {}, None
    for name, those in layers.items():
        time.sleep(QUIET)
        with profile() if name == "fastbp" else contextlib.nullcontext() as recorded:
            times[name] = step(those, x, dvalues)
        found = recorded or found
        advance(1)
    return times, found


def seconds_of(function: Callable, argument):
    """(its result, the seconds that it took)"""
    start = time.perf_counter()
    result = function(argument)
    return result, time.perf_counter() - start


def step(layers: Sequence, x: np.ndarray, dvalues: np.ndarray, meter: Callable = seconds_of,
         out: np.ndarray | None = None) -> list[list[float]]:
    """Forward, backward: what meter(function, argument) measures of each layer's two passes, which is seconds by default.

    fastbp writes the last output to `out` if given.
    """
    found, values = [], x
    for layer in layers:
        forward = layer.forward if out is None or layer is not layers[-1] else partial(layer.forward, out=out)
        values, number = meter(forward, values)
        found.append([number])
    values = dvalues
    for layer, numbers in zip(reversed(layers), reversed(found), strict=True):
        values, number = meter(layer.backward, values)
        numbers.append(number)
    return found


def new_bytes_of(function: Callable, argument):
    """(its result, the most bytes of memory that it had and that were not there before), while tracemalloc is at work."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    result = function(argument)
    return result, tracemalloc.get_traced_memory()[1] - before


def median_round(rounds) -> Profile:
    """Of fastbp's median step."""
    return sorted(rounds, key=lambda turn: _sum(turn[0]["fastbp"]))[(len(rounds) - 1) // 2][1]


def report(plan: Plan, layers: Sequence, rounds, found: Sequence[Pass], memory: dict[str, Memory],
           streamed: Streamed | None = None) -> Report:
    """Of rounds as round_of returns them, medians; and fastbp's passes of one step in detail."""
    seconds = {name: statistics.median(_sum(times[name]) for times, _ in rounds) for name in rounds[0][0]}
    peers = {name: np.median([times[name] for times, _ in rounds], axis=0) for name in seconds if name != "fastbp"}
    reports = []
    for i, layer in enumerate(layers):
        own = [p for p in found if p.call.weights == layer.weights.ctypes.data]
        passes = [_pass_report(name, [p for p in own if p.name == name], {peer: float(t[i][j]) for peer, t in peers.items()})
                  for j, name in enumerate(("forward", "backward"))]
        reports.append(LayerReport(_name(layer), passes))
    limits = _ceilings(plan, max(k.work.flops / k.seconds for p in found for k in p.kernels if k.seconds))
    machine = _config.machine((*plan.names, "numba"))
    return Report(plan.sizes, plan.batch, plan.dtype.name, plan.factors, plan.threads, plan.repeat, machine, limits,
                  seconds, reports, memory, workspace(), streamed)


def _ceilings(plan, fastest):
    """Measured again while a kernel was faster than that: then the machine was slow, or busy, when it was measured."""
    found = ceilings(plan.factors, plan.cores, plan.remeasure)
    for _ in range(MEASURED_AGAIN):
        if fastest > found.flops:
            found = Ceilings(*map(max, found, ceilings(plan.factors, plan.cores, anew=True)))
    return found


def _sum(times):
    return sum(map(sum, times))


def _pass_report(name: str, passes: list[Pass], peers):
    work = Work(sum(p.work.flops for p in passes), sum(p.work.bytes for p in passes))
    return PassReport(name, sum(p.seconds for p in passes), work, total(k for p in passes for k in p.kernels), peers)


def _name(layer):
    return f"{layer.weights.shape[0]} → {layer.weights.shape[1]}" + (" ReLU" if isinstance(layer, fastbp.DenseReLU) else "")


def memory_of(name, layers, x, dvalues):
    """Of the first steps. In the second one, a layer makes a second output, to take turns with the first."""
    tracemalloc.start()
    found = [step(layers, x, dvalues, new_bytes_of) for _ in range(WARM_UP)]
    tracemalloc.stop()
    counted = (found[0], found[-1]) if name != "torch" else (None, None)
    return Memory(*counted, psutil.Process().memory_info().rss)


def workspace() -> int:
    """Bytes of the scratch memory of all passes so far, which later ones use again."""
    slots = range(_state.SLOTS, _state.SLOTS + _state.SLOT_COUNT * _state.SLOT_WORDS, _state.SLOT_WORDS)
    return sum(_state.words[slot + 2] for slot in slots)


@contextlib.contextmanager
def threads_of(plan: Plan) -> Iterator[None]:
    """Let fastbp use the plan's threads."""
    before = _threads.get_num_threads()
    fastbp.set_num_threads(plan.threads)
    try:
        yield
    finally:
        fastbp.set_num_threads(before)
