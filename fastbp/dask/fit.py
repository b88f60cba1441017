"""The training loop of a network on a Dask cluster."""
import copy
import os

import numpy as np

from .. import _jit
from ..fit import History, answers, check_count, checked, interrupted, not_finite, progress_bar
from ..kernels.losses import scale_of
from . import checkpoint as files
from . import data
from .cluster import client_of
from .exchange import Exchange
from .plan import Plan, shares_of
from .training import Training
from .work import Problem, State


def fit(network, x, y, *, optimizer, epochs, batch_size, client=None, progress=True, sample_weight=None, shuffle=True, rng=None,
        check_finite=True, callbacks=(), shares=None, checkpoint=None, checkpoint_every=1000):
    """Train a Sequential on Dask arrays x (rows, n_inputs) and y, as the loss takes targets, on the workers of a client.

    The chunks are dealt out in `shares`, one for each worker that there is at the beginning unless said. A step takes
    batch_size rows, from each share by its size: each worker computes the gradients of its shares' rows, all add them up, and
    each makes the optimiser's step. That is Sequential.fit on the same order of batches, bit for bit with one share, else up
    to the rounding of sums; a Dropout drops others. plan.py says which rows a step takes.

    The bits follow from the data, their chunks, the shares and `rng`, not from which worker does what, how fast, or how many
    are lost: what was lost is done again. Workers that come later help if there are more shares than workers.

    client: a distributed.Client; None for the one that was made last.
    shuffle: take the chunks of a share in another order each epoch, and the rows of each chunk.
    checkpoint: a file, .safetensors or .npz, that is written every checkpoint_every steps and at the end. If it is there at the
    beginning, the training in it goes on, with the same bits; it is refused if the network, data or batch size are others.
    The other arguments are those of Sequential.fit. Ctrl-C loses some seconds of work.

    Raises as Sequential.fit, before anything is computed; where a chunk cannot be computed, an error that names it.
    """
    _jit.check_enabled("fastbp.dask.fit")
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
    key, order = (int(n) for n in np.random.default_rng(rng).integers(1 << 62, size=2))
    plan = Plan(rows, shares_of(rows, shares or len(client.nthreads())), min(int(batch_size), sum(rows)),
                order if shuffle else None)
    scale = None if weight is None else scale_of(weight)
    problem = Problem(plan, network.n_inputs, network.loss, network.l2, key, scale, check_finite)
    state, results, step = _state(network, optimizer), [], 0
    if checkpoint is not None and os.path.exists(checkpoint):
        problem, state, results, step = files.load(checkpoint, problem, state)
        _take(network, optimizer, state)
    training = Training(client, problem, chunks)
    training.start(state, results, step)
    training.compile()
    history = History()
    _note(network, training, history)
    file = files.Checkpoint(checkpoint, checkpoint_every, problem, training)
    file.save()                                         # where it cannot be written, that is better known now
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
        _take(network, optimizer, training.state())
        _note(network, training, history)
        interrupted(history, epochs, 3)
    except FloatingPointError:
        _take(network, optimizer, training.state())
        raise
    finally:
        if bar is not None:
            bar.close()
    return history


def _state(network, optimizer):
    return State(copy.deepcopy(network._specs()), copy.deepcopy(optimizer), [0.0, 0.0, 0.0])


def _advance(training, end):
    """Some steps; FloatingPointError where the next batch's loss, gradient or penalty is not finite."""
    if what := training.advance(end):
        reached = training.epoch, training.step
        training.state()
        if reached == (training.epoch, training.step):
            raise not_finite(what, training.step, training.epoch)


def _end_epoch(network, optimizer, training, epochs, history, callbacks):
    """Begin the next one, unless that was lost which somebody wants to see now; whether a callback wants no other epoch."""
    reached, is_wanted = (training.epoch, training.step), callbacks or training.epoch + 1 == epochs
    if is_wanted:
        _take(network, optimizer, training.state())
    if reached != (training.epoch, training.step):
        return False
    training.end_epoch()
    _note(network, training, history)
    if not is_wanted:
        return False
    ends = answers(callbacks, network, history)
    training.start(_state(network, optimizer), training.results, 0)
    return ends


def _note(network, training, history):
    """What the epochs were like, some of which may have been done again."""
    rows = training.rows
    history.loss[:] = [losses / rows for losses, _, _ in training.results]
    accuracies = [network.loss.accuracy(right, rows, network.n_outputs) for _, _, right in training.results]
    history.accuracy[:] = [accuracy for accuracy in accuracies if accuracy is not None]


def _take(network, optimizer, state):
    """Put into the network and its optimiser what a training has come to."""
    for layer, part in zip(network.dense, (part for part in state.parts if part.weights is not None), strict=True):
        np.copyto(layer.weights, part.weights)
        if layer.biases is not None:
            np.copyto(layer.biases, part.biases)
    vars(optimizer).update(vars(copy.deepcopy(state.optimizer)))
