"""`python -m fastbp demo`: its data, its training, its check of the gradients, its NumPy twin and its exit status."""
import hashlib
import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fastbp
from fastbp import demo
from fastbp.__main__ import main


@pytest.fixture(scope="module")
def digits():
    return demo.load_digits()


@pytest.fixture
def quick(monkeypatch):
    """The demo without the time that it takes to measure time."""
    monkeypatch.setattr(demo, "median_seconds", lambda functions: [function() and 1.0 for function in functions])


def test_digits(digits):
    assert digits.images.shape == (1797, 64) and digits.images.dtype == np.float32
    pixels = (digits.images * 16).astype(np.uint8)
    assert (pixels / np.float32(16) == digits.images).all()
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # Of scikit-learn's load_digits(), both arrays as bytes.
    assert hashlib.sha256(pixels.tobytes() + digits.labels.tobytes()).hexdigest() == \
        "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_split_uses_every_digit_once(digits):
    training, test = demo.split(digits)
    assert len(training.labels) == 1437 and len(test.labels) == 360

    def rows(part):
        return sorted((bytes(image), label) for image, label in zip(part.images, part.labels, strict=True))

    assert sorted(rows(training) + rows(test)) == rows(digits)


def test_a_short_training_learns(digits, rng):
    training, test = demo.split(digits)
    history = demo.train(demo.fastbp_network(rng), training, test, epochs=8, batch=32, rng=rng)
    assert [len(values) for values in history] == [8, 8, 8, 8]
    assert history.test_accuracy[-1] > 0.95
    assert history.loss[-1] < history.loss[0] / 5


def test_an_epoch_uses_every_image_once(digits, rng, monkeypatch):
    seen, step = [], demo.training_step
    monkeypatch.setattr(demo, "training_step", lambda network, optimizer, batch, rate: (
        seen.extend(bytes(image) for image in batch.images) or step(network, optimizer, batch, rate)))
    training, test = demo.split(digits)
    demo.train(demo.fastbp_network(rng), training, test, epochs=1, batch=100, rng=rng)
    assert sorted(seen) == sorted(bytes(image) for image in training.images)
    assert seen != [bytes(image) for image in training.images], "not shuffled"


def test_momentum_takes_the_step_of_its_formula(rng):
    network = demo.fastbp_network(rng, np.float64)
    optimizer = demo.Momentum(network)
    network.backward(network.forward(rng.random((5, 64))))
    before = [(values.copy(), gradients.copy()) for values, gradients in network.parameters()]
    optimizer.step(0.5)
    optimizer.step(0.25)
    for (values, _), (start, gradient) in zip(network.parameters(), before, strict=True):
        first = -0.5 * gradient
        assert_allclose(values, start + first + (0.9 * first - 0.25 * gradient), rtol=1e-13, atol=1e-15)


def test_softmax_cross_entropy(rng):
    scores, labels = rng.standard_normal((7, 10)), rng.integers(0, 10, 7)
    loss, gradient = demo.softmax_cross_entropy(scores, labels)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert_allclose(loss, -np.mean([np.log(row[label]) for row, label in zip(probabilities, labels, strict=True)]))
    assert_allclose(gradient, (probabilities - np.eye(10)[labels]) / 7)
    assert_allclose(demo.softmax_cross_entropy(scores + 1e4, labels)[0], loss, rtol=1e-10)      # no overflow


def test_the_numpy_twin_is_the_same_network(rng):
    ours = demo.fastbp_network(rng, np.float64, need_dinputs=True)
    twin = demo.Network(*map(demo.NumPyLayer, ours.layers))
    images, dscores = rng.standard_normal((50, 64)), rng.standard_normal((50, 10))
    assert_allclose(ours.forward(images), twin.forward(images), rtol=1e-11, atol=1e-12)
    assert_allclose(ours.backward(dscores), twin.backward(dscores), rtol=1e-11, atol=1e-12)
    for (_, gradients), (_, expected) in zip(ours.parameters(), twin.parameters(), strict=True):
        assert_allclose(gradients, expected, rtol=1e-11, atol=1e-12)


class WrongWeights(fastbp.DenseReLU):
    def backward(self, dvalues):
        dinputs = super().backward(dvalues)
        self.dweights *= 1.00001
        return dinputs


class WrongBias(fastbp.DenseReLU):
    def backward(self, dvalues):
        dinputs = super().backward(dvalues)
        self.dbiases[0, 77] += 1e-5
        return dinputs


class WrongInputs(fastbp.DenseReLU):
    def backward(self, dvalues):
        return super().backward(dvalues)[::-1]


class NoMask(fastbp.DenseReLU):
    def backward(self, dvalues):
        self.dinputs, self.dweights, self.dbiases = fastbp.dense_backward(dvalues, self.inputs, self.weights)
        return self.dinputs


class NaNBias(fastbp.DenseReLU):
    def backward(self, dvalues):
        dinputs = super().backward(dvalues)
        self.dbiases[0, 3] = np.nan
        return dinputs


def gradient_error(hidden, digits):
    network = demo.Network(hidden(64, 128, dtype=np.float64, rng=1), fastbp.Dense(128, 10, dtype=np.float64, rng=2))
    return demo.gradient_error(network, digits, np.random.default_rng(3))


def test_right_gradients_pass_the_check(digits):
    assert gradient_error(fastbp.DenseReLU, digits) < demo.GRADIENT_ERROR / 10


@pytest.mark.parametrize("hidden", [WrongWeights, WrongBias, WrongInputs, NoMask, NaNBias])
def test_wrong_gradients_do_not(hidden, digits):
    assert not gradient_error(hidden, digits) < demo.GRADIENT_ERROR


def test_the_check_leaves_the_network_as_it_was(digits, rng):
    network = demo.fastbp_network(rng, np.float64, need_dinputs=True)
    before = [(layer.weights.copy(), layer.biases.copy()) for layer in network.layers]
    demo.gradient_error(network, digits, rng)
    for layer, (weights, biases) in zip(network.layers, before, strict=True):
        assert (layer.weights == weights).all() and (layer.biases == biases).all()


def test_demo_prints_and_draws(quick, tmp_path, capsys):
    image = tmp_path / "curves.png"
    assert main(["demo", "--epochs", "2", "--batch", "100", "--seed", "5", "--plot", str(image)]) == 0
    printed = capsys.readouterr().out
    for words in ("Test accuracy", "Gradient check", "100 images, whole step", "1437 images, layers only", str(image)):
        assert words in printed
    assert "FAILED" not in printed
    assert image.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_default_training_reaches_its_accuracy(quick, capsys):
    assert main(["demo"]) == 0


def test_too_low_an_accuracy_fails(quick, monkeypatch, capsys):
    monkeypatch.setattr(demo, "EPOCHS", 1)
    monkeypatch.setattr(demo, "ACCURACY", 1.01)
    assert main(["demo"]) == 1
    assert "at least 1.01 expected: FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("error", [1e-6, 0.5, np.nan])
def test_wrong_gradients_fail(error, quick, monkeypatch, capsys):
    monkeypatch.setattr(demo, "gradient_error", lambda *arguments: error)
    assert main(["demo", "--epochs", "1"]) == 1
    assert "below 1e-06 expected: FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--epochs", "0"], ["--batch", "-1"], ["--seed", "-1"], ["--batch", "1.5"],
                                     ["--plot", "curves.nonsense"], ["--plot", "no/such/folder/curves.png"]])
def test_wrong_options_are_named(options, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["demo", *options])
    assert stop.value.code == 2
    assert f"error: argument {options[0]}:" in capsys.readouterr().err


def test_plot_without_matplotlib_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--plot", "curves.png"])
    assert stop.value.code == 2
    assert "pip install 'fastbp[plot]'" in capsys.readouterr().err


def test_median_seconds_calls_in_turns():
    calls = []
    times = demo.median_seconds([lambda: calls.append("a"), lambda: calls.append("b")], turns=3, seconds=0.001)
    assert len(times) == 2 and min(times) >= 0
    assert [name for name, _ in itertools.groupby(calls)] == ["a", "b"] * 3
