"""What all benchmarks share, and what nobody can forget: warm kernels, touched pages, seeded numbers, a time limit.

asv runs these files on older commits too. So they ask for fastbp's functions by name, when they run, and what a commit
does not have yet is skipped there: `function` raises NotImplementedError.
"""
import inspect
import warnings
from abc import ABC, abstractmethod
from functools import partial

import numpy as np

import fastbp

THREADS = [1, "all"]
PRECISIONS = ["float32", "float64", "bfloat16"]


class Benchmark(ABC):
    """A class of benchmarks: `prepare` instead of asv's `setup`, and a name for each parameter."""

    timeout = 300               # seconds, of which the first run on a new commit compiles kernels for some
    params = []
    param_names = []

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "setup" in vars(cls):
            raise TypeError(f"{cls.__name__} defines setup, which is where Benchmark warms up; expected prepare")
        count = len(cls.params) if cls.params and isinstance(cls.params[0], (list, tuple)) else bool(cls.params)
        if len(cls.param_names) != count:
            raise TypeError(f"{cls.__name__} has the param_names {cls.param_names}, expected {count}, one a parameter")

    @abstractmethod
    def prepare(self, *params):
        """Make the operands, and return the calls that will be measured: functions without arguments."""

    def setup(self, *params):
        """What asv calls first. The second of two calls finds the kernels loaded and all pages of the results touched."""
        warnings.filterwarnings("ignore", "precision 'bfloat16' is not faster", RuntimeWarning)
        if dict(zip(self.param_names, params, strict=True)).get("threads") == 1:
            function("set_num_threads")(1)
        for call in 2 * list(self.prepare(*params)):
            call()


def function(name, **options):
    """The function or class of fastbp with these keywords set. NotImplementedError if this commit does not have them."""
    found = getattr(fastbp, name, None)
    if not found or not options.keys() <= inspect.signature(found).parameters.keys():
        raise NotImplementedError(f"this commit has no fastbp.{name}({', '.join(options)})")
    return partial(found, **options)


def multiplying(precision):
    """The dtype of the arrays for a precision, and the keywords that ask for it."""
    return ("float32", {"precision": precision}) if precision == "bfloat16" else (precision, {})


def normal(*shape, dtype="float32"):
    """Standard normal numbers, the same for the same shape."""
    return np.random.default_rng(shape).standard_normal(shape, dtype)
