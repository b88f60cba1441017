"""Python's objects as compiled code sees them: the arguments of a call, NumPy arrays, and the tuple of results.

Numba copies each array that Python passes into a structure of its own, with a reference count in new memory: 50 to 150 ns an
array, where a small pass computes for less. Here compiled code reads the structures that the C interfaces of Python and NumPy
fix (numpy/ndarraytypes.h), as extension modules do. An object stays alive while its caller holds it, and nothing is read from
it after other Python threads have been let run.

Addresses of objects are integers. Whoever calls these kernels holds the GIL.
"""
import ctypes
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy._core import _multiarray_umath

from .._compile import link
from .._compile.compiler import inlined, kernel
from .._runtime import state
from .matrix import Matrix
from .schedule.atomic import load
from .schedule.records import read
from .schedule.trace import in_memory

# Arrays of this many bytes or more are aligned. From this size on, finding an aligned address takes less time than it saves.
ALIGNED_BYTES = 1 << 16

# In place of the address of an array: Python must make the array, an aligned one. This is no address.
NO_ROOM = -1

# The bytes of an object before its own fields. A free-threaded Python has more of them than others; the type comes last.
_HEADER = object.__basicsize__

# The distance in bytes of an object's type from its beginning.
_TYPE = _HEADER - 8

# The distance in bytes from the beginning of a dtype to a word that holds its kind, type, byte order, and number of the type.
_DTYPE_WORD = _HEADER + 8

# This selects a C int from the word that begins with it.
_INT = (1 << 32) - 1

# The bit of an array's flags that says that it may be written: NPY_ARRAY_WRITEABLE.
_WRITEABLE = 0x400

# The place of PyArray_NewFromDescr in NumPy's table of C functions (numpy/__multiarray_api.h).
_NEW_ARRAY_PLACE = 94


class Array(NamedTuple):
    """The fields of an array after its header: PyArrayObject_fields. A C int is the lower half of its word."""

    data: int                   # the address of the first element
    ndim: int                   # a C int
    sizes: int                  # the address of the Sizes
    steps: int                  # the address of the Steps
    base: int                   # the object that owns the memory, or 0
    dtype: int                  # the dtype
    flags: int                  # a C int


class Sizes(NamedTuple):
    """The shape of a 2-D array."""

    rows: int
    cols: int


class Steps(NamedTuple):
    """The strides of a 2-D array in bytes."""

    row_step: int
    col_step: int


_table = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
state.words[state.NEW_ARRAY] = (ctypes.c_int64 * (_NEW_ARRAY_PLACE + 1)).from_address(
    _table(_multiarray_umath._ARRAY_API, None))[_NEW_ARRAY_PLACE]

# Functions of Python's C interface. Objects are addresses.
_hold = types.ExternalFunction("Py_IncRef", types.void(types.intp))
_drop = types.ExternalFunction("Py_DecRef", types.void(types.intp))
_new_tuple = types.ExternalFunction("PyTuple_New", types.intp(types.intp))
_set_item = types.ExternalFunction("PyTuple_SetItem", types.int32(types.intp, types.intp, types.intp))
_suspend = types.ExternalFunction("PyEval_SaveThread", types.intp())
_resume = types.ExternalFunction("PyEval_RestoreThread", types.void(types.intp))

# Return a new int, or 0 with an exception set.
number = types.ExternalFunction("PyLong_FromSsize_t", types.intp(types.intp))

# Return the value of an int, or -1 with an exception set.
as_number = types.ExternalFunction("PyLong_AsSsize_t", types.intp(types.intp))

# Return 1 if an object counts as true, 0 if not, or -1 with an exception set.
is_true = types.ExternalFunction("PyObject_IsTrue", types.int32(types.intp))


@intrinsic
def none(typing_context):
    """Return the address of None."""
    def generate(context, builder, signature, args):
        return builder.ptrtoint(context.get_python_api(builder).borrow_none(), ir.IntType(64))
    return types.intp(), generate


@inlined
def is_matrix(item, like):
    """Return whether an object is a 2-D array of the type and dtype of the array `like`; one of a subclass is not."""
    if load(item + _TYPE) != load(like + _TYPE):
        return False
    array, dtype = read(item + _HEADER, Array), read(like + _HEADER, Array).dtype
    if array.ndim & _INT != 2:
        return False
    # A dtype that has been pickled is another object.
    return array.dtype == dtype or load(array.dtype + _DTYPE_WORD) == load(dtype + _DTYPE_WORD)


@kernel
def is_matrix_or_none(item, like):
    """Return whether an object is None or such an array."""
    return item == none() or is_matrix(item, like)


@inlined
def matrix_of(item, itemsize):
    """Return the Matrix of an object that is_matrix_or_none; that of None is no matrix.

    If no two columns exist, the stride from one to the next is the bytes of an element, so that rows count as contiguous.
    """
    if item == none():
        return Matrix(data=0, rows=0, cols=0, row_step=0, col_step=0)
    array = read(item + _HEADER, Array)
    sizes, steps = read(array.sizes, Sizes), read(array.steps, Steps)
    col_step = itemsize if sizes.cols <= 1 or sizes.rows == 0 else steps.col_step
    return Matrix(data=array.data, rows=sizes.rows, cols=sizes.cols, row_step=steps.row_step, col_step=col_step)


@kernel
def result(item, like, rows, cols, itemsize):
    """Return an array for a result of that shape, with a new reference: `item` if it fits, else a new array.

    Return 0 with an exception set if there is no memory, and NO_ROOM if the new array should be aligned.
    """
    if item != none() and is_matrix(item, like):
        array = read(item + _HEADER, Array)
        sizes = read(array.sizes, Sizes)
        if sizes.rows == rows and sizes.cols == cols and array.flags & _WRITEABLE != 0:
            _hold(item)
            return item
    if rows >= ALIGNED_BYTES or cols >= ALIGNED_BYTES or rows * cols * itemsize >= ALIGNED_BYTES:
        return NO_ROOM
    dtype = read(like + _HEADER, Array).dtype
    _hold(dtype)                # the function below takes this reference
    return link.call(state.word(state.NEW_ARRAY), (load(like + _TYPE), dtype, 2, in_memory(Sizes(rows=rows, cols=cols)),
                                                   0, 0, 0, 0))


@kernel
def held(item):
    """Return an object with a new reference."""
    _hold(item)
    return item


@kernel
def drop(item):
    """Give up a reference that `result` or `held` has returned, if it is one."""
    if item != 0 and item != NO_ROOM:
        _drop(item)


@kernel
def tuple_of(items):
    """Return a new tuple of objects, which takes over their references, or 0 with an exception set."""
    made = _new_tuple(len(items))
    for i in range(len(items)):
        if made == 0:
            _drop(items[i])
        else:
            _set_item(made, i, items[i])
    return made


@inlined
def call_unit(unit, arguments, is_quick):
    """Return the status of a unit. Unless it is quick, other Python threads run meanwhile."""
    thread = 0 if is_quick else _suspend()
    status = link.call(unit, arguments)
    if not is_quick:
        _resume(thread)
    return status
