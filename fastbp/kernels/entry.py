"""Compiled functions that Python calls: on arrays of any layout, read-only or not, aligned or not.

An operand that may be missing comes with a flag. If the flag is 0, the operand is missing, and any array stands in its place.
The caller must have checked the dtype and the number of dimensions of each array: nothing here does.
"""
from functools import cache

from numba import types

from .._compile import compiler, link
from .blocking import MOST_THREADS
from .dense import bfloat16, passes
from .dense.operands import BackwardOperands, ForwardOperands
from .elementwise import relu
from .infer import call, network
from .matrix import matrix, only_if
from .simd.tile import BFLOAT16
from .train import losses, run, step

# The Numba type of flags and of the number of an activation.
_FLAG = types.intp


def passes_of(dtype):
    """Return the module with the units of a Numba float type, or of BFLOAT16."""
    return bfloat16 if dtype is BFLOAT16 else passes


def _array(dtype, ndim):
    """Return the Numba type of arrays of a dtype and any layout."""
    return types.Array(types.float32 if dtype is BFLOAT16 else dtype, ndim, "A", readonly=True, aligned=False)


def _bound(unit):
    """Bind a unit, and return the function that gives its address in compiled code.

    It is bound before that code is compiled: meanwhile another process can compile something else.
    """
    unit.bind()
    return unit.address


@cache
def forward(dtype):
    """Return the function of a layer's forward pass, which takes 2-D arrays.

    (x, weights, biases, has_biases, y, saved, has_saved, activation) -> status

    It computes y (M, N) from x (M, K), weights (K, N) and biases (1, N). `saved` (M, N) is what the activation keeps for its
    derivative.
    """
    unit, a = _bound(passes_of(dtype).forward[dtype]), _array(dtype, 2)

    def entry(x, weights, biases, has_biases, y, saved, has_saved, activation):
        operands = ForwardOperands(x=matrix(x), weights=matrix(weights), biases=only_if(has_biases, matrix(biases)),
                                   y=matrix(y), saved=only_if(has_saved, matrix(saved)), activation=activation)
        return link.call(unit(), (operands, MOST_THREADS))

    return compiler.entry(entry, types.intp(a, a, a, _FLAG, a, a, _FLAG, _FLAG), f"python_forward-{dtype}")


@cache
def backward(dtype):
    """Return the function of a layer's backward pass, which takes 2-D arrays.

    (dvalues, saved, has_saved, x, weights, dinputs, has_dinputs, dweights, dbiases, activation) -> status

    It computes dinputs (M, K), dweights (K, N) and dbiases (1, N) from dvalues and saved (M, N), x (M, K)
    and weights (K, N).
    """
    unit, a = _bound(passes_of(dtype).backward[dtype]), _array(dtype, 2)

    def entry(dvalues, saved, has_saved, x, weights, dinputs, has_dinputs, dweights, dbiases, activation):
        operands = BackwardOperands(dvalues=matrix(dvalues), saved=only_if(has_saved, matrix(saved)), x=matrix(x),
                                    weights=matrix(weights), dinputs=only_if(has_dinputs, matrix(dinputs)),
                                    dweights=matrix(dweights), dbiases=matrix(dbiases), activation=activation)
        return link.call(unit(), (operands, MOST_THREADS))

    return compiler.entry(entry, types.intp(a, a, _FLAG, a, a, a, _FLAG, a, a, _FLAG), f"python_backward-{dtype}")


@cache
def elementwise(dtype):
    """Return the function (dvalues, z, out) -> status of a ReLU's backward pass. Its forward pass is that of (z, z, out).

    It takes contiguous 1-D arrays of one size.
    """
    unit, a = relu.relu[dtype].address, _array(dtype, 1)

    def entry(dvalues, z, out):
        values = matrix(dvalues)
        return link.call(unit(), (values.data, matrix(z).data, matrix(out).data, values.cols))

    return compiler.entry(entry, types.intp(a, a, a), f"python_relu-{dtype}")


@cache
def train(dtype):
    """Return the function (address of a Training, batches) -> status, which trains that many batches."""
    unit = _bound(run.train[dtype])

    def entry(job, batches):
        return link.call(unit(), (job, batches))

    return compiler.entry(entry, types.intp(types.intp, types.intp), f"python_train-{dtype}")


@cache
def infer(dtype):
    """Return the function of a network's predictions, which takes 2-D arrays.

    (address of an infer.network.Network, address of its Marks or 0, x, y) -> status

    It computes y (M, outputs) from x (M, inputs), and refuses to if one of the Marks has changed.
    """
    unit, a = _bound(call.infer[dtype]), _array(dtype, 2)

    def entry(record, marks, x, y):
        if marks != 0 and network.have_changed(marks):
            return link.REFUSED
        return link.call(unit(), (record, matrix(x), matrix(y)))

    return compiler.entry(entry, types.intp(types.intp, types.intp, a, a), f"python_infer-{dtype}")


@cache
def keep(dtype):
    """Return the function (address of an infer.network.DenseLayer, address) -> status, which makes copies of a layer there."""
    unit = _bound(network.keep[dtype])

    def entry(layer, memory):
        return link.call(unit(), (layer, memory))

    return compiler.entry(entry, types.intp(types.intp, types.intp), f"python_keep-{dtype}")


def _of_record(units, name):
    """Return a function of a dtype, which returns the function (address of a record) -> status of that dtype's unit."""
    @cache
    def build(dtype):
        unit = units[dtype].address

        def entry(job):
            return link.call(unit(), (job,))

        return compiler.entry(entry, types.intp(types.intp), f"python_{name}-{dtype}")

    return build


# The update of parameters; its record is an Update.
optimize = _of_record(step.step, "optimize")

# The loss of a batch and its gradient; its record is a Loss.
loss = _of_record(losses.run_all, "loss")
