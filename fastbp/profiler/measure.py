"""The measurement of a network's steps: by fastbp, in detail, and by other packages in turn with it."""
import contextlib
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import psutil

import fastbp

from .._arrays import operands
from .._runtime import cpu, state, terminal
from .._runtime import threads as _threads
from ..cli import config
from . import Profile, networks, profile
from .machine import Ceilings, ceilings
from .passes import Pass, total
from .report import LayerReport, Memory, PassReport, Report, Streamed
from .work import Work

WARM_UP = 3                     # This many steps come before those that are timed.
MEASURED_AGAIN = 3              # Ceilings are measured again at most so often: a shared machine may be slow for minutes.
QUIET = 0.12                    # Seconds to wait before a step: OpenBLAS's threads spin for 0.1 s after its last product.


class Plan:
    """The task of a profile: layers of `sizes`, the number of inputs first, on a batch of rows.

    `factors` is the dtype that their products multiply.
    """

    def __init__(self, sizes: Sequence[int], batch: int, dtype: str = "float32", precision: str | None = None,
                 threads: int | None = None, repeat: int = 5, torch: bool = False, remeasure: bool = False):
        self.sizes, self.batch, self.dtype, self.repeat, self.torch = list(sizes), batch, np.dtype(dtype), repeat, torch
        self.factors = str(operands.multiplied(self.dtype, precision))
        self.threads, self.remeasure = threads or fastbp.get_num_threads(), remeasure
        self.cores = min(self.threads, cpu.cores())        # threads of the other packages, and of the ceilings

    @property
    def names(self) -> list[str]:
        """Return the names of the packages that take a step, fastbp first."""
        return ["fastbp", "numpy", *(["torch"] if self.torch else [])]

    def row_bytes(self) -> int:
        """Return the bytes of one row of the inputs, of all outputs and of their gradients."""
        return 2 * sum(self.sizes) * self.dtype.itemsize

    def memory_bytes(self) -> int:
        """Return the bytes of all packages' arrays, with NumPy's intermediate results."""
        return len(self.names) * (self.batch * self.row_bytes() * 3 // 2 + 3 * self.dtype.itemsize * sum(
            n * m for n, m in pairwise(self.sizes)))

    def layers(self) -> dict[str, list]:
        """Return {package: its layers}, all with the same weights."""
        ours = self.own_layers()
        return {"fastbp": ours} | self.peers(ours)

    def own_layers(self) -> list[fastbp.Dense]:
        """Return fastbp's layers."""
        return networks.fastbp_layers(self.sizes, self.dtype, self.factors if self.factors == operands.BFLOAT16 else None)

    def peers(self, ours: Sequence[fastbp.Dense]) -> dict[str, list]:
        """Return {package: its layers} for the other packages, with copies of the weights."""
        layers = {"numpy": networks.numpy_layers(ours, self.cores)}
        return layers | ({"torch": networks.torch_layers(ours, self.cores)} if self.torch else {})


class Round(NamedTuple):
    """A step of each package: {package: seconds of each layer's two passes}, and the profile of fastbp's step."""

    times: dict[str, list[list[float]]]
    profile: Profile | None


def measure(plan: Plan) -> tuple[Report, Profile]:
    """Profile steps on a batch in memory. Return the report and the profile of fastbp's median step.

    Raises MemoryError if there is not enough memory, RuntimeError if the machine's peak cannot be measured.
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
        median = median_profile(rounds)
        return report(plan, layers["fastbp"], rounds, median.passes, memory), median


def round_of(layers, x, dvalues, advance):
    """Take a step with each package's layers, and return a Round."""
    times, own = {}, None
    for name, package_layers in layers.items():
        time.sleep(QUIET)
        with profile() if name == "fastbp" else contextlib.nullcontext() as recorded:
            times[name] = step(package_layers, x, dvalues)
        own = recorded or own
        advance(1)
    return Round(times, own)


def seconds_of(function: Callable, argument):
    """Return (result of function(argument), seconds that it took)."""
    start = time.perf_counter()
    result = function(argument)
    return result, time.perf_counter() - start


def step(layers: Sequence, x: np.ndarray, dvalues: np.ndarray, meter: Callable = seconds_of,
         out: np.ndarray | None = None) -> list[list[float]]:
    """Run forward and backward. Return [forward, backward] of each layer, as measured by meter(function, argument).

    The default meter measures seconds. fastbp writes the last output to `out` if that is given.
    """
    measured, values = [], x
    for layer in layers:
        forward = layer.forward if out is None or layer is not layers[-1] else partial(layer.forward, out=out)
        values, number = meter(forward, values)
        measured.append([number])
    values = dvalues
    for layer, numbers in zip(reversed(layers), reversed(measured), strict=True):
        values, number = meter(layer.backward, values)
        numbers.append(number)
    return measured


def new_bytes_of(function: Callable, argument):
    """Return (result of function(argument), peak of the new bytes that it had at once). tracemalloc must be running."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    result = function(argument)
    return result, tracemalloc.get_traced_memory()[1] - before


def median_profile(rounds: Sequence[Round]) -> Profile:
    """Return the profile of fastbp's median step."""
    return sorted(rounds, key=lambda turn: _sum(turn.times["fastbp"]))[(len(rounds) - 1) // 2].profile


def report(plan: Plan, layers: Sequence, rounds: Sequence[Round], passes: Sequence[Pass], memory: dict[str, Memory],
           streamed: Streamed | None = None) -> Report:
    """Return the report: the medians of the rounds, and fastbp's passes of one step in detail."""
    seconds = {name: statistics.median(_sum(turn.times[name]) for turn in rounds) for name in rounds[0].times}
    peers = {name: np.median([turn.times[name] for turn in rounds], axis=0) for name in seconds if name != "fastbp"}
    layer_reports = []
    for i, layer in enumerate(layers):
        own = [p for p in passes if p.call.weights == layer.weights.ctypes.data]
        pass_reports = [_pass_report(name, [p for p in own if p.name == name],
                                     {peer: float(times[i][j]) for peer, times in peers.items()})
                        for j, name in enumerate(("forward", "backward"))]
        layer_reports.append(LayerReport(_name(layer), pass_reports))
    limits = _ceilings(plan, max(k.work.flops / k.seconds for p in passes for k in p.kernels if k.seconds))
    return Report(sizes=plan.sizes, batch=plan.batch, dtype=plan.dtype.name, precision=plan.factors, threads=plan.threads,
                  repeat=plan.repeat, machine=config.machine((*plan.names, "numba")), ceilings=limits, seconds=seconds,
                  layers=layer_reports, memory=memory, workspace=workspace(), streamed=streamed)


def _ceilings(plan, fastest):
    """Return the Ceilings. Measure again if a kernel was faster: then the machine was slow or busy when it was measured."""
    best = ceilings(plan.factors, plan.cores, plan.remeasure)
    for _ in range(MEASURED_AGAIN):
        if fastest > best.flops:
            again = ceilings(plan.factors, plan.cores, anew=True)
            best = Ceilings(flops=max(best.flops, again.flops), bandwidth=max(best.bandwidth, again.bandwidth))
    return best


def _sum(times):
    return sum(map(sum, times))


def _pass_report(name: str, passes: list[Pass], peers):
    work = Work(sum(p.work.flops for p in passes), sum(p.work.bytes for p in passes))
    return PassReport(name=name, seconds=sum(p.seconds for p in passes), work=work,
                      kernels=total(k for p in passes for k in p.kernels), peers=peers)


def _name(layer):
    return f"{layer.weights.shape[0]} → {layer.weights.shape[1]}" + (" ReLU" if isinstance(layer, fastbp.DenseReLU) else "")


def memory_of(name, layers, x, dvalues):
    """Return the Memory of the first steps. `later` is of the third: in the second, layers still make a second output array."""
    tracemalloc.start()
    steps = [step(layers, x, dvalues, new_bytes_of) for _ in range(WARM_UP)]
    tracemalloc.stop()
    counts = name != "torch"            # tracemalloc does not see PyTorch's memory
    return Memory(first=steps[0] if counts else None, later=steps[-1] if counts else None,
                  peak=psutil.Process().memory_info().rss)


def workspace() -> int:
    """Return the bytes of scratch memory that passes have taken so far. Later passes use it again."""
    total_bytes = 0
    for slot in range(state.SLOTS, state.SLOTS + state.SLOT_COUNT * state.SLOT_WORDS, state.SLOT_WORDS):
        _busy, _address, size = state.words[slot:slot + state.SLOT_WORDS]
        total_bytes += size
    return total_bytes


@contextlib.contextmanager
def threads_of(plan: Plan) -> Iterator[None]:
    """Let fastbp use the plan's number of threads within the block."""
    before = _threads.get_num_threads()
    fastbp.set_num_threads(plan.threads)
    try:
        yield
    finally:
        fastbp.set_num_threads(before)
