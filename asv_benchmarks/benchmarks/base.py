"""The base class of all benchmarks, which sees to warm kernels, touched pages, seeded numbers and a time limit.

asv runs these files on older commits, too. So they look fastbp's functions up by name when they run. A benchmark of what a
commit does not have yet is skipped there, as `function` raises NotImplementedError.
"""
import inspect
import warnings
from abc import ABC, abstractmethod
from functools import partial
from itertools import pairwise

import numpy as np

import fastbp

# The values of the parameters `threads` and `precision` that benchmarks have in common.
THREADS = [1, "all"]
PRECISIONS = ["float32", "float64", "bfloat16"]


class Benchmark(ABC):
    """A class of benchmarks that defines `prepare` in place of asv's `setup`, and has a name for each parameter."""

    timeout = 300               # Seconds; the first run on a new commit spends some of them compiling kernels.
    params = []
    param_names = []

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "setup" in vars(cls):
            raise TypeError(f"{cls.__name__} defines setup, which is where Benchmark warms up; expected prepare")
        count = len(cls.params) if cls.params and isinstance(cls.params[0], list | tuple) else bool(cls.params)
        if len(cls.param_names) != count:
            raise TypeError(f"{cls.__name__} has the param_names {cls.param_names}, expected {count}, one a parameter")

    @abstractmethod
    def prepare(self, *params):
        """Make the operands, and return the calls that will be measured: functions without arguments."""

    def setup(self, *params):
        """Make each call twice before asv measures it: the second one finds kernels loaded and pages of results touched."""
        warnings.filterwarnings("ignore", "precision 'bfloat16' is not faster", RuntimeWarning)
        if dict(zip(self.param_names, params, strict=True)).get("threads") == 1:
            function("set_num_threads")(1)
        for call in 2 * list(self.prepare(*params)):
            call()


def function(name, **options):
    """Return fastbp's function or class with these keywords set. Raise NotImplementedError if this commit lacks one of them."""
    found = getattr(fastbp, name, None)
    if not found or not options.keys() <= inspect.signature(found).parameters.keys():
        raise NotImplementedError(f"this commit has no fastbp.{name}({', '.join(options)})")
    return partial(found, **options)


def multiplying(precision):
    """Return the dtype of arrays for a precision of multiplications, and the keywords that select it."""
    return ("float32", {"precision": precision}) if precision == "bfloat16" else (precision, {})


def normal(*shape, dtype="float32"):
    """Return standard normal numbers, always the same ones for a shape."""
    return np.random.default_rng(shape).standard_normal(shape, dtype)


def dense_layers(sizes):
    """Return DenseReLU layers, and a Dense as the last one, between layers of these sizes."""
    *hidden, last = pairwise(sizes)
    return [*(function("DenseReLU", rng=0)(*ends) for ends in hidden), function("Dense", rng=0)(*last)]
