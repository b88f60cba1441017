"""What a kernel has to do at the least: floating-point operations, and bytes of the layer's arrays that it reads and writes.

A multiply-add counts as two operations. Bytes are those of x, weights, biases, output and the gradients, each counted once
by the kernel that reads or writes it; copies in scratch memory, which is to stay in the caches, are not counted. So the sums
over a pass are what any implementation has to do (the operational intensity of Williams, Waterman and Patterson, Roofline,
Communications of the ACM 52, 2009).
"""
from typing import NamedTuple

from ..kernels.columns import Mask, Sum
from ..kernels.packing import Pack
from ..kernels.product import Product
from ..kernels.record import BACKWARD, DINPUTS, FORWARD, UPDATE, Call
from ..kernels.rounding import Round

# The record of a unit's job.
_JOBS = {"product": Product, "inner": Product, "mask": Mask, "pack": Pack, "round": Round, "sum": Sum}


class Work(NamedTuple):
    """Floating-point operations and bytes."""

    flops: float
    bytes: float


def of_pass(kind: int, call: Call) -> Work:
    """Of a whole pass: FORWARD, BACKWARD, RELU, DINPUTS, the backward pass without dweights, or UPDATE, with them."""
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
    """Bytes of an element of the arrays."""
    return 8 if call.precision == 64 else 4


def of_job(unit: str, words: list[int], kind: int, call: Call, inside: str) -> tuple[str, Work]:
    """What people call a job, and the work of all of its tasks.

    unit and inside are the kinds of its unit and of the one whose task it is part of ("" if it is none), words its first words,
    kind and call those of the pass. A job that has nothing to do itself has the name "".
    """
    size = itemsize(call)
    job = dict(zip(_JOBS[unit]._fields, words, strict=False)) if unit in _JOBS else {}
    numbers = job.get("rows", 0) * job.get("cols", 0)
    if unit in ("product", "inner"):
        return _of_product(unit, job, kind, call, inside)
    if unit == "mask":
        return "mask, dbiases", Work(numbers, size * numbers * (2 if job["s"] else 1))
    if unit == "pack":
        return "pack weights", Work(0, 0 if call.precision == 16 else size * numbers)
    if unit == "round":
        return "round to bfloat16", Work(0, size * numbers)
    if unit == "sum":
        return "add partial sums", Work(numbers * job["count"], size * numbers)
    if unit == "update":
        return "dweights, update" if call.rows else "update", of_pass(kind, call)
    if unit == "norms":
        return "look for inf, NaN", Work(0, 0)
    if unit == "turned_rows":
        arrays = call.rows * (call.inputs * (2 if call.dinputs else 1) + call.neurons * (1 + (call.activation > 0)))
        return "transpose", Work(0, size * arrays)
    return ("relu", of_pass(kind, call)) if unit == "relu_chunk" else ("", Work(0, 0))


def _of_product(unit, job, kind, call, inside):
    size, pair = itemsize(call), 2 if call.precision == 16 else 1
    rows, cols, depth = job["rows"], job["cols"], job["depth"] * pair
    flops = 2 * rows * cols * depth
    if inside == "turned_rows":                 # which has read and written the arrays
        return "dweights, dbiases" if unit == "inner" else "dinputs", Work(flops, 0)
    in_place = depth * cols if job["b"] == call.weights or (kind == FORWARD and unit == "inner") else 0
    if kind == FORWARD:
        return "x @ weights", Work(flops, size * (rows * (depth + cols) + in_place))
    if call.dinputs and call.dinputs <= job["c"] < call.dinputs + call.dinputs_bytes:
        return "dinputs", Work(flops, size * (rows * cols + in_place))
    written = 0 if job["accumulate"] or inside else call.inputs * call.neurons
    return "dweights", Work(flops, size * (depth * call.inputs + written))
