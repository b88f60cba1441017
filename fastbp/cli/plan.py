"""The plan of a layer: which algorithm, blocks and threads each pass takes, and why, before anything is compiled or run.

The answers are those of kernels/dense/select.py and kernels/blocking.py, which the passes obey.
"""
import argparse
from typing import NamedTuple

import numba

from .._arrays.operands import BFLOAT16 as BFLOAT16_NAME
from .._runtime import cpu, terminal
from .._runtime import threads as _threads
from ..kernels import blocking, sizes
from ..kernels.dense import blocks, narrow, partitions, select, swapped
from ..kernels.dense.fused import dz_row_bytes
from ..kernels.dense.select import (
    ALGORITHMS,
    DOT,
    FUSED,
    NAIVE,
    NARROW,
    PACKED,
    SEPARATE,
    SKINNY,
    STREAMED,
    SWAPPED,
    UNPACKED,
)
from ..kernels.elementwise.activations import RELU
from ..kernels.gemm import streamed
from ..kernels.gemm.problem import OperandB, b_to_pack, gemm_problem, packed_b, unpacked_b
from ..kernels.gemm.rounding import across_rows, along_rows
from ..kernels.matrix import Matrix, transpose_of
from ..kernels.simd.tile import BFLOAT16
from . import config

# The largest size that the command takes: rows of one number each would fill the memory of a large machine.
LARGEST = 10**9

# The Numba type of each dtype that can be asked for.
DTYPES = {"float32": numba.float32, "float64": numba.float64, BFLOAT16_NAME: BFLOAT16}


class PassPlan(NamedTuple):
    """A pass, or a product of one."""

    name: str                   # "forward", "backward", or "dinputs" and "dweights" of the latter
    algorithm: int              # a place in select.ALGORITHMS
    text: str                   # blocks, tasks and threads


def plan(batch: int, inputs: int, neurons: int, dtype: str = "float32", threads: int | None = None) -> list[PassPlan]:
    """Return the parts of a step of a DenseReLU(inputs, neurons) on arrays in C order.

    dtype: "float32", "float64", or "bfloat16" for float32 arrays at that precision. threads: at most; by default as many as
    get_num_threads() returns. Nothing is compiled.
    """
    most, dtype = _threads.get_num_threads() if threads is None else threads, _computed(batch, inputs, neurons, dtype)
    machine = _machine(dtype)
    forward_threads, backward_threads = (
        min(most, blocking.worth(blocking.layer_work(products, batch, inputs, neurons), machine.sizes.thread_work))
        for products in (1, 2))
    steps = _bfloat16_parts if dtype == BFLOAT16_NAME else _parts
    return steps(machine, batch, inputs, neurons, forward_threads, backward_threads)


def _computed(batch, inputs, neurons, dtype):
    """Return the dtype in which the passes compute: "bfloat16" becomes float32 where that is faster."""
    is_rounded = cpu.multiplies_bfloat16() and select.is_rounded(blocking.rounded_limit(), batch, inputs, neurons)
    return dtype if dtype != BFLOAT16_NAME or is_rounded else "float32"


def _machine(dtype):
    caches = cpu.caches()
    return blocking.machine(DTYPES[dtype])._replace(l1=caches.l1, l2=caches.l2, l3=caches.l3,
                                               sizes=sizes.PRESENT.sizes)


def _parts(machine, batch, inputs, neurons, forward_threads, backward_threads):
    x, weights = _matrix(machine, batch, inputs), _matrix(machine, inputs, neurons)
    algorithm, choice = select.forward(machine, x, weights, RELU), select.backward(machine, x, weights, RELU)
    if algorithm == NAIVE:
        return [PassPlan(name, NAIVE, "loops over the numbers; 1 thread") for name in ("forward", "backward")]
    in_tasks = algorithm == PACKED and blocking.packs_in_tasks(batch)
    forward = _product("forward", machine, algorithm, x, weights, forward_threads, in_tasks)
    if choice.whole == NARROW:
        rows = min(batch, narrow.block_rows_of(machine, neurons))
        return [forward, _partitions(NARROW, partitions.narrow(batch), rows, backward_threads),
                PassPlan("dinputs", choice.dinputs, f"in each block: M {rows}, N {inputs}, K {neurons}"),
                PassPlan("dweights", choice.dweights, f"in each block: {_outer(choice.dweights, rows, inputs, neurons)}")]
    if choice.whole == FUSED:
        rows = min(batch, blocks.FUSED_ROWS)
        backward = _partitions(FUSED, partitions.fused(batch), rows, backward_threads)
        rows, backward_threads, each, in_tasks = blocks.FUSED_ROWS, 1, "in each block: ", False
    else:
        rows = blocking.dz_rows(batch, dz_row_bytes(machine, neurons))
        backward, each = _blocks(batch, rows, backward_threads)
        in_tasks = choice.dinputs == PACKED and blocking.packs_in_tasks(rows)
    x, dz = _matrix(machine, rows, inputs), _matrix(machine, rows, neurons)
    dinputs = _product("dinputs", machine, choice.dinputs, dz, transpose_of(weights), backward_threads, in_tasks)
    a, b = (transpose_of(dz), x) if choice.dweights == SKINNY else (transpose_of(x), dz)
    dweights = _product("dweights", machine, choice.dweights, a, b, backward_threads)
    return [forward, backward, *(part._replace(text=each + part.text) for part in (dinputs, dweights))]


def _bfloat16_parts(machine, batch, inputs, neurons, forward_threads, backward_threads):
    """Return the parts of a step whose products multiply pairs of bfloat16, as kernels/dense/bfloat16.py takes them."""
    x, weights = _matrix(machine, batch, inputs), _matrix(machine, inputs, neurons)
    forward = _product("forward", machine, PACKED, along_rows(machine, x), across_rows(machine, weights), forward_threads)
    rows = blocking.rounded_rows(batch, neurons * machine.itemsize)
    backward, each = _blocks(batch, rows, backward_threads)
    x, dz = _matrix(machine, rows, inputs), _matrix(machine, rows, neurons)
    weights_t = across_rows(machine, transpose_of(weights))
    dinputs = _product("dinputs", machine, PACKED, along_rows(machine, dz), weights_t, backward_threads)
    x_t, dz = along_rows(machine, transpose_of(x)), across_rows(machine, dz)
    dweights = _product("dweights", machine, PACKED, x_t, dz, backward_threads)
    return [forward, backward, *(part._replace(text=each + part.text) for part in (dinputs, dweights))]


def _blocks(batch, rows, threads):
    """Return the PassPlan of a backward pass over blocks of so many rows, and what to say of a product in each of them."""
    count = blocking.blocks(batch, rows)
    if count == 1:
        return PassPlan("backward", SEPARATE, f"all rows at once; {_counted(threads, 'thread')} at most"), ""
    each = f"in each of {count} blocks of {rows} rows: "
    return PassPlan("backward", SEPARATE, f"{count} blocks of {rows} rows; {_counted(threads, 'thread')} at most"), each


def _matrix(machine, rows, cols):
    """Return a Matrix in C order. Its address only has to differ from 0."""
    return Matrix(data=1, rows=rows, cols=cols, row_step=cols * machine.itemsize, col_step=machine.itemsize)


def _product(name, machine, algorithm, a, b, threads, in_tasks=False):
    """Return the PassPlan of a product of two Matrix by an algorithm; in_tasks: whether its tasks pack B themselves."""
    operand = b_to_pack(b) if in_tasks else packed_b(1, b.rows * machine.itemsize)
    if algorithm == UNPACKED or (algorithm == SKINNY and name == "dweights"):
        operand = unpacked_b(b, 0)
    elif algorithm in (DOT, SKINNY):                    # rows of weights, or copies of its columns: columns of B, contiguous
        operand = OperandB(data=1, col_step=b.rows * machine.itemsize, row_step=machine.itemsize, edge=0, to_pack=0)
    c = _matrix(machine, a.rows, b.cols)
    if algorithm == STREAMED:
        problem = streamed.problem_of(machine, a, b, c, 0, threads)     # b is weights or weights.T
    elif algorithm == SWAPPED:                          # b is weights.T
        problem = swapped.problem_of(machine, transpose_of(b), a, c, swapped.Memory(dz_t=1, dinputs_t=1, end=1), 0, threads)
    else:
        problem = gemm_problem(machine, a, operand, c, 0, threads)
    size = f"M {problem.rows}, N {problem.cols}, K {problem.depth}"
    tasks = _counted(problem.tasks, "task")
    if problem.tasks > 1:
        tasks += f" of {min(problem.task_rows, problem.rows)} x {min(problem.task_cols, problem.cols)}"
    if in_tasks:
        tasks += ", B packed in each"
    if algorithm in (PACKED, STREAMED, SWAPPED, UNPACKED):
        size += f"; KC {min(problem.kc, problem.depth)}, MC {min(problem.mc, problem.rows)}"
    return PassPlan(name, algorithm, f"{size}; {tasks}; {_counted(min(threads, problem.tasks), 'thread')}")


def _outer(algorithm, rows, inputs, neurons):
    """Return the sizes of dweights, or of dweights.T where x is in the place of B, in a block of a narrow layer."""
    m, n = (neurons, inputs) if algorithm == SKINNY else (inputs, neurons)
    return f"M {m}, N {n}, K {rows}"


def _partitions(algorithm, cut, rows, threads):
    """Return the PassPlan of a backward pass whose tasks are the Partitions `cut` of the batch, in blocks of so many rows."""
    text = _counted(cut.count, "partition")
    if cut.count > 1:
        text += f" of {cut.rows} rows"
    threads = _counted(min(threads, cut.count), "thread")
    return PassPlan("backward", algorithm, f"{text}, in blocks of {_counted(rows, 'row')}; {threads}")


def _counted(count, what):
    return f"{count} {what}{'' if count == 1 else 's'}"


# ---- the command


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m fastbp plan`."""
    parser.add_argument("batch", type=_size, metavar="BATCH", help="rows")
    parser.add_argument("inputs", type=_size, metavar="INPUTS", help="of the layer")
    parser.add_argument("neurons", type=_size, metavar="NEURONS", help="of the layer, with a ReLU")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32",
                        help="default: float32; bfloat16: float32 arrays at that precision")
    parser.add_argument("--threads", type=_size, metavar="N", help="at most; default: those that kernels may use")


def run(options: argparse.Namespace) -> int:
    """Print the plan of a layer in columns, then the reason for each algorithm in it; return 0."""
    parts = plan(options.batch, options.inputs, options.neurons, options.dtype, options.threads)
    computed = _computed(options.batch, options.inputs, options.neurons, options.dtype)
    machine = _machine(computed)
    by = f" by {config.bfloat16_by()}" if computed == BFLOAT16_NAME else ""
    size = ", ".join(map(_counted, (options.batch, options.inputs, options.neurons), ("row", "input", "neuron")))
    caches = f"caches {machine.l1 >> 10}, {machine.l2 >> 10} and {machine.l3 >> 10} KiB; sizes: {sizes.PRESENT.family}"
    terminal.say(terminal.fill(f"{size} with a ReLU; {computed}{by}, {cpu.instruction_set()}; {caches}",
                               most=terminal.WIDEST))
    if computed != options.dtype:
        terminal.say(terminal.fill("float32 in place of bfloat16: of so few rows, inputs or neurons rounding would take longer "
                                   "than it saves" if cpu.multiplies_bfloat16() else
                                   "float32 in place of bfloat16, which this CPU does not multiply", most=terminal.WIDEST))
    if computed == BFLOAT16_NAME:
        terminal.say(terminal.fill("K counts pairs of bfloat16", most=terminal.WIDEST))
    terminal.say(terminal.fill(
        f"tiles: full {machine.height} x {machine.width}, column edge {machine.height} x {machine.edge_width}, "
        f"unpacked B {machine.unpacked_height} x {machine.unpacked_width}", most=terminal.WIDEST))
    terminal.say("")
    for part in parts:
        name = part.name if part.name in ("forward", "backward") else f"  {part.name}"
        terminal.say(terminal.fill(f"{name:10}  {ALGORITHMS[part.algorithm].name:10}  {part.text}", " " * 24, terminal.WIDEST))
    terminal.say("")
    for algorithm in dict.fromkeys(ALGORITHMS[part.algorithm] for part in parts):
        terminal.say(terminal.fill(f"{algorithm.name:10}  {algorithm.reason}", " " * 12, terminal.WIDEST))
    return 0


def _size(text):
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to {LARGEST}")
    return int(text)
