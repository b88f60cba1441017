"""NumPy's defaults, changed by other packages: nnfs.init(), with which scripts of the book begin, makes np.zeros float32."""
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import entries
from fastbp.sklearn import MLPClassifier, MLPRegressor


@cache
def expected():
    return entries.run()


def check(results):
    assert results.keys() == expected().keys()
    for name, result in results.items():
        assert_array_equal(result, expected()[name], name, strict=True)


def test_replaced_after_everything_is_compiled(monkeypatch):
    expected()
    entries.replace(monkeypatch.setattr)
    check(entries.run())


def test_replaced_before_fastbp_is_imported(tmp_path):
    subprocess.run([sys.executable, Path(entries.__file__), tmp_path / "results.npz"], check=True, stdout=subprocess.DEVNULL)
    with np.load(tmp_path / "results.npz") as results:
        check(dict(results))


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_scikit_learn(kind, monkeypatch, rng):
    def fitted():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                 # of a training that has not converged
            return kind(hidden_layer_sizes=(8,), random_state=0, max_iter=5, batch_size=50).fit(x, y)

    x, y = rng.standard_normal((300, 6)), rng.integers(0, 3, 300)
    before = fitted()
    entries.replace(monkeypatch.setattr, entries._BY_NNFS)
    after = fitted()
    for name in ("coefs_", "intercepts_"):
        for one, other in zip(getattr(before, name), getattr(after, name), strict=True):
            assert_allclose(one, other, rtol=1e-12)
