"""The units for Python: on arrays of any layout, read-only or not, aligned or not.

An operand that may be missing comes with a number: 0 where it is, and then any array stands in its place. The caller must
have made sure of the arrays' dtype and number of dimensions, which nobody checks here.
"""
from functools import cache

from numba import types

from .._compile import compiler, link
from .blocking import MOST_THREADS
from .dense import bfloat16, passes
from .elementwise import relu
from .matrix import matrix, only_if
from .simd.tile import BFLOAT16
from .train import losses, run, step

_FLAG = types.intp


def dense_of(dtype):
    """The module with the units of a Numba float type, or of BFLOAT16."""
    return bfloat16 if dtype is BFLOAT16 else passes


def _array(dtype, ndim):
    return types.Array(types.float32 if dtype is BFLOAT16 else dtype, ndim, "A", readonly=True, aligned=False)


def _bound(unit):
    """Its address, in compiled code. Bound before that is compiled, so that another process can be at work meanwhile."""
    unit.bind()
    return unit.address


@cache
def forward(dtype):
    """forward(x, weights, biases, has_biases, y, saved, has_saved, activation) on 2-D arrays; returns a status."""
    unit, a = _bound(dense_of(dtype).forward[dtype]), _array(dtype, 2)

    def entry(x, weights, biases, has_biases, y, saved, has_saved, activation):
        return link.call(unit(), (matrix(x), matrix(weights), only_if(has_biases, matrix(biases)), matrix(y),
                                   only_if(has_saved, matrix(saved)), activation, MOST_THREADS))

    return compiler.entry(entry, types.intp(a, a, a, _FLAG, a, a, _FLAG, _FLAG), f"python_forward-{dtype}")


@cache
def backward(dtype):
    """backward(dvalues, saved, has_saved, x, weights, dinputs, has_dinputs, dweights, dbiases, activation) -> status."""
    unit, a = _bound(dense_of(dtype).backward[dtype]), _array(dtype, 2)

    def entry(dvalues, saved, has_saved, x, weights, dinputs, has_dinputs, dweights, dbiases, activation):
        return link.call(unit(), (matrix(dvalues), only_if(has_saved, matrix(saved)), matrix(x), matrix(weights),
                                   only_if(has_dinputs, matrix(dinputs)), matrix(dweights), matrix(dbiases), activation,
                                   MOST_THREADS))

    return compiler.entry(entry, types.intp(a, a, _FLAG, a, a, a, _FLAG, a, a, _FLAG), f"python_backward-{dtype}")


@cache
def elementwise(dtype):
    """relu(dvalues, z, out) on 1-D contiguous arrays of one length; returns a status."""
    unit, a = relu.relu[dtype].address, _array(dtype, 1)

    def entry(dvalues, z, out):
        values = matrix(dvalues)
        return link.call(unit(), (values.data, matrix(z).data, matrix(out).data, values.cols))

    return compiler.entry(entry, types.intp(a, a, a), f"python_relu-{dtype}")


@cache
def train(dtype):
    """train(address of a Training, batches); returns a status."""
    unit = _bound(run.train[dtype])

    def entry(job, batches):
        return link.call(unit(), (job, batches))

    return compiler.entry(entry, types.intp(types.intp, types.intp), f"python_train-{dtype}")


def _of_record(units, name):
    """A function of a dtype: function(address of a record), by a unit of these; it returns a status."""
    @cache
    def build(dtype):
        unit = units[dtype].address

        def entry(job):
            return link.call(unit(), (job,))

        return compiler.entry(entry, types.intp(types.intp), f"python_{name}-{dtype}")

    return build


optimize, loss = _of_record(step.step, "optimize"), _of_record(losses.run_all, "loss")     # an Update, a Loss
