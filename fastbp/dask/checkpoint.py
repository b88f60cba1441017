"""A training in a file, from which another client goes on as if nothing had happened."""
import copy
import reprlib
from dataclasses import replace
from itertools import pairwise

from .. import _storage
from ..kernels.optimizers import STATES
from .work import State

_FORMAT = 1
_ARRAYS = "weights", "biases"
_MOST = (1 << 62) - 1           # of a count or a key
_MOST_SHOWN = 300               # characters of an entry in a message


class Checkpoint:
    """The file of a training, written every so many steps; none if the path is None."""

    def __init__(self, path, every, problem, training):
        self._path, self._every, self._problem, self._training = path, every, problem, training
        self._due = self._steps + every

    @property
    def steps_left(self) -> int:
        """Until it is due."""
        return self._due - self._steps

    def save_if_due(self) -> None:
        if self._steps >= self._due:
            self.save()

    def save(self) -> None:
        """Write where the training is in place of what was there, or leave that as it is."""
        if self._path is not None:
            state = self._training.state()
            _storage.write(self._path, _arrays(state), _about(self._problem, self._training, state))
        self._due = self._steps + self._every

    @property
    def _steps(self):
        return self._training.epoch * self._problem.plan.steps + self._training.step


def load(path, problem, state):
    """(problem, state, results, step) of the training in a file, whose network and data are those of these two.

    Raises ValueError if they are others, or if it is no such file, and as _storage.read.
    """
    arrays, about = _storage.read(path)
    form = about.get("training")
    if type(form) is not int or form != _FORMAT:
        raise ValueError(f"{path} is of format {reprlib.repr(form)}, expected {_FORMAT}: it is no training, or a later "
                         "fastbp's")
    _check_same(path, problem.plan, state, arrays, about)
    for name, is_right in _entries(about, problem.plan).items():
        if not is_right:
            raise ValueError(f"{path} has {name} {reprlib.repr(about.get(name))}, expected what a training writes")
    parts = [part._replace(**{name: arrays[f"{i}.{name}"].copy() for name in _ARRAYS if getattr(part, name) is not None})
             for i, part in enumerate(state.parts)]
    plan = replace(problem.plan, shares=tuple(range(*ends) for ends in about["shares"]), key=about["order"])
    return (problem._replace(plan=plan, key=about["key"]), State(parts, _optimizer(state, arrays, about), about["results"]),
            about["epochs"], about["step"])


def _about(problem, training, state):
    plan = problem.plan
    return {"training": _FORMAT, "optimizer": type(state.optimizer).__name__, "batch": plan.batch, "chunks": plan.chunks,
            "shares": [[share.start, share.stop] for share in plan.shares], "order": plan.key, "key": problem.key,
            "epochs": training.results, "step": training.step, "results": state.results,
            "iterations": state.optimizer.iterations}


def _entries(about, plan):
    """Return {name: whether a file has it as _about() writes it} of what _check_same() does not compare."""
    shares, epochs = about.get("shares"), about.get("epochs")
    pairs = type(shares) is list and all(type(pair) is list and len(pair) == 2 and all(map(_is_count, pair)) for pair in shares)
    cuts = [0, *(stop for _, stop in shares)] if pairs else []
    return {
        "shares": pairs and shares == [[*pair] for pair in pairwise(cuts)] and cuts[-1] == len(plan.chunks)
        and all(sum(plan.chunks[start:stop]) for start, stop in shares),
        "order": "order" in about and (about["order"] is None or _is_count(about["order"])),
        "key": _is_count(about.get("key")),
        "iterations": _is_count(about.get("iterations")),
        "step": _is_count(about.get("step"), plan.steps),
        "epochs": type(epochs) is list and all(map(_is_result, epochs)),
        "results": _is_result(about.get("results")),
    }


def _is_count(value, most=_MOST):
    return type(value) is int and 0 <= value <= most


def _is_result(value):
    return type(value) is list and len(value) == 3 and all(type(number) in (int, float) for number in value)


def _check_same(path, plan, state, arrays, about):
    was, remembered = {}, {}
    for name, array in arrays.items():
        if name.startswith("optimizer."):
            remembered[name] = _counted(array)
        else:
            was[name] = _described(array)
    parameters = _parameters(state)
    network = {name: _described(array) for name, array in parameters.items()}
    memory = {f"optimizer.{i}.{k}": _counted(array) for i, array in enumerate(parameters.values())
              for k in range(STATES[state.optimizer._kind])}
    for name, now, before in (("network", network, was), ("chunks of x", list(plan.chunks), about.get("chunks")),
                              ("batch_size", plan.batch, about.get("batch")),
                              ("shuffle", plan.key is not None, about.get("order") is not None),
                              ("optimizer", type(state.optimizer).__name__, about.get("optimizer")),
                              ("memory of the optimizer", memory if remembered else {}, remembered)):
        if now != before:
            raise ValueError(f"{name} is {now}, expected {_storage.shown(str(before)[:_MOST_SHOWN])}: that of the training in "
                             f"{path}; a new one needs another file")


def _described(array):
    return f"{array.dtype}{list(array.shape)}"


def _counted(array):
    return f"{array.size} of {array.dtype}"


def _optimizer(state, arrays, about):
    optimizer = copy.deepcopy(state.optimizer)
    optimizer.iterations = about["iterations"]
    count, remembered = len(_parameters(state)), [name for name in arrays if name.startswith("optimizer.")]
    if remembered:
        optimizer.remember([[arrays[f"optimizer.{i}.{k}"].copy() for k in range(len(remembered) // count)]
                            for i in range(count)])
    return optimizer


def _parameters(state):
    return {f"{i}.{name}": array for i, part in enumerate(state.parts) for name in _ARRAYS
            if (array := getattr(part, name)) is not None}


def _arrays(state):
    return _parameters(state) | {f"optimizer.{i}.{k}": array for i, remembered in enumerate(state.optimizer._states or ())
                                 for k, array in enumerate(remembered)}
