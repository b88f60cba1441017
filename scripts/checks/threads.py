"""Sixteen Python threads at once compute what one thread computes alone, with each threading layer and each kind of pool."""
import asyncio
import json
import random
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import fastbp
from fastbp._runtime import threads

from . import child, report, steps

THREADS = 16                    # This many Python threads take steps at once.
LAYERS = {"tbb": "tbb", "omp": "omp", "workqueue": "serial"}            # Each layer that a user may choose, and what is used.
# The code of a process that takes steps with one layer.
_CODE = "from checks import threads; threads.in_child()"


def main(arguments):
    parser = report.options(sys.modules[__name__], steps=10_000, different=300)
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}", flush=True)
    done, faults = check(chosen.seed, chosen.steps, chosen.different, LAYERS)
    return report.close(faults, steps=done, layers=len(LAYERS))


def check(seed, count, different, layers):
    """Take `count` steps with each of these layers, with `different` numbers; return (steps done, faults)."""
    expected = alone(seed, different)
    done, faults = 0, []
    for layer in layers:
        job = [seed, count, [*expected.items()]]
        answer, wrong = child.ask(_CODE, job, NUMBA_THREADING_LAYER=layer, FASTBP_NUM_THREADS="3")
        if answer:
            used, steps_by_pool, wrong = answer
            done += sum(steps_by_pool.values())
            pools = ", ".join(f"{n:,} steps in {pool}" for pool, n in steps_by_pool.items())
            print(f"{layer}: {pools}, {len(wrong)} wrong", flush=True)
            if used != LAYERS[layer]:
                wrong.append(f"the layer was {used}, expected {LAYERS[layer]}")
        faults += [f"{layer}: {fault}" for fault in wrong]
    return done, faults


def alone(seed, different):
    """Return {number: digest} of `different` steps, as many of each kind, computed on one thread of this process."""
    before = fastbp.get_num_threads()
    fastbp.set_num_threads(1)
    kinds, turns = len(steps.KINDS), random.Random(seed).sample(range(1 << 26), different)
    numbers = [kinds * turn + i % kinds for i, turn in enumerate(turns)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                 # the warning where the CPU has no instructions for bfloat16
        found = {number: steps.step(number) for number in numbers}
    fastbp.set_num_threads(before)
    return found


def in_child():
    """Take the steps that check() asks for, in a process that has computed nothing; print [layer, {pool: steps}, faults]."""
    warnings.simplefilter("ignore")
    seed, count, expected = json.loads(sys.argv[1])
    rng, expected = random.Random(seed), dict(expected)
    wrong, done, over = [], {}, threading.Event()
    changing = threading.Thread(target=_change_threads, args=(random.Random(seed), over))
    changing.start()

    def one(number):
        try:
            if (found := steps.step(number)) != expected[number]:
                wrong.append(f"step {number} gave {found}, alone {expected[number]}")
        except Exception as error:
            wrong.append(f"step {number} raised {error!r}")

    for name, (pool, share) in POOLS.items():
        numbers = rng.choices(list(expected), k=max(THREADS, int(count * share)))
        pool(one, numbers)
        done[name] = len(numbers)
    over.set()
    changing.join()
    print(json.dumps([threads.layer(), done, wrong[:20]]))


def _change_threads(rng, over):
    """Change the number of threads again and again until the event `over`."""
    while not over.is_set():
        fastbp.set_num_threads(rng.choice([1, 2, 3, 7, 16]))
        time.sleep(0.01 * rng.random())


# ---- the pools: each calls one(number) for all numbers on 16 threads


def _bare(one, numbers):
    barrier = threading.Barrier(THREADS)            # has the first steps, which load compiled code, begin at the same time

    def work(mine):
        barrier.wait()
        for number in mine:
            one(number)

    workers = [threading.Thread(target=work, args=(numbers[i::THREADS],)) for i in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _executor(one, numbers):
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, numbers))


def _joblib(one, numbers):
    import joblib
    joblib.Parallel(THREADS, backend="threading")(joblib.delayed(one)(number) for number in numbers)


def _asyncio(one, numbers):
    async def work(mine):
        for number in mine:
            await asyncio.to_thread(one, number)

    async def everything():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        await asyncio.gather(*(work(numbers[i::THREADS]) for i in range(THREADS)))

    asyncio.run(everything())


# Each pool, and its part of the steps.
POOLS = {"threads": (_bare, 0.7), "ThreadPoolExecutor": (_executor, 0.1), "joblib": (_joblib, 0.1),
         "asyncio.to_thread": (_asyncio, 0.1)}
