"""A demonstration: trains a 64-128-10 network on handwritten digits, checks its gradients and times it beside plain NumPy.

The code is what a user would write, with `fit`. The same network in plain NumPy shows what `fit` does.
"""
import argparse
import os
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import SGD, Dense, DenseReLU, Sequential, SoftmaxCrossEntropy, __version__
from ._arrays.memory import shuffled
from ._files import atomic
from ._runtime import terminal
from ._training.loop import History

SIZES = 64, 128, 10             # The layers have these sizes: pixels, hidden neurons, digits.
TRAINED_ON = 1437               # The network trains on this many of the 1 797 images, 80 %.
LEARNING_RATE = 0.1             # This is the learning rate of the first epoch. It falls linearly to 0.
MOMENTUM = 0.9                  # A training step adds this fraction of the last step.
EPOCHS = 30                     # This is the default number of passes over the images.
BATCH = 32                      # This is the default number of images in a training step.
SEED = 0                        # This is the default seed of weights and batches.
ACCURACY = 0.97                 # The test accuracy has to reach this with the three defaults.
CHECKED = 64                    # The gradient check uses this many images.
GRADIENT_ERROR = 1e-6           # The relative error of its gradients has to stay below this.


class Digits(NamedTuple):
    """Images, float32 (n, 64) from 0 to 1, and their labels, uint8 (n,) from 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


def load_digits() -> Digits:
    """Return all 1 797 digits, in the order of their source (see data/README.md)."""
    with (files("fastbp") / "data" / "digits.npz").open("rb") as file, np.load(file) as arrays:
        return Digits(arrays["images"] / np.float32(16), arrays["labels"])


def split(digits: Digits) -> tuple[Digits, Digits]:
    """Return two random parts, the same in every call: TRAINED_ON images to train on, and the others to test on."""
    order = shuffled(np.random.default_rng(0), len(digits.labels))
    return tuple(Digits(digits.images[part], digits.labels[part]) for part in (order[:TRAINED_ON], order[TRAINED_ON:]))


def make_network(rng: np.random.Generator) -> Sequential:
    """Return a network of a hidden layer with ReLU and an output layer, in float32."""
    pixels, hidden, digits = SIZES
    return Sequential([DenseReLU(pixels, hidden, rng=rng, need_dinputs=False), Dense(hidden, digits, rng=rng)],
                      SoftmaxCrossEntropy())


def train(network: Sequential, training: Digits, test: Digits, epochs: int, batch: int, rng: np.random.Generator) -> History:
    """Train with momentum and a learning rate that falls linearly to 0, with a progress bar on a terminal."""
    optimizer = SGD(LEARNING_RATE, momentum=MOMENTUM)

    def lower_the_rate(network, history):
        optimizer.learning_rate = LEARNING_RATE * max(1 - len(history.loss) / epochs, 1 / epochs)

    return network.fit(training.images, training.labels, epochs=epochs, batch_size=batch, optimizer=optimizer,
                       validation_data=(test.images, test.labels), rng=rng, callbacks=[lower_the_rate])


class NumPyLayer:
    """A layer in plain NumPy, with copies of a fastbp layer's weights and biases."""

    def __init__(self, layer: Dense):
        self.weights, self.biases = layer.weights.copy(), layer.biases.copy()
        self.relu, self.need_dinputs = isinstance(layer, DenseReLU), layer.need_dinputs

    def forward(self, inputs: np.ndarray) -> np.ndarray:
        """Return the output (rows, neurons) for inputs (rows, inputs)."""
        self.inputs, self.output = inputs, inputs @ self.weights + self.biases
        if self.relu:
            np.maximum(self.output, 0, out=self.output)
        return self.output

    def backward(self, dvalues: np.ndarray) -> np.ndarray | None:
        """Set dweights and dbiases, and return dinputs if the layer needs them."""
        if self.relu:
            dvalues = dvalues * (self.output > 0)
        self.dweights = self.inputs.T @ dvalues
        self.dbiases = dvalues.sum(axis=0, keepdims=True)
        return dvalues @ self.weights.T if self.need_dinputs else None


class NumPyNetwork:
    """A network and its training in plain NumPy, with copies of a fastbp network's weights and biases."""

    def __init__(self, network: Sequential):
        self.layers = [NumPyLayer(layer) for layer in network.layers]
        self.velocities = [np.zeros_like(values) for values in network.parameters()]

    def forward(self, inputs: np.ndarray) -> np.ndarray:
        """Return the scores (rows, 10) for inputs (rows, 64)."""
        for layer in self.layers:
            inputs = layer.forward(inputs)
        return inputs

    def backward(self, dvalues: np.ndarray) -> np.ndarray | None:
        """Set the gradients of all layers, and return the first one's dinputs, if it needs them."""
        for layer in reversed(self.layers):
            dvalues = layer.backward(dvalues)
        return dvalues

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Run forward, loss and backward, change the parameters with momentum, and return the loss."""
        loss, gradient = softmax_cross_entropy(self.forward(images), labels)
        self.backward(gradient)
        arrays = [pair for layer in self.layers for pair in ((layer.weights, layer.dweights), (layer.biases, layer.dbiases))]
        for velocity, (values, gradients) in zip(self.velocities, arrays, strict=True):
            velocity *= MOMENTUM
            velocity -= LEARNING_RATE * gradients
            values += velocity
        return loss

    def epoch(self, digits: Digits, batch: int, rng: np.random.Generator) -> None:
        """Make steps over all images, in a new random order."""
        order = shuffled(rng, len(digits.labels))
        for start in range(0, len(order), batch):
            part = order[start:start + batch]
            self.step(digits.images[part], digits.labels[part])


def softmax_cross_entropy(scores: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean loss of scores (n, 10) and its gradient with respect to the scores, in plain NumPy."""
    samples = np.arange(len(labels), dtype=np.int64)
    scores = scores - scores.max(axis=1, keepdims=True)
    gradient = np.exp(scores)
    sums = gradient.sum(axis=1, keepdims=True)
    loss = (np.log(sums[:, 0]) - scores[samples, labels]).mean()
    gradient /= sums                        # the probabilities
    gradient[samples, labels] -= 1
    gradient /= len(labels)
    return float(loss), gradient


def median_seconds(functions: list[Callable[[], object]], turns: int = 6, seconds: float = 0.05) -> list[float]:
    """Return the median time of a call of each function, in seconds.

    The functions take turns, so that a change of the machine's load affects all of them. In a turn a function is called again
    and again for some seconds, because the threads of NumPy's BLAS and of fastbp disturb each other until they sleep.
    """
    times = [[] for _ in functions]
    for _ in range(turns):
        for function, taken in zip(functions, times, strict=True):
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                function()
                taken.append(time.perf_counter() - start)
    return [float(np.median(taken)) for taken in times]


def times(digits: Digits, batch: int, rng: np.random.Generator) -> Iterator[tuple[str, list[float]]]:
    """Yield (what, [seconds with fastbp, seconds in plain NumPy]) for an epoch, and for the layers alone on a batch."""
    ours = make_network(rng)
    theirs, optimizer = NumPyNetwork(ours), SGD(LEARNING_RATE, momentum=MOMENTUM)
    yield f"epoch, batches of {batch}", median_seconds([
        lambda: ours.fit(digits.images, digits.labels, epochs=1, batch_size=batch, optimizer=optimizer, rng=rng,
                         progress=False),
        lambda: theirs.epoch(digits, batch, rng)])
    for images in sorted({batch, len(digits.labels)}):
        inputs, dscores = digits.images[:images], rng.standard_normal((images, SIZES[-1]), np.float32)
        yield f"layers only, {images} images", median_seconds([
            lambda network=network, inputs=inputs, dscores=dscores: (network.forward(inputs), network.backward(dscores))
            for network in (ours, theirs)])


def plot(history: History, path: Path) -> None:
    """Draw the loss and the accuracy of each epoch into a file: PNG, or another format that matplotlib knows by its suffix."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    figure.suptitle("Training a 64-128-10 network on handwritten digits")
    epochs = range(1, len(history.loss) + 1)
    marker = "o" if len(epochs) == 1 else ""
    curves = (("Loss", history.loss, history.validation_loss), ("Accuracy", history.accuracy, history.validation_accuracy))
    for axes, (name, training, test) in zip(figure.subplots(1, 2), curves, strict=True):
        axes.plot(epochs, training, marker=marker, label="training, mean over the epoch")
        axes.plot(epochs, test, marker=marker, label="test, after the epoch")
        axes.set(xlabel="Epoch", xlim=(0.5, len(epochs) + 0.5), ylabel=name, yscale="log" if name == "Loss" else "linear")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    content = BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower())
    atomic.write(path, content.getvalue())


def check_file(name: str, path: Path) -> None:
    """Raise ArgumentError if the file that an option names cannot be written. To be called before the work."""
    try:
        is_folder, folder_is_there = path.is_dir(), path.absolute().parent.is_dir()
    except OSError as error:                    # for example, the name is too long
        raise argparse.ArgumentError(None, f"argument --{name}: {error.strerror}: '{path}'") from None
    if is_folder or not folder_is_there:
        raise argparse.ArgumentError(None, f"argument --{name}: expected a file in a folder that exists, got '{path}'")
    if not os.access(path.absolute().parent, os.W_OK):
        raise argparse.ArgumentError(None, f"argument --{name}: the folder '{path.absolute().parent}' cannot be written")


def check_plot(path: Path) -> None:
    """Raise ArgumentError if `plot` could not write this file. To be called before the work."""
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentError(None, "argument --plot: needs matplotlib; install it: pip install 'fastbp[plot]'")
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise argparse.ArgumentError(None, f"argument --plot: expected a file name such as curves.png, got '{path}'")
    check_file("plot", path)


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
    """Return the whole number from 1 that an option's text holds, or raise what argparse expects of a type."""
    return _natural(text, least=1)


_natural.__name__ = positive.__name__ = "whole number"      # argparse prints "invalid whole number value: 'x'"


def run(options: argparse.Namespace) -> int:
    """Train, check and time. Return 1 if the gradients are wrong or the default training is not accurate enough, else 0."""
    if options.plot:
        check_plot(options.plot)
    digits = load_digits()
    training, test = split(digits)
    print(terminal.fill(f"fastbp {__version__}: a {'-'.join(map(str, SIZES))} network in float32 on handwritten digits, "
                        f"{len(training.labels)} to train on and {len(test.labels)} to test on"))
    _prepare(training, options.batch)
    history = _train(options, training, test)
    if options.plot:
        plot(history, options.plot)
    reached = _report_accuracy(options, history, len(test.labels))
    right = _report_gradients(digits)
    if terminal.is_read():
        _report_times(training, options.batch)
    if options.plot:
        print(f"\nLoss and accuracy curves: {options.plot}")
    return 0 if reached and right else 1


def _prepare(digits, batch):
    print("Compiling, or loading compiled code ...", end=" ", flush=True)
    start = time.perf_counter()
    images, labels = digits.images[:CHECKED], digits.labels[:CHECKED]
    network = make_network(np.random.default_rng(0))
    network.fit(images, labels, epochs=1, batch_size=batch, optimizer=SGD(), validation_data=(images, labels), progress=False)
    network.check_gradients(images, labels)
    print(f"{time.perf_counter() - start:.1f} s")


def _train(options, training, test):
    rng = np.random.default_rng(options.seed)
    network = make_network(rng)
    print(f"{network.summary()}\n")
    start = time.perf_counter()
    history = train(network, training, test, options.epochs, options.batch, rng)
    if history.interrupted:
        raise KeyboardInterrupt
    print(terminal.fill(f"Trained for {options.epochs} epochs in batches of {options.batch} in "
                        f"{time.perf_counter() - start:.2f} s") + "\n")
    return history


def _report_accuracy(options, history, tested):
    reached = history.validation_accuracy[-1]
    is_default = (options.epochs, options.batch, options.seed) == (EPOCHS, BATCH, SEED)
    enough = reached >= ACCURACY or not is_default
    note = "" if not is_default else f"; at least {ACCURACY} expected" + ("" if enough else ": FAILED")
    print(_fill(f"Test accuracy    {reached:.4f}   {round(reached * tested)} of {tested} images{note}"))
    return enough


def _report_gradients(digits):
    error = make_network(np.random.default_rng(0)).check_gradients(digits.images[:CHECKED], digits.labels[:CHECKED])
    right = error < GRADIENT_ERROR
    print(_fill(f"Gradient check   {error:.1e}  largest relative error against central differences in float64; "
                f"below {GRADIENT_ERROR:.0e} expected" + ("" if right else ": FAILED")))
    return right


def _fill(text):
    return terminal.fill(text, " " * 17)


def _report_times(training, batch):
    column = 36 if terminal.width() >= 36 + 12 + 16 + 9 else 0      # on a narrow terminal, names stand above the numbers
    print(f"\n{'Median time':<{column}}" + ("" if column else "\n") + f"{'fastbp':>12}{'plain NumPy':>16}{'ratio':>9}")
    for what, (ours, theirs) in times(training, min(batch, TRAINED_ON), np.random.default_rng(0)):
        print(f"{'  ' + what:<{column}}" + ("" if column else "\n")
              + f"{ours * 1e6:>9,.0f} µs{theirs * 1e6:>13,.0f} µs{theirs / ours:>9.2f}")
