"""Losses and their gradients: beside plain NumPy in float64 and central differences, also for unusual scores and targets."""
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastbp
from fastbp import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy, softmax
from test_gradients import central_differences

LOSSES = (SoftmaxCrossEntropy, BinaryCrossEntropy, MeanSquaredError)
ROWS = (1, 63, 64, 65, 1000)                        # a task has 64
OUTPUTS = (1, 2, 3, 10, 1000)
INF, NAN = np.inf, np.nan
EPS = {np.dtype(np.float32): 2**-23, np.dtype(np.float64): 2**-52}


@pytest.fixture(params=LOSSES)
def loss_type(request):
    return request.param


def softmax_of(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def one_hot(labels, classes):
    return np.eye(classes)[labels]


def reference(loss_type, scores, targets, weights=None):
    """(loss, gradient) in float64; targets (rows, outputs)."""
    scores, targets = np.asarray(scores).astype(np.float64), np.asarray(targets).astype(np.float64)
    share = np.full(len(scores), 1.0) if weights is None else np.asarray(weights, np.float64)
    share = (share / share.sum())[:, np.newaxis]
    if loss_type is SoftmaxCrossEntropy:
        shifted = scores - scores.max(axis=1, keepdims=True)
        logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        losses = -np.where(targets == 0, 0, targets * logarithms)
        return (share * losses).sum(), share * (softmax_of(scores) * targets.sum(axis=1, keepdims=True) - targets)
    share = share / scores.shape[1]
    if loss_type is BinaryCrossEntropy:
        losses = np.maximum(scores, 0) - scores * targets + np.log1p(np.exp(-abs(scores)))
        small = np.exp(-abs(scores))
        return (share * losses).sum(), share * (np.where(scores > 0, 1, small) / (1 + small) - targets)
    return (share * (scores - targets) ** 2).sum(), share * 2 * (scores - targets)


def targets_of(rng, loss_type, rows, outputs):
    """Numbers that float32 can hold: shares that need not add up to 1, answers, or anything."""
    shape = rows, outputs
    return (rng.integers(-16, 17, shape) if loss_type is MeanSquaredError else rng.integers(0, 17, shape)) / 16


def assert_loss(loss_type, scores, targets, weights=None, given=None):
    """value_and_gradient is the reference's, to the rounding of the dtype of scores; `given` are targets of another form."""
    dtype = scores.dtype
    given = targets if given is None else given
    value, gradient = loss_type().value_and_gradient(scores, given, weights)
    assert value == loss_type()(scores, given, weights)
    assert isinstance(value, float)
    assert gradient.dtype == dtype
    assert gradient.shape == scores.shape
    expected, exact = reference(loss_type, scores, targets, weights)
    assert_allclose(value, expected, rtol=64 * EPS[dtype], atol=64 * EPS[dtype])
    largest = abs(exact).max(axis=1, keepdims=True)
    assert (abs(gradient - exact) <= 32 * EPS[dtype] * (largest + 2 / len(scores))).all()


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("rows", ROWS)
def test_value_and_gradient(rng, loss_type, dtype, rows, outputs):
    scores = (4 * rng.standard_normal((rows, outputs))).astype(dtype)
    assert_loss(loss_type, scores, targets_of(rng, loss_type, rows, outputs))


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("rows", ROWS)
def test_labels(rng, dtype, rows, outputs):
    """Of any integers; the same as one-hot targets, to the last places."""
    scores, labels = (4 * rng.standard_normal((rows, outputs))).astype(dtype), rng.integers(0, outputs, rows)
    targets = one_hot(labels, outputs)
    value, gradient = SoftmaxCrossEntropy().value_and_gradient(scores, labels)
    for kind in (np.int64, np.int16, np.uint64, np.int32):
        assert_loss(SoftmaxCrossEntropy, scores, targets, given=labels.astype(kind))
    assert_loss(SoftmaxCrossEntropy, scores, targets, given=np.repeat(labels, 2)[::-2][::-1])
    again, of_shares = SoftmaxCrossEntropy().value_and_gradient(scores, targets)
    assert_allclose(again, value, rtol=8 * EPS[dtype], atol=8 * EPS[dtype])
    assert_allclose(of_shares, gradient, atol=4 * EPS[dtype])
    if outputs <= 2:
        assert SoftmaxCrossEntropy()(scores, labels.astype(bool)) == value


@pytest.mark.parametrize("rows", [1, 64, 65, 300])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int32, bool])
def test_weights(rng, loss_type, dtype, rows, kind):
    scores, targets = rng.standard_normal((rows, 3)).astype(dtype), targets_of(rng, loss_type, rows, 3)
    weights = rng.integers(0, 300, rows).astype(kind)           # zeros among them, and a sum that float16 cannot hold
    weights[0] = 1
    assert_loss(loss_type, scores, targets, weights)
    assert_loss(loss_type, scores, targets, np.repeat(weights, 3)[::-3][::-1])


def test_a_row_of_weight_0_is_as_if_it_were_not_there(rng, loss_type, dtype):
    scores, targets = rng.standard_normal((70, 3)).astype(dtype), targets_of(rng, loss_type, 70, 3)
    weights = np.ones(70)
    weights[::3] = 0
    value, gradient = loss_type().value_and_gradient(scores, targets, weights)
    kept, of_kept = loss_type().value_and_gradient(scores[weights > 0], targets[weights > 0])
    assert_allclose(value, kept, rtol=1e-12)
    assert_array_equal(gradient[::3], 0)
    assert_allclose(gradient[weights > 0], of_kept, rtol=1e-6)


def test_a_batch_of_rows_of_weight_0_teaches_nothing(rng, loss_type):
    """Nor does it end a training: its loss is that of nothing, not one that is not finite."""
    scores_of = fastbp.Dense(4, 3, rng=0, dtype=np.float64)
    network = fastbp.Sequential([scores_of], loss_type())
    x, targets, weights = rng.standard_normal((96, 4)), targets_of(rng, loss_type, 96, 3), np.ones(96)
    weights[32:64] = 0
    seen = []
    for rows in (slice(None), np.r_[0:32, 64:96]):
        scores_of.weights[:], scores_of.biases[:] = 0.1, 0
        network.fit(x[rows], targets[rows], epochs=2, batch_size=32, optimizer=fastbp.SGD(0.1), sample_weight=weights[rows],
                    shuffle=False, progress=False)
        seen.append(scores_of.weights.copy())
    assert_array_equal(*seen)


def test_weights_count_as_often_as_they_say(rng, loss_type):
    scores, targets = rng.standard_normal((5, 3)), targets_of(rng, loss_type, 5, 3)
    weights = np.array([1, 3, 2, 1, 4])
    repeated = np.repeat(np.arange(5), weights)
    assert_allclose(loss_type()(scores, targets, weights), loss_type()(scores[repeated], targets[repeated]), rtol=1e-13)
    assert_allclose(loss_type()(scores, targets, 1e-3 * weights), loss_type()(scores, targets, weights), rtol=1e-13)


@pytest.mark.parametrize("largest", [5e-324, 1e-310, 1e-300, 1e-160, 1.0, 1e160, 1e300, 1.7e308])
def test_weights_of_any_size(rng, loss_type, dtype, largest):
    """Only their ratios count, also if their sum, or 1 divided by it, is no number."""
    scores, targets = rng.standard_normal((70, 3)).astype(dtype), targets_of(rng, loss_type, 70, 3)
    weights = np.zeros(70)
    weights[5:60] = largest
    assert_loss(loss_type, scores, targets, (weights > 0).astype(float))
    for few, many in ((weights, weights > 0), (np.where(weights > 0, weights, largest / 2), np.where(weights > 0, 2, 1))):
        if largest > 1e-300 or few is weights:
            value, gradient = loss_type().value_and_gradient(scores, targets, few)
            expected, exact = loss_type().value_and_gradient(scores, targets, many)
            assert_allclose(value, expected, rtol=1e-13)
            assert_allclose(gradient, exact, rtol=4 * EPS[dtype], atol=1e-18)


@pytest.mark.parametrize("largest", [1e-310, 1e300, 1.7e308])
def test_a_training_with_weights_of_any_size(rng, loss_type, largest):
    networks = [fastbp.Sequential([fastbp.Dense(4, 3, rng=0, dtype=np.float64)], loss_type()) for _ in range(2)]
    x, targets, weights = rng.standard_normal((96, 4)), targets_of(rng, loss_type, 96, 3), rng.integers(0, 3, 96) / 2
    for network, given in zip(networks, (weights, weights * largest), strict=True):
        network.history = network.fit(x, targets, epochs=2, batch_size=40, optimizer=fastbp.SGD(0.1), rng=0,
                                      sample_weight=given)
        network.value = network.evaluate(x, targets, given)[0]
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert_allclose(one, other, rtol=1e-11)
    assert_allclose(networks[0].history.loss, networks[1].history.loss, rtol=1e-11)
    assert_allclose(networks[0].value, networks[1].value, rtol=1e-11)


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "shares"])
def test_central_differences_of_classes(rng, labels):
    scores, weights = 3 * rng.standard_normal((7, 5)), rng.uniform(0, 2, 7)
    targets = rng.integers(0, 5, 7) if labels else rng.uniform(0, 1, (7, 5))
    gradient = SoftmaxCrossEntropy().value_and_gradient(scores, targets, weights)[1]
    numeric = central_differences(lambda: SoftmaxCrossEntropy()(scores, targets, weights), scores)
    assert_allclose(gradient, numeric, atol=1e-8)


@pytest.mark.parametrize("rows, outputs", [(1, 1), (7, 5), (70, 3)])
def test_central_differences(rng, loss_type, rows, outputs):
    scores, targets = 3 * rng.standard_normal((rows, outputs)), targets_of(rng, loss_type, rows, outputs)
    gradient = loss_type().value_and_gradient(scores, targets)[1]
    assert_allclose(gradient, central_differences(lambda: loss_type()(scores, targets), scores), atol=1e-8)


# ---- odd scores


@pytest.mark.parametrize("shares", [False, True], ids=["labels", "shares"])
def test_large_scores_of_classes(dtype, shares):
    """What is between scores counts, however large these are: their difference is taken before anything is rounded."""
    scores = np.array([[1e4, -1e4, 0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4 + 1], [1e4, 1e4 - 2, 1e4 - 1]], dtype)
    labels = np.array([1, 0, 2, 2])
    value, gradient = SoftmaxCrossEntropy().value_and_gradient(scores, one_hot(labels, 3) if shares else labels)
    last = np.log(1 + np.exp(-1) + np.exp(-2))
    assert_allclose(value, (2e4 + np.log(3) + np.log(1 + 2 * np.exp(-1)) + 1 + last) / 4, rtol=4 * EPS[dtype])
    assert_allclose(gradient, (softmax_of(scores.astype(np.float64)) - one_hot(labels, 3)) / 4, atol=4 * EPS[dtype])
    for row in range(1, 4):
        one = SoftmaxCrossEntropy()(scores[row:row + 1], one_hot(labels, 3)[row:row + 1] if shares else labels[row:row + 1])
        exact = reference(SoftmaxCrossEntropy, scores[row:row + 1], one_hot(labels[row:row + 1], 3))[0]
        assert_allclose(one, exact, rtol=8 * EPS[dtype])


def test_shares_of_large_scores(dtype):
    """Products of shares and scores are thousands, their difference is of the size of 1."""
    scores = np.array([[1e4, 1e4 + 0.5, 1e4 - 10]], dtype)
    targets = np.array([[0.3, 0.6, 0.1]], dtype)
    assert_allclose(SoftmaxCrossEntropy()(scores, targets), reference(SoftmaxCrossEntropy, scores, targets)[0],
                    rtol=4 * EPS[dtype], atol=1e4 * 2**-50)


def test_large_answers(dtype):
    scores = np.array([[1e4], [-1e4], [1e4], [-1e4]], dtype)
    value, gradient = BinaryCrossEntropy().value_and_gradient(scores, [1, 0, 0, 1])
    assert value == 2e4 / 4
    assert_array_equal(gradient, [[0], [0], [0.25], [-0.25]])


def test_no_probability_is_rounded_to_0_or_1(dtype):
    """A loss far below the rounding of a probability is there."""
    z = 60.0
    assert_allclose(BinaryCrossEntropy()(np.array([[z]], dtype), [1]), np.exp(-z), rtol=1e-6)
    assert_allclose(SoftmaxCrossEntropy()(np.array([[0, z]], dtype), [0]), z, rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 40])
def test_masked_classes(rng, dtype, classes):
    """A score of -inf is a class that is out of the question."""
    scores, labels = rng.standard_normal((70, classes)).astype(dtype), rng.integers(0, classes - 1, 70)
    masked = np.insert(scores[:, :-1], 1, -np.inf, axis=1)
    labels_masked = labels + (labels >= 1)
    expected, of_others = reference(SoftmaxCrossEntropy, scores[:, :-1], one_hot(labels, classes - 1))
    for targets in (labels_masked, one_hot(labels_masked, classes)):
        value, gradient = SoftmaxCrossEntropy().value_and_gradient(masked, targets)
        assert_allclose(value, expected, rtol=32 * EPS[dtype], atol=EPS[dtype])
        assert_array_equal(gradient[:, 1], 0)
        assert_allclose(np.delete(gradient, 1, axis=1), of_others, atol=8 * EPS[dtype])
    assert_array_equal(softmax(masked)[:, 1], 0)
    for targets in (np.ones(70, int), one_hot(np.ones(70, int), classes)):
        value, gradient = SoftmaxCrossEntropy().value_and_gradient(masked, targets)
        assert value == np.inf
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_not_hidden(loss_type, dtype, column, bad):
    scores = np.zeros((3, 3), dtype)
    scores[1, column] = bad
    value, gradient = loss_type().value_and_gradient(scores, np.zeros((3, 3)) + np.array([1, 0, 0]))
    assert not np.isfinite(value)
    if np.isnan(bad):
        assert np.isnan(value)
        assert np.isnan(gradient[1, column])
    assert np.isfinite(gradient[[0, 2]]).all()
    if loss_type is SoftmaxCrossEntropy:
        assert np.isnan(SoftmaxCrossEntropy()(scores, [0, 2, 0]))
        assert np.isnan(softmax(scores)[1]).any()


# ---- saturated scores


def labels_and_shares(labels, classes):
    return labels, one_hot(labels, classes)


@pytest.mark.parametrize("classes", [2, 3, 10, 130])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("margin", [None, 12, 17, 30, 40, 200, 1e4])
def test_gradients_of_classes_are_as_exact_as_numpys(rng, dtype, classes, weighted, margin):
    """0 where the label's probability rounds to 1, else with no larger errors than NumPy's in this dtype, and no bias."""
    rows = 1000
    scores, labels = 2 * rng.standard_normal((rows, classes)), rng.integers(0, classes, rows)
    if margin is not None:
        scores[np.arange(rows), labels] += margin
    scores, weights = scores.astype(dtype), 2.0**rng.integers(-3, 4, rows) if weighted else np.ones(rows)
    shares = (weights / weights.sum())[:, np.newaxis]
    exact = scores.astype(np.longdouble)
    exact = softmax_of(exact)
    is_one = exact[np.arange(rows), labels].astype(dtype) == 1
    unit = shares * EPS[dtype]
    of_numpy = (softmax_of(scores) - one_hot(labels, classes).astype(dtype)) * shares.astype(dtype)
    exact = (exact - one_hot(labels, classes)) * shares
    for targets in labels_and_shares(labels, classes):
        gradient = SoftmaxCrossEntropy().value_and_gradient(scores, targets, weights if weighted else None)[1]
        errors, allowed = (gradient - exact) / unit, abs(of_numpy - exact) / unit
        assert np.sqrt((errors**2).mean()) <= 1.5 * np.sqrt((allowed**2).mean()) + 1e-9
        assert abs(errors).max() <= 2 * allowed.max() + 1e-9
        of_labels = errors[np.arange(rows), labels].astype(np.float64)
        assert abs(of_labels.mean()) <= 0.5
        assert_array_equal(gradient[np.arange(rows), labels][is_one], 0)
    assert is_one.all() or (margin or 0) < 200


@pytest.mark.parametrize("scores, targets", [(17.5, 1), (20, 1), (1e4, 1), (-200, 0), (-1e4, 0)])
def test_answers_that_are_right_for_sure(scores, targets):
    """In float32, whose sigmoid is 1 or 0 there."""
    gradient = BinaryCrossEntropy().value_and_gradient(np.full((1, 1), scores, np.float32), [targets])[1]
    assert gradient == 0


# ---- what is accepted


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64, np.int8, bool, list])
def test_dtypes(rng, loss_type, kind):
    """float32 and float64 are kept, float16 becomes float32, integers float64."""
    numbers, targets = rng.integers(0, 2, (5, 3)), rng.integers(0, 2, (5, 3))
    scores = numbers.tolist() if kind is list else numbers.astype(kind)
    dtype = {np.float32: np.float32, np.float16: np.float32}.get(kind, np.float64)
    value, gradient = loss_type().value_and_gradient(scores, targets.tolist())
    expected, exact = reference(loss_type, numbers, targets)
    assert gradient.dtype == dtype
    assert_allclose(value, expected, rtol=1e-6 if dtype is np.float32 else 1e-14)
    assert_allclose(gradient, exact, atol=1e-6 if dtype is np.float32 else 1e-14)


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2],
                                    lambda a: a[::-1].copy()[::-1], lambda a: a.astype(a.dtype.newbyteorder())],
                         ids=["Fortran", "strided", "reversed", "byte order"])
def test_layouts_and_that_nothing_is_changed(rng, loss_type, dtype, layout):
    scores, targets = rng.standard_normal((70, 5)).astype(dtype), targets_of(rng, loss_type, 70, 5).astype(dtype)
    weights = rng.uniform(0, 1, 70)
    arrays = layout(scores), layout(targets), weights[::-1].copy()[::-1]
    before = [a.tobytes() for a in arrays]
    for array in arrays:
        array.flags.writeable = False
    value, gradient = loss_type().value_and_gradient(*arrays)
    expected, exact = loss_type().value_and_gradient(scores, targets, weights)
    assert value == expected
    assert_array_equal(gradient, exact)
    assert not np.shares_memory(gradient, arrays[0])
    loss_type().predictions(arrays[0])
    assert [a.tobytes() for a in arrays] == before


def test_a_single_row_of_any_stride(rng, loss_type, dtype):
    """NumPy gives a single row the stride 0, or that of the array that it is from, and calls it contiguous."""
    scores, targets = rng.standard_normal(3).astype(dtype), targets_of(rng, loss_type, 1, 3)[0].astype(dtype)
    expected = loss_type()(scores.reshape(1, 3).copy(), targets.reshape(1, 3).copy())
    assert loss_type()(scores, targets[np.newaxis]) == expected
    assert loss_type()(scores[np.newaxis], np.broadcast_to(targets, (1, 3))) == expected
    assert loss_type()(scores, np.repeat(targets[np.newaxis], 5, axis=0)[::5]) == expected


def test_one_output_takes_a_vector_of_targets(rng, dtype):
    scores = rng.standard_normal((70, 1)).astype(dtype)
    for loss_type in (BinaryCrossEntropy, MeanSquaredError):
        targets = targets_of(rng, loss_type, 70, 1)
        assert loss_type()(scores, targets[:, 0]) == loss_type()(scores, targets)
        with pytest.raises(ValueError, match=re.escape("targets has shape (70,), expected (70, 2)")):
            loss_type()(np.hstack([scores, scores]), targets[:, 0])
    with pytest.raises(ValueError, match=re.escape("targets has shape (2,), expected (1, 2)")):
        MeanSquaredError()(scores[:2, 0], np.zeros(2))


def test_nothing(loss_type, dtype):
    """The mean of nothing is NaN."""
    for shape in ((0, 3), (5, 0), (0, 0)):
        value, gradient = loss_type().value_and_gradient(np.zeros(shape, dtype), np.zeros(shape))
        assert np.isnan(value)
        assert gradient.shape == shape
        assert gradient.dtype == dtype
        assert loss_type().predictions(np.zeros(shape, dtype)).shape == shape
    assert np.isnan(SoftmaxCrossEntropy()(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0)))


# ---- what is made of scores


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("rows", ROWS)
def test_softmax(rng, dtype, rows, outputs):
    scores = (4 * rng.standard_normal((rows, outputs))).astype(dtype)
    before = scores.copy()
    shares = softmax(scores)
    assert shares.dtype == dtype
    assert_allclose(shares, softmax_of(scores.astype(np.float64)), rtol=16 * EPS[dtype])
    assert_allclose(shares.sum(axis=1), np.ones(rows), rtol=16 * EPS[dtype])
    assert_array_equal(scores, before)
    assert_array_equal(SoftmaxCrossEntropy().predictions(scores), shares)


def test_softmax_of_one_row_and_of_other_numbers():
    expected = softmax_of(np.array([[1.0, 2, 4]]))[0]
    assert softmax([1, 2, 4]).shape == (3,)
    assert_allclose(softmax([1, 2, 4]), expected, rtol=1e-15)
    assert_allclose(softmax([[1, 2, 4]]), [expected], rtol=1e-15)
    assert softmax(np.array([1, 2, 4], np.float16)).dtype == np.float32
    assert_array_equal(softmax([1e4, -1e4, 1e4]), [0.5, 0, 0.5])
    for shape in ((0,), (0, 3), (3, 0)):
        assert softmax(np.zeros(shape)).shape == shape
    for wrong in (np.zeros((2, 2, 2)), 3.0):
        with pytest.raises(ValueError, match="scores has shape"):
            softmax(wrong)
    with pytest.raises(TypeError, match="scores has dtype complex128"):
        softmax([1j])


def test_predictions(rng, dtype):
    scores = (20 * rng.standard_normal((70, 3))).astype(dtype)
    exact = 1 / (1 + np.exp(-scores.astype(np.float64)))
    assert_allclose(BinaryCrossEntropy().predictions(scores), exact, rtol=8 * EPS[dtype])
    predicted = MeanSquaredError().predictions(scores)
    assert_array_equal(predicted, scores)
    assert not np.shares_memory(predicted, scores)


def test_what_is_right(dtype):
    """Of classes the rows whose highest score is the label's, of answers the elements on the right side of 0."""
    scores = np.array([[1, 2, 3], [3, 2, 1], [1, 3, 2], [0, -1, -2]], dtype)
    labels = np.array([2, 0, 0, 1])
    assert SoftmaxCrossEntropy().evaluate(scores, labels)[1] == 2
    assert SoftmaxCrossEntropy().evaluate(scores, one_hot(labels, 3))[1] == 2
    assert SoftmaxCrossEntropy().accuracy(2, 4, 3) == 0.5
    answers = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert BinaryCrossEntropy().evaluate(scores, answers)[1] == 8
    assert BinaryCrossEntropy().accuracy(8, 4, 3) == 8 / 12
    assert MeanSquaredError().accuracy(0, 4, 3) is None


def is_right(scores, label):
    """Whether a label is a row's answer: no class before it scores as much, and none after it more; NaN is no answer."""
    z = scores[label]
    return bool((scores[:label] < z).all() and z == z and not (scores[label + 1:] > z).any())


@pytest.mark.parametrize("row, answer", [
    ([1, 1, 0], 0), ([0, 1, 1], 1), ([1, 0, 1], 0), ([2, 2, 2], 0), ([0, -0.0, 0], 0), ([-INF, -INF, -INF], 0),
    ([-INF, 0, 0], 1), ([0, -INF, 0], 0), ([INF, INF, 0], 0), ([0, INF, INF], 1), ([NAN, 1, 2], None), ([1, NAN, 2], None),
    ([2, NAN, 1], 0), ([1, 2, NAN], 1), ([NAN, NAN, NAN], None)])
def test_the_first_of_equal_scores_is_the_answer(dtype, row, answer):
    """As of np.argmax. A NaN is no answer, nor is what comes after it."""
    scores = np.array([row], dtype)
    if not np.isnan(scores).any():
        assert scores.argmax() == answer
    for label in range(3):
        assert is_right(scores[0], label) == (label == answer)
        for targets in labels_and_shares(np.array([label]), 3):
            assert SoftmaxCrossEntropy().evaluate(scores, targets)[1] == (label == answer)


@pytest.mark.parametrize("classes", [1, 2, 3, 16, 17, 130])
def test_ties_of_any_classes(rng, dtype, classes):
    """Rows of few different scores, many of them equal, -inf, or NaN."""
    scores = rng.choice([-np.inf, 0, 1, 2], (1000, classes)).astype(dtype)
    labels = np.where(rng.random(1000) < 0.5, scores.argmax(axis=1), rng.integers(0, classes, 1000))
    right = (scores.argmax(axis=1) == labels).sum()
    assert right == sum(map(is_right, scores, labels))
    for targets in labels_and_shares(labels, classes):
        assert SoftmaxCrossEntropy().evaluate(scores, targets)[1] == right
    scores[rng.random(scores.shape) < 0.1] = np.nan
    for targets in labels_and_shares(labels, classes):
        assert SoftmaxCrossEntropy().evaluate(scores, targets)[1] == sum(map(is_right, scores, labels))


@pytest.mark.parametrize("shares, label", [([0.5, 0.5, 0], 0), ([0, 0.5, 0.5], 1), ([1, 1, 1], 0), ([0, 0, 0], 0),
                                           ([0, 2, 2], 1)])
def test_the_first_of_equal_shares_is_the_label(dtype, shares, label):
    right = [SoftmaxCrossEntropy().evaluate(np.eye(3, dtype=dtype)[[k]], np.array([shares]))[1] for k in range(3)]
    assert right == [k == label for k in range(3)] and np.argmax(shares) == label


@pytest.mark.parametrize("score, is_yes", [(0, False), (-0.0, False), (1e-40, True), (-1e-40, False), (INF, True),
                                           (-INF, False), (NAN, False)])
@pytest.mark.parametrize("target, is_wanted", [(0, False), (0.5, False), (0.5 + 2**-23, True), (1, True)])
def test_answers_at_exactly_half(dtype, score, is_yes, target, is_wanted):
    """A score of 0 is a no, as a sigmoid of 0.5 is to scikit-learn; so is a target of 0.5."""
    assert BinaryCrossEntropy().evaluate(np.array([[score]], dtype), [[target]])[1] == (is_yes == is_wanted)


@pytest.mark.parametrize("rows, outputs", [(7, 3), (5000, 10), (1000, 130)])
def test_any_number_of_threads(loss_type, dtype, rows, outputs):
    rng, found = np.random.default_rng(0), set()
    scores, targets = rng.standard_normal((rows, outputs)).astype(dtype), targets_of(rng, loss_type, rows, outputs)
    labels, weights = rng.integers(0, outputs, rows), rng.uniform(0, 1, rows)
    for threads in (1, 2, 3):
        fastbp.set_num_threads(threads)
        results = [loss_type().evaluate(scores, targets, weights), SoftmaxCrossEntropy().evaluate(scores, labels)]
        found.add((*(number for result in results for number in result[:2]), *(result[2].tobytes() for result in results),
                   loss_type().predictions(scores).tobytes()))
    assert len(found) == 1


# ---- errors


@pytest.mark.parametrize("shape", [(5, 2), (4, 3), (15,), (5,), (5, 3, 1), ()])
def test_targets_of_another_shape(loss_type, shape):
    with pytest.raises(ValueError, match=re.escape(f"targets has shape {shape}")) as error:
        loss_type()(np.zeros((5, 3)), np.zeros(shape))
    assert "(5, 3)" in str(error.value)


@pytest.mark.parametrize("labels", [[0, 1, 3], [-1, 0, 0], np.array([0, 1, 2**63], np.uint64)])
def test_labels_out_of_range(labels):
    with pytest.raises(ValueError, match="targets has classes from .* to .*, expected 0 to 2: the scores have 3 columns"):
        SoftmaxCrossEntropy()(np.zeros((3, 3)), labels)


def test_labels_that_are_not_integers():
    with pytest.raises(ValueError, match=re.escape("targets has shape (3,) and dtype float64, expected integers (3,), or")):
        SoftmaxCrossEntropy()(np.zeros((3, 3)), [0.0, 1.0, 2.0])


@pytest.mark.parametrize("targets", [[0.5, 1.5], [-0.1, 0], [np.nan, 0]])
def test_answers_out_of_range(targets):
    with pytest.raises(ValueError, match="targets has numbers from .* to .*, expected 0 to 1"):
        BinaryCrossEntropy()(np.zeros((2, 1)), targets)


@pytest.mark.parametrize("weights", [[1, -1, 1], [0, 0, 0], [1, np.nan, 1], [1, np.inf, 1]])
def test_weights_out_of_range(loss_type, weights):
    with pytest.raises(ValueError, match="sample_weight has numbers that are negative or not finite, or only zeros"):
        loss_type()(np.zeros((3, 2)), np.zeros((3, 2)), weights)


@pytest.mark.parametrize("weights", [[1, 1], [[1, 1, 1]], 1])
def test_weights_of_another_shape(loss_type, weights):
    with pytest.raises(ValueError, match=re.escape(f"sample_weight has shape {np.shape(weights)}, expected (3,)")):
        loss_type()(np.zeros((3, 2)), np.zeros((3, 2)), weights)


def test_what_is_not_real(loss_type):
    real, wrong = np.zeros((3, 2)), np.zeros((3, 2), complex)
    with pytest.raises(TypeError, match="scores has dtype complex128"):
        loss_type()(wrong, real)
    with pytest.raises(TypeError, match="targets has dtype complex128"):
        loss_type()(real, wrong)
    with pytest.raises(TypeError, match="sample_weight has dtype complex128"):
        loss_type()(real, real, wrong[:, 0])
    with pytest.raises(TypeError, match="scores has dtype <U1"):
        loss_type()([["a", "b"]], real[:1])
    with pytest.raises(ValueError, match="scores has shape"):
        loss_type()(np.zeros((2, 2, 2)), real)


def test_shares_below_0_are_refused():
    with pytest.raises(ValueError, match="targets has shares down to -1.0, expected 0 or more"):
        fastbp.SoftmaxCrossEntropy()(np.zeros((3, 3)), -np.eye(3))
