"""Ctrl-C at random moments, in everything that takes long, is never lost, and the library works as before."""
import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import psutil

import fastbp

from . import child, report, steps
from .threads import alone

ROOT = Path(__file__).parents[2]        # The folder of the repository.
PATIENCE = 300                  # A command that has not ended this many seconds after Ctrl-C is killed.
# The code of a process that plays a scene.
_CODE = "from checks import signals; signals.in_child()"
# The code of a process that reads delays in seconds, and sends a SIGINT to another process after each.
_SHOOTER = """
import os, signal, sys, time
for line in sys.stdin:
    time.sleep(float(line))
    os.kill(int(sys.argv[1]), signal.SIGINT)
    print(flush=True)
"""


def main(arguments):
    parser = report.options(sys.modules[__name__], shots=60, commands=4, benchmarks=2)
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)    # a process in a shell's background ignores it
    rng, faults, shots = random.Random(chosen.seed), [], 0
    for scene in SCENES:
        done, wrong = play(scene, chosen.seed, chosen.shots)
        shots, faults = shots + done, faults + wrong
        print(f"{scene}: {done} interrupts, {len(wrong)} faults", flush=True)
    for command, count, longest in ((PROFILE, chosen.commands, 20), (BENCH, chosen.benchmarks, 90)):
        for _ in range(count):
            delay = rng.uniform(1, longest)
            while (wrong := interrupted(command, delay)) is None:
                delay /= 2
            shots, faults = shots + 1, faults + wrong
            print(f"{Path(command[0]).name} {' '.join(command[1:])}: after {delay:.1f} s, {len(wrong)} faults", flush=True)
    return report.close(faults, interrupts=shots)


def play(scene, seed, shots):
    """Play a scene in a process of its own; return (interrupts, faults)."""
    answer, faults = child.ask(_CODE, [scene, seed, shots, [*alone(seed, 12).items()]], is_cold=scene == "cold",
                               FASTBP_NUM_THREADS="2")
    done, faults = answer or (0, faults)
    return done, [f"{scene}: {fault}" for fault in faults]


def in_child():
    """Play the scene that play() asks for, in a process of its own, and print [interrupts, faults]."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scene, seed, shots, expected = json.loads(sys.argv[1])
    print(json.dumps(SCENES[scene](random.Random(seed), shots, dict(expected))))


class Gun:
    """Another process, which sends this one a SIGINT after a delay, whatever this one does then."""

    def __init__(self, group):
        target = -os.getpid() if group else os.getpid()         # the process, or its group
        # A session of its own keeps the other process alive when this one's group gets a SIGINT.
        self._process = subprocess.Popen([sys.executable, "-c", _SHOOTER, str(target)], text=True, start_new_session=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def during(self, work, delay):
        """Call work() until the signal has come; return its last result, or the class KeyboardInterrupt if that was raised."""
        try:
            self._process.stdin.write(f"{delay}\n")
            self._process.stdin.flush()
            result = work()
            while not select.select([self._process.stdout], [], [], 0)[0]:
                result = work()
            self._process.stdout.readline()
        except KeyboardInterrupt:
            result = KeyboardInterrupt
            self._process.stdout.readline()
        return result

    def close(self):
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def gun(group=False):
    armed = Gun(group)
    try:
        yield armed
    finally:
        armed.close()


# ---- the scenes: each takes a random.Random, a number of interrupts and the expected digests, and returns (interrupts, faults)


def _steps(rng, shots, expected):
    """Interrupt steps of all kinds except fits, which end with a warning in place of KeyboardInterrupt."""
    numbers = [n for n in expected if steps.KINDS[n % len(steps.KINDS)] not in (steps.small_fit, steps.large_fit)]
    everything = [steps.step(n) for n in numbers]
    wrong = [] if everything == [expected[n] for n in numbers] else ["steps differ before any interrupt"]
    with gun() as armed:
        for _ in range(shots):
            found = armed.during(lambda: [steps.step(n) for n in numbers], 0.1 * rng.random())
            if found is not KeyboardInterrupt:
                wrong.append("a step was interrupted, and there was no KeyboardInterrupt")
            if (chosen := steps.step(number := rng.choice(numbers))) != expected[number]:
                wrong.append(f"step {number} gave {chosen} after an interrupt, expected {expected[number]}")
    return shots, wrong


def _layer(rng, shots, expected):
    """Interrupt a layer that takes two batches in turn: it must never mix values of both."""
    numbers = np.random.default_rng(0)
    batches = [numbers.standard_normal((3000, 200), np.float32) for _ in range(2)]
    layer = fastbp.Dense(200, 300, activation="gelu", rng=1)
    gradients = [_gradients(fastbp.Dense(200, 300, activation="gelu", rng=1), x) for x in batches]
    wrong, turn = [], 0

    def work():
        nonlocal turn
        turn += 1
        layer.forward(batches[turn % 2])

    with gun() as armed:
        for _ in range(shots):
            armed.during(work, 0.02 * rng.random())
            if layer.output is None:
                continue                                # the layer has dropped the values of both
            which = next(i for i in range(2) if layer.inputs is batches[i])
            if steps.digest(layer.backward(np.ones_like(layer.output)), layer.dweights) != gradients[which]:
                wrong.append("after an interrupt, backward mixed the passes of two batches")
    return shots, wrong


def _gradients(layer, x):
    return steps.digest(layer.backward(np.ones_like(layer.forward(x))), layer.dweights)


# The rows that a fit trains on, and those of a batch.
FIT_ROWS, FIT_BATCH = 64 * 400, 64


def _fit_parts(size):
    """Return a network with so many hidden neurons, its data x and y, and an optimiser."""
    numbers = np.random.default_rng(0)
    x = numbers.standard_normal((FIT_ROWS, 20), np.float32)
    layers = [fastbp.DenseReLU(20, size, rng=0), fastbp.Dense(size, 3, rng=1)]
    return fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy()), x, x[:, :3].argmax(axis=1), fastbp.Adam()


def _go_on(network, optimizer, x, y, first, last):
    """Train on the batches first to last - 1 that are not done yet; return the history, or None if all are done."""
    rows = slice(max(first, optimizer.iterations) * FIT_BATCH, last * FIT_BATCH)
    if optimizer.iterations >= last:
        return None
    return network.fit(x[rows], y[rows], epochs=1, batch_size=FIT_BATCH, optimizer=optimizer, shuffle=False, progress=False)


def _fit(rng, shots, expected):
    """Interrupt a fit: it must stop after a whole step, with the network that it has there without an interrupt."""
    wrong, total, size = [], FIT_ROWS // FIT_BATCH, rng.choice([30, 300])
    network, x, y, optimizer = _fit_parts(size)
    known = [steps.digest(*network.parameters())]       # known[k]: the digest after k steps
    for k in range(total):
        _go_on(network, optimizer, x, y, k, k + 1)
        known.append(steps.digest(*network.parameters()))
    met = 0
    with gun() as armed:
        while met < shots:
            network, _, _, optimizer = _fit_parts(size)
            while (before := optimizer.iterations) < total:
                found = armed.during(partial(_go_on, network, optimizer, x, y, before, total), 0.05 * rng.random())
                met, now = met + 1, optimizer.iterations
                if steps.digest(*network.parameters()) != known[now]:
                    wrong.append(f"after {now} steps, {before} before, a fit was not where it is without Ctrl-C")
                if found is not None and found is not KeyboardInterrupt and len(found.loss) != len(found.accuracy):
                    wrong.append("the lists of a history have different lengths")
    return met, wrong


def _predict(rng, shots, expected):
    network, x, _ = steps.network(np.random.default_rng(0))
    x = np.resize(x, (60_000, x.shape[1]))
    right, wrong = steps.digest(network.predict(x)), []
    with gun() as armed:
        for _ in range(shots):
            if armed.during(lambda: network.predict(x), 0.1 * rng.random()) is not KeyboardInterrupt:
                wrong.append("predict was interrupted, and there was no KeyboardInterrupt")
            if steps.digest(network.predict(x)) != right:
                wrong.append("predict differs after an interrupt")
    return shots, wrong


def _sklearn(rng, shots, expected):
    """Interrupt a fit of scikit-learn's kind: it must warn and leave a model that predicts, and the next fit must be right."""
    from fastbp.sklearn import MLPClassifier
    numbers = np.random.default_rng(0)
    x = numbers.standard_normal((2000, 20))
    y = x[:, :3].argmax(axis=1)

    def fitted(epochs):
        return MLPClassifier((40,), max_iter=epochs, tol=0, n_iter_no_change=10_000, random_state=0).fit(x, y)

    right, wrong = steps.digest(*fitted(10).coefs_), []
    with gun() as armed:
        for _ in range(shots):
            found = armed.during(lambda: fitted(10_000), 0.02 + 0.2 * rng.random())
            if found is not KeyboardInterrupt and (len(found.loss_curve_), found.predict(x).shape) != (found.n_iter_, y.shape):
                wrong.append("an interrupted estimator is not whole")
            if steps.digest(*fitted(10).coefs_) != right:
                wrong.append("a fit differs after one that was interrupted")
    return shots, wrong


def _profile(rng, shots, expected):
    numbers, wrong = list(expected)[:6], []

    def work():
        with fastbp.profile(capacity=1 << 16):
            for n in numbers:
                steps.functions(np.random.default_rng(n))

    work()
    with gun() as armed:
        for _ in range(shots):
            if armed.during(work, 0.1 * rng.random()) is not KeyboardInterrupt:
                wrong.append("a profile was interrupted, and there was no KeyboardInterrupt")
            with fastbp.profile(capacity=1 << 16) as profile:
                found = steps.step(numbers[0])
            if found != expected[numbers[0]] or not profile.passes:
                wrong.append("a profiled step differs after an interrupt")
    return shots, wrong


def _cold(rng, shots, expected):
    """Interrupt a first step with an empty cache again and again. The second process that compiles (ahead.py) is hit, too."""
    os.setpgid(0, 0)
    number = next(n for n in expected if steps.KINDS[n % len(steps.KINDS)] is steps.functions)
    found, wrong, met, pause = [], [], 0, 0.5
    with gun(group=True) as armed:
        while not found:
            if armed.during(lambda: found.append(steps.step(number)), pause * rng.random()) is not KeyboardInterrupt:
                wrong.append("compiling was interrupted, and there was no KeyboardInterrupt")
            met, pause = met + 1, min(1.1 * pause, 10)
    if {*found, steps.step(number)} != {expected[number]}:
        wrong.append(f"step {number} gave {found} after its compiling was interrupted, expected {expected[number]}")
    return met, wrong


# The scenes, by name: the function that plays each.
SCENES = {"cold": _cold, "steps": _steps, "layer": _layer, "fit": _fit, "predict": _predict, "sklearn": _sklearn,
          "profile": _profile}


# ---- commands


# The commands that are interrupted.
_NETWORK = "--layers", "64,128,10", "--batch", "4096"
PROFILE = [sys.executable, "-m", "fastbp", "profile", *_NETWORK]
BENCH = [str(ROOT / "scripts/bench"), "quick"]


def interrupted(command, delay):
    """Run a command and press Ctrl-C after a delay; return the faults, or None if the command ended before.

    The command must end with an error, and leave no process behind.
    """
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               stdin=subprocess.DEVNULL)
    try:
        process.wait(delay)
        return [f"{command[-1]} ended with {process.returncode} before the interrupt"] if process.returncode else None
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return [f"{command[-1]} went on for {PATIENCE} s after an interrupt"]
    wrong = [] if status else [f"{command[-1]} ended with 0 after an interrupt"]
    end = time.monotonic() + 10
    while (stray := _session(process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    for one in stray:
        wrong.append(f"{command[-1]} left {one.info['cmdline']} behind")
        one.kill()
    return wrong


def _session(leader):
    """Return the processes of a session that are still there."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        with contextlib.suppress(OSError):
            if os.getsid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
