"""Steps of many workers on a simulated network, with the messages that fastbp.dask sends."""
from typing import NamedTuple

import numpy as np

from fastbp.dask.exchange import levels

_STEPS = 20


class Cost(NamedTuple):
    message: float              # seconds of a worker's thread for one that it sends and one that it gets
    byte: float                 # and for each byte of them
    latency: float              # seconds from machine to machine
    bandwidth: float            # bytes a second that a machine sends or gets
    spread: float               # standard deviation of a worker's arithmetic, as a part of it


def step(count: int, arithmetic: float, pieces: list[tuple[int, float]], cost: Cost) -> float:
    """Mean seconds of a step that takes each worker so long in arithmetic, with pieces of the gradient: (bytes, the part of the
    arithmetic that is done when it is there).

    A worker's messages leave one after another, at the bandwidth; what its thread does for them delays its arithmetic; a step
    begins when the last worker has the sum.
    """
    rng = np.random.default_rng(0)
    pairs = [[(int(source), int(target)) for source, _, target in level] for level in levels([str(n) for n in range(count)])]
    return float(np.mean([_one(count, arithmetic * (1 + cost.spread * np.abs(rng.standard_normal(count))), pieces, pairs, cost)
                          for _ in range(_STEPS)]))


def _one(count, arithmetic, pieces, pairs, cost):
    thread, line, ends = np.zeros(count), np.zeros(count), np.zeros(count)     # until when each is taken
    done = 0.0
    for size, part in pieces:
        thread += arithmetic * (part - done)
        done, ready = part, thread.copy()
        for level in pairs:
            arrived = np.zeros(count)
            for source, target in level:
                line[source] = max(line[source], ready[source]) + size / cost.bandwidth
                arrived[target] = line[source] + cost.latency
            ready = np.maximum(ready, arrived) + cost.message + cost.byte * size
            thread += cost.message + cost.byte * size
        ends = np.maximum(ends, ready)
    return float(np.maximum(ends, thread).max())
