"""Sixteen Python threads at once compute what one computes alone, under each threading layer and in every kind of pool."""
import asyncio
import json
import random
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import fastbp
from fastbp import _threads

from . import child, report, steps

THREADS = 16
LAYERS = {"tbb": "tbb", "omp": "omp", "workqueue": "serial"}            # what is used where the user chose a layer
_CODE = "from checks import threads; threads.in_child()"


def main(arguments):
    parser = report.options(sys.modules[__name__], steps=10_000, different=300)
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}", flush=True)
    done, faults = check(chosen.seed, chosen.steps, chosen.different, LAYERS)
    return report.close(faults, steps=done, layers=len(LAYERS))


def check(seed, count, different, layers):
    """(steps done, faults) of so many steps under each of these layers, of which so many are not the same."""
    expected = alone(seed, different)
    done, faults = 0, []
    for layer in layers:
        status, output, errors = child.run(_CODE, json.dumps([seed, count, expected]), NUMBA_THREADING_LAYER=layer,
                                           FASTBP_NUM_THREADS="3")
        if status != 0:
            faults.append(f"{layer}: the process ended with {status}: {errors[-2000:]}")
            continue
        used, of_pools, wrong = json.loads(output.splitlines()[-1])
        done += sum(of_pools.values())
        faults += [f"{layer}: {one}" for one in wrong]
        if used != LAYERS[layer]:
            faults.append(f"{layer}: the layer was {used}, expected {LAYERS[layer]}")
        print(f"{layer}: {', '.join(f'{n:,} steps in {pool}' for pool, n in of_pools.items())}, {len(wrong)} wrong", flush=True)
    return done, faults


def alone(seed, different):
    """{number: digest} of steps, as many of each kind, computed on one thread of this process."""
    before = fastbp.get_num_threads()
    fastbp.set_num_threads(1)
    kinds, turns = len(steps.KINDS), random.Random(seed).sample(range(1 << 26), different)
    numbers = [kinds * turn + i % kinds for i, turn in enumerate(turns)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                 # of bfloat16, where the CPU has no instructions for it
        found = {number: steps.step(number) for number in numbers}
    fastbp.set_num_threads(before)
    return found


def in_child():
    """In a process that has computed nothing yet: print [layer, {pool: steps}, what was wrong]."""
    warnings.simplefilter("ignore")
    seed, count, expected = json.loads(sys.argv[1])
    rng, expected = random.Random(seed), {int(number): digest for number, digest in expected.items()}
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
    print(json.dumps([_threads.layer(), done, wrong[:20]]))


def _change_threads(rng, over):
    while not over.is_set():
        fastbp.set_num_threads(rng.choice([1, 2, 3, 7, 16]))
        time.sleep(0.01 * rng.random())


# ---- the pools: each calls one(number) for all numbers on 16 threads


def _bare(one, numbers):
    barrier = threading.Barrier(THREADS)            # so that the very first steps, which load what is compiled, meet

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


POOLS = {"threads": (_bare, 0.7), "ThreadPoolExecutor": (_executor, 0.1), "joblib": (_joblib, 0.1),
         "asyncio.to_thread": (_asyncio, 0.1)}
