"""Child processes compute what their parent does: forked during steps, fits and compiling, spawned, or from a fork server."""
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor

import fastbp
from fastbp._runtime import state
from fastbp._runtime import threads as _threads

from . import child, report, steps
from .threads import alone

PATIENCE = 120                  # A child that has not ended after this many seconds is killed.
# The code of a process that plays a scene.
_CODE = "from checks import processes; processes.in_child()"


def main(arguments):
    parser = report.options(sys.modules[__name__], forks=300, different=60)
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}", flush=True)
    expected = alone(chosen.seed, chosen.different)
    faults, figures = [], {}
    for layer in ("tbb", "omp"):
        for name in SCENES:
            done, wrong = play(name, chosen.seed, chosen.forks, expected, layer)
            figures[name] = figures.get(name, 0) + done
            faults += wrong
            print(f"{layer}, {name}: {done:,} children, {len(wrong)} faults", flush=True)
    return report.close(faults, children=sum(figures.values()), scenes=2 * len(SCENES))


def play(scene, seed, forks, expected, layer="tbb"):
    """Play a scene in a process of its own; return (children, faults). expected: {number of a step: its digest}."""
    answer, faults = child.ask(_CODE, [scene, seed, forks, [*expected.items()]], is_cold=scene == "compiling",
                               NUMBA_THREADING_LAYER=layer, FASTBP_NUM_THREADS="3")
    done, faults = answer or (0, faults)
    return done, [f"{layer}, {scene}: {fault}" for fault in faults]


def in_child():
    """Play the scene that play() asks for, in a process of its own, and print [children, faults]."""
    warnings.simplefilter("ignore")
    scene, seed, forks, expected = json.loads(sys.argv[1])
    print("\n" + json.dumps(SCENES[scene](random.Random(seed), forks, dict(expected))), flush=True)


# ---- one child


def _compute(numbers, expected):
    """Compute these steps in this process, and return the faults, each a line."""
    wrong = []
    for number in numbers:
        try:
            if (found := steps.step(number)) != expected[number]:
                wrong.append(f"step {number} gave {found}, expected {expected[number]}")
        except Exception as error:
            wrong.append(f"step {number} raised {error!r}")
    return wrong


class _Forked:
    """A child of os.fork that calls work(), which returns faults. It ends normally, as Python does, or by os._exit."""

    def __init__(self, work, normally):
        sys.stdout.flush()
        reader, writer = os.pipe()
        self._process = os.fork()
        if not self._process:
            signal.alarm(PATIENCE)                      # ends the child if it hangs
            try:
                wrong = work()
            except Exception:
                wrong = [traceback.format_exc()]
            os.write(writer, json.dumps(wrong).encode()[:60_000])
            os.close(writer)
            if not normally:
                os._exit(0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit()                                  # runs all that ends a process: threads, finalizers, TBB's own end
        os.close(writer)
        self._reader = reader

    def wrong(self):
        """Wait for the end of the child, and return its faults."""
        with open(self._reader) as file:
            text = file.read()
        end = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        return (json.loads(text) if text else []) + ([] if end == 0 else [
            f"a child hung for {PATIENCE} s" if end == -signal.SIGALRM else f"a child ended with {end}"])


@contextlib.contextmanager
def _beside(count, work):
    """Run threads that call work() again and again while the block runs. Raise RuntimeError if work() raised."""
    over, errors = threading.Event(), []

    def repeat():
        try:
            while not over.is_set():
                work()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if errors:
        raise RuntimeError("what ran beside the forks failed") from errors[0]


# ---- the scenes: each takes a random.Random, a number of forks and the expected digests, and returns (children, faults)


def _in_the_middle(kinds, of_a_thread=False):
    """Return a scene that forks while two threads take steps of these kinds, or of all kinds if None.

    of_a_thread: whether another thread forks, between steps of its own, in place of the main thread. Its children end by
    os._exit, as those of multiprocessing do: Python does not end when another thread than the main one returns in a child, and
    GNU OpenMP would wait there for ever for threads that do not exist in the child.
    """
    def scene(rng, forks, expected):
        wrong, numbers = [], list(expected)
        busy = [n for n in numbers if kinds is None or steps.KINDS[n % len(steps.KINDS)] in kinds]
        _compute(numbers, expected)                     # loads all compiled code

        def fork():
            for turn in range(forks):
                time.sleep(0.02 * rng.random())
                chosen = rng.sample(numbers, 3)
                normally = turn % 2 == 0 and not of_a_thread
                forked = _Forked(lambda chosen=chosen: _child_of_many(chosen, expected), normally)
                wrong.extend(forked.wrong())
                if of_a_thread:
                    wrong.extend(_compute(chosen[:1], expected))

        with _beside(2, lambda: wrong.extend(_compute(rng.choices(busy, k=3), expected))):
            if of_a_thread:
                thread = threading.Thread(target=fork)
                thread.start()
                thread.join()
            else:
                fork()
        return forks, wrong
    return scene


def _child_of_many(numbers, expected):
    """Return the faults of a child that was forked beside other threads: it must hold nothing of theirs, and use one thread."""
    wrong = _compute(numbers, expected)
    if state.words[state.THREADS] != 1:
        wrong.append(f"kernels may use {state.words[state.THREADS]} threads, expected 1: TBB's or OpenMP's are lost")
    held = state.words[state.TEAM_IS_TAKEN], *state.words[state.SLOTS:state.FUNCTIONS:state.SLOT_WORDS]
    if any(held):
        wrong.append("a team or a workspace is held by a thread that is not there")
    return wrong


def _generations(rng, forks, expected):
    """Fork chains of children, each a child of the one before, from a process with one thread. TBB must work in all of them."""
    numbers, depth = list(expected), 5
    _compute(numbers, expected)
    threads = state.words[state.THREADS] if _threads.layer() == "tbb" else 1

    def generation(left):
        wrong = _compute(rng.sample(numbers, 2), expected)
        if state.words[state.THREADS] != threads:
            wrong.append(f"kernels may use {state.words[state.THREADS]} threads, expected {threads}")
        return wrong + (_Forked(lambda: generation(left - 1), normally=left % 2 == 0).wrong() if left else [])

    chains = max(1, forks // (10 * depth))
    wrong = [line for _ in range(chains) for line in _Forked(lambda: generation(depth - 1), normally=False).wrong()]
    return chains * depth, wrong + _compute(numbers, expected)


def _profiled(rng, forks, expected):
    """Fork while a profile is active. It must not record the child's passes, and the child must be able to profile itself."""
    numbers, wrong, count = list(expected), [], max(1, forks // 10)

    def of_child(chosen):
        found = _compute(chosen, expected)
        with fastbp.profile(capacity=1 << 16) as own:
            found += _compute(chosen, expected)
        return found + ([] if own.passes else ["a profile of the child has no passes"])

    with fastbp.profile(capacity=1 << 16) as profile, _beside(1, lambda: wrong.extend(_compute(numbers[:5], expected))):
        for turn in range(count):
            chosen = rng.sample(numbers, 3)
            wrong += _Forked(lambda chosen=chosen: of_child(chosen), normally=turn % 2 == 0).wrong()
    return count, wrong + ([] if profile.passes else ["the parent's profile has no passes"])


def _compiling(rng, forks, expected):
    """Fork while another thread compiles, with an empty cache. A fork waits until the lock is free; the child compiles, too."""
    numbers, wrong, over, count = list(expected), [], threading.Event(), 2
    compiling = threading.Thread(target=lambda: (wrong.extend(_compute(numbers[:1], expected)), over.set()))
    compiling.start()
    for _ in range(count):
        time.sleep(2 * rng.random())
        wrong += _Forked(lambda: _compute(numbers[:1], expected), normally=True).wrong()
    compiling.join()
    return count, wrong


def _of_pools(method):
    """Return a scene with children of multiprocessing and concurrent.futures, started by that method."""
    def scene(rng, forks, expected):
        numbers, context = list(expected), multiprocessing.get_context(method)
        _compute(numbers[:20], expected)
        with context.Pool(3) as pool:
            wrong = [line for lines in pool.map(_task, _tasks(numbers, expected)) for line in lines]
            pool.close()
            pool.join()
        with ProcessPoolExecutor(3, mp_context=context) as pool:
            wrong += [line for lines in pool.map(_task, _tasks(numbers, expected)) for line in lines]
        process = context.Process(target=_task, args=({numbers[0]: expected[numbers[0]]},))
        process.start()
        process.join(PATIENCE)
        return 7, wrong + ([] if process.exitcode == 0 else [f"a Process ended with {process.exitcode}"])
    return scene


def _tasks(numbers, expected):
    """Return tasks of five steps each: {number: digest}."""
    return [{n: expected[n] for n in numbers[i:i + 5]} for i in range(0, len(numbers), 5)]


def _task(expected):
    return _compute(list(expected), expected)


# The scenes, by name: the function that plays each.
SCENES = {"in steps": _in_the_middle(None), "in fits": _in_the_middle((steps.small_fit, steps.large_fit)),
          "by a thread": _in_the_middle(None, of_a_thread=True), "generations": _generations, "profiled": _profiled,
          "compiling": _compiling, **{method: _of_pools(method) for method in multiprocessing.get_all_start_methods()}}
