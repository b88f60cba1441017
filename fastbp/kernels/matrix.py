"""Matrices in memory, as compiled code passes them around: an address, sizes, and strides in bytes."""
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from .._compile.compiler import formula, inlined, kernel
from .schedule.records import replace


class Matrix(NamedTuple):
    """A matrix of any layout."""

    data: int                   # the address of the first element, or 0: there is no matrix
    rows: int                   # how many rows
    cols: int                   # how many columns
    row_step: int               # bytes from one row to the next
    col_step: int               # bytes from one column to the next


# The Matrix in the place of an operand that is missing.
NO_MATRIX = Matrix(data=0, rows=0, cols=0, row_step=0, col_step=0)

# LLVM's type of an address, a size or a stride.
_WORD = ir.IntType(64)

# The Numba type of a Matrix.
MATRIX = types.NamedUniTuple(types.intp, 5, Matrix)

@intrinsic
def matrix(typing_context, array):
    """Return the Matrix of a 2-D array. A 1-D array is one row, and None is no matrix.

    If no two columns exist, the stride from one to the next is the bytes of an element, so that rows count as contiguous.
    """
    def generate(context, builder, signature, args):
        return _matrix(context, builder, array, args[0])
    return MATRIX(array), generate


@intrinsic
def matrices(typing_context, arrays):
    """Return the Matrix of each array in a tuple. Raises TypingError for anything but a tuple."""
    if not isinstance(arrays, types.BaseTuple):
        raise TypingError(f"{arrays} was passed, expected a tuple of arrays, as tuple(network.parameters())")

    def generate(context, builder, signature, args):
        found = [_matrix(context, builder, array, builder.extract_value(args[0], i)) for i, array in enumerate(arrays)]
        return context.make_tuple(builder, signature.return_type, found)
    return types.UniTuple(MATRIX, len(arrays))(arrays), generate


def _matrix(context, builder, array, value):
    """Return the LLVM value of the Matrix of an array of that Numba type."""
    from numba.np.arrayobj import make_array  # imported here, as that takes 0.03 s

    if isinstance(array, types.NoneType | types.Omitted):
        return context.make_tuple(builder, MATRIX, [_WORD(0)] * 5)
    struct = make_array(array)(context, builder, value)
    shape, strides = (cgutils.unpack_tuple(builder, t) for t in (struct.shape, struct.strides))
    if array.ndim == 1:
        shape, strides = [_WORD(1), *shape], [builder.mul(shape[0], struct.itemsize), *strides]
    one_column = builder.icmp_signed("<=", shape[1], _WORD(1))
    empty = builder.icmp_signed("==", shape[0], _WORD(0))                 # NumPy gives an empty array strides of 0
    col_step = builder.select(builder.or_(one_column, empty), struct.itemsize, strides[1])
    return context.make_tuple(builder, MATRIX, [builder.ptrtoint(struct.data, _WORD), *shape, strides[0], col_step])


@intrinsic
def keep(typing_context, array):
    """Keep an array alive up to this call: a Matrix holds only its address."""
    return types.void(array), lambda context, builder, signature, args: context.get_dummy_value()


@kernel
def only_if(given, matrix):
    """Return the Matrix, or no matrix if `given` is 0."""
    return replace(matrix, data=matrix.data if given != 0 else 0)


@formula
def transpose_of(matrix):
    """Return the transpose of a Matrix; nothing is copied."""
    return Matrix(data=matrix.data, rows=matrix.cols, cols=matrix.rows, row_step=matrix.col_step, col_step=matrix.row_step)


@kernel
def from_row(matrix, i, rows):
    """Return the Matrix of `rows` rows of a Matrix, from row i on."""
    return replace(matrix, data=matrix.data + i * matrix.row_step, rows=rows)


@inlined
def rows_of(address, row, rows, cols, row_step, size):
    """Return the Matrix of rows, from `row` on, of a matrix at an address; no matrix for the address 0."""
    return Matrix(data=address + row * row_step if address != 0 else 0, rows=rows, cols=cols, row_step=row_step, col_step=size)


@kernel
def from_col(matrix, j):
    """Return the Matrix of the columns of a Matrix, from column j on."""
    return replace(matrix, data=matrix.data + j * matrix.col_step, cols=matrix.cols - j)


@kernel
def whole_rows(rows, cols, row_step, itemsize, width):
    """Return how many rows of a matrix, the first ones, may be read `width` elements long from a column with `cols` left.

    Beyond the end of a row lies the next row. Reading part of it and not using that takes half the time of finding out for
    each vector which part of it belongs to the row.
    """
    if cols >= width:
        return rows
    next_row = row_step // itemsize
    return max(0, rows - (width - cols + next_row - 1) // next_row) if next_row > 0 else 0


@kernel
def first_byte(matrix):
    """Return the address of the first byte of a Matrix."""
    return matrix.data + min(0, (matrix.rows - 1) * matrix.row_step) + min(0, (matrix.cols - 1) * matrix.col_step)


@kernel
def last_byte(matrix, itemsize):
    """Return the address of the last byte of a Matrix."""
    rows, cols = matrix.rows - 1, matrix.cols - 1
    return matrix.data + max(0, rows * matrix.row_step) + max(0, cols * matrix.col_step) + itemsize - 1


@kernel
def overlap(a, b, itemsize):
    """Return whether the bytes from the first to the last of two matrices overlap; those of no elements never do."""
    if a.data == 0 or b.data == 0 or a.rows * a.cols == 0 or b.rows * b.cols == 0:
        return False
    return first_byte(a) <= last_byte(b, itemsize) and first_byte(b) <= last_byte(a, itemsize)


@kernel
def any_overlap(operands, results, itemsize):
    """Return whether a result overlaps an operand or another result."""
    for i in range(len(results)):
        for operand in operands:
            if overlap(results[i], operand, itemsize):
                return True
        for j in range(i):
            if overlap(results[i], results[j], itemsize):
                return True
    return False
