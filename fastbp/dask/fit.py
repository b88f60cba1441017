"""The training loop of a network on a Dask cluster."""
import copy
import os
from collections.abc import Iterable

import dask.array as da
import numpy as np
from distributed import Client

from .._compile import compiler
from .._training.loop import Callback, History, answers, check_count, checked, interrupted, not_finite, progress_bar
from ..kernels.train.losses import scale_of
from ..network import Sequential
from ..optimizers import Optimizer
from . import checkpoint as files
from . import chunks as data
from .allreduce import Exchange
from .cluster import client_of
from .coordinator import Training
from .plan import Plan, shares_of
from .worker import Problem, State


def fit(network: Sequential, x: da.Array, y: da.Array, *, optimizer: Optimizer, epochs: int, batch_size: int,
        client: Client | None = None, progress: bool = True, sample_weight: da.Array | None = None, shuffle: bool = True,
        rng: np.random.Generator | int | None = None, check_finite: bool = True,
        callbacks: Callback | Iterable[Callback] = (), shares: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int = 1000) -> History:
    """Train a Sequential on Dask arrays x (rows, n_inputs) and y, as the loss takes targets, on the workers of a client.

    The chunks are dealt out in `shares`, if None in one for each worker that there is at the beginning. A step takes
    batch_size rows, from each share in proportion to its size (plan.py says which). Each worker computes the gradients of its
    shares' rows, all workers add them up, and each worker makes the optimiser's step. The result is that of Sequential.fit on
    the same order of batches: bit for bit with one share; with more up to the rounding of sums, and a Dropout drops other
    places.

    The bits follow from the data, their chunks, `shares` and `rng`. They do not depend on which worker does what, on how fast
    it is, or on how many workers are lost, as lost work is done again. Workers that come later help if there are more shares
    than workers.

    client: a distributed.Client; None for the one that was made last.
    shuffle: take the chunks of a share, and the rows of each chunk, in another order each epoch.
    checkpoint: a file, .safetensors or .npz, that is written every `checkpoint_every` steps and at the end. If it exists at the
    beginning, the training in it goes on, with the bits that it would have had without the stop; its rng and shares, not those
    given, are used. It is refused if the network, data or batch size are others.
    The other arguments are those of Sequential.fit. Ctrl-C loses some seconds of work.

    Raises what Sequential.fit raises, before anything is computed; where a chunk cannot be computed, an error that names it.
    """
    compiler.check_enabled("fastbp.dask.fit")
    callbacks, _ = checked(network, epochs, batch_size, optimizer, callbacks)
    check_count("checkpoint_every", checkpoint_every)
    if shares is not None:
        check_count("shares", shares)
    arrays = data.checked(network, x, y, sample_weight)
    client = client_of(client)
    client.register_plugin(Exchange())
    chunks = data.load(client, network, arrays)
    rows, weight = data.sizes_of(client, chunks)
    if not sum(rows):
        raise ValueError(f"x has shape {x.shape}, expected at least one row")
    dropout_key, order_key = (int(n) for n in np.random.default_rng(rng).integers(1 << 62, size=2))
    plan = Plan(chunks=rows, shares=shares_of(rows, shares or len(client.nthreads())),
                batch_size=min(int(batch_size), sum(rows)), key=order_key if shuffle else None)
    problem = Problem(plan=plan, n_inputs=network.n_inputs, loss=network._require_loss("fit"), l2=network.l2, key=dropout_key,
                      scale=None if weight is None else scale_of(weight), check=check_finite)
    state, results, step = _state(network, optimizer), [], 0
    if checkpoint is not None and os.path.exists(checkpoint):
        problem, state, results, step = files.load(checkpoint, problem, state)
        _copy_to(network, optimizer, state)
    training = Training(client, problem, chunks)
    training.start(state, results, step)
    training.compile()
    history = History()
    _fill(history, network, training)
    file = files.Checkpoint(checkpoint, checkpoint_every, problem, training)
    file.save()                                         # If it cannot be written, the user should know now.
    bar = progress_bar(epochs) if progress else None
    try:
        while training.epoch < epochs:
            _advance(training, min(plan.steps, training.step + file.steps_left))
            if training.step == plan.steps and _end_epoch(network, optimizer, training, epochs, history, callbacks):
                break
            file.save_if_due()
            if bar is not None:
                bar.update(training.epoch + training.step / plan.steps - bar.n)
        file.save()
    except KeyboardInterrupt:
        training.abandon()
        _copy_to(network, optimizer, training.state())
        _fill(history, network, training)
        interrupted(history, epochs, 3)
    except FloatingPointError:
        _copy_to(network, optimizer, training.state())
        raise
    finally:
        if bar is not None:
            bar.close()
    return history


def _state(network, optimizer):
    """Return the State of an epoch's beginning, with copies of the network's arrays and of the optimiser."""
    return State(specs=copy.deepcopy(network._specs()), optimizer=copy.deepcopy(optimizer), results=[0.0, 0.0, 0.0])


def _advance(training, end):
    """Make some steps. Raise FloatingPointError where the next batch's loss, gradient or penalty is not finite."""
    if what := training.advance(end):
        reached = training.epoch, training.step
        training.state()
        if reached == (training.epoch, training.step):
            raise not_finite(what, training.step, training.epoch)


def _end_epoch(network, optimizer, training, epochs, history, callbacks):
    """End an epoch and ask the callbacks. Return whether one of them ends the training.

    The epoch is not over if the state is needed now, for callbacks or as the last one, but was lost on all workers.
    """
    reached, is_needed = (training.epoch, training.step), callbacks or training.epoch + 1 == epochs
    if is_needed:
        _copy_to(network, optimizer, training.state())
    if reached != (training.epoch, training.step):
        return False
    training.end_epoch()
    _fill(history, network, training)
    if not is_needed:
        return False
    ends = answers(callbacks, network, history)
    training.start(_state(network, optimizer), training.results, 0)
    return ends


def _fill(history, network, training):
    """Write the loss and accuracy of all epochs so far to a History. Some epochs may have been made again."""
    rows = training.rows
    history.loss[:] = [loss_sum / rows for loss_sum, _, _ in training.results]
    accuracies = [network.loss.accuracy(right, rows, network.n_outputs) for _, _, right in training.results]
    history.accuracy[:] = [accuracy for accuracy in accuracies if accuracy is not None]


def _copy_to(network, optimizer, state):
    """Copy the state of a training to the network and its optimiser."""
    for layer, spec in zip(network.dense, (spec for spec in state.specs if spec.weights is not None), strict=True):
        np.copyto(layer.weights, spec.weights)
        if layer.biases is not None:
            np.copyto(layer.biases, spec.biases)
    vars(optimizer).update(vars(copy.deepcopy(state.optimizer)))
