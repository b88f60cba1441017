"""What older versions left behind: pickles and Numba's cache files name modules that have moved since."""
import importlib
import pickle

import numpy as np
import pytest

import fastbp
from fastbp._compile import link
from fastbp.sklearn import MLPClassifier

# The modules that pickles and cache files name, and what they ask of them.
NAMES = {"fastbp._link": ["_bind"], "fastbp.compiled": [], "fastbp.fit": ["History"], "fastbp.jitted": ["Jitted"],
         "fastbp.sklearn_optimizers": ["SGD", "Adam"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_module_is_found_under_its_older_name(name):
    module = importlib.import_module(name)
    assert all(hasattr(module, attribute) for attribute in NAMES[name])


def test_cached_code_of_an_older_version_hears_what_to_do():
    bind = importlib.import_module("fastbp._link")._bind
    with pytest.raises(ImportError, match="compiled for another fastbp .*delete Numba's cache files"):
        bind("forward-float32", link.ABI - 1, False)


def older(content):
    """Return a pickle with the names that its modules had before."""
    content = content.replace(b"fastbp.sklearn.optimizers", b"fastbp.sklearn_optimizers")
    return content.replace(b"cfastbp\nHistory", b"cfastbp.fit\nHistory")


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_pickled_estimator_is_loaded(solver):
    x, y = np.eye(4, dtype=np.float32), [0, 1, 0, 1]
    with pytest.warns(Warning):
        fitted = MLPClassifier(max_iter=2, random_state=0, solver=solver).fit(x, y)
    content = older(pickle.dumps(fitted, protocol=0))
    assert b"fastbp.sklearn_optimizers" in content and b"fastbp.sklearn.optimizers" not in content
    np.testing.assert_array_equal(pickle.loads(content).predict_proba(x), fitted.predict_proba(x))


def test_a_history_is_pickled_under_its_public_name():
    network = fastbp.Sequential([fastbp.Dense(3, 2, rng=0)], fastbp.MeanSquaredError())
    x = np.ones((4, 3), np.float32)
    history = network.fit(x, x[:, :2], epochs=2, batch_size=2, optimizer=fastbp.SGD(0.1), progress=False, rng=0)
    content = pickle.dumps(history, protocol=0)
    assert b"_training" not in content
    for one in (content, older(content)):
        assert pickle.loads(one).loss == history.loss


def test_a_layer_of_ones_own_runs_in_a_network():
    class Doubled:
        def forward(self, inputs):
            return inputs * 2

        def backward(self, dvalues):
            return dvalues * 2

    network = fastbp.Sequential([fastbp.DenseReLU(5, 4, rng=0), fastbp.Dense(4, 3, rng=1)])
    x = np.ones((8, 5), np.float32)
    plain = network.layers[1].forward(2 * network.layers[0].forward(x)).copy()
    network.layers.insert(1, Doubled())
    np.testing.assert_array_equal(network.forward(x, training=True), plain)
