"""fastbp.sklearn's classes as estimators of scikit-learn: copies and files, parameters, pipelines, searches."""
import copy
import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("sklearn", reason="scikit-learn is in the extra 'sklearn'")

import joblib
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_pairs import assert_alike, assert_predict_alike, both, data, did, pair


def loaded(estimator, path, **options):
    joblib.dump(estimator, path)
    return joblib.load(path, **options)


COPIES = {
    "deepcopy": lambda e, path: copy.deepcopy(e),
    "pickle": lambda e, path: pickle.loads(pickle.dumps(e)),
    "joblib": lambda e, path: loaded(e, path),
    "joblib, mapped": lambda e, path: loaded(e, path, mmap_mode="r"),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_copies_go_on_as_scikit_learns(how, solver, tmp_path):
    x, y = data("labels")
    estimators = pair("labels", solver=solver)
    both(estimators, "fit", x, y)
    before = copy.deepcopy(vars(estimators[0]))
    copies = tuple(COPIES[how](e, tmp_path / type(e).__module__) for e in estimators)
    assert_predict_alike(copies, x)
    mine, other = both(copies, "partial_fit", x, y)             # mapped, the arrays are read-only
    assert isinstance(other, Exception) == (how == "joblib, mapped")
    assert_alike(*copies)
    assert list(vars(estimators[0])) == list(before)
    assert_array_equal(estimators[0].coefs_[0], before["coefs_"][0])
    assert_array_equal(np.stack([a.sum() for a in vars(estimators[0]._optimizer).get("ms", [])] or [0]),
                       np.stack([a.sum() for a in vars(before["_optimizer"]).get("ms", [])] or [0]))


def test_parameters_are_scikit_learns():
    for task in "classes", "number":
        mine, other = (type(e)() for e in pair(task))
        assert mine.get_params() == other.get_params()
        assert repr(mine.set_params(alpha=0.5)) == repr(other.set_params(alpha=0.5))
        assert isinstance(mine, type(other)) and type(mine).__doc__ == type(other).__doc__
        cloned = clone(mine)
        assert type(cloned) is type(mine) and cloned.get_params() == mine.get_params()
        fitted, _ = pair(task)
        did(lambda e=fitted, task=task: e.fit(*data(task)))
        assert not [name for name in vars(clone(fitted)) if name.endswith("_")]


def test_pipeline_and_cross_validation():
    x, y = data("classes")
    pipelines = tuple(make_pipeline(StandardScaler(), e) for e in pair("classes"))
    both(pipelines, "fit", 100 * x + 3, y)
    assert_alike(pipelines[0][-1], pipelines[1][-1])
    assert_predict_alike(pipelines, 100 * x + 3)
    scores = [did(lambda p=p: cross_val_score(p, x, y, cv=3))[0] for p in pipelines]
    assert_array_equal(*scores)


@pytest.mark.parametrize("task", ["classes", "number"])
def test_grid_search_in_processes_and_in_threads(task):
    estimator, other = pair(task, max_iter=15)
    grid = {"hidden_layer_sizes": [(3,), (40, 10)], "alpha": [1e-4, 1.0]}

    def search(estimator, jobs, backend):
        with joblib.parallel_backend(backend):
            return GridSearchCV(estimator, grid, cv=3, n_jobs=jobs).fit(*data(task))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = search(other, 1, "threading")
        for jobs, backend in (1, "threading"), (2, "threading"), (2, "loky"):
            found = search(estimator, jobs, backend)
            assert found.best_params_ == expected.best_params_
            assert_allclose(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], 1e-6)
            assert_array_equal(found.cv_results_["rank_test_score"], expected.cv_results_["rank_test_score"])
