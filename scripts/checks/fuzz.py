"""No input makes a function return a wrong number or touch memory that is not its own.

Each case is a call with arrays of random shapes, layouts, dtypes and numbers. The arrays lie between canaries and walls
(memory.py), and some overlap. Results of the functions are compared with exact ones, within proven bounds (bounds.py); results
of losses, optimisers, layers, trainings and compiled networks with formulas.py. Some calls have an argument that must be
refused: they must leave everything as it was. A case follows from the seed, its number and the kinds of cases that are tried.
"""
import sys
import time
from collections import Counter

import numpy as np

from . import child, report
from .fuzz_functions import Functions
from .fuzz_layers import Layers
from .fuzz_networks import Fits, Jitted
from .fuzz_steps import Losses, Updates

# The fuzzer of each kind of cases.
KINDS = {"functions": Functions, "losses": Losses, "updates": Updates, "fits": Fits, "jitted": Jitted, "layers": Layers}

DEATHS = 10                     # After so many dead processes the rest of a worker's cases is not tried.

# The code of a process that tries cases.
_WORK = "import sys; from checks import fuzz; fuzz.work(*map(int, sys.argv[1:7]), sys.argv[7:])"


class Fuzzers:
    """A fuzzer for each of these kinds of cases."""

    def __init__(self, seed, compiled=True, kinds=tuple(KINDS)):
        self._seed, self._kinds = seed, list(kinds)
        self._fuzzers = {name: KINDS[name](seed, compiled) for name in kinds}

    def kind(self, number):
        """Return the kind of a case."""
        return self._kinds[np.random.default_rng([self._seed, number, 1]).integers(len(self._kinds))]

    def try_one(self, number):
        """Return the faults of a case, each a line."""
        return self._fuzzers[self.kind(number)].try_one(number)


def work(seed, first, step, cases, seconds, compiled, kinds):
    """Try the cases first, first + step, … Print the number and kind of each before it is tried, and its faults after."""
    fuzzers, until = Fuzzers(seed, bool(compiled), kinds), time.monotonic() + seconds
    for number in range(first, cases, step):
        print(number, fuzzers.kind(number), flush=True)
        for fault in fuzzers.try_one(number):
            print(f"FAULT {number} {fault}")
        if time.monotonic() > until:
            return
    print("done")


def main(arguments):
    parser = report.options(sys.modules[__name__], cases=100_000, seconds=10**9, jobs=2)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of cases; default: all")
    parser.add_argument("--case", type=int, help="try this one alone, in this process")
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}", flush=True)
    if chosen.case is not None:
        return report.close(Fuzzers(chosen.seed, kinds=chosen.kinds).try_one(chosen.case), cases=1)
    faults, tried = run(chosen.seed, chosen.cases, chosen.seconds, chosen.jobs, kinds=chosen.kinds)
    return report.close(faults, **tried)


def run(seed, cases, seconds=10**9, jobs=1, compiled=True, kinds=tuple(KINDS)):
    """Try cases in `jobs` processes at once; return (faults, {kind: cases tried})."""
    faults, tried = [], Counter()
    workers = [_Worker(seed, first, jobs, cases, seconds, compiled, kinds) for first in range(jobs)]
    for worker in workers:
        count, found = worker.finish()
        tried, faults = tried + count, faults + found
    return faults, tried


class _Worker:
    """A process that tries its part of the cases. If it dies, another one goes on with the next case."""

    def __init__(self, seed, first, step, cases, seconds, compiled, kinds):
        self._first, self._rest = first, (step, cases, seconds, int(compiled), *kinds)
        self._seed, self._step, self._cases = seed, step, cases
        self._process = self._start(first)

    def _start(self, first):
        return child.start(_WORK, self._seed, first, *self._rest)

    def finish(self):
        """Wait until all cases are tried, and return ({kind: cases tried}, faults)."""
        faults, tried, deaths = [], Counter(), 0
        while True:
            status, output, errors = child.finish(self._process, patience=1 << 20)
            lines = output.splitlines()
            begun = [line.split() for line in lines if line[:1].isdigit()]
            tried.update(name for _, name in begun)
            faults += [line for line in lines if line.startswith("FAULT")]
            if status == 0:
                return tried, faults
            last = int(begun[-1][0]) if begun else self._cases
            faults.append(f"FAULT {last} status {status}: {errors[-1500:]}")
            deaths += 1
            if last + self._step >= self._cases or deaths == DEATHS:
                return tried, faults
            self._process = self._start(last + self._step)
