"""A frozen network in compiled code: an argument or a global that is called as in Python.

Its value there is the address of its record. The caller keeps the object alive while a function runs. An object that is a
global of a compiled function is kept for as long as the process runs.
"""
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.core.imputils import lower_constant
from numba.core.typing.templates import signature
from numba.extending import NativeValue, intrinsic, lower_builtin, models, register_model, typeof_impl, unbox
from numba.np.numpy_support import from_dtype

from .._compile import link
from ..kernels.infer.call import infer
from ..kernels.matrix import keep, matrix
from .allocation import allocator, by_types, copied
from .functions import check_array
from .interpreted import INPUTS

# Frozen networks that compiled functions hold as globals.
_globals = []


class FrozenType(types.Callable):
    """The Numba type of a frozen network with weights of a dtype."""

    def __init__(self, dtype, n_inputs, n_outputs):
        self.dtype, self.n_inputs, self.n_outputs = dtype, n_inputs, n_outputs
        super().__init__(f"Frozen({dtype}, {n_inputs}, {n_outputs})")

    def get_call_type(self, context, args, kws):
        if len(args) != 1 or kws:
            raise TypingError("a frozen network takes one argument, x (rows, n_inputs)")
        x, = args
        check_array("x", x, (1, 2))
        return signature(types.Array(self.dtype, 2, "C"), x, recvr=self)

    def get_call_signatures(self):
        return (), True

    def get_impl_key(self, sig):
        return "fastbp.Frozen"


@register_model(FrozenType)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.IntType(64))


def register(cls):
    """Let compiled code take objects of a class with the attributes dtype, n_inputs, n_outputs and _address."""
    @typeof_impl.register(cls)
    def typeof(frozen, context):
        return FrozenType(from_dtype(frozen.dtype), frozen.n_inputs, frozen.n_outputs)


@unbox(FrozenType)
def _unbox(kind, value, c):
    attribute = c.pyapi.object_getattr_string(value, "_address")
    address = c.unbox(types.intp, attribute)
    c.pyapi.decref(attribute)
    return NativeValue(address.value, is_error=address.is_error)


@lower_constant(FrozenType)
def _constant(context, builder, kind, value):
    _globals.append(value)
    # Numba does not cache a function with such an address: it belongs to this process.
    return builder.ptrtoint(context.add_dynamic_addr(builder, value._address, info="a frozen network"), ir.IntType(64))


@lower_builtin("fastbp.Frozen", FrozenType, types.Array)
def _call(context, builder, sig, args):
    kind, x = sig.args
    return context.compile_internal(builder, _implementation(kind, x), sig, args)


@intrinsic
def _record(typing_context, frozen):
    """Return the address of a frozen network's record."""
    return types.intp(frozen), lambda context, builder, signature, args: args[0]


def as_rows(dtype, dimensions):
    """Return as_rows(x), which returns x if it is an array of that Numba type in C order, else a copy of it as one.

    dimensions: those that x may have.
    """
    new = {ndim: allocator(dtype, ndim) for ndim in dimensions}

    @by_types
    def as_rows(x):
        check_array("x", x, dimensions)
        if x.dtype == dtype and x.layout == "C":
            return lambda x: x
        make = new[x.ndim]
        return lambda x: copied(x, make(x.shape))

    return as_rows


def _implementation(kind, x):
    """Return the function (frozen, x) -> predictions for these types."""
    new, unit, inputs, outputs = allocator(kind.dtype, 2), infer[kind.dtype].all_bound, kind.n_inputs, kind.n_outputs
    convert, is_dtype = as_rows(kind.dtype, (1, 2)), x.dtype == kind.dtype

    def predict(frozen, x):
        given = matrix(x)
        if given.cols != inputs:
            raise ValueError(INPUTS)
        y = new((given.rows, outputs))
        status = link.REFUSED
        if is_dtype:
            status = link.call(unit(), (_record(frozen), given, matrix(y)))
        if status == link.REFUSED:
            rows = convert(x)
            status = link.call(unit(), (_record(frozen), matrix(rows), matrix(y)))
            keep(rows)
        keep(x)
        if status != link.OK:
            raise MemoryError("no memory for the workspace of a kernel")
        return y

    return predict
