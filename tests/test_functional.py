"""Arguments and results of the functions: dtypes, array-likes, single samples, biases, dimensions, and `out`."""
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastbp
import oracle

DENSE = [name for name in oracle.ARGUMENTS if name.startswith("dense")]
BACKWARD = [name for name in DENSE if name.endswith("backward")]
FORWARD = [name for name in DENSE if name.endswith("forward")]


def call(name, *args, **kwargs):
    return oracle.results(getattr(fastbp, name)(*args, **kwargs))


def assert_results(results, expected, dtype):
    for result, values in zip(results, expected, strict=True):
        assert result.dtype == dtype
        assert result.dtype.isnative
        assert_array_equal(result, values, strict=False)
        assert result.shape == values.shape


# inputs, weights, the rest -> result
PROMOTION = [
    ("f4", "f4", "f4", "f4"), ("f8", "f8", "f8", "f8"),
    ("f4", "f8", "f4", "f8"), ("f8", "f4", "f4", "f8"), ("f4", "f4", "f8", "f8"),
    ("f2", "f2", "f2", "f4"), ("f2", "f4", "f4", "f4"), ("f2", "f2", "f8", "f8"), ("f2", "i1", "f2", "f4"),
    ("i1", "f4", "f4", "f4"), ("u2", "f4", "f4", "f4"), ("?", "f4", "f4", "f4"),
    ("i4", "f4", "f4", "f8"), ("f4", "i8", "f4", "f8"), ("i4", "f2", "f2", "f8"),
    ("?", "?", "?", "f8"), ("i1", "u1", "i1", "f8"), ("i8", "i8", "i8", "f8"), ("u8", "i8", "u1", "f8"),
    (">f4", ">f4", ">f4", "f4"), (">f8", "f4", "<f4", "f8"), (">i4", ">i4", ">i4", "f8"),
]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("inputs, weights, rest, result", PROMOTION)
def test_dtypes_follow_numpys_promotion(rng, name, inputs, weights, rest, result):
    dtypes = {"inputs": inputs, "weights": weights}
    arguments = {argument: abs(array).astype(dtypes.get(argument, rest))
                 for argument, array in oracle.operands(rng, name, 5, 4, 3, "i1").items()}
    assert_results(call(name, **arguments), oracle.expected(name, arguments), result)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", ">i4", ">f4"])
def test_relu_keeps_the_dtype(rng, dtype):
    signed = np.dtype(dtype).kind != "u"
    z = (oracle.integers(rng, (7, 9), "i1") if signed else rng.integers(0, 4, (7, 9))).astype(dtype)
    native = np.dtype(dtype).newbyteorder("=")
    assert_results(call("relu_forward", z), oracle.expected("relu_forward", {"z": z}), native)
    for z_dtype in ("i1", "f2", "f4", "f8"):
        arguments = {"dvalues": z[::-1], "z": z.astype(z_dtype)}
        assert_results(call("relu_backward", **arguments), oracle.expected("relu_backward", arguments), native)


def test_relu_of_large_integers_is_exact():
    z = np.array([2**62 + 1, -2**62 - 1, np.iinfo(np.int64).min, np.iinfo(np.int64).max])
    assert_array_equal(fastbp.relu_forward(z), [2**62 + 1, 0, 0, np.iinfo(np.int64).max])
    assert_array_equal(fastbp.relu_backward(z, z), [2**62 + 1, 0, 0, np.iinfo(np.int64).max])
    z = np.array([0, 1, 2**64 - 1], np.uint64)
    assert_array_equal(fastbp.relu_forward(z), z)


@pytest.mark.parametrize("name", oracle.ARGUMENTS)
@pytest.mark.parametrize("element, dtype", [(int, "f8"), (float, "f8"), (np.float32, "f4")])
def test_lists_are_arrays(rng, name, element, dtype):
    arguments = {argument: [[element(x) for x in row] for row in array]
                 for argument, array in oracle.operands(rng, name, 5, 4, 3, int).items()}
    if element is int and name.startswith("relu"):
        dtype = "i8"
    assert_results(call(name, **arguments), oracle.expected(name, arguments), dtype)


class Table:
    """What another library's array looks like to NumPy."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


@pytest.mark.parametrize("name", oracle.ARGUMENTS)
def test_array_likes_are_arrays(rng, name):
    arguments = oracle.operands(rng, name, 5, 4, 3, np.float32)
    results = call(name, **{argument: Table(array) for argument, array in arguments.items()})
    assert_results(results, oracle.expected(name, arguments), np.float32)


@pytest.mark.parametrize("name", DENSE)
def test_one_sample_may_have_one_dimension(rng, dtype, name):
    arguments = oracle.operands(rng, name, 1, 4, 3, dtype)
    samples = {"inputs", "dvalues", "output"} & arguments.keys()
    for flat in (samples, {"inputs"}, samples - {"inputs"}):
        flattened = {argument: array[0] if argument in flat else array for argument, array in arguments.items()}
        assert_results(call(name, **flattened), oracle.expected(name, arguments), dtype)


@pytest.mark.parametrize("name", FORWARD)
def test_biases_may_be_a_row_a_vector_or_nothing(rng, dtype, name):
    arguments = oracle.operands(rng, name, 5, 4, 3, dtype)
    expected = oracle.expected(name, arguments)
    assert_results(call(name, **arguments), expected, dtype)
    assert_results(call(name, *arguments.values()), expected, dtype)
    assert_results(call(name, **arguments | {"biases": arguments["biases"][0]}), expected, dtype)
    arguments["biases"] = None
    expected = oracle.expected(name, arguments)
    assert_results(call(name, **arguments), expected, dtype)
    del arguments["biases"]
    assert_results(call(name, **arguments), expected, dtype)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (37,), (3, 0), (2, 3, 5), (2, 1, 3, 2, 4), (5000,), (70, 1001)])
def test_relu_takes_any_number_of_dimensions(rng, dtype, shape):
    arguments = {"dvalues": oracle.integers(rng, shape, dtype), "z": oracle.integers(rng, shape, dtype)}
    assert_results(call("relu_backward", **arguments), oracle.expected("relu_backward", arguments), dtype)
    del arguments["dvalues"]
    assert_results(call("relu_forward", **arguments), oracle.expected("relu_forward", arguments), dtype)


@pytest.mark.parametrize("value", [2.5, -2.5, 0.0, 3, -3])
def test_relu_takes_a_number(value):
    assert fastbp.relu_forward(value) == max(value, 0)
    assert fastbp.relu_backward(7.0, value) == (7 if value > 0 else 0)


@pytest.mark.parametrize("name", oracle.ARGUMENTS)
def test_out_is_overwritten_and_returned(rng, dtype, name):
    arguments = oracle.operands(rng, name, 5, 4, 3, dtype)
    expected = oracle.expected(name, arguments)
    for filled in (np.nan, 1.0):
        out = tuple(np.full(values.shape, filled, dtype) for values in expected)
        results = call(name, **arguments, out=out if name in BACKWARD else out[0])
        assert all(result is array for result, array in zip(results, out, strict=True))
        assert_results(results, expected, dtype)


class Subclass(np.ndarray):
    """Arrays that compiled code does not take as they are."""


@pytest.mark.parametrize("name", oracle.ARGUMENTS)
@pytest.mark.parametrize("rows", [slice(None), slice(None, None, -1), slice(1, 10, 2)])
def test_out_and_operands_may_be_of_a_subclass(rng, dtype, name, rows):
    arguments = oracle.operands(rng, name, 5, 4, 3, dtype)
    expected = oracle.expected(name, arguments)
    owners = [np.full((2 * len(values) + 5, values.shape[1]), np.nan, dtype).view(Subclass) for values in expected]
    out = tuple(owner[rows][:len(values)] for owner, values in zip(owners, expected, strict=True))
    arguments = {key: a.view(Subclass) for key, a in arguments.items()}
    results = call(name, **arguments, out=out if name in BACKWARD else out[0])
    assert all(result is array for result, array in zip(results, out, strict=True))
    assert_results([np.asarray(result) for result in results], expected, dtype)
    for result in call(name, **arguments):
        assert type(result) is np.ndarray or name.startswith("relu")


@pytest.mark.parametrize("name", BACKWARD)
@pytest.mark.parametrize("given", [(True, False, False), (False, True, False), (False, False, True), (False, False, False)])
def test_none_in_out_is_a_new_array(rng, dtype, name, given):
    arguments = oracle.operands(rng, name, 5, 4, 3, dtype)
    expected = oracle.expected(name, arguments)
    out = tuple(np.full(values.shape, np.nan, dtype) if wanted else None
                for values, wanted in zip(expected, given, strict=True))
    results = call(name, **arguments, out=out)
    assert all(array is None or result is array for result, array in zip(results, out, strict=True))
    assert_results(results, expected, dtype)


@pytest.mark.parametrize("name", oracle.ARGUMENTS)
def test_results_are_the_callers(rng, dtype, name):
    """A later call leaves the results of an earlier one alone, and no result shares memory with an argument."""
    arguments = oracle.operands(rng, name, 50, 40, 30, dtype)
    results = call(name, **arguments)
    again = call(name, **{argument: -array for argument, array in arguments.items()})
    assert_results(results, oracle.expected(name, arguments), dtype)
    for result in results:
        assert result.flags.writeable
        assert not any(np.shares_memory(result, other) for other in (*arguments.values(), *again))


@pytest.mark.parametrize("name", oracle.ARGUMENTS)
@pytest.mark.parametrize("shape", [(5, 4, 3), (200, 100, 70), (4200, 9, 7)])
def test_arguments_are_never_changed(rng, dtype, name, shape):
    arguments = oracle.operands(rng, name, *shape, dtype)
    before = {argument: array.tobytes() for argument, array in arguments.items()}
    call(name, **arguments)
    assert {argument: array.tobytes() for argument, array in arguments.items()} == before


def test_the_version_and_the_names_of_the_package():
    assert isinstance(fastbp.__version__, str)
    assert all(callable(getattr(fastbp, name)) for name in (*oracle.ARGUMENTS, "warmup", "show_config"))


@pytest.mark.parametrize("shift", [1, 8, 47])
def test_relu_of_integers_into_their_own_memory(shift):
    """Steps of two elements into steps of one, at any distance: NumPy's copyto goes wrong at some."""
    memory = np.zeros(300, np.uint8)
    z, out = np.ndarray(8, np.uint64, memory, 8, (16,)), np.ndarray(8, np.uint64, memory, 8 + shift, (8,))
    z[:] = numbers = range(1, 9)
    fastbp.relu_forward(z, out=out)
    assert out.tolist() == list(numbers)
