"""A contest of implementations of one step of a dense layer with ReLU, which take turns, each in a process of its own.

A step computes y in the forward pass, and then dinputs, dweights and dbiases from dvalues. The processes have the same arrays
and the same CPUs. Ratios compare medians over turns: a machine that is slow for a while slows down all implementations.
"""
import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

# The pages that results are written to.
README = Path(__file__).parents[2] / "README.md"
BENCHMARKS = Path(__file__).parents[2] / ".docs" / "benchmarks.md"

# The packages that fastbp is compared with, and those whose versions are named.
PEERS = ("numpy", "torch", "jax")
PACKAGES = ("fastbp", "numba", "sklearn", *PEERS)

SECONDS = 0.05                  # A turn takes about this many seconds.
MOST_STEPS = 1000               # A turn has at most this many steps.
QUIET = 0.12                    # Seconds between turns: OpenBLAS's threads spin for 0.1 s after its last product.


# ---- in the process of one implementation


def operands(batch, n_inputs, n_neurons, dtype):
    """Return x (batch, n_inputs), weights (n_inputs, n_neurons), biases (1, n_neurons) and dvalues (batch, n_neurons).

    They are the same in every process.
    """
    rng = np.random.default_rng([batch, n_inputs, n_neurons])
    shapes = (batch, n_inputs), (n_inputs, n_neurons), (1, n_neurons), (batch, n_neurons)
    x, w, b, dvalues = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, w / np.sqrt(n_inputs, dtype=dtype), b, dvalues


def numpy_steps(x, w, b, dvalues, threads, precision):
    def step():
        y = np.maximum(x @ w + b, 0)
        dz = np.where(y > 0, dvalues, 0)
        return y, dz @ w.T, x.T @ dz, dz.sum(axis=0, keepdims=True)
    return [step]


def torch_steps(x, w, b, dvalues, threads, precision):
    """Return two steps, of which the faster one counts: with plain operators, and with autograd."""
    import torch
    torch.set_num_threads(threads)
    x, w, b, dvalues = (torch.from_numpy(a) for a in (x, w, b[0], dvalues))
    if precision == "bfloat16":
        x, w, b, dvalues = (a.bfloat16() for a in (x, w, b, dvalues))
    leaves = [a.clone().requires_grad_() for a in (x, w, b)]

    def plain():
        with torch.no_grad():
            y = torch.addmm(b, x, w).relu_()
            dz = torch.ops.aten.threshold_backward(dvalues, y, 0)
            return y, dz @ w.t(), x.t() @ dz, dz.sum(0)

    def autograd():
        for leaf in leaves:
            leaf.grad = None
        y = torch.addmm(leaves[2], leaves[0], leaves[1]).relu()
        y.backward(dvalues)
        return y

    return [plain, autograd]


def jax_steps(x, w, b, dvalues, threads, precision):
    import jax
    import jax.numpy as jnp
    jax.config.update("jax_enable_x64", True)
    x, w, b, dvalues = (jnp.asarray(a, jnp.bfloat16 if precision == "bfloat16" else a.dtype) for a in (x, w, b, dvalues))

    @jax.jit
    def both(x, w, b, dvalues):
        y, gradients = jax.vjp(lambda x, w, b: jax.nn.relu(x @ w + b), x, w, b)
        return y, gradients(dvalues)

    return [lambda: jax.block_until_ready(both(x, w, b, dvalues))]


def fastbp_steps(x, w, b, dvalues, threads, precision):
    import fastbp
    fastbp.set_num_threads(threads)
    layer = fastbp.DenseReLU(*w.shape, dtype=x.dtype, precision=None if precision == x.dtype.name else precision)
    layer.weights[...], layer.biases[...] = w, b

    def step():
        layer.forward(x)
        return layer.backward(dvalues)

    return [step]


# Each function returns the steps of an implementation, functions without arguments.
STEPS = {"fastbp": fastbp_steps, "numpy": numpy_steps, "torch": torch_steps, "jax": jax_steps}


def work(name, threads, dtype, precision, constants):
    """Answer questions about an implementation of a layer's step, in its process; constants: {name: value} of sizes."""
    if constants:
        from fastbp.kernels import blocking
        from fastbp.kernels.dense import blocks
        for constant, value in constants.items():
            setattr(blocking if hasattr(blocking, constant) else blocks, constant, value)
    steps = []

    def prepare(shape):
        steps[:] = STEPS[name](*operands(*shape, dtype), threads, precision)
        return min(timed(step, 3 * [0]) for step in steps)

    answer(prepare, lambda: min(timed(step) for step in steps))


def answer(prepare, seconds):
    """Answer each line of JSON on stdin with a number on stdout: null with seconds(), anything else with prepare(it)."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(prepare(wanted) if wanted else seconds()), file=answers, flush=True)


def timed(step, turns=None):
    """Return the median of a step's seconds over a turn; turns: anything with so many elements as steps are to be timed."""
    step()
    start = time.perf_counter()
    step()
    count = min(MOST_STEPS, int(SECONDS / max(time.perf_counter() - start, 1e-9)))
    seconds = []
    for _ in turns or range(max(1, count)):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


# ---- in the process that compares


class Contestant:
    """An implementation in a process of its own. `constants` change fastbp's sizes there."""

    def __init__(self, name, threads, dtype="float32", precision="float32", constants=None, cache=None, script=__file__):
        self.name = name
        env = os.environ | {f"{v}_NUM_THREADS": str(threads) for v in ("OMP", "OPENBLAS", "MKL", "NUMBA", "FASTBP")}
        if threads == 1:
            env["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        if cache:
            env["FASTBP_CACHE_DIR"] = cache
        cpus = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_setaffinity") else None
        arguments = [name, str(threads), dtype, precision, json.dumps(constants or {})]
        self._process = subprocess.Popen([sys.executable, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, env=env, preexec_fn=cpus and (lambda: os.sched_setaffinity(0, cpus)))

    def ask(self, shape=None):
        """Have the step for a shape built, or, without a shape, timed; return seconds."""
        print(json.dumps(shape), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended while it was asked for {shape or 'a time'}")
        return json.loads(answer)

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def medians(contestants, shape, turns):
    """Return the seconds of a step of each contestant, in their order: medians of so many turns."""
    for contestant in contestants:
        contestant.ask(shape)
    seconds = [[] for _ in contestants]
    for _ in range(turns):
        for contestant, times in zip(contestants, seconds, strict=True):
            time.sleep(QUIET)
            times.append(contestant.ask())
    return [statistics.median(times) for times in seconds]


def installed(names):
    """Return those of the names that can be imported, and print which cannot."""
    found = [name for name in names if importlib.util.find_spec(name)]
    for name in sorted(set(names) - set(found)):
        print(f"{name} is not installed and left out", file=sys.stderr)
    return found


def machine():
    """Return the CPU and the versions of the installed packages, in one line."""
    from fastbp.cli import config
    return config.machine({"sklearn": "scikit-learn"}.get(name, name) for name in PACKAGES if importlib.util.find_spec(name))


def write(page, script, text):
    """Put the text between a page's marks of a script; exit with a message unless there is one place for it."""
    start, end = f"<!-- written by scripts/{script} --readme -->", "<!-- end -->"
    written, count = re.subn(f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n{text}{end}", page.read_text(),
                             flags=re.S)
    if count != 1:
        raise SystemExit(f"{page} has {count} places between {start} and {end}, expected one")
    page.write_text(written)


def options(description):
    """Return a parser with the options that all comparisons have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and all cores")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "float64"])
    parser.add_argument("--precision", choices=["bfloat16"], help="of the multiplications; default: the dtype")
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--turns", type=int, default=5, help="of each implementation (default: 5)")
    return parser


def thread_counts(chosen):
    """Return the chosen numbers of threads, by default 1 and the number of cores."""
    from fastbp._runtime import cpu
    return chosen or sorted({1, cpu.cores()})


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))         # no implementation must import one of the scripts
    _, name, threads, dtype, precision, constants = sys.argv
    work(name, int(threads), dtype, precision, json.loads(constants))
