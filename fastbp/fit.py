"""The training loop of a network: epochs of a training run, what they are like, and when to stop."""
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from . import summary, terminal
from ._memory import has_contiguous_rows, shuffled
from .layers import Dense, Dropout, ReLU
from .losses import Loss, as_weights
from .optimizers import Optimizer
from .training import Run

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}{postfix}]"


@dataclass(repr=False)
class History:
    """What each epoch was like: lists with a number for each.

    loss, accuracy                          the mean over the epoch's batches, each before its step, the penalty included
    validation_loss, validation_accuracy    after the epoch; empty without validation data
    accuracy is of whole rows for classes, of single answers for yes or no, and empty for other losses.
    interrupted: whether Ctrl-C ended the training, within the epoch after the last of these.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    interrupted: bool = False

    def __repr__(self) -> str:
        """Return the number of epochs and the last one's numbers: <History 30 epochs: loss 0.0123, accuracy 0.998>."""
        lists = {name: values for name, values in vars(self).items() if isinstance(values, list) and values}
        count = len(lists.get("loss", ()))
        last = [f"{name} {summary.shown(values[-1], '.4g')}" for name, values in lists.items()]
        return (f"<History {count} epoch{'' if count == 1 else 's'}" + (f": {', '.join(last)}" if last else "")
                + (", interrupted>" if self.interrupted else ">"))


def fit(network, x, y, *, epochs, batch_size, optimizer, sample_weight, validation_data, shuffle, rng, progress, check_finite,
        callbacks):
    """Sequential.fit."""
    callbacks = checked(network, epochs, batch_size, optimizer, callbacks)
    data = _as_data(network, x, y, sample_weight)
    validation = _as_validation(network, validation_data)
    rng = np.random.default_rng(rng)
    run = Run(network.parts(), network.n_inputs, network.loss, optimizer, min(int(batch_size), len(data[0])), l2=network.l2,
              check=check_finite, key=int(rng.integers(1 << 62)))
    run.use(*data)
    history = History()
    bar = progress_bar(epochs) if progress else None
    try:
        for epoch in range(epochs):
            order = shuffled(rng, len(data[0])) if shuffle else None
            _epoch(run, order, epoch, bar)
            _note(network, run, validation, history, bar)
            if answers(callbacks, network, history):
                break
    except KeyboardInterrupt:
        interrupted(history, epochs)
    finally:
        if bar is not None:
            bar.close()
    return history


def checked(network, epochs, batch_size, optimizer, callbacks):
    """The callbacks as a list, after looking at all of these."""
    network.needs_loss("fit")
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is {optimizer!r}, expected one such as Adam()")
    callbacks = [callbacks] if callable(callbacks) else callbacks
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks is {callbacks!r}, expected functions of the network and the History")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"callbacks holds {callback!r}, expected functions of the network and the History")
    network.check_apart()               # before copies take the places of arrays that are views of others
    network.parts()                     # looks at what was assigned to layers, before their shapes are asked for
    for i, layer in enumerate(network.layers):
        kind = next(kind for kind in (Dense, Dropout, ReLU) if isinstance(layer, kind))
        _check_methods(f"layers[{i}]", layer, kind, "forward", "backward")
    _check_methods("loss", network.loss, Loss, "value_and_gradient", "evaluate")
    _check_methods("optimizer", optimizer, Optimizer, "update")
    return callbacks


def _check_methods(what, value, kind, *names):
    """Raise TypeError if a subclass, or the object, has a method of its own that compiled steps would not call."""
    for name in names:
        if name in vars(value) or getattr(type(value), name) is not getattr(kind, name):
            raise TypeError(f"{what} is a {type(value).__name__} with a method {name} of its own, expected that of "
                            f"{kind.__name__}: fit's compiled steps would not call it; use network.forward, "
                            "loss.value_and_gradient, network.backward and optimizer.update in a loop of your own")


def check_count(name, value):
    """ValueError unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least 1")


def answers(callbacks, network, history):
    """Whether one of the callbacks ends the training."""
    said = [callback(network, history) for callback in callbacks]
    return any(isinstance(answer, bool | np.bool_) and answer for answer in said)


def interrupted(history, epochs, stacklevel=4):
    """What Ctrl-C makes of a training, after it was stopped."""
    history.interrupted = True
    warnings.warn(f"training was interrupted after {len(history.loss)} of {epochs} epochs; what was learnt is kept",
                  RuntimeWarning, stacklevel=stacklevel)


def not_finite(what, batch, epoch):
    """The error of a loss, a gradient or a penalty that is not, of a batch and an epoch counted from 0."""
    return FloatingPointError(
        f"the {what} is not finite in batch {batch + 1} of epoch {epoch + 1}, expected a finite one: "
        "the weights are as they were before that batch; try a lower learning rate, or look for NaN, inf and huge numbers, or "
        "labels out of range, in the data, the weights and l2 (check_finite=False trains on)")


def progress_bar(epochs):
    """Return a bar of the training, or None where nobody would see it."""
    return terminal.progress_bar(total=epochs, desc="Training", smoothing=0, bar_format=_BAR)


def _epoch(run, order, epoch, bar):
    """All batches."""
    run.start(order, order)
    try:
        for rows in run.finish():
            if bar is not None:
                bar.update(epoch + rows / len(run.data[0]) - bar.n)
    except FloatingPointError as error:
        raise not_finite(error, run.rows_done // run.batch, epoch) from None


def _note(network, run, validation, history, bar):
    """Add an epoch to the history, all of it after the work that Ctrl-C may end."""
    numbers = {"loss": run.mean_loss, "accuracy": run.accuracy}
    if validation is not None:
        numbers["validation_loss"], numbers["validation_accuracy"] = network.evaluate(*validation)
    told = {name: number for name, number in numbers.items() if number is not None}
    lists = [getattr(history, name) for name in told]
    any(map(list.append, lists, told.values()))         # in C: no signal's handler runs before the last one has its number
    if bar is not None:
        bar.set_postfix({name: f"{number:.4f}" for name, number in told.items()}, refresh=False)


def _as_data(network, x, y, sample_weight):
    """(x, targets, weights) as Run.use takes them."""
    x = network.as_inputs("x", x)
    if not len(x):
        raise ValueError(f"x has shape {x.shape}, expected at least one row")
    x = x.astype(network.dtype, copy=False)
    x = x if has_contiguous_rows(x) and x.strides[0] >= 0 else np.ascontiguousarray(x)
    targets = network.loss.as_targets(y, len(x), network.n_outputs, network.dtype)
    return x, targets, as_weights(sample_weight, len(x))


def _as_validation(network, validation_data):
    """It, after looking whether the network and its loss can take it."""
    if validation_data is None:
        return None
    if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        raise TypeError("validation_data is not (x, y) or (x, y, sample_weight), expected one of these")
    x, y, *weights = validation_data
    x = network.as_inputs("validation_data: x", x)
    network.loss.as_targets(y, len(x), network.n_outputs, network.dtype)
    return x, y, as_weights(weights[0] if weights else None, len(x))
