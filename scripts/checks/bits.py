"""The same bits on 1, 2 and 7 threads, again, in other processes, in chunks, in other batches, and with other load.

With --write FILE the bits of thousands of calls and trainings, on each instruction set that this machine can run, are written
to a file as digests in place of that. With --against FILE they are computed once more, and those that differ are printed, with
exit status 1 if there are any: so a change of the code that is to change no bit is shown to change none.
"""
import contextlib
import random
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

import fastbp
from fastbp._training import session
from fastbp.profiler import measure, stream
from fastbp.profiler.disk import Rows

from . import child, digests, report, rows, steps

# The numbers of threads that are compared.
THREADS = 1, 2, 7
# The code of a process that keeps a core busy.
_BUSY = "while True: sum(range(1000))"
# The code of a process that takes the steps whose numbers it reads, and prints their digests.
_SERVE = """
import sys, warnings
warnings.simplefilter("ignore")
from checks import steps
for line in sys.stdin:
    print(steps.step(int(line)), flush=True)
"""


def main(arguments):
    parser = report.options(sys.modules[__name__], seconds=300, busy=2)
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--write", type=Path, metavar="FILE", help="write digests of all kinds of results to a JSON file")
    files.add_argument("--against", type=Path, metavar="FILE", help="print which of a file's digests differ by now")
    chosen = parser.parse_args(arguments)
    if chosen.write or chosen.against:
        return digests.write(chosen.write) if chosen.write else digests.against(chosen.against)
    print(f"seed {chosen.seed}", flush=True)
    done, faults = check(chosen.seed, chosen.seconds, chosen.busy)
    return report.close(faults, **done)


def check(seed, seconds, busy=2):
    """Take steps of all kinds, half of the time beside `busy` busy processes; return ({what: how many}, faults)."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    done, faults = {"steps": 0, "networks": 0, "streams": 0, "rows": 0, "beside_load": 0}, []
    with _others() as others, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while time.monotonic() < end or not all(done.values()):
            numbers = [rng.randrange(1 << 30) for _ in range(20)]
            expected = [_alone(number) for number in numbers]
            with _load(loaded := busy * rng.randrange(2)):
                for number, digest in zip(numbers, expected, strict=True):
                    faults += _differences(f"step {number}", digest, _again(rng, number) | _elsewhere(others, number))
                    done["steps"] += 1
                    done["beside_load"] += loaded > 0
                faults += _in_chunks(number := rng.randrange(1 << 30))
                faults += _streamed(number, rng)
                for faults_of in rows.layer_faults, rows.network_faults:
                    faults += faults_of(rng.randrange(1 << 30))
                    done["rows"] += 1
                done["networks"] += 1
                done["streams"] += 1
    fastbp.set_num_threads(2)
    return done, faults


def _alone(number):
    fastbp.set_num_threads(1)
    return steps.step(number)


def _again(rng, number):
    """Return {where: digest} of a step on each number of threads in any order, and on one of them once more."""
    found = {}
    for turn, threads in enumerate(rng.sample(THREADS, 3) + [rng.choice(THREADS)]):
        fastbp.set_num_threads(threads)
        found[f"on {threads} threads, turn {turn}"] = steps.step(number)
    return found


def _differences(what, expected, found):
    return [f"{what} gave {digest} {where}, expected {expected}" for where, digest in found.items() if digest != expected]


# ---- other processes


@contextlib.contextmanager
def _others():
    """Yield {threads: process}: processes that take the steps whose numbers they are given."""
    with contextlib.ExitStack() as opened:
        yield {threads: opened.enter_context(_serving(threads)) for threads in (1, 2)}


@contextlib.contextmanager
def _serving(threads):
    process = child.start(_SERVE, FASTBP_NUM_THREADS=str(threads), stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _elsewhere(others, number):
    found = {}
    for threads, process in others.items():
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        found[f"in a process with {threads} threads"] = process.stdout.readline().strip()
    return found


@contextlib.contextmanager
def _load(count):
    """Run `count` processes that each use a core, beside the block."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# ---- chunks


def _in_chunks(number):
    """Return the faults of a prediction in the pieces that predict itself makes, and of a fit in more or fewer calls."""
    network, x, y = steps.network(np.random.default_rng(number))
    x, rows = np.resize(x, (10_000, x.shape[1])), 4096
    fastbp.set_num_threads(1)
    whole = network.predict(x)
    fastbp.set_num_threads(7)
    pieces = np.concatenate([network.predict(x[i:i + rows]) for i in range(0, len(x), rows)])
    faults = _differences(f"network {number}: predict", steps.digest(whole), {f"in {rows} rows each": steps.digest(pieces)})
    found = {}
    for seconds in (0.03, 0.0, 1.0):
        with mock.patch.object(session, "_CALL", seconds):             # the seconds that a call of compiled code should take
            network, x, y = steps.network(np.random.default_rng(number))
            network.fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.Adam(), rng=0, progress=False)
        found[f"in calls of {seconds} s"] = steps.digest(*network.parameters())
    return faults + _differences(f"network {number}: a fit", next(iter(found.values())), found)


def _streamed(number, rng):
    """Return the faults of a batch from files on any number of threads, beside the same rows in memory on one thread."""
    numbers = np.random.default_rng(number)
    sizes, batch, rows = numbers.integers(2, 60, 3).tolist(), int(numbers.integers(2, 3000)), int(numbers.integers(1, 900))
    plan = measure.Plan(sizes, batch)
    x, dvalues = (numbers.standard_normal((batch, size), np.float32) for size in (sizes[0], sizes[-1]))
    fastbp.set_num_threads(1)
    layers, parts, sums = plan.own_layers(), [], None
    for i in range(0, batch, rows):
        output = x[i:i + rows]
        for layer in layers:
            output = layer.forward(output)
        dinputs = dvalues[i:i + rows]
        for layer in reversed(layers):
            dinputs = layer.backward(dinputs)
        gradients = [g.copy() for layer in layers for g in (layer.dweights, layer.dbiases)]
        sums = gradients if sums is None else [a + b for a, b in zip(sums, gradients, strict=True)]
        parts.append((output.copy(), dinputs.copy()))
    expected = steps.digest(*(np.concatenate(part) for part in zip(*parts, strict=True)), *sums)
    found = {}
    for threads in rng.sample(THREADS, 3):
        fastbp.set_num_threads(threads)
        found[f"on {threads} threads in blocks of {rows} rows"] = _stream(plan, x, dvalues, rows)
    return _differences(f"stream {number}", expected, found)


def _stream(plan, x, dvalues, rows):
    """Return the digest of stream.step's results."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        files = []
        for i, array in enumerate((x, dvalues, dvalues, x)):            # inputs, dvalues; output and dinputs are as large
            file = opened.enter_context(Path(folder, str(i)).open("x+b"))
            files.append(Rows.create(file, array.shape, array.dtype))
            files[-1].block(slice(0, len(array)))[:] = array if i < 2 else 0
        done = stream.step(plan.own_layers(), files, rows)
        results = [np.array(file.block(slice(0, len(file)))) for file in files[2:]]
        return steps.digest(*results, *(g for pair in done.gradients for g in pair))
