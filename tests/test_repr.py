"""The texts that networks, layers and histories show for themselves, also after nonsense was assigned to them."""
import re

import numpy as np
import pytest

import fastbp
from fastbp._training.loop import History


class Nasty:
    """An object that nothing can be asked of."""

    def __repr__(self):
        raise OSError("nasty")

    def __array__(self, *arguments, **settings):
        raise OSError("nasty")


def network():
    layers = [fastbp.Dropout(0.25), fastbp.DenseReLU(3, 4, rng=0), fastbp.Dense(4, 5, rng=0), fastbp.ReLU(),
              fastbp.Dense(5, 2, rng=0)]
    return fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy())


@pytest.mark.filterwarnings("ignore:precision 'bfloat16' is not faster here:RuntimeWarning")
@pytest.mark.parametrize("make, expected", [
    (lambda: fastbp.Dense(64, 128, activation="relu"), "<Dense 64 -> 128 relu float32>"),
    (lambda: fastbp.Dense(3, 2, dtype="float64", bias=False), "<Dense 3 -> 2 identity float64, without biases>"),
    (lambda: fastbp.DenseReLU(3, 2, precision="bfloat16"), "<DenseReLU 3 -> 2 relu float32, multiplied in bfloat16>"),
    (fastbp.ReLU, "<ReLU>"),
    (lambda: fastbp.Dropout(0.5), "<Dropout 0.5>"),
    (network, "<Sequential 3-4-5-2 float32, loss SoftmaxCrossEntropy()>"),
])
def test_layers_and_networks(make, expected):
    assert repr(make()) == expected


@pytest.mark.parametrize("weights, biases, line, problem", [
    ([[1.0] * 4] * 3, None, "<DenseReLU 3 -> 4 relu list, without biases>", None),
    ([[1.0] * 4] * 3, [0.0] * 4, "<DenseReLU 3 -> 4 relu list>", None),
    (None, None, "<DenseReLU relu, without biases, weights of type NoneType, ", "weights of type NoneType, expected"),
    ([[1.0], [1.0, 2.0]], None, "<DenseReLU relu, without biases, weights of type list", "weights of type list"),
    (np.ones(3), None, "<DenseReLU relu, without biases, weights of shape (3,)", "weights of shape (3,)"),
    ("µ→", "µ→", "<DenseReLU relu, weights of type str", "weights of type str"),
    (np.ones((3, 4)), np.ones(3), "<DenseReLU 3 -> 4 relu float64, biases of shape (3,)", "biases of shape (3,)"),
    (np.ones((3, 4)), [1.0], "<DenseReLU 3 -> 4 relu float64, biases of shape (1,)", "biases of shape (1,)"),
    (Nasty(), Nasty(), "<DenseReLU relu, weights of type Nasty", "weights of type Nasty"),
])
def test_what_was_assigned(weights, biases, line, problem):
    it = network()
    it.layers[1].weights, it.layers[1].biases = weights, biases
    shown, table = repr(it.layers[1]), it.summary()
    assert shown.startswith(line) and shown.isascii() and "\n" not in shown
    assert table.isascii() and repr(it).isascii()
    assert re.search(r"Dense relu +\(rows, [4?]\) +(\?|12|16)$", table, re.M)
    assert (f"layers[1] has {problem}" in table) if problem else "layers[" not in table
    assert ("Sequential 3-4-5-2" if line[11].isdigit() else "Sequential ?-?-5-2") in repr(it)


@pytest.mark.parametrize("name, value", [("loss", Nasty()), ("_l2", None), ("_l2", 10**400), ("dtype", None), ("layers", None),
                                         ("layers", [None, "µ"]), ("layers", [])])
def test_nonsense_in_a_network(name, value):
    it = network()
    setattr(it, name, value)
    assert repr(it).isascii() and it.summary().isascii()


@pytest.mark.parametrize("layer, name", [(fastbp.Dropout(0.5), "_rate"), (fastbp.Dense(2, 2), "precision"),
                                         (fastbp.Dense(2, 2), "_kind")])
@pytest.mark.parametrize("value", [None, "é" * 1000, Nasty(), []])
def test_nonsense_in_a_layer(layer, name, value):
    before = getattr(layer, name)
    setattr(layer, name, value)
    assert repr(layer).isascii() and len(repr(layer)) < 200
    setattr(layer, name, before)


def test_an_object_that_is_not_a_whole_layer():
    assert repr(object.__new__(fastbp.Dense)) == "<Dense>"


@pytest.mark.parametrize("history, expected", [
    (History(), "<History 0 epochs>"),
    (History(interrupted=True), "<History 0 epochs, interrupted>"),
    (History([0.5], [0.25]), "<History 1 epoch: loss 0.5, accuracy 0.25>"),
    (History([0.5, 0.01234567], [], [1, 2], [0.5, np.float64(1)], True),
     "<History 2 epochs: loss 0.01235, validation_loss 2, validation_accuracy 1, interrupted>"),
    (History(None, ["µ"], [Nasty()]), "<History 0 epochs: accuracy 'u', validation_loss <Nasty instance at "),
])
def test_a_history(history, expected):
    assert repr(history).startswith(expected)
