"""Steps of small networks, which are made transposed, on both sides of every size, against textbook.py in float64."""
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
import textbook
from fastbp._training import gradient_check
from fastbp._training.session import TrainingSession
from fastbp.kernels.elementwise.activations import NAMES
from fastbp.kernels.train import blocks

LOSSES = {"softmax": fastbp.SoftmaxCrossEntropy, "shares": fastbp.SoftmaxCrossEntropy, "binary": fastbp.BinaryCrossEntropy,
          "squared": fastbp.MeanSquaredError}
ACTIVATIONS = [name for name in NAMES if name != "gelu"]

# Inputs and neurons around the rows of tiles (4, 6, 8, 12), the lanes of vectors (2 to 16) and the columns of tiles (64).
WIDTHS = ((1, 1), (2, 1, 2), (3, 2, 3), (5, 4, 1), (24, 8, 2), (6, 7, 12, 5), (9, 15, 16, 17), (17, 31, 4), (7, 64, 3),
          (4, 65, 13, 10), (33, 33, 33), (130, 3, 63), (64, 100, 10), (256, 5, 2))


def network_of(widths, loss, dtype, activation="relu", bias=True, last="identity", l2=0.0):
    kinds = [activation] * (len(widths) - 2) + [last]
    layers = [fastbp.Dense(*pair, activation=kind, dtype=dtype, rng=k, bias=bias)
              for k, (pair, kind) in enumerate(zip(zip(widths, widths[1:], strict=False), kinds, strict=True))]
    for layer in layers:
        if bias:
            layer.biases[:] = np.random.default_rng(5).normal(0, 0.3, layer.biases.shape)
    return fastbp.Sequential(layers, LOSSES[loss](), l2=l2)


def targets_of(rng, loss, rows, outputs, dtype):
    if loss == "softmax":
        return rng.integers(0, outputs, rows)
    if loss == "shares":
        return rng.dirichlet(np.ones(outputs), rows).astype(dtype)
    return (rng.integers(0, 2, (rows, outputs)) if loss == "binary" else rng.standard_normal((rows, outputs))).astype(dtype)


def session_of(network, batch):
    run = TrainingSession(network._specs(), network.n_inputs, network.loss, fastbp.SGD(0.1), batch, apart=True)
    assert run._chunk_rows > 0
    return run


def textbook_targets(loss, targets):
    return targets.astype(np.float64) if targets.ndim == 2 else targets


def assert_gradients(network, run, x, targets, weights, order=None):
    """Make a step of all rows, and compare loss, right answers and all gradients."""
    copy, dtype, rows = textbook.Network(network), network.dtype, len(x)
    run.use(x, targets, weights)
    run.start(order, order)
    run.advance(1)
    run.gradient()
    taken = np.arange(rows) if order is None else order
    with np.errstate(divide="ignore", invalid="ignore"):
        loss, expected, right = copy.gradients(x[taken].astype(np.float64), textbook_targets(network.loss, targets)[taken],
                                               np.ones(rows) if weights is None else weights[taken], None)
    eps = np.finfo(dtype).eps
    assert_allclose(run.batch_loss, loss, rtol=50 * eps, atol=50 * eps)
    if right is not None:
        assert run.results[2] == pytest.approx(right * (network.n_outputs if network.loss._kind == 1 else 1))
    for i, (found, (_, gradient, _)) in enumerate(zip(run.gradients, expected, strict=True)):
        close = 200 * eps * max(0.02, np.abs(gradient).max())      # a probability is rounded before 1 is subtracted
        assert_allclose(found, gradient, rtol=100 * eps, atol=close, err_msg=f"gradient {i}")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("widths", WIDTHS)
def test_gradients_at_all_widths(rng, dtype, widths, loss):
    network = network_of(widths, loss, dtype)
    run = session_of(network, 70)
    for rows in (70, 1, 17, 64):
        x = rng.standard_normal((rows, widths[0])).astype(dtype)
        assert_gradients(network, run, x, targets_of(rng, loss, rows, widths[-1], dtype), None)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [8, 9, 15, 16, 33, 63, 65, 127, 129, 255, 257, 512, 700])
def test_gradients_of_all_batches(rng, dtype, rows, loss):
    """With weights and an order, in one chunk of rows and in several, of which the last one may be short."""
    network = network_of((5, 19, 6), loss, dtype, "tanh")
    run = session_of(network, rows)
    x, targets = rng.standard_normal((rows, 5)).astype(dtype), targets_of(rng, loss, rows, 6, dtype)
    weights = rng.uniform(0, 2, rows)
    weights[::5] = 0
    assert_gradients(network, run, x, targets, weights, rng.permutation(rows))
    assert_gradients(network, run, x, targets, None, rng.permutation(rows))


@pytest.mark.parametrize("last", ACTIVATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_through_activations(rng, dtype, activation, last, bias):
    network = network_of((6, 13, 18, 5), "squared", dtype, activation, bias, last)
    run = session_of(network, 50)
    x, targets = rng.standard_normal((50, 6)).astype(dtype), targets_of(rng, "squared", 50, 5, dtype)
    assert_gradients(network, run, x, targets, None)


def test_batches_in_two_shards(rng, dtype):
    """Each has gradients of its own, and several chunks."""
    network = network_of((30, 60, 10), "softmax", dtype)
    run = session_of(network, 1100)
    assert run._shards == 2
    for rows in (1100, 1, 2, 1099):
        x = rng.standard_normal((rows, 30)).astype(dtype)
        assert_gradients(network, run, x, rng.integers(0, 10, rows), None)


@pytest.mark.parametrize("widths, batch", [
    ((5, blocks.TRANSPOSED_WIDTH + 1, 2), 64), ((40, 40), 1), ((200, 150, 30), 64),
])
def test_other_networks_are_trained_as_before(dtype, widths, batch):
    network = network_of(widths, "softmax", dtype)
    run = TrainingSession(network._specs(), widths[0], network.loss, fastbp.SGD(0.1), batch)
    assert run._chunk_rows == 0


@pytest.mark.parametrize("layers", [
    [fastbp.Dropout(0.1), fastbp.Dense(5, 3)], [fastbp.Dense(5, 4, activation="gelu"), fastbp.Dense(4, 3)],
])
def test_layers_that_are_not_transposed(layers):
    network = fastbp.Sequential(layers, fastbp.SoftmaxCrossEntropy())
    assert TrainingSession(network._specs(), 5, network.loss, fastbp.SGD(0.1), 64)._chunk_rows == 0


@pytest.mark.parametrize("label", [-1, 3, 2**40, -2**63])
def test_a_label_out_of_range(rng, dtype, label):
    """The user's code may have written it after the check: the loss is NaN, and no step is made."""
    network = network_of((5, 8, 3), "softmax", dtype)
    before = [array.copy() for array in network.parameters()]
    run = TrainingSession(network._specs(), 5, network.loss, fastbp.SGD(0.1), 20)
    labels = rng.integers(0, 3, 20)
    labels[13] = label
    run.use(rng.standard_normal((20, 5)).astype(dtype), labels, None)
    run.start()
    with pytest.raises(FloatingPointError, match="loss"):
        run.advance(1)
    for array, other in zip(network.parameters(), before, strict=True):
        assert_array_equal(array, other)


def test_one_bad_row_spoils_nothing_else(rng, dtype):
    """Padding of vectors and of chunks never reaches a result: with the bad row's weight and gradient away, all are finite."""
    network = network_of((5, 8, 3), "squared", dtype, "sigmoid")
    run = session_of(network, 37)
    network.layers[0].biases[:] = 1e30 if dtype == np.float32 else 1e300
    x = np.zeros((37, 5), dtype)
    assert_gradients(network, run, x, rng.standard_normal((37, 3)).astype(dtype), None)


@pytest.mark.parametrize("loss", ["softmax", "shares"])
def test_scores_that_are_far_apart(dtype, loss):
    """No probability is rounded to 0 before its logarithm, and the first of equal scores is the answer."""
    network = network_of((3, 3), loss, dtype, bias=False)
    network.layers[0].weights[:] = np.eye(3)
    x = np.array([[0, 0, 0], [500, 0, 0], [0, 500, 0], [-500, 0, 0], [5, 5, 0], [1e-3, 0, 0], [80, 0, -80], [0, 0, 1]], dtype)
    for label in range(3):
        labels = np.full(8, label)
        run = session_of(network, 8)
        assert_gradients(network, run, x, labels if loss == "softmax" else np.eye(3, dtype=dtype)[labels], None)


def test_rows_that_lie_apart(rng, dtype):
    """x may be part of a wider array, whose other numbers are never used."""
    network = network_of((5, 8, 3), "softmax", dtype)
    run = session_of(network, 40)
    wide = np.full((40, 23), np.nan, dtype)
    wide[:, 9:14] = rng.standard_normal((40, 5))
    assert_gradients(network, run, wide[:, 9:14], rng.integers(0, 3, 40), None)
    assert_gradients(network, run, wide[:, 9:14], rng.integers(0, 3, 40), None, rng.permutation(40))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh"])
def test_check_gradients_goes_the_way_of_fit(rng, dtype, monkeypatch, activation):
    made = []

    class Session(TrainingSession):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(gradient_check, "TrainingSession", Session)
    network = network_of((6, 30, 20, 5), "softmax", dtype, activation)
    x, labels = rng.standard_normal((400, 6)), rng.integers(0, 5, 400)
    assert network.check_gradients(x, labels, places=20) < 1e-6
    assert made[0]._chunk_rows > 0 and made[0]._shards == 2


# ---- beside other implementations


def in_numpy(network, x, labels, dtype):
    """Return the gradients of a network of ReLUs and a softmax cross-entropy, by NumPy in that dtype."""
    arrays, inputs = [array.astype(dtype) for array in network.parameters()], [x.astype(dtype)]
    layers = list(zip(arrays[::2], arrays[1::2], strict=True))
    for weights, biases in layers:
        z = inputs[-1] @ weights + biases
        inputs.append(np.maximum(z, 0))
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    dz = powers / powers.sum(axis=1, keepdims=True)
    dz[np.arange(len(x)), labels] -= 1
    dz /= len(x)
    gradients = []
    for (weights, _), before in zip(reversed(layers), reversed(inputs[:-1]), strict=True):
        gradients[:0] = [before.T @ dz, dz.sum(axis=0, keepdims=True)]
        dz = dz @ weights.T * (before > 0)
    return gradients


def error_of(gradient, exact):
    return float(np.linalg.norm((gradient - exact).astype(np.float64)) / np.linalg.norm(exact.astype(np.float64)))


@pytest.mark.parametrize("widths, rows", [((24, 8, 2), 200), ((13, 64, 32, 2), 128), ((8, 64, 64, 4), 64),
                                          ((4, 32, 16, 4), 10000), ((64, 100, 10), 200), ((100, 256, 10), 200)])
def test_rounding_errors_beside_numpys(rng, dtype, widths, rows):
    """They are measured against gradients in NumPy's longdouble."""
    network = network_of(widths, "softmax", dtype)
    run = session_of(network, rows)
    x, labels = rng.standard_normal((rows, widths[0])).astype(dtype), rng.integers(0, widths[-1], rows)
    run.use(x, labels, None)
    run.start()
    run.advance(1)
    run.gradient()
    exact = in_numpy(network, x, labels, np.longdouble)
    for found, other, gradient in zip(run.gradients, in_numpy(network, x, labels, dtype), exact, strict=True):
        assert error_of(found, gradient) <= 1.5 * error_of(other, gradient) + np.finfo(dtype).eps


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("widths, batch", [((24, 8, 2), 200), ((13, 64, 32, 2), 128), ((8, 64, 64, 4), 64),
                                           ((4, 32, 16, 4), 1000), ((64, 100, 10), 200)])
def test_trainings_beside_pytorchs(rng, widths, batch, name):
    torch = pytest.importorskip("torch", reason="PyTorch is too large to be a dependency of the tests")
    network, rows = network_of(widths, "softmax", "float64", "tanh"), batch * 5 // 2
    x, labels = rng.standard_normal((rows, widths[0])), rng.integers(0, widths[-1], rows)
    parameters = [torch.nn.Parameter(torch.from_numpy(array.copy())) for array in network.parameters()]
    inputs, targets = torch.from_numpy(x), torch.from_numpy(labels)
    settings = {"momentum": 0.9} if name == "SGD" else {}
    decays = (0.1, 0.0) if name == "AdamW" else (0.0, 0.0)
    groups = [{"params": parameters[i::2], "weight_decay": decay} for i, decay in enumerate(decays)]
    other = getattr(torch.optim, name)(groups, lr=0.01, **settings)
    for _ in range(3):
        for start in range(0, rows, batch):
            h = inputs[start:start + batch]
            for i in range(0, len(parameters), 2):
                h = (torch.tanh(h) if i else h) @ parameters[i] + parameters[i + 1]
            other.zero_grad()
            torch.nn.functional.cross_entropy(h, targets[start:start + batch]).backward()
            other.step()
    settings |= {"weight_decay": 0.1} if name == "AdamW" else {}
    network.fit(x, labels, epochs=3, batch_size=batch, optimizer=getattr(fastbp, name)(0.01, **settings), shuffle=False,
                progress=False)
    for found, expected in zip(network.parameters(), parameters, strict=True):
        assert_allclose(found, expected.detach().numpy(), rtol=1e-7, atol=1e-9)
