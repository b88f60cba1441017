"""The least work of a kernel: floating-point operations, and bytes of the layer's arrays that it reads and writes.

A multiply-add counts as two operations. The bytes are those of x, weights, biases, output and gradients, each counted once for
the kernel that reads or writes it. Copies in scratch memory do not count, because they should stay in the caches. So the sums
over a pass are the least work of any implementation (operational intensity: Williams, Waterman and Patterson, Roofline,
Communications of the ACM 52, 2009).
"""
from types import SimpleNamespace
from typing import NamedTuple

from ..kernels.dense.columns import Mask, Sum
from ..kernels.dense.narrow import NarrowBackward
from ..kernels.gemm.packing import Pack
from ..kernels.gemm.problem import GemmProblem
from ..kernels.schedule.trace import BACKWARD, DINPUTS, FORWARD, UPDATE, Call

# The record in memory of a job, for each kind of unit whose work depends on its job.
_JOBS = {"gemm": GemmProblem, "dot": GemmProblem, "streamed": GemmProblem, "swapped": GemmProblem,
         "mask": Mask, "pack": Pack, "sum": Sum, "narrow_rows": NarrowBackward}


class Work(NamedTuple):
    """Floating-point operations and bytes."""

    flops: float
    bytes: float


def add(first: Work, second: Work) -> Work:
    """Return the sum of two Works."""
    return Work(flops=first.flops + second.flops, bytes=first.bytes + second.bytes)


def of_pass(kind: int, call: Call) -> Work:
    """Return the work of a whole pass.

    kind: FORWARD, BACKWARD, RELU, DINPUTS (a backward pass without dweights) or UPDATE (an optimiser's, with dweights).
    """
    size = itemsize(call)
    if kind == UPDATE:
        gradients = 0 if call.rows else 1
        return Work(2 * call.rows * call.inputs, size * call.inputs * (2 + 2 * call.activation + gradients))
    x, weights, y = call.rows * call.inputs, call.inputs * call.neurons, call.rows * call.neurons
    if kind == FORWARD:
        return Work(2 * x * call.neurons, size * (x + weights + y))
    if kind == BACKWARD:
        products, written = (2, x) if call.dinputs else (1, 0)
        read = x + products * weights + y * (1 + (call.activation > 0))
        return Work(2 * products * x * call.neurons + y, size * (read + written))
    if kind == DINPUTS:
        products = 1 if call.dinputs else 0
        return Work(2 * products * x * call.neurons + y, size * (y * (1 + (call.activation > 0)) + products * (weights + x)))
    return Work(0, 2 * size * y)


def itemsize(call: Call) -> int:
    """Return the bytes of an element of the arrays."""
    return 8 if call.precision == 64 else 4


def of_job(unit: str, words: list[int], kind: int, call: Call, inside: str) -> tuple[str, Work]:
    """Return the name of a job as tables print it, and the work of all of its tasks.

    unit: the kind of the job's unit. inside: the kind of the unit whose task the job is part of, or "". words: the first words
    of the job. kind, call: those of the pass. A job without work of its own has the name "".
    """
    size, job = itemsize(call), _job(unit, words)
    if unit == "swapped":
        return "dinputs", Work(2 * job.rows * job.cols * job.depth, size * call.inputs * (call.rows + call.neurons))
    if unit in ("gemm", "dot", "streamed"):
        return _of_product(unit, job, kind, call, inside)
    if unit == "mask":
        return "mask, dbiases", Work(job.rows * job.cols, size * job.rows * job.cols * (2 if job.saved else 1))
    if unit == "pack":
        if job.source != call.weights:                              # dz, which the mask has read
            return "pack dz", Work(0, 0)
        return "pack weights", Work(0, size * job.numbers * job.cols)
    if unit == "sum":
        return "add partial sums", Work(job.rows * job.cols * job.count, size * job.rows * job.cols)
    if unit == "update":
        return "dweights, update" if call.rows else "update", of_pass(kind, call)
    if unit == "norms":
        return "look for inf, NaN", Work(0, 0)
    if unit == "narrow_rows":
        whole, weights = of_pass(kind, call), size * call.inputs * call.neurons
        elsewhere = weights                             # "add partial sums" writes dweights, and "pack weights" reads weights
        if call.dinputs and not job.by_dot:
            elsewhere += weights
        flops = whole.flops / 2 if call.dinputs and job.by_dot else whole.flops
        return "dz, dinputs, dweights", Work(flops, whole.bytes - elsewhere)
    return ("relu", of_pass(kind, call)) if unit == "relu_chunk" else ("", Work(0, 0))


def tasks_of(words: list[int]) -> int:
    """Return the number of a job's tasks, which is the first word of every job."""
    tasks, *_ = words
    return tasks


def _job(unit, words):
    """Return the fields of a job by name, as many as `words` holds. An event holds only the first words of a large job."""
    record = _JOBS.get(unit)
    return SimpleNamespace(**dict(zip(record._fields, words, strict=False))) if record else None


def _of_product(unit, job, kind, call, inside):
    size, pair = itemsize(call), 2 if call.precision == 16 else 1
    rows, cols, depth = job.rows, job.cols, job.depth * pair
    flops = 2 * rows * cols * depth
    if inside == "narrow_rows":                     # that unit has read and written the arrays
        return "dinputs", Work(flops, 0)
    in_place = depth * cols if job.b == call.weights or (kind == FORWARD and unit == "dot") else 0     # B is not packed
    if kind == FORWARD:
        return "x @ weights", Work(flops, size * (rows * (depth + cols) + in_place))
    if call.dinputs and call.dinputs <= job.c < call.dinputs + call.dinputs_bytes:
        return "dinputs", Work(flops, size * (rows * cols + in_place))
    written = 0 if job.accumulate or inside else call.inputs * call.neurons
    return "dweights", Work(flops, size * (depth * call.inputs + written))
