"""A simulation of steps of many workers on a network, with the messages that fastbp.dask sends."""
from typing import NamedTuple

import numpy as np

from fastbp.dask.allreduce import levels

# Steps whose mean is returned.
_STEPS = 20


class Cost(NamedTuple):
    """The costs of messages.

    message: seconds of a worker's thread for a message that it sends and one that it receives.
    byte: seconds of a worker's thread for a byte that it sends and one that it receives.
    latency: seconds from machine to machine.
    bandwidth: bytes a second that a machine sends or receives.
    spread: standard deviation of a worker's seconds of arithmetic, as a fraction of them.
    """

    message: float
    byte: float
    latency: float
    bandwidth: float
    spread: float


def step(count: int, arithmetic: float, pieces: list[tuple[int, float]], cost: Cost) -> float:
    """Return the mean seconds of a step of `count` workers.

    arithmetic: seconds of a worker's arithmetic in a step.
    pieces: (bytes, fraction) of each piece of the gradient: how much of the arithmetic is done when the piece is computed.

    A worker's messages leave one after another, at the bandwidth. The time that its thread spends on them delays its
    arithmetic. A step begins when the last worker has the sum of the one before.
    """
    rng = np.random.default_rng(0)
    pairs = [[(int(message.sender), int(message.receiver)) for message in level]
             for level in levels([str(n) for n in range(count)])]
    return float(np.mean([_one(count, arithmetic * (1 + cost.spread * np.abs(rng.standard_normal(count))), pieces, pairs, cost)
                          for _ in range(_STEPS)]))


def _one(count, arithmetic, pieces, pairs, cost):
    """Return the seconds of one step. arithmetic (count,); pairs: the (sender, receiver) of the messages of each level."""
    thread, line, ends = np.zeros(count), np.zeros(count), np.zeros(count)     # the times when each is free again
    done = 0.0
    for size, fraction in pieces:
        thread += arithmetic * (fraction - done)
        done, ready = fraction, thread.copy()
        for level in pairs:
            arrived = np.zeros(count)
            for sender, receiver in level:
                line[sender] = max(line[sender], ready[sender]) + size / cost.bandwidth
                arrived[receiver] = line[sender] + cost.latency
            ready = np.maximum(ready, arrived) + cost.message + cost.byte * size
            thread += cost.message + cost.byte * size
        ends = np.maximum(ends, ready)
    return float(np.maximum(ends, thread).max())
