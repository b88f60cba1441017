"""Arrays of all kinds: any order, stride and alignment, foreign byte order, read-only, repeated, overlapping."""
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastbp
import oracle


def stepped(array, steps):
    """Every |step|-th element of a larger array along each axis, walked backwards where the step is negative."""
    room = np.full([n * abs(step) for n, step in zip(array.shape, steps, strict=True)], np.nan, array.dtype)
    view = room[tuple(slice(None, None, abs(step)) for step in steps)]
    view = view[tuple(slice(None, None, step // abs(step)) for step in steps)]
    view[...] = array
    return view


def unaligned(array, offset):
    """At an address that is no multiple of the element's size."""
    view = np.zeros(array.nbytes + offset, np.uint8)[offset:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


def read_only(array):
    array.flags.writeable = False
    return array


def one_row(array):
    return np.broadcast_to(array[:1], array.shape)


def one_column(array):
    return np.broadcast_to(array[:, :1], array.shape)


step = st.sampled_from([-3, -2, -1, 1, 2, 3])
writeable_layouts = st.one_of(
    st.just(np.asfortranarray),
    st.builds(lambda i, j: lambda array: stepped(array, (i, j)), step, step),
    st.builds(lambda i, j: lambda array: stepped(array.T, (i, j)).T, step, step),
    st.builds(lambda offset: lambda array: unaligned(array, offset), st.integers(1, 9)),
    st.builds(lambda offset: lambda array: unaligned(array.T, offset).T, st.integers(1, 9)),
)
layouts = st.one_of(
    st.just(np.ascontiguousarray), writeable_layouts, st.sampled_from([swapped, read_only, one_row, one_column]),
    writeable_layouts.map(lambda layout: lambda array: read_only(layout(array))),
    writeable_layouts.map(lambda layout: lambda array: layout(swapped(array))))

sizes = st.one_of(st.integers(0, 20), st.integers(0, 140))
shapes = st.tuples(st.one_of(st.integers(0, 60), st.just(200), st.just(4100)), sizes, sizes)
dtypes = st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])
names = st.sampled_from(list(oracle.ARGUMENTS))
seeds = st.integers(0, 2**32 - 1)


def call(name, arguments, out):
    """The results of the function `name`, with a tuple of arrays as `out`."""
    return oracle.results(getattr(fastbp, name)(**arguments, out=out if len(out) > 1 else out[0]))


@given(names, shapes, dtypes, seeds, st.lists(layouts, min_size=4, max_size=4))
def test_arguments_of_any_layout(name, shape, dtype, seed, chosen):
    arguments = oracle.operands(np.random.default_rng(seed), name, *shape, dtype)
    arguments = {argument: layout(array) for (argument, array), layout in zip(arguments.items(), chosen, strict=False)}
    before = {argument: array.tobytes() for argument, array in arguments.items()}
    results = oracle.results(getattr(fastbp, name)(**arguments))
    for result, expected in zip(results, oracle.expected(name, arguments), strict=True):
        assert result.dtype == dtype
        assert_array_equal(result, expected)
    assert {argument: array.tobytes() for argument, array in arguments.items()} == before


@given(names, shapes, dtypes, seeds, st.lists(writeable_layouts, min_size=3, max_size=3))
def test_out_of_any_layout(name, shape, dtype, seed, chosen):
    arguments = oracle.operands(np.random.default_rng(seed), name, *shape, dtype)
    expected = oracle.expected(name, arguments)
    out = tuple(layout(np.full(values.shape, np.nan, dtype)) for values, layout in zip(expected, chosen, strict=False))
    before = [surroundings(array) for array in out]
    for result, array, values in zip(call(name, arguments, out), out, expected, strict=True):
        assert result is array
        assert_array_equal(result, values)
    assert [surroundings(array) for array in out] == before


def surroundings(view):
    """The bytes of the memory that a view is cut from, with its own elements blanked out."""
    inside = view.copy()
    view[...] = 0
    memory = (view if view.base is None else view.base).tobytes()
    view[...] = inside
    return memory


@given(names, st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70)), dtypes, seeds)
def test_out_may_overlap_the_arguments(name, shape, dtype, seed):
    """All operands and results lie anywhere in one pool of numbers; only the results are apart from one another."""
    rng = np.random.default_rng(seed)
    arguments = oracle.operands(rng, name, *shape, dtype)
    expected = oracle.expected(name, arguments)             # here for its shapes
    pool = oracle.integers(rng, sum(values.size + 20 for values in expected) + 5000, dtype)

    def place(shape, start, end):
        first = rng.integers(start, end - np.prod(shape) + 1)
        return pool[first:first + np.prod(shape)].reshape(shape)

    arguments = {argument: place(array.shape, 0, len(pool)) for argument, array in arguments.items()}
    expected = oracle.expected(name, arguments)
    out, start = [], 0
    for values in expected:
        out.append(place(values.shape, start, start + values.size + 20))
        start += values.size + 20
    untouched = np.ones(len(pool), bool)
    for array in out:
        first = (array.ctypes.data - pool.ctypes.data) // dtype.itemsize
        untouched[first:first + array.size] = False
    before = pool[untouched]
    for result, values in zip(call(name, arguments, tuple(out)), expected, strict=True):
        assert_array_equal(result, values)
    assert_array_equal(pool[untouched], before)


@given(st.integers(1, 100), st.integers(1, 100), dtypes, seeds, st.integers(-2, 2))
def test_relu_in_place_and_shifted(rows, columns, dtype, seed, shift):
    pool = oracle.integers(np.random.default_rng(seed), rows * columns + 4, dtype)
    z = pool[2:2 + rows * columns].reshape(rows, columns)
    out = pool[2 + shift:2 + shift + rows * columns].reshape(rows, columns)
    dvalues = pool[1:1 + rows * columns].reshape(rows, columns)
    expected = oracle.relu_backward(dvalues, z)
    assert_array_equal(fastbp.relu_backward(dvalues, z, out=out), expected)
    expected = oracle.relu_forward(z)
    assert_array_equal(fastbp.relu_forward(z, out=out), expected)


def test_rows_at_a_distance_of_nothing(rng, dtype):
    """B of a product in place, with all its rows in the same memory, or one row, which NumPy gives such a distance."""
    row, x = rng.integers(-3, 4, 65).astype(dtype), rng.integers(-3, 4, (1, 95)).astype(dtype)
    weights = np.broadcast_to(row, (95, 65))
    assert_array_equal(fastbp.dense_forward(x, weights), x @ weights)
    for n_neurons in (1, 3, 4):
        sample, dvalues = rng.integers(-3, 4, 593).astype(dtype), rng.integers(-3, 4, n_neurons).astype(dtype)
        weights = rng.integers(-3, 4, (593, n_neurons)).astype(dtype)
        dinputs, dweights, _ = fastbp.dense_backward(dvalues, sample, weights)
        assert_array_equal(dinputs, (weights @ dvalues)[np.newaxis])
        assert_array_equal(dweights, np.outer(sample, dvalues))
