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
    monkeypatch.setattr(demo, "median_seconds", lambda functions: [(function(), 1.0)[1] for function in functions])


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
    history = demo.train(demo.make_network(rng), training, test, epochs=8, batch=32, rng=rng)
    assert len(history.loss) == len(history.validation_accuracy) == 8
    assert history.validation_accuracy[-1] > 0.95
    assert history.loss[-1] < history.loss[0] / 5


def test_the_rate_falls_to_0(digits, rng, monkeypatch):
    rates = []

    class Spied(fastbp.SGD):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            rates.append(self)

    monkeypatch.setattr(demo, "SGD", Spied)
    network, images = demo.make_network(rng), demo.Digits(digits.images[:50], digits.labels[:50])
    demo.train(network, images, images, epochs=4, batch=25, rng=rng)
    assert rates[0].learning_rate == pytest.approx(demo.LEARNING_RATE / 4) and rates[0].iterations == 8


def test_softmax_cross_entropy(rng):
    scores, labels = rng.standard_normal((7, 10)), rng.integers(0, 10, 7)
    loss, gradient = demo.softmax_cross_entropy(scores, labels)
    expected, expected_gradient = fastbp.SoftmaxCrossEntropy().value_and_gradient(scores, labels)
    assert_allclose(loss, expected)
    assert_allclose(gradient, expected_gradient, atol=1e-15)
    assert_allclose(demo.softmax_cross_entropy(scores + 1e4, labels)[0], loss, rtol=1e-10)      # no overflow


def test_the_numpy_twin_learns_the_same(digits, rng):
    images, labels = digits.images[:100], digits.labels[:100]
    ours = demo.make_network(rng)
    twin, optimizer = demo.NumPyNetwork(ours), fastbp.SGD(demo.LEARNING_RATE, momentum=demo.MOMENTUM)
    for _ in range(3):
        history = ours.fit(images, labels, epochs=1, batch_size=100, optimizer=optimizer, shuffle=False)
        assert_allclose(history.loss[0], twin.step(images, labels), rtol=1e-4)
    for values, layer in zip(ours.parameters()[::2], twin.layers, strict=True):
        assert_allclose(values, layer.weights, rtol=1e-3, atol=1e-5)


def test_the_numpy_epoch_uses_every_image_once(digits, rng, monkeypatch):
    seen = []
    monkeypatch.setattr(demo.NumPyNetwork, "step", lambda self, images, labels: seen.extend(map(bytes, images)))
    demo.NumPyNetwork(demo.make_network(rng)).epoch(digits, 100, rng)
    assert sorted(seen) == sorted(map(bytes, digits.images)) and seen != list(map(bytes, digits.images))


def test_demo_prints_and_draws(quick, tmp_path, capsys):
    image = tmp_path / "curves.png"
    assert main(["demo", "--epochs", "2", "--batch", "100", "--seed", "5", "--plot", str(image)]) == 0
    printed = capsys.readouterr().out
    for words in ("Test accuracy", "Gradient check", "epoch, batches of 100", "layers only, 1437 images", str(image)):
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
    monkeypatch.setattr(fastbp.Sequential, "check_gradients", lambda *arguments: error)
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
