"""Records: named tuples of 64-bit integers and floats, as kernels pass them on and find them in memory.

A record is a typing.NamedTuple whose fields are annotated with int or float. In memory its fields follow one another, eight
bytes each. Python writes them as 64-bit words (in_words), and knows the words by field name (fields_of). So do kernels:

    job = read(address, GemmProblem)                    from memory
    job = replace(job, c=c, accumulate=1)               a changed copy
    write(address, job)                                 to memory
"""
import inspect
import struct
import typing
from collections.abc import Sequence
from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.core.imputils import lower_builtin, lower_constant
from numba.core.typing.templates import infer_global, signature
from numba.extending import intrinsic, models, register_model

# Bytes of a field.
FIELD_BYTES = 8

# The Numba type and the NumPy dtype of a field, by its annotation.
_TYPES = {int: (types.intp, np.dtype(np.int64)), float: (types.float64, np.dtype(np.float64))}


@cache
def layout(kind: type) -> np.dtype:
    """Return the dtype of a record of that class in memory."""
    return np.dtype([(name, _TYPES[annotation][1]) for name, annotation in typing.get_type_hints(kind).items()])


def offset(kind: type, field: str) -> int:
    """Return the distance of a field from the beginning of its record in bytes."""
    return layout(kind).fields[field][1]


@cache
def _packer(kind):
    """Return the struct.Struct of a record of that class."""
    return struct.Struct("=" + "".join("q" if field.kind == "i" else "d" for field, _ in layout(kind).fields.values()))


def in_words(kind: type, records: Sequence[tuple]) -> np.ndarray:
    """Return records of that class in memory, one after another: 64-bit words, as integers."""
    packer, words = _packer(kind), np.zeros(len(records) * len(kind._fields), np.int64)
    for i, record in enumerate(records):                # takes a third of the time of NumPy's conversion to the layout
        packer.pack_into(words, i * packer.size, *record)
    return words


def fields_of(kind: type, words: np.ndarray) -> np.void:
    """Return the record at the beginning of some words, to be read and changed by field name, in the same memory."""
    return np.ndarray(1, layout(kind), words)[0]


@cache
def record_type(kind: type) -> types.BaseTuple:
    """Return the Numba type of a record of that class, a field of which may be a record itself while it is not in memory."""
    fields = [_TYPES[annotation][0] if annotation in _TYPES else record_type(annotation)
              for annotation in typing.get_type_hints(kind).values()]
    return types.BaseTuple.from_types(fields, kind)


def _check_address(address):
    """Raise TypingError unless an address is an integer."""
    if not isinstance(address, types.Integer):
        raise TypingError(f"address is {address}, expected an integer")


def _check_record(record):
    """Raise TypingError unless the Numba type is that of a record."""
    if not isinstance(record, types.BaseNamedTuple):
        raise TypingError(f"record is {record}, expected a named tuple of integers and floats")


def _check_field(kind, name, given, field):
    """Raise TypingError unless a value can become a field without a loss: a float never becomes an integer."""
    allowed = (types.Integer, types.Boolean) if field == types.intp else (types.Integer, types.Boolean, types.Float)
    if given != field and (isinstance(field, types.BaseTuple) or not isinstance(given, allowed)):
        raise TypingError(f"{kind.__name__}.{name} is {given}, expected {field}")


@intrinsic
def read(typing_context, address, kind):
    """Return the record of class `kind` that lies at an address."""
    _check_address(address)
    if not isinstance(kind, types.NamedTupleClass):
        raise TypingError(f"kind is {kind}, expected the class of a record")
    record = record_type(kind.instance_class)

    def generate(context, builder, sig, args):
        fields = [builder.load(_pointer(builder, args[0], i, context.get_value_type(t))) for i, t in enumerate(record)]
        return context.make_tuple(builder, record, fields)
    return record(types.intp, kind), generate


@intrinsic
def write(typing_context, address, record):
    """Write a record to an address."""
    _check_address(address)
    _check_record(record)
    fields = record_type(record.instance_class)
    for name, given, field in zip(record.fields, record, fields, strict=True):
        _check_field(record.instance_class, name, given, field)

    def generate(context, builder, sig, args):
        for i, (given, field) in enumerate(zip(record, fields, strict=True)):
            value = context.cast(builder, builder.extract_value(args[1], i), given, field)
            builder.store(value, _pointer(builder, args[0], i, value.type))
        return context.get_dummy_value()
    return types.void(types.intp, record), generate


@intrinsic
def put_word(typing_context, address, value):
    """Write one integer to an address."""
    def generate(context, builder, sig, args):
        builder.store(args[1], _pointer(builder, args[0], 0, args[1].type))
        return context.get_dummy_value()
    return types.void(types.intp, types.intp), generate


def _pointer(builder, address, i, kind):
    """Return a pointer to field i of the record at an address; kind: the field's LLVM type."""
    return builder.inttoptr(builder.add(address, ir.Constant(ir.IntType(64), FIELD_BYTES * i)), kind.as_pointer())


# ---- replace


def replace(record, **fields):
    """Return a copy of a record with other values of some fields. In compiled code a float is refused for an integer."""
    return record._replace(**fields)


class _Replace(types.Callable, types.Opaque):
    """The type of `replace` in compiled code: Numba's intrinsics know no keywords beyond those of one signature."""

    def __init__(self):
        super().__init__("replace")

    def get_call_type(self, context, args, kws):
        if len(args) != 1:
            raise TypingError(f"replace takes {len(args)} positional arguments, expected a record alone and fields by name")
        record, = args
        _check_record(record)
        kind, result, values = record.instance_class, record_type(record.instance_class), {}
        for name, given in kws.items():
            if name not in record.fields:
                raise TypingError(f"{kind.__name__} has no field {name}, expected one of {', '.join(record.fields)}")
            values[name] = types.unliteral(given)
            _check_field(kind, name, values[name], result[record.fields.index(name)])
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("record", *values)]
        return signature(result, record, *values.values()).replace(pysig=inspect.Signature(parameters))

    def get_call_signatures(self):
        return (), True

    def get_impl_key(self, sig):
        names = tuple(sig.pysig.parameters)[1:]
        return _replacer(names, sig.args)


@cache
def _replacer(names, arguments):
    """Return the key under which Numba finds the code that replaces fields of these names in arguments of these types."""
    given, kind = arguments[0], arguments[0].instance_class
    result = record_type(kind)

    def generate(context, builder, sig, args):
        values = {name: (builder.extract_value(args[0], i), given[i]) for i, name in enumerate(kind._fields)}
        values |= dict(zip(names, zip(args[1:], arguments[1:], strict=True), strict=True))
        return context.make_tuple(builder, result, [context.cast(builder, value, was, becomes)
                                                    for (value, was), becomes in zip(values.values(), result, strict=True)])

    key = "fastbp.replace", names, arguments
    lower_builtin(key, *arguments)(generate)
    return key


register_model(_Replace)(models.OpaqueModel)
lower_constant(_Replace)(lambda context, builder, kind, value: context.get_dummy_value())
infer_global(replace, _Replace())
