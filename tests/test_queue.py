"""The queue of a pass: every task is done once, and none before a barrier is passed."""
from typing import NamedTuple

import numpy as np
import pytest
from numba import cfunc, types

import fastbp
from fastbp._compile import link
from fastbp.kernels.schedule.atomic import fetch_add, load
from fastbp.kernels.schedule.queue import REGION_BYTES, TASK, add, barrier, begin, run_queue
from fastbp.kernels.schedule.records import read

SLOW = 2000                     # steps of a task, so that one is still at work while others are taken


class Fill(NamedTuple):
    """The job of adding 1 to a word for each task, slowly."""

    tasks: int
    words: int


class Count(NamedTuple):
    """The job of adding up `count` words, for each task into a word of its own."""

    tasks: int
    words: int
    count: int
    totals: int


def fill(job_address, worker, task):
    job = read(job_address, Fill)
    value = 1.0
    for _ in range(SLOW):
        value = value * 1.0000001 + 1e-9
    fetch_add(job.words + 8 * task, 1 if value > 0 else 2)
    return link.OK


def count(job_address, worker, task):
    job, total = read(job_address, Count), 0
    for i in range(job.count):
        total += load(job.words + 8 * i)
    fetch_add(job.totals + 8 * task, total)
    return link.OK


def stages(filler, counter, memory, words, totals, threads):
    """5 + 2 tasks fill, 0 and 4 count, 3 fill the last words."""
    begin(memory)
    add(memory, filler, Fill(5, words))
    add(memory, filler, Fill(2, words + 40))
    barrier(memory)
    add(memory, counter, Count(0, words, 0, totals))
    add(memory, counter, Count(4, words, 10, totals))
    barrier(memory)
    add(memory, filler, Fill(3, words + 56))
    run_queue(memory, threads)
    return link.OK


@pytest.fixture(scope="module")
def compiled():
    """The C functions of the three, which are in no cache: it does not know when this file is edited."""
    return [cfunc(signature, nogil=True)(function) for function, signature in (
        (fill, TASK), (count, TASK), (stages, types.intp(*[types.intp] * 6)))]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_stages(compiled, threads):
    filler, counter, run = compiled
    fastbp.set_num_threads(threads)
    memory = np.zeros(REGION_BYTES // 8 + 8, np.int64)
    for _ in range(100):
        words, totals = np.zeros(10, np.int64), np.zeros(4, np.int64)
        aligned = memory.ctypes.data + -memory.ctypes.data % 64
        assert run.ctypes(filler.address, counter.address, aligned, words.ctypes.data, totals.ctypes.data, threads) == link.OK
        assert words.tolist() == [1] * 10
        assert totals.tolist() == [7] * 4                    # all that comes before, and nothing after
