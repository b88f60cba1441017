"""Checkpoints: a training in a file, from which another client goes on with the same bits."""
import copy
import reprlib
from dataclasses import replace
from itertools import pairwise

from .._files import container
from ..kernels.train.optimizers import STATES
from .worker import State

# The version of the files that this module writes, and the only one that it reads.
_FORMAT = 1

# The largest count or key that a file may hold.
_MAX_COUNT = (1 << 62) - 1

# Characters of a file's entry that a message shows at most.
_MAX_SHOWN = 300

# The names of the arrays that a layer may have in a file.
_ARRAYS = "weights", "biases"


class Checkpoint:
    """The file of a training, written every `every` steps; none if the path is None."""

    def __init__(self, path, every, problem, training):
        self._path, self._every, self._problem, self._training = path, every, problem, training
        self._due = self._steps + every

    @property
    def steps_left(self) -> int:
        """The number of steps until the file has to be written."""
        return self._due - self._steps

    def save_if_due(self) -> None:
        """Write the file if enough steps have been made since the last time."""
        if self._steps >= self._due:
            self.save()

    def save(self) -> None:
        """Replace the file by one of the training as it is now. If that fails, the old file stays."""
        if self._path is not None:
            state = self._training.state()
            container.write(self._path, _arrays(state), _about(self._problem, self._training, state))
        self._due = self._steps + self._every

    @property
    def _steps(self):
        return self._training.epoch * self._problem.plan.steps + self._training.step


def load(path, problem, state):
    """Return (problem, state, results, step) of the training in a file.

    problem, state: those of a new training of the same network on the same data. Raises ValueError if the network or the data
    of the file are others, or if it is no such file, and what _files.container.read raises.
    """
    arrays, about = container.read(path)
    form = about.get("training")
    if type(form) is not int or form != _FORMAT:
        raise ValueError(f"{path} is of format {reprlib.repr(form)}, expected {_FORMAT}: it is no training, or a later "
                         "fastbp's")
    _check_same(path, problem.plan, state, arrays, about)
    for name, is_right in _entries(about, problem.plan).items():
        if not is_right:
            raise ValueError(f"{path} has {name} {reprlib.repr(about.get(name))}, expected what a training writes")
    specs = [spec._replace(**{name: arrays[f"{i}.{name}"].copy() for name in _ARRAYS if getattr(spec, name) is not None})
             for i, spec in enumerate(state.specs)]
    plan = replace(problem.plan, shares=tuple(range(start, stop) for start, stop in about["shares"]), key=about["order"])
    read_state = State(specs=specs, optimizer=_optimizer(state, arrays, about), results=about["results"])
    return problem._replace(plan=plan, key=about["key"]), read_state, about["epochs"], about["step"]


def _about(problem, training, state):
    """Return what a file says of a training beside the arrays."""
    plan = problem.plan
    return {"training": _FORMAT, "optimizer": type(state.optimizer).__name__, "batch": plan.batch_size, "chunks": plan.chunks,
            "shares": [[share.start, share.stop] for share in plan.shares], "order": plan.key, "key": problem.key,
            "epochs": training.results, "step": training.step, "results": state.results,
            "iterations": state.optimizer.iterations}


def _entries(about, plan):
    """Return {name: whether the entry is as _about() writes it} for the entries that _check_same() does not compare."""
    shares, epochs = about.get("shares"), about.get("epochs")
    are_pairs = type(shares) is list and all(type(pair) is list and len(pair) == 2 and all(map(_is_count, pair))
                                             for pair in shares)
    cuts = [0, *(stop for _, stop in shares)] if are_pairs else []
    return {
        "shares": are_pairs and shares == [[*pair] for pair in pairwise(cuts)] and cuts[-1] == len(plan.chunks)
        and all(sum(plan.chunks[start:stop]) for start, stop in shares),
        "order": "order" in about and (about["order"] is None or _is_count(about["order"])),
        "key": _is_count(about.get("key")),
        "iterations": _is_count(about.get("iterations")),
        "step": _is_count(about.get("step"), plan.steps),
        "epochs": type(epochs) is list and all(map(_is_result, epochs)),
        "results": _is_result(about.get("results")),
    }


def _is_count(value, maximum=_MAX_COUNT):
    return type(value) is int and 0 <= value <= maximum


def _is_result(value):
    return type(value) is list and len(value) == 3 and all(type(number) in (int, float) for number in value)


def _check_same(path, plan, state, arrays, about):
    """Raise ValueError if the training in a file, (arrays, about), is one of another network, optimiser or data."""
    file_network, file_memory = {}, {}
    for name, array in arrays.items():
        if name.startswith("optimizer."):
            file_memory[name] = _counted(array)
        else:
            file_network[name] = _described(array)
    parameters = _parameters(state)
    network = {name: _described(array) for name, array in parameters.items()}
    memory = {f"optimizer.{i}.{k}": _counted(array) for i, array in enumerate(parameters.values())
              for k in range(STATES[state.optimizer._kind])}
    for name, now, before in (("network", network, file_network), ("chunks of x", list(plan.chunks), about.get("chunks")),
                              ("batch_size", plan.batch_size, about.get("batch")),
                              ("shuffle", plan.key is not None, about.get("order") is not None),
                              ("optimizer", type(state.optimizer).__name__, about.get("optimizer")),
                              ("memory of the optimizer", memory if file_memory else {}, file_memory)):
        if now != before:
            raise ValueError(f"{name} is {now}, expected {container.shown(str(before)[:_MAX_SHOWN])}: that of the training in "
                             f"{path}; a new one needs another file")


def _described(array):
    return f"{array.dtype}{list(array.shape)}"


def _counted(array):
    return f"{array.size} of {array.dtype}"


def _optimizer(state, arrays, about):
    """Return the optimiser of a state with the iterations and the memory of a file."""
    optimizer = copy.deepcopy(state.optimizer)
    optimizer.iterations = about["iterations"]
    count, names = len(_parameters(state)), [name for name in arrays if name.startswith("optimizer.")]
    if names:
        optimizer.remember([[arrays[f"optimizer.{i}.{k}"].copy() for k in range(len(names) // count)] for i in range(count)])
    return optimizer


def _parameters(state):
    """Return {name in the file: array} of all weights and biases."""
    return {f"{i}.{name}": array for i, spec in enumerate(state.specs) for name in _ARRAYS
            if (array := getattr(spec, name)) is not None}


def _arrays(state):
    """Return {name in the file: array} of all weights and biases, and of what the optimiser remembers of each."""
    return _parameters(state) | {f"optimizer.{i}.{k}": array for i, remembered in enumerate(state.optimizer._states or ())
                                 for k, array in enumerate(remembered)}
