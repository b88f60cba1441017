"""The training loop of a network on a Dask cluster."""
import copy
import os

import numpy as np

from ..fit import History, answers, check_count, checked, interrupted, not_finite, progress_bar
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
    The other arguments are those of Sequential.fit. Ctrl-C loses about a second of work.

    Raises as Sequential.fit, before anything is computed; where a chunk cannot be computed, an error that names it.
    """
    callbacks = checked(network, epochs, batch_size, optimizer, callbacks)
    check_count("checkpoint_every", checkpoint_every)
    if shares is not None:
        check_count("shares", shares)
    arrays = data.checked(network, x, y, sample_weight)
    client = client_of(client)
    client.register_plugin(Exchange())
    chunks = data.load(client, network, arrays)
    rows = data.rows_of(client, chunks)
    if not sum(rows):
        raise ValueError(f"x has shape {x.shape}, expected at least one row")
    key, order = (int(n) for n in np.random.default_rng(rng).integers(1 << 62, size=2))
    plan = Plan(rows, shares_of(rows, shares or len(client.nthreads())), min(int(batch_size), sum(rows)),
                order if shuffle else None)
    problem = Problem(plan, network.n_inputs, network.loss, network.l2, key, sample_weight is not None, check_finite)
    state, epoch, step, history = _state(network, optimizer), 0, 0, History()
    if checkpoint is not None and os.path.exists(checkpoint):
        problem, state, epoch, step, history = files.load(checkpoint, problem, state)
        _take(network, optimizer, state)
    training = Training(client, problem, chunks)
    training.start(state, epoch, step)
    training.compile()
    bar = progress_bar(epochs) if progress else None

    def save():
        if checkpoint is not None:
            files.save(checkpoint, problem, history, training)

    save()                                              # where it cannot be written, that is better known now
    try:
        while training.epoch < epochs:
            _epoch(training, plan.steps, checkpoint_every, save, bar)
            _note(network, optimizer, plan, training.state(), history)
            ends = answers(callbacks, network, history)
            training.start(_state(network, optimizer), training.epoch + 1, 0)
            if ends:
                break
        save()
    except KeyboardInterrupt:
        training.abandon()
        _take(network, optimizer, training.state())
        interrupted(history, epochs, 3)
    except FloatingPointError:
        _take(network, optimizer, training.state())
        raise
    finally:
        if bar is not None:
            bar.close()
    return history


def _state(network, optimizer):
    return State(copy.deepcopy(network.parts()), copy.deepcopy(optimizer), [0.0, 0.0, 0.0])


def _epoch(training, steps, every, save, bar):
    """What is left of it."""
    while training.step < steps:
        before = training.step
        is_finite = training.advance(min(steps, before + every - before % every))
        reached = training.step
        if not is_finite or reached == steps:
            training.state()
        if not is_finite and training.step == reached:
            raise not_finite(reached, training.epoch)
        if training.step // every > before // every and training.step < steps:
            save()
        if bar is not None:
            bar.update(training.epoch + training.step / steps - bar.n)


def _note(network, optimizer, plan, state, history):
    _take(network, optimizer, state)
    history.loss.append(state.results[0] / plan.rows)
    accuracy = network.loss.accuracy(state.results[2], plan.rows, network.n_outputs)
    if accuracy is not None:
        history.accuracy.append(accuracy)


def _take(network, optimizer, state):
    """Put into the network and its optimiser what a training has come to."""
    for layer, part in zip(network.dense, (part for part in state.parts if part.weights is not None), strict=True):
        np.copyto(layer.weights, part.weights)
        if layer.biases is not None:
            np.copyto(layer.biases, part.biases)
    vars(optimizer).update(vars(copy.deepcopy(state.optimizer)))
