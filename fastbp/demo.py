"""Trains a 64-128-10 network on handwritten digits, checks its gradients and times a training step.

It is written as a user would write it: layers of fastbp, and the loss, the optimizer and the loop in plain NumPy.
"""
import argparse
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from . import Dense, DenseReLU, __version__, dense_forward, warmup

SIZES = 64, 128, 10             # pixels, hidden neurons, digits
TRAINED_ON = 1437               # of 1 797 images, 80 %
LEARNING_RATE = 0.1             # of the first epoch; it falls linearly to 0
MOMENTUM = 0.9
EPOCHS, BATCH, SEED = 30, 32, 0
ACCURACY = 0.97                 # to be reached with these three
GRADIENT_ERROR = 1e-6           # to stay below


class Digits(NamedTuple):
    """images: float32 (n, 64), 0 to 1. labels: uint8 (n,), 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


class History(NamedTuple):
    """One number an epoch; the training's are means over its batches, before each one's step."""

    loss: list[float]
    accuracy: list[float]
    test_loss: list[float]
    test_accuracy: list[float]


def load_digits() -> Digits:
    """All 1 797 digits, in the order of their source (see data/README.md)."""
    with (files("fastbp") / "data" / "digits.npz").open("rb") as file, np.load(file) as arrays:
        return Digits(arrays["images"] / np.float32(16), arrays["labels"])


def split(digits: Digits) -> tuple[Digits, Digits]:
    """Two random parts, always the same: TRAINED_ON to train on and the others to test on."""
    order = np.random.default_rng(0).permutation(len(digits.labels))
    return tuple(Digits(digits.images[part], digits.labels[part]) for part in (order[:TRAINED_ON], order[TRAINED_ON:]))


class Network:
    """A hidden layer with ReLU and an output layer."""

    def __init__(self, hidden: "Dense | NumPyLayer", output: "Dense | NumPyLayer"):
        self.layers = hidden, output

    def forward(self, inputs: np.ndarray) -> np.ndarray:
        """Scores (n, 10) of images (n, 64)."""
        for layer in self.layers:
            inputs = layer.forward(inputs)
        return inputs

    def backward(self, dvalues: np.ndarray) -> np.ndarray | None:
        """Gradients of all weights and biases from that of the scores; returns that of the images if it is wanted."""
        for layer in reversed(self.layers):
            dvalues = layer.backward(dvalues)
        return dvalues

    def parameters(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(values, gradients) of each array to train."""
        for layer in self.layers:
            yield layer.weights, layer.dweights
            yield layer.biases, layer.dbiases


def fastbp_network(rng: np.random.Generator, dtype: type = np.float32, need_dinputs: bool = False) -> Network:
    """The network of fastbp's layers. need_dinputs: whether backward returns the gradient of the images."""
    pixels, hidden, digits = SIZES
    return Network(DenseReLU(pixels, hidden, dtype=dtype, rng=rng, need_dinputs=need_dinputs),
                   Dense(hidden, digits, dtype=dtype, rng=rng))


class NumPyLayer:
    """The same layer in plain NumPy, with a copy of a fastbp layer's weights and biases."""

    def __init__(self, layer: Dense):
        self.weights, self.biases = layer.weights.copy(), layer.biases.copy()
        self.relu, self.need_dinputs = isinstance(layer, DenseReLU), layer.need_dinputs

    def forward(self, inputs: np.ndarray) -> np.ndarray:
        self.inputs, self.output = inputs, inputs @ self.weights + self.biases
        if self.relu:
            np.maximum(self.output, 0, out=self.output)
        return self.output

    def backward(self, dvalues: np.ndarray) -> np.ndarray | None:
        if self.relu:
            dvalues = dvalues * (self.output > 0)
        self.dweights = self.inputs.T @ dvalues
        self.dbiases = dvalues.sum(axis=0, keepdims=True)
        return dvalues @ self.weights.T if self.need_dinputs else None


def softmax_cross_entropy(scores: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean loss of scores (n, 10), and its gradient with respect to them."""
    samples = np.arange(len(labels))
    scores = scores - scores.max(axis=1, keepdims=True)
    gradient = np.exp(scores)
    sums = gradient.sum(axis=1, keepdims=True)
    loss = (np.log(sums[:, 0]) - scores[samples, labels]).mean()
    gradient /= sums                        # the probabilities
    gradient[samples, labels] -= 1
    gradient /= len(labels)
    return float(loss), gradient


class Momentum:
    """Stochastic gradient descent with momentum."""

    def __init__(self, network: Network):
        self.network = network
        self.velocities = [np.zeros_like(array) for layer in network.layers for array in (layer.weights, layer.biases)]

    def step(self, rate: float) -> None:
        """Change the weights and biases in place by their last gradients."""
        for velocity, (values, gradients) in zip(self.velocities, self.network.parameters(), strict=True):
            velocity *= MOMENTUM
            velocity -= rate * gradients
            values += velocity


def training_step(network: Network, optimizer: Momentum, digits: Digits, rate: float) -> tuple[float, float]:
    """Forward, loss, backward, update. Returns the loss and the accuracy before the update."""
    scores = network.forward(digits.images)
    loss, gradient = softmax_cross_entropy(scores, digits.labels)
    network.backward(gradient)
    optimizer.step(rate)
    return loss, accuracy(scores, digits.labels)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of samples whose label has the highest score."""
    return float((scores.argmax(axis=1) == labels).mean())


def train(network: Network, training: Digits, test: Digits, epochs: int, batch: int,
          rng: np.random.Generator) -> History:
    """Train in mini-batches that are drawn anew each epoch, with a progress bar on a terminal."""
    history, optimizer = History([], [], [], []), Momentum(network)
    progress = tqdm(range(epochs), "Training", unit="epoch", disable=None)
    for epoch in progress:
        order, rate = rng.permutation(len(training.labels)), LEARNING_RATE * (1 - epoch / epochs)
        parts = [order[start:start + batch] for start in range(0, len(order), batch)]
        steps = [training_step(network, optimizer, Digits(training.images[part], training.labels[part]), rate)
                 for part in parts]
        loss, correct = np.average(steps, axis=0, weights=[len(part) for part in parts])
        scores = network.forward(test.images)
        numbers = loss, correct, softmax_cross_entropy(scores, test.labels)[0], accuracy(scores, test.labels)
        for values, number in zip(history, numbers, strict=True):
            values.append(float(number))
        progress.set_postfix(loss=f"{loss:.4f}", test_accuracy=f"{history.test_accuracy[-1]:.3f}")
    return history


def gradient_error(network: Network, digits: Digits, rng: np.random.Generator,
                   samples: int = 64, places: int = 300) -> float:
    """The largest error of the gradients against central differences, relative to each array's largest gradient.

    network: float64, with need_dinputs. Up to `places` random places are changed of each of its weights and biases and
    of the images, by ±1e-5, which moves a hidden neuron's z by less than 1e-4. So that none crosses the kink of ReLU at
    z = 0, where the differences would have no gradient to agree with, the samples are ones with every |z| above 1e-4.
    """
    hidden, change = network.layers[0], 1e-5
    z = dense_forward(digits.images.astype(np.float64), hidden.weights, hidden.biases)
    chosen = np.flatnonzero((np.abs(z) > 1e-4).all(axis=1))[:samples]
    images, labels = digits.images[chosen].astype(np.float64), digits.labels[chosen]

    def loss():
        return softmax_cross_entropy(network.forward(images), labels)

    dimages = network.backward(loss()[1])
    errors = []
    for values, gradients in [*network.parameters(), (images, dimages)]:
        places_here = rng.permutation(values.size)[:places]
        differences = [_central_difference(values, place, change, lambda: loss()[0]) for place in places_here]
        errors.append(np.abs(differences - gradients.flat[places_here]).max() / np.abs(gradients).max())
    return float(np.max(errors))        # NaN if any is


def _central_difference(values, place, change, function):
    before = values.flat[place]
    values.flat[place] = before + change
    above = function()
    values.flat[place] = before - change
    below = function()
    values.flat[place] = before
    return (above - below) / (2 * change)


def median_seconds(functions: list[Callable[[], object]], turns: int = 6, seconds: float = 0.05) -> list[float]:
    """The median time of a call of each function.

    Each is called for that many seconds in each of its turns. In turns, so that a change of the machine's load meets
    all of them; for a while, because the threads of NumPy's BLAS and of fastbp disturb each other until they sleep.
    """
    times = [[] for _ in functions]
    for _ in range(turns):
        for function, taken in zip(functions, times, strict=True):
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                function()
                taken.append(time.perf_counter() - start)
    return [float(np.median(taken)) for taken in times]


def step_times(digits: Digits, batch: int, rng: np.random.Generator) -> Iterator[tuple[str, list[float]]]:
    """(what, [seconds with fastbp, seconds in plain NumPy]) for a whole training step, and for its layers alone."""
    digits = Digits(digits.images[:batch], digits.labels[:batch])
    ours = fastbp_network(rng)
    networks = ours, Network(*map(NumPyLayer, ours.layers))
    _, gradient = softmax_cross_entropy(ours.forward(digits.images), digits.labels)

    def step(network):
        optimizer = Momentum(network)       # at rate 0, so that all steps do the same work
        network.forward(digits.images)
        network.backward(gradient)
        return lambda: training_step(network, optimizer, digits, rate=0.0)

    def layers(network):
        return lambda: (network.forward(digits.images), network.backward(gradient))

    yield "whole step", median_seconds([step(network) for network in networks])
    yield "layers only", median_seconds([layers(network) for network in networks])


def plot(history: History, path: Path) -> None:
    """Draw the loss and the accuracy of each epoch into a file: PNG, or what else matplotlib knows by its suffix."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    figure.suptitle("Training a 64-128-10 network on handwritten digits")
    epochs = range(1, len(history.loss) + 1)
    marker = "o" if len(epochs) == 1 else ""
    curves = ("Loss", history.loss, history.test_loss), ("Accuracy", history.accuracy, history.test_accuracy)
    for axes, (name, training, test) in zip(figure.subplots(1, 2), curves, strict=True):
        axes.plot(epochs, training, marker=marker, label="training, mean over the epoch")
        axes.plot(epochs, test, marker=marker, label="test, after the epoch")
        axes.set(xlabel="Epoch", xlim=(0.5, len(epochs) + 0.5), ylabel=name, yscale="log" if name == "Loss" else "linear")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.savefig(path)


def check_plot(path: Path) -> None:
    """Before the work: ArgumentError if `plot` could not write that file."""
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentError(None, "argument --plot: needs matplotlib; install it: pip install 'fastbp[plot]'")
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise argparse.ArgumentError(None, f"argument --plot: expected a file name such as curves.png, got '{path}'")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentError(None, f"argument --plot: there is no folder '{path.parent}'")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m fastbp demo`."""
    parser.add_argument("--epochs", type=positive, default=EPOCHS, help=f"passes over the images; default: {EPOCHS}")
    parser.add_argument("--batch", type=positive, default=BATCH, help=f"images a training step; default: {BATCH}")
    parser.add_argument("--seed", type=_natural, default=SEED, help=f"of weights and batches; default: {SEED}")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the loss and accuracy curves")


def _natural(text, least=0):
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {number}")
    return number


def positive(text: str) -> int:
    """The type of an option that is a whole number from 1."""
    return _natural(text, least=1)


_natural.__name__ = positive.__name__ = "whole number"      # argparse: "invalid whole number value: 'x'"


def run(options: argparse.Namespace) -> int:
    """Train, check and time. Returns 1 if the gradients are wrong or the default training is not accurate enough."""
    if options.plot:
        check_plot(options.plot)
    digits = load_digits()
    training, test = split(digits)
    print(f"fastbp {__version__}: a {'-'.join(map(str, SIZES))} network in float32 on handwritten digits, "
          f"{len(training.labels)} to train on and {len(test.labels)} to test on")
    _prepare()
    history = _train(options, training, test)
    reached = _report_accuracy(options, history, len(test.labels))
    right = _report_gradients(digits)
    _report_times(training, options.batch)
    if options.plot:
        plot(history, options.plot)
        print(f"\nLoss and accuracy curves: {options.plot}")
    return 0 if reached and right else 1


def _prepare():
    print("Compiling, or loading what an earlier run compiled ...", end=" ", flush=True)
    start = time.perf_counter()
    warmup()
    print(f"{time.perf_counter() - start:.1f} s")


def _train(options, training, test):
    rng = np.random.default_rng(options.seed)
    start = time.perf_counter()
    history = train(fastbp_network(rng), training, test, options.epochs, options.batch, rng)
    print(f"Trained for {options.epochs} epochs in batches of {options.batch} in {time.perf_counter() - start:.2f} s\n")
    return history


def _report_accuracy(options, history, tested):
    reached = history.test_accuracy[-1]
    expected = (options.epochs, options.batch, options.seed) == (EPOCHS, BATCH, SEED)
    enough = reached >= ACCURACY or not expected
    note = "" if not expected else f"; at least {ACCURACY} expected" + ("" if enough else ": FAILED")
    print(f"Test accuracy    {reached:.4f}   {round(reached * tested)} of {tested} images{note}")
    return enough


def _report_gradients(digits):
    rng = np.random.default_rng(0)
    error = gradient_error(fastbp_network(rng, np.float64, need_dinputs=True), digits, rng)
    right = error < GRADIENT_ERROR
    print(f"Gradient check   {error:.1e}  largest relative error against central differences in float64; "
          f"below {GRADIENT_ERROR:.0e} expected" + ("" if right else ": FAILED"))
    return right


def _report_times(training, batch):
    print(f"\n{'Median time of a training step':<36}{'fastbp':>12}{'plain NumPy':>16}{'ratio':>9}")
    for images in sorted({min(batch, TRAINED_ON), TRAINED_ON}):
        for what, (ours, theirs) in step_times(training, images, np.random.default_rng(0)):
            name = f"{images} images, {what}"
            print(f"  {name:<34}{ours * 1e6:>9.0f} µs{theirs * 1e6:>13.0f} µs{theirs / ours:>9.2f}")
