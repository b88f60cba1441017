"""Arrays of an estimator that fastbp.sklearn did not make itself: lists, memory maps, other dtypes, shared memory."""
import copy
import pickle
import types

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is in the extra 'sklearn'")

import joblib

from fastbp.sklearn import optimizers
from sklearn_pairs import ROWS, SOLVERS, assert_alike, assert_predict_alike, both, data, ours, pair


def every(change):
    """Return a change of coefs_ and intercepts_ that applies another to each array."""
    return lambda e: vars(e).update(coefs_=[change(a) for a in e.coefs_], intercepts_=[change(a) for a in e.intercepts_])


def kinds(coefs, intercepts=None):
    return lambda e: vars(e).update(coefs_=coefs(e.coefs_), intercepts_=(intercepts or coefs)(e.intercepts_))


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    result = memory.view(array.dtype).reshape(array.shape)
    result[:] = array
    return result


def square(e):
    """The same matrix in two layers."""
    e.coefs_[1] = e.coefs_[0]


def transposed(e):
    e.coefs_[1] = e.coefs_[0].T


def overlapping(e):
    memory = np.linspace(-1, 1, 100)
    e.coefs_[0], e.coefs_[1] = memory[:36].reshape(6, 6), memory[30:66].reshape(6, 6)


# What somebody may assign, and whether steps stay compiled.
ASSIGNED = {
    "tuples": (kinds(tuple), True),
    "a tuple and a list": (kinds(tuple, list), False),
    "new lists": (kinds(list), True),
    "lists of lists": (every(np.ndarray.tolist), False),
    "tuples of lists": (kinds(lambda arrays: tuple(a.tolist() for a in arrays)), False),
    "float32": (every(np.float32), False),
    "float16": (every(np.float16), False),
    "integers": (every(lambda a: np.rint(3 * a).astype(np.int64)), False),
    "other byte order": (every(lambda a: a.astype(">f8")), False),
    "Fortran": (every(np.asfortranarray), False),
    "strided": (every(lambda a: np.repeat(a, 2, axis=0)[::2]), False),
    "read-only": (every(read_only), False),
    "unaligned": (every(unaligned), False),
    "masked": (every(np.ma.asarray), False),
    "biases of a row": (kinds(list, lambda arrays: [a[np.newaxis] for a in arrays]), False),
    "numbers as biases": (kinds(list, lambda arrays: [np.float64(0.25) for _ in arrays]), False),
    "one matrix twice": (square, False),
    "a matrix and its transpose": (transposed, False),
    "overlapping matrices": (overlapping, False),
    "fewer layers": (kinds(lambda arrays: arrays[:-1]), False),
    "more biases": (kinds(list, lambda arrays: [*arrays, arrays[-1]]), False),
    "none": (kinds(lambda arrays: []), False),
    "None": (kinds(lambda arrays: None), False),
}


@pytest.mark.parametrize("solver", ["adam", "constant"])
@pytest.mark.parametrize("assigned", ASSIGNED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_assigned_arrays(assigned, solver, epochs):
    change, is_compiled = ASSIGNED[assigned]
    x, y = data("numbers")
    fitted = pair("numbers", hidden_layer_sizes=(6, 6), warm_start=True, **SOLVERS[solver])
    both(fitted, "fit", x, y)
    for method in "predict", "partial_fit", "fit":
        estimators = copy.deepcopy(fitted)
        for e in estimators:
            change(e)
        before = len(epochs)
        results = both(estimators, method, *(x, y)[:1 if method == "predict" else 2])
        if method == "predict":
            assert_alike(*results, rtol=1e-4 if assigned == "float16" else 1e-6, name=method)
        else:
            assert (len(epochs) > before) == is_compiled
            assert_alike(*estimators, rtol=1e-4 if assigned == "float16" else 1e-6)


def test_weights_that_are_moments(epochs):
    x, y = data("numbers")
    estimators = pair("numbers", max_iter=1)
    both(estimators, "fit", x, y)
    for e in estimators:
        e._optimizer.ms[0] = e.coefs_[0]
    both(estimators, "partial_fit", x, y)
    assert len(epochs) == 1
    assert_alike(*estimators)


def test_a_warm_start_changes_the_arrays_that_were_assigned():
    x, y = data("numbers")
    estimators = pair("numbers", warm_start=True)
    both(estimators, "fit", x, y)
    kept = [e.coefs_[0] for e in estimators]
    before = kept[0].copy()
    both(estimators, "fit", x, y)
    assert all(e.coefs_[0] is array for e, array in zip(estimators, kept, strict=True))
    assert abs(kept[0] - before).max() > 1e-3
    assert_alike(*kept)


def mapped(estimator, path, mode):
    joblib.dump(estimator, path)
    return joblib.load(path, mmap_mode=mode)


def without_copies(estimator, *_):
    """Return what pickle makes of immutable buffers."""
    buffers = []
    bytes_ = pickle.dumps(estimator, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(bytes_, buffers=[bytes(b) for b in buffers])


@pytest.mark.parametrize("load", [lambda e, path: mapped(e, path, "r"), lambda e, path: mapped(e, path, "c"),
                                  lambda e, path: mapped(e, path, "r+"), without_copies], ids=["r", "c", "r+", "buffers"])
@pytest.mark.parametrize("solver", ["adam", "constant"])
def test_an_estimator_whose_arrays_lie_in_a_file(load, solver, tmp_path, epochs):
    x, y = data("classes")
    estimators = pair("classes", warm_start=True, **SOLVERS[solver])
    both(estimators, "fit", x, y)
    del epochs[:]
    for method in "partial_fit", "fit":
        copies = tuple(load(e, tmp_path / type(e).__module__) for e in estimators)
        assert_predict_alike(copies, x)
        _, other = both(copies, method, x, y)
        assert isinstance(other, Exception) != bool(epochs)
        assert_alike(*copies)
        assert_predict_alike(estimators, x)


class Strict(types.ModuleType):
    """NumPy as another package may have left it: what makes an array without a dtype does not exist."""

    def __getattr__(self, name):
        return getattr(np, name)


def strict(name, position):
    def create(*arguments, **options):
        assert len(arguments) > position or "dtype" in options, f"{name} without a dtype"
        return getattr(np, name)(*arguments, **options)
    return create


# Functions that make arrays, and where their dtype stands.
CREATION = {"zeros": 1, "ones": 1, "empty": 1, "full": 2, "eye": 3, "arange": 3, "array": 1, "asarray": 1,
            "ascontiguousarray": 1, "linspace": 5, "identity": 1}


@pytest.mark.parametrize("task", ["classes", "labels", "numbers"])
@pytest.mark.parametrize("options", [dict(), dict(shuffle=False), dict(early_stopping=True)], ids=str)
def test_no_array_is_made_without_its_dtype(task, options, monkeypatch, epochs):
    numpy = Strict("numpy")
    vars(numpy).update({name: strict(name, position) for name, position in CREATION.items()})
    for module in ours, ours.originals, optimizers:
        monkeypatch.setattr(module, "np", numpy)
    x, y = data(task)
    for weights in None, np.linspace(0, 1, ROWS):
        estimators = pair(task, **options)
        both(estimators, "fit", x, y, sample_weight=weights)
        assert_alike(*estimators)
        assert_predict_alike(estimators, x)
    assert len(epochs) == 10
