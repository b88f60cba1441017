"""A matrix in memory, as compiled code passes it around: an address, sizes, and strides in bytes."""
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from .._jit import kernel


class Matrix(NamedTuple):
    """The address of the first element (0: there is no matrix), its sizes, and its strides in bytes."""

    data: int
    rows: int
    cols: int
    row_step: int
    col_step: int


NO_MATRIX = Matrix(0, 0, 0, 0, 0)

_WORD = ir.IntType(64)
MATRIX = types.NamedUniTuple(types.intp, 5, Matrix)

# The signatures of units for a whole pass of a layer: its matrices, its activation, and how many threads it may use.
FORWARD, BACKWARD = types.intp(*[MATRIX] * 5, types.intp, types.intp), types.intp(*[MATRIX] * 7, types.intp, types.intp)


@intrinsic
def matrix(typing_context, array):
    """The Matrix of a 2-D array; a 1-D array is one row, and None no matrix. A stride that is never used is contiguous."""
    def generate(context, builder, signature, args):
        return _matrix(context, builder, array, args[0])
    return MATRIX(array), generate


@intrinsic
def matrices(typing_context, arrays):
    """The Matrix of each array in a tuple."""
    if not isinstance(arrays, types.BaseTuple):
        raise TypingError(f"{arrays} was passed, expected a tuple of arrays, as tuple(network.parameters())")

    def generate(context, builder, signature, args):
        found = [_matrix(context, builder, array, builder.extract_value(args[0], i)) for i, array in enumerate(arrays)]
        return context.make_tuple(builder, signature.return_type, found)
    return types.UniTuple(MATRIX, len(arrays))(arrays), generate


def _matrix(context, builder, array, value):
    """Return the LLVM value of the Matrix of an array of that Numba type."""
    from numba.np.arrayobj import make_array  # here, as it takes 0.03 s to import

    if isinstance(array, types.NoneType | types.Omitted):
        return context.make_tuple(builder, MATRIX, [_WORD(0)] * 5)
    struct = make_array(array)(context, builder, value)
    shape, strides = (cgutils.unpack_tuple(builder, t) for t in (struct.shape, struct.strides))
    if array.ndim == 1:
        shape, strides = [_WORD(1), *shape], [builder.mul(shape[0], struct.itemsize), *strides]
    one_column = builder.icmp_signed("<=", shape[1], _WORD(1))
    empty = builder.icmp_signed("==", shape[0], _WORD(0))                 # NumPy gives it strides of 0
    col_step = builder.select(builder.or_(one_column, empty), struct.itemsize, strides[1])
    return context.make_tuple(builder, MATRIX, [builder.ptrtoint(struct.data, _WORD), *shape, strides[0], col_step])


@intrinsic
def keep(typing_context, array):
    """Keep an array alive up to here: a Matrix holds its address only."""
    return types.void(array), lambda context, builder, signature, args: context.get_dummy_value()


@kernel
def only_if(given, matrix):
    """The Matrix, or none if `given` is 0."""
    return Matrix(matrix.data if given != 0 else 0, matrix.rows, matrix.cols, matrix.row_step, matrix.col_step)


@kernel
def transposed(matrix):
    return Matrix(matrix.data, matrix.cols, matrix.rows, matrix.col_step, matrix.row_step)


@kernel
def from_row(matrix, i, rows):
    """`rows` rows of a matrix, the first of them i."""
    return Matrix(matrix.data + i * matrix.row_step, rows, matrix.cols, matrix.row_step, matrix.col_step)


@kernel
def from_col(matrix, j):
    """The columns of a matrix from the j-th on."""
    return Matrix(matrix.data + j * matrix.col_step, matrix.rows, matrix.cols - j, matrix.row_step, matrix.col_step)


@kernel
def whole_rows(rows, cols, row_step, itemsize, width):
    """Of how many of a matrix's rows, from a column with `cols` left, `width` elements may be read.

    What lies beyond the end of a row is the next one's: reading it, and not using it, takes half the time of finding out
    for each vector which of it is the row's.
    """
    if cols >= width:
        return rows
    next_row = row_step // itemsize
    return max(0, rows - (width - cols + next_row - 1) // next_row) if next_row > 0 else 0


@kernel
def first_byte(matrix):
    return matrix.data + min(0, (matrix.rows - 1) * matrix.row_step) + min(0, (matrix.cols - 1) * matrix.col_step)


@kernel
def last_byte(matrix, itemsize):
    rows, cols = matrix.rows - 1, matrix.cols - 1
    return matrix.data + max(0, rows * matrix.row_step) + max(0, cols * matrix.col_step) + itemsize - 1


@kernel
def overlap(a, b, itemsize):
    """Whether two matrices have bytes in common between their first and their last."""
    if a.data == 0 or b.data == 0 or a.rows * a.cols == 0 or b.rows * b.cols == 0:
        return False
    return first_byte(a) <= last_byte(b, itemsize) and first_byte(b) <= last_byte(a, itemsize)


@kernel
def any_overlap(operands, results, itemsize):
    """Whether a result overlaps an operand or another result."""
    for i in range(len(results)):
        for operand in operands:
            if overlap(results[i], operand, itemsize):
                return True
        for j in range(i):
            if overlap(results[i], results[j], itemsize):
                return True
    return False
