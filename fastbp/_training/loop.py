"""The training loop of a network: its epochs, the record of them, and when to stop."""
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from .._arrays.memory import has_contiguous_rows
from .._runtime import terminal
from ..layers import AnyLayer
from ..losses import Loss, as_weights
from ..optimizers import Optimizer
from . import summary
from .order import order_of
from .session import LayerSpec, TrainingSession

# The format of the progress bar, as tqdm takes it.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}{postfix}]"


@dataclass(repr=False)
class History:
    """The record of a training, which `fit` returns: lists with a number for each epoch.

    loss, accuracy                          the mean over the epoch's batches, each before its step, the penalty included
    validation_loss, validation_accuracy    after the epoch; empty without validation data
    interrupted                             whether Ctrl-C ended the training, within the epoch after the last of these

    Accuracy counts whole rows for classes and single answers for yes or no; both lists of it are empty for other losses.
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


# Pickles name the public module, so that this one may move.
History.__module__ = "fastbp"

Callback: TypeAlias = Callable[[Any, History], object]      # Its arguments are the network and the History so far.


class Network(Protocol):
    """The parts of a Sequential that the functions behind its methods use."""

    layers: list[AnyLayer]
    loss: Loss | None
    l2: float
    dtype: np.dtype[Any]

    @property
    def n_inputs(self) -> int: ...

    @property
    def n_outputs(self) -> int: ...

    def evaluate(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, float | None]: ...

    def _specs(self) -> list[LayerSpec]: ...

    def _as_inputs(self, name: str, x: ArrayLike) -> np.ndarray: ...

    def _check_apart(self) -> None: ...

    def _require_loss(self, caller: str) -> Loss: ...


def fit(network: Network, x: ArrayLike, y: ArrayLike, *, epochs: int, batch_size: int, optimizer: Optimizer,
        sample_weight: ArrayLike | None, validation_data: Sequence[Any] | None, shuffle: bool,
        rng: np.random.Generator | int | None, progress: bool, check_finite: bool,
        callbacks: Callback | Iterable[Callback]) -> History:
    """Train a network, as Sequential.fit says."""
    called, specs = checked(network, epochs, batch_size, optimizer, callbacks)
    loss = network._require_loss("fit")
    data = _as_data(network, loss, x, y, sample_weight)
    validation = _as_validation(network, loss, validation_data)
    generator = np.random.default_rng(rng)
    rows = len(data[0])
    session = TrainingSession(specs, network.n_inputs, loss, optimizer, min(int(batch_size), rows), l2=network.l2,
                              check=check_finite, key=int(generator.integers(1 << 62)))
    session.use(*data)
    history = History()
    bar = progress_bar(epochs) if progress else None
    try:
        for epoch in range(epochs):
            order = order_of(generator, rows) if shuffle else None
            _train_epoch(session, order, epoch, bar)
            _record(network, session, validation, history, bar)
            if answers(called, network, history):
                break
    except KeyboardInterrupt:
        interrupted(history, epochs)
    finally:
        if bar is not None:
            bar.close()
    return history


def checked(network: Network, epochs: int, batch_size: int, optimizer: Optimizer,
            callbacks: Callback | Iterable[Callback]) -> tuple[list[Callback], list[LayerSpec]]:
    """Return the callbacks as a list, and the network's layers as compiled steps take them.

    Raises ValueError or TypeError for arguments of fit that cannot be used, before anything is changed.
    """
    loss = network._require_loss("fit")
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is {optimizer!r}, expected one such as Adam()")
    several = [callbacks] if callable(callbacks) else callbacks
    if not isinstance(several, Iterable):
        raise TypeError(f"callbacks is {several!r}, expected functions of the network and the History")
    several = list(several)
    for callback in several:
        if not callable(callback):
            raise TypeError(f"callbacks holds {callback!r}, expected functions of the network and the History")
    network._check_apart()              # before _specs() replaces arrays that are views of others by copies
    specs = network._specs()            # raises for what was assigned to layers, before their shapes are used
    for i, layer in enumerate(network.layers):
        kind = next(kind for kind in get_args(AnyLayer) if isinstance(layer, kind))
        _check_methods(f"layers[{i}]", layer, kind, "forward", "backward")
    _check_methods("loss", loss, Loss, "value_and_gradient", "evaluate")
    _check_methods("optimizer", optimizer, Optimizer, "update")
    return several, specs


def _check_methods(what, value, kind, *names):
    """Raise TypeError if a subclass, or the object, has a method of its own that compiled steps would not call."""
    for name in names:
        if name in vars(value) or getattr(type(value), name) is not getattr(kind, name):
            raise TypeError(f"{what} is a {type(value).__name__} with a method {name} of its own, expected that of "
                            f"{kind.__name__}: fit's compiled steps would not call it; use network.forward, "
                            "loss.value_and_gradient, network.backward and optimizer.update in a loop of your own")


def check_count(name: str, value: object) -> None:
    """Raise ValueError unless the value is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least 1")


def answers(callbacks: Iterable[Callback], network: Network, history: History) -> bool:
    """Call all callbacks, and return whether one of them ends the training."""
    said = [callback(network, history) for callback in callbacks]
    return any(isinstance(answer, bool | np.bool_) and answer for answer in said)


def interrupted(history: History, epochs: int, stacklevel: int = 4) -> None:
    """Note in the history that Ctrl-C stopped the training, and warn."""
    history.interrupted = True
    warnings.warn(f"training was interrupted after {len(history.loss)} of {epochs} epochs; what was learnt is kept",
                  RuntimeWarning, stacklevel=stacklevel)


def not_finite(what: object, batch: int, epoch: int) -> FloatingPointError:
    """Return the error for a loss, a gradient or a penalty that is not finite; batch and epoch are counted from 0."""
    return FloatingPointError(
        f"the {what} is not finite in batch {batch + 1} of epoch {epoch + 1}, expected a finite one: "
        "the weights are as they were before that batch; try a lower learning rate, or look for NaN, inf and huge numbers, or "
        "labels out of range, in the data, the weights and l2 (check_finite=False trains on)")


def progress_bar(epochs: int) -> Any:
    """Return a bar of the training, or None where nobody would see it."""
    return terminal.progress_bar(total=epochs, desc="Training", smoothing=0, bar_format=_BAR)


def _train_epoch(session, order, epoch, bar):
    """Make the steps of all batches of an epoch."""
    session.start(order, order)
    try:
        for rows in session.finish():
            if bar is not None:
                bar.update(epoch + rows / len(session.data[0]) - bar.n)
    except FloatingPointError as error:
        raise not_finite(error, session.rows_done // session.batch, epoch) from None


def _record(network, session, validation, history, bar):
    """Add an epoch to the history, after all the work that Ctrl-C may end."""
    numbers = {"loss": session.mean_loss, "accuracy": session.accuracy}
    if validation is not None:
        numbers["validation_loss"], numbers["validation_accuracy"] = network.evaluate(*validation)
    known = {name: number for name, number in numbers.items() if number is not None}
    lists = [getattr(history, name) for name in known]
    any(map(list.append, lists, known.values()))        # in C: no signal's handler runs before the last one has its number
    if bar is not None:
        bar.set_postfix({name: f"{number:.4f}" for name, number in known.items()}, refresh=False)


def _as_data(network, loss, x, y, sample_weight):
    """Return (x, targets, weights) as TrainingSession.use takes them."""
    x = network._as_inputs("x", x)
    if not len(x):
        raise ValueError(f"x has shape {x.shape}, expected at least one row")
    x = x.astype(network.dtype, copy=False)
    x = x if has_contiguous_rows(x) and x.strides[0] >= 0 else np.ascontiguousarray(x)
    targets = loss.as_targets(y, len(x), network.n_outputs, network.dtype)
    return x, targets, as_weights(sample_weight, len(x))


def _as_validation(network, loss, validation_data):
    """Return (x, y, weights), or None; raise TypeError or ValueError if the network and its loss cannot take them."""
    if validation_data is None:
        return None
    if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        raise TypeError("validation_data is not (x, y) or (x, y, sample_weight), expected one of these")
    x, y, *weights = validation_data
    x = network._as_inputs("validation_data: x", x)
    loss.as_targets(y, len(x), network.n_outputs, network.dtype)
    return x, y, as_weights(weights[0] if weights else None, len(x))
