"""Children compute what their parent does: forked in the middle of steps, fits and compiling, spawned, by a fork server."""
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor

import fastbp
from fastbp import _state, _threads

from . import child, report, steps
from .threads import alone

PATIENCE = 120                  # seconds until a child that hangs is given up
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
    """(children, faults) of a scene in a process of its own."""
    with contextlib.ExitStack() as opened:
        environment = {"NUMBA_THREADING_LAYER": layer, "FASTBP_NUM_THREADS": "3"}
        if scene == "compiling":
            environment["FASTBP_CACHE_DIR"] = opened.enter_context(tempfile.TemporaryDirectory())
        status, output, errors = child.run(_CODE, json.dumps([scene, seed, forks, expected]), **environment)
    if status != 0:
        return 0, [f"{layer}, {scene}: the process ended with {status}: {errors[-2000:]}"]
    done, wrong = json.loads(output.splitlines()[-1])
    return done, [f"{layer}, {scene}: {one}" for one in wrong]


def in_child():
    """In a process of its own: print [children, what was wrong]."""
    warnings.simplefilter("ignore")
    scene, seed, forks, expected = json.loads(sys.argv[1])
    expected = {int(number): digest for number, digest in expected.items()}
    print("\n" + json.dumps(SCENES[scene](random.Random(seed), forks, expected)), flush=True)


# ---- one child


def _compute(numbers, expected):
    """What is wrong with these steps here, as lines."""
    wrong = []
    for number in numbers:
        try:
            if (found := steps.step(number)) != expected[number]:
                wrong.append(f"step {number} gave {found}, expected {expected[number]}")
        except Exception as error:
            wrong.append(f"step {number} raised {error!r}")
    return wrong


class _Forked:
    """A child of os.fork that calls work() -> lines of what is wrong; it ends as Python does, or by os._exit."""

    def __init__(self, work, normally):
        sys.stdout.flush()
        reader, writer = os.pipe()
        self._process = os.fork()
        if not self._process:
            signal.alarm(PATIENCE)                      # so that no child outlives its parent's patience
            try:
                wrong = work()
            except Exception:
                wrong = [traceback.format_exc()]
            os.write(writer, json.dumps(wrong).encode()[:60_000])
            os.close(writer)
            if not normally:
                os._exit(0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit()                                  # through all that is above: threads, finalizers, TBB's own end
        os.close(writer)
        self._reader = reader

    def wrong(self):
        """What it said, after its end."""
        with open(self._reader) as file:
            text = file.read()
        end = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        return (json.loads(text) if text else []) + ([] if end == 0 else [
            f"a child hung for {PATIENCE} s" if end == -signal.SIGALRM else f"a child ended with {end}"])


@contextlib.contextmanager
def _beside(count, work):
    """Threads that call work(), again and again; RuntimeError if it raised."""
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


# ---- the scenes: each returns (children, what is wrong)


def _in_the_middle(kinds, of_a_thread=False):
    """Forks while two threads take steps of these kinds; by the main thread, or by another one between its own steps.

    The children of the latter leave by os._exit, as multiprocessing's do: that a thread returns in a child is no end of Python,
    and GNU OpenMP waits there for ever for threads that are lost.
    """
    def scene(rng, forks, expected):
        wrong, numbers = [], list(expected)
        busy = [n for n in numbers if kinds is None or steps.KINDS[n % len(steps.KINDS)] in kinds]
        _compute(numbers, expected)                     # all is bound

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
    """In a child that was forked beside other threads: it has nothing of theirs, and computes on one thread."""
    wrong = _compute(numbers, expected)
    if _state.words[_state.THREADS] != 1:
        wrong.append(f"kernels may use {_state.words[_state.THREADS]} threads, expected 1: TBB's or OpenMP's are lost")
    held = _state.words[_state.TEAM_IS_TAKEN], *_state.words[_state.SLOTS:_state.FUNCTIONS:_state.SLOT_WORDS]
    if any(held):
        wrong.append("a team or a workspace is held by a thread that is not there")
    return wrong


def _generations(rng, forks, expected):
    """A child's child's child …, from a process with one thread, where TBB goes on in each."""
    numbers, depth = list(expected), 5
    _compute(numbers, expected)
    threads = _state.words[_state.THREADS] if _threads.layer() == "tbb" else 1

    def generation(left):
        wrong = _compute(rng.sample(numbers, 2), expected)
        if _state.words[_state.THREADS] != threads:
            wrong.append(f"kernels may use {_state.words[_state.THREADS]} threads, expected {threads}")
        return wrong + (_Forked(lambda: generation(left - 1), normally=left % 2 == 0).wrong() if left else [])

    chains = max(1, forks // (10 * depth))
    wrong = [line for _ in range(chains) for line in _Forked(lambda: generation(depth - 1), normally=False).wrong()]
    return chains * depth, wrong + _compute(numbers, expected)


def _profiled(rng, forks, expected):
    """Forks while a profile is active: it is not the child's, who may have one."""
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
    """Forks while another thread compiles, with nothing in the cache: each waits until the lock is free, then compiles too."""
    numbers, wrong, over, count = list(expected), [], threading.Event(), 2
    compiling = threading.Thread(target=lambda: (wrong.extend(_compute(numbers[:1], expected)), over.set()))
    compiling.start()
    for _ in range(count):
        time.sleep(2 * rng.random())
        wrong += _Forked(lambda: _compute(numbers[:1], expected), normally=True).wrong()
    compiling.join()
    return count, wrong


def _of_pools(method):
    """multiprocessing's and concurrent.futures' children."""
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
    return [{n: expected[n] for n in numbers[i:i + 5]} for i in range(0, len(numbers), 5)]


def _task(expected):
    return _compute(list(expected), expected)


SCENES = {"in steps": _in_the_middle(None), "in fits": _in_the_middle((steps.small_fit, steps.large_fit)),
          "by a thread": _in_the_middle(None, of_a_thread=True), "generations": _generations, "profiled": _profiled,
          "compiling": _compiling, **{method: _of_pools(method) for method in multiprocessing.get_all_start_methods()}}
