"""Optimisers. Each keeps its settings and its state; compiled code makes a step (kernels/train/optimizers.py).

An optimiser serves the parameters of one network: its first step allocates the state of each array, such as its moments.
"""
import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from . import functional
from ._arrays.memory import FLOAT, INTEGER, address, empty, overlapping
from ._arrays.operands import FLOATS
from ._compile import compiler
from .kernels import reference
from .kernels.schedule.records import fields_of, in_words
from .kernels.train import optimizers as kernels
from .kernels.train.finite import NOT_FINITE
from .kernels.train.optimizers import Array, Settings, Squares, Update

# What settings are expected to be, as messages say it, and a function for each that tells whether a number is that.
_POSITIVE = "a number above 0"
_NATURAL = "a number of 0 or more"
_SHARE = "a number from 0 and below 1"
_IS = {_POSITIVE: lambda x: 0 < x < np.inf, _NATURAL: lambda x: 0 <= x < np.inf, _SHARE: lambda x: 0 <= x < 1}


class Blocks(NamedTuple):
    """A gradient that a step computes in blocks (kernels/train/dweights.py)."""

    problem: int                # the address of its GemmProblem
    rows: int                   # rows of a block


class Gradients(NamedTuple):
    """The gradients of a step, in the order of the parameters."""

    arrays: Sequence[np.ndarray]                # the first shard's
    shards: int = 1                             # how many arrays each gradient is the sum of
    distance: int = 0                           # bytes from a shard's array to the next one's
    blocks: Sequence[Blocks | None] | None = None       # None for each gradient that is not computed in blocks
    multiply: int = 0                           # the address of the unit that computes blocks; 0: there are none
    stored: np.ndarray | None = None            # the memory of all arrays of all shards, with zeros between them, if it is one


class Optimizer:
    """The base class of all optimisers: SGD, Adam and AdamW.

    learning_rate       the learning rate before any decay; it may be assigned
    iterations          the number of steps made so far

    With a setting `decay`, the rate of a step is learning_rate / (1 + decay * iterations) (Kinsley and Kukieła, Neural Networks
    from Scratch in Python, ch. 10). A step with a learning rate of 0 counts and updates the moments; it changes only arrays
    that a momentum moves.
    """

    def __init__(self, kind: int, **settings: float):
        self._kind = kind
        self._settings = np.array(Settings(**settings), FLOAT)
        self._steps = np.zeros(1, INTEGER)
        # The state that the optimiser keeps of each array of parameters, and the dtypes and shapes of the parameters.
        self._states: Any = None
        self._arrays: Any = None

    @property
    def learning_rate(self) -> float:
        """The learning rate before any decay. Assigning anything but a number of 0 or more raises ValueError or TypeError."""
        return float(self._setting("learning_rate"))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._set(learning_rate=_number("learning_rate", value, _NATURAL))

    @property
    def iterations(self) -> int:
        """The number of steps made so far."""
        return int(self._steps[0])

    @iterations.setter
    def iterations(self, value: int) -> None:
        self._steps[0] = value

    @property
    def current_learning_rate(self) -> float:
        """The learning rate of the next step, after the decay."""
        return float(self.learning_rate / (1 + self._setting("decay") * self.iterations))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take copies of a pickle's arrays: their memory may be read-only, or belong to another optimiser."""
        vars(self).update(state)
        self._settings, self._steps = np.array(self._settings, FLOAT), np.array(self._steps, INTEGER)
        if self._states is not None:
            self._states = [[np.copy(array, order="C") for array in states] for states in self._states]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} learning_rate={self.learning_rate:g} iterations={self.iterations}>"

    def update(self, parameters: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        """Make a step: change the parameters in place by their gradients.

        Both are lists of arrays of one float dtype; each gradient has the shape of its parameters, and shapes and order are the
        same at each step. Arrays that are not in C order cost a copy. A weight decay applies to arrays of more than one row.

        Raises TypeError or ValueError for arrays that do not fit each other or the first step's, and for two parameters that
        have memory in common. Nothing is changed then.
        """
        parameters, gradients = list(parameters), list(gradients)
        if len(parameters) != len(gradients):
            raise ValueError(f"gradients has {len(gradients)} arrays, expected {len(parameters)}: as many as parameters")
        for i, (values, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            _check_pair(i, values, gradient, parameters[0])
        work, is_first = [np.ascontiguousarray(a) for a in parameters], self._states is None
        try:
            step = self._step(parameters, work, gradients)
            if step.overlaps or any(changed is not values for values, changed in zip(parameters, work, strict=True)):
                check_apart(parameters, [f"parameters[{i}]" for i in range(len(parameters))])
                step = self._step(parameters, work, [_apart_from(parameters, i, g) for i, g in enumerate(gradients)])
        except BaseException:
            if is_first:
                self._states = self._arrays = None
            raise
        if work and compiler.DISABLED:
            reference.run_step(self._kind, Settings._make(self._settings), self._steps, work, gradients, self._states,
                               [a.ndim > 1 and len(a) > 1 for a in parameters])
        elif work:
            step.make()
        for values, changed in zip(parameters, work, strict=True):
            if changed is not values:
                np.copyto(values, changed)

    def _step(self, parameters, work, gradients):
        """Return the Step of parameters. work: the parameters or copies of them, in C order."""
        gradients = [np.ascontiguousarray(gradient) for gradient in gradients]
        return self.bind(work, Gradients(gradients), [a.ndim > 1 and len(a) > 1 for a in parameters])

    def bind(self, parameters: Sequence[np.ndarray], gradients: Gradients, penalised: Sequence[bool],
             check: bool = False) -> "Step":
        """Return the Step of arrays in C order, which must stay where they are as long as it is used.

        penalised: for each array, whether l2 and a weight decay apply to it.
        check: whether to make a step only if all that it computes is finite.

        Raises ValueError for arrays of other dtypes or shapes than those of the optimiser's first step.
        """
        if self._states is None:
            self.remember([[_zeros(a) for _ in range(kernels.STATES[self._kind])] for a in parameters])
            self._arrays = [(a.dtype, a.shape) for a in parameters]
        arrays = [(a.dtype, a.shape) for a in parameters]
        if self._arrays is not None and arrays != self._arrays:
            raise ValueError(f"parameters are {_described(arrays)}, expected those of the optimiser's first step, "
                             f"{_described(self._arrays)}: another network needs an optimiser of its own")
        return Step(self, parameters, gradients, penalised, check)

    def _setting(self, name):
        """Return one of the Settings."""
        return fields_of(Settings, self._settings)[name]

    def _set(self, **settings):
        """Change some of the Settings."""
        for name, value in settings.items():
            fields_of(Settings, self._settings)[name] = value

    def remember(self, states: Sequence[Sequence[np.ndarray]]) -> "Optimizer":
        """Keep the state of each array of parameters in these arrays; return the optimiser itself."""
        self._states, self._arrays = states, None
        return self


class Step:
    """The records of kernels/train/optimizers.py for a step. The object keeps alive all arrays that they point to.

    address: the address of the Update, for compiled code.
    overlaps: whether parameters have memory in common with one another or with gradients.
    """

    def __init__(self, optimizer, parameters, gradients, penalised, check):
        tasks, table, block_bytes, spans = 0, [], 0, []
        kept = settings, steps, remembered = optimizer._settings, optimizer._steps, list(optimizer._states)
        if len(remembered) != len(parameters):
            raise ValueError(f"the optimiser remembers {len(remembered)} arrays of parameters, expected {len(parameters)}")
        for values, gradient, states, counts, blocks in zip(parameters, gradients.arrays, remembered, penalised,
                                                            gradients.blocks or [None] * len(parameters), strict=True):
            dtype, count, chunk, gradient_at, problem = values.dtype, values.size, kernels.CHUNK, 0, 0
            if blocks is None:
                gradient_at = address("gradients", gradient, dtype, count)
            else:
                chunk, problem = max(1, blocks.rows * values.shape[1]), blocks.problem          # 1 if there are no neurons
                block_bytes = max(block_bytes, chunk * values.itemsize)
            states_at = [address("what the optimiser remembers", state, dtype, count, written=True) for state in states]
            if len(states_at) != kernels.STATES[optimizer._kind]:
                raise ValueError(f"the optimiser remembers {len(states_at)} arrays of each array of parameters, expected "
                                 f"{kernels.STATES[optimizer._kind]}")
            velocity, square = (*states_at, 0, 0)[:2]
            values_at = address("parameters", values, dtype, count, written=True)
            table.append(Array(first_task=tasks, chunk=chunk, count=count, values=values_at, gradient=gradient_at,
                               velocity=velocity, square=square, penalised=counts, problem=problem))
            if count:
                spans.append((values_at, values_at + values.nbytes))
                if gradient_at:
                    spans.append((gradient_at, gradient_at + values.nbytes))
            tasks += -(-count // chunk)
        spans.sort()
        self.overlaps = any(end > start for (_, end), (start, _) in pairwise(spans))
        size, stored = tasks * len(Squares._fields), gradients.stored
        self._table, self._sums = in_words(Array, table), np.zeros(size, FLOAT)
        self._words = in_words(Update, [Update(
            tasks=tasks, kind=optimizer._kind, shards=gradients.shards, distance=gradients.distance,
            arrays=address("table", self._table, INTEGER, len(table) * len(Array._fields)), count=len(table),
            settings=address("settings", settings, FLOAT, len(Settings._fields)),
            steps=address("steps", steps, INTEGER, 1, written=True),
            l2=0.0, penalty=0.0, rate=0.0, epsilon=0.0, decay=0.0,
            sums=address("sums", self._sums, FLOAT, size, written=True), check=check, known=0,
            stored=0 if stored is None else address("gradients", stored, stored.dtype, stored.size),
            stored_count=0 if stored is None else stored.size, multiply=gradients.multiply, block_bytes=block_bytes,
            scratch=0)])
        self._kept = optimizer, parameters, gradients, *kept              # whatever happens to the optimiser meanwhile
        self.address = address("job", self._words, INTEGER, len(Update._fields), written=True)
        self._job = fields_of(Update, self._words)

    def make(self, l2: float = 0.0) -> float:
        """Make the step, and return the penalty before it.

        If the step is to be checked, this raises FloatingPointError as check_status does, and changes nothing then.
        """
        self._job["l2"] = l2
        check_status(functional.run(functional.OPTIMIZE[self._kept[1][0].dtype], self.address))
        return float(self._job["penalty"])

    def forget(self) -> None:
        """Let the next step look at the parameters again, as others may have changed them."""
        self._job["known"] = 0


def check_status(status: int) -> None:
    """Raise FloatingPointError if a status says that something is not finite. Its message is the name of that alone."""
    if status in NOT_FINITE:
        raise FloatingPointError(NOT_FINITE[status])


class SGD(Optimizer):
    """Stochastic gradient descent: w -= rate * gradient, or with momentum v = momentum * v - rate * gradient, w += v.

    nesterov: w += momentum * v - rate * gradient, with the new v (Sutskever, Martens, Dahl and Hinton, ICML 2013).
    decay: how fast the learning rate falls, by the formula of Optimizer. Raises TypeError and ValueError for settings out of
    range.
    """

    def __init__(self, learning_rate: float = 0.01, *, decay: float = 0.0, momentum: float = 0.0, nesterov: bool = False):
        momentum = _number("momentum", momentum, "a number from 0 to 1", lambda x: 0 <= x <= 1)
        if nesterov and not momentum:
            raise ValueError("nesterov is True and momentum is 0, expected a momentum above 0")
        kind = kernels.NESTEROV if nesterov else kernels.MOMENTUM if momentum else kernels.SGD
        super().__init__(kind, learning_rate=_number("learning_rate", learning_rate, _NATURAL),
                         decay=_number("decay", decay, _NATURAL), beta=momentum, beta2=0.0, epsilon=0.0, weight_decay=0.0,
                         corrected=0.0)


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015), by default with the paper's settings.

    decay: how fast the learning rate falls, by the formula of Optimizer. Raises TypeError and ValueError for settings out of
    range.
    """

    def __init__(self, learning_rate: float = 0.001, *, decay: float = 0.0, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-8):
        super().__init__(kernels.ADAM, learning_rate=_number("learning_rate", learning_rate, _NATURAL),
                         decay=_number("decay", decay, _NATURAL), beta=_number("beta_1", beta_1, _SHARE),
                         beta2=_number("beta_2", beta_2, _SHARE), epsilon=_number("epsilon", epsilon, _POSITIVE),
                         weight_decay=0.0, corrected=1.0)


class AdamW(Adam):
    """Adam with decoupled weight decay: in each step weights, but not biases, also shrink by rate * weight_decay of themselves.

    (Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019.)
    """

    def __init__(self, learning_rate: float = 0.001, *, weight_decay: float = 0.01, decay: float = 0.0, beta_1: float = 0.9,
                 beta_2: float = 0.999, epsilon: float = 1e-8):
        super().__init__(learning_rate, decay=decay, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)
        self._set(weight_decay=_number("weight_decay", weight_decay, _NATURAL))


def check_apart(arrays: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Raise ValueError if two arrays of parameters have memory in common: two tasks would update it at the same time."""
    found = overlapping(arrays)
    if found is not None:
        first, second = found
        raise ValueError(f"{names[second]} has memory in common with {names[first]}, expected arrays of their own: each is "
                         "updated by its own gradient")


def _apart_from(parameters, i, gradient):
    """Return a gradient, or its copy if it has memory in common with parameters: a step would overwrite it.

    A gradient that is the very array of its parameters needs no copy: each element is read before it is written.
    """
    if any(np.may_share_memory(gradient, values) for k, values in enumerate(parameters) if not (k == i and gradient is values)):
        return gradient.copy()
    return gradient


def _described(arrays):
    """Return a text of the (dtype, shape) of some arrays."""
    return ", ".join(f"{dtype} {shape}" for dtype, shape in arrays)


def _zeros(array):
    """Return the state of an array before the first step: as many zeros as it has elements, in one row."""
    zeros = empty((1, array.size), array.dtype)
    zeros[:] = 0
    return zeros


def _number(name, value, expected, is_right=None):
    """Return a setting as a float; raise TypeError for what is no number, ValueError for a number that is not as expected."""
    try:
        number = float(operator.pos(value))             # pos refuses a string, which float alone would read
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}, expected {expected}") from None
    if not (is_right or _IS[expected])(number):
        raise ValueError(f"{name} is {value!r}, expected {expected}")
    return number


def _check_pair(i, values, gradient, first):
    """Raise TypeError or ValueError unless an array can be updated by its gradient. first: the first of the parameters."""
    for name, array in (("parameters", values), ("gradients", gradient)):
        is_array = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
        if not is_array or array.dtype not in FLOATS or array.dtype != first.dtype:
            what = array.dtype if is_array else type(array).__name__
            raise TypeError(f"{name}[{i}] is of {what}, expected arrays of one dtype, float32 or float64")
    if values.shape != gradient.shape:
        raise ValueError(f"gradients[{i}] has shape {gradient.shape}, expected {values.shape}: that of its parameters")
    if not values.flags.writeable:
        raise ValueError(f"parameters[{i}] is read-only, expected an array that can be written")
