"""Models of the book's chapters 20 to 22, saved and loaded: parameters and whole models; and calls in a wrong order."""
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fastbp import nnfs
from test_nnfs import spiral_data

PENALTIES = dict(weight_regularizer_l2=5e-4, bias_regularizer_l1=1e-4)


def model_of(optimizer=None, hidden=8):
    """Return a model, ready to be trained if there is an optimizer, and otherwise to be evaluated."""
    model = nnfs.Model()
    for layer in (nnfs.Layer_Dense(2, hidden, **PENALTIES), nnfs.Activation_ReLU(), nnfs.Layer_Dropout(0.1),
                  nnfs.Layer_Dense(hidden, 3), nnfs.Activation_Softmax()):
        model.add(layer)
    model.set(loss=nnfs.Loss_CategoricalCrossentropy(), optimizer=optimizer, accuracy=nnfs.Accuracy_Categorical())
    model.finalize()
    return model


@pytest.fixture
def data():
    np.random.seed(0)
    return spiral_data(20, 3)


@pytest.fixture
def trained(data, capsys):
    model = model_of(nnfs.Optimizer_Adam(0.02, decay=1e-3))
    model.train(*data, epochs=3, batch_size=25)
    capsys.readouterr()
    return model


def assert_same_parameters(model, other):
    for layer, its in zip(model.get_parameters(), other.get_parameters(), strict=True):
        for array, value in zip(layer, its, strict=True):
            assert_array_equal(array, value)


def test_parameters_of_another_model(trained, data, capsys):
    """As in chapter 20: a new model with them evaluates as the old one; they are the arrays themselves."""
    model = model_of()
    model.set_parameters(trained.get_parameters())
    assert [layer.weights for layer in model.trainable_layers] == [weights for weights, _ in trained.get_parameters()]
    model.evaluate(*data)
    trained.evaluate(*data)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_parameters_in_a_file(trained, tmp_path):
    path = tmp_path / "spiral.parms"
    trained.save_parameters(path)
    model = model_of()
    model.load_parameters(str(path))
    assert_same_parameters(model, trained)
    with open(path, "rb") as file:
        assert_array_equal(pickle.load(file)[1][0], trained.layers[3].weights)      # the book's own classes read it


def test_a_model_in_a_file(trained, data, tmp_path, capsys):
    """It predicts and trains on as the one that was saved, which is unchanged, and has nothing of the last batch in it."""
    path, before = tmp_path / "spiral.model", trained.loss.accumulated_count
    trained.save(path)
    model = nnfs.Model.load(path)
    assert (trained.loss.accumulated_count, model.loss.accumulated_count, model.accuracy.accumulated_sum) == (before, 0, 0)
    for part in (model.input_layer, model.loss, model.softmax_classifier_output, *model.layers):
        assert not vars(part).keys() & {"inputs", "output", "dinputs", "dweights", "dbiases", "binary_mask"}
    assert model.layers[2].next is model.layers[3]
    assert_array_equal(model.predict(data[0]), trained.predict(data[0]))
    state, printed = np.random.get_state(), []
    for each in (model, trained):
        np.random.set_state(state)
        each.train(*data, epochs=3, batch_size=25, validation_data=data)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert_same_parameters(model, trained)


def test_a_model_without_loss_and_accuracy(tmp_path):
    model = nnfs.Model()
    model.add(nnfs.Layer_Dense(2, 3))
    model.finalize()
    model.save(tmp_path / "model")
    assert_same_parameters(nnfs.Model.load(tmp_path / "model"), model)


def test_a_failed_save_leaves_the_old_file(trained, tmp_path):
    path = tmp_path / "model"
    trained.save(path)
    old = path.read_bytes()
    trained.layers[0].hook = lambda: None                       # which no pickle can hold
    with pytest.raises((pickle.PicklingError, AttributeError)):
        trained.save(path)
    assert path.read_bytes() == old


@pytest.mark.parametrize("change, message", [
    (lambda parameters: parameters[:1], r"parameters has \(weights, biases\) of 1 layers, expected those of 2"),
    (lambda parameters: [parameters[0], (np.ones((3, 8)), parameters[1][1])],
     r"weights of parameters\[1\] has shape \(3, 8\), expected \(8, 3\)"),
    (lambda parameters: [parameters[0], (parameters[1][0], np.ones(3))], r"biases of parameters\[1\] has shape \(3,\)"),
])
def test_parameters_that_do_not_fit(trained, change, message):
    before = [array for pair in trained.get_parameters() for array in pair]
    with pytest.raises(ValueError, match=message):
        trained.set_parameters(change(model_of().get_parameters()))
    after = [array for pair in trained.get_parameters() for array in pair]
    assert all(array is value for array, value in zip(after, before, strict=True))


def test_files_of_the_wrong_kind(trained, tmp_path):
    path = tmp_path / "file"
    trained.save_parameters(path)
    with pytest.raises(TypeError, match="has an object of type list, expected a Model; load_parameters reads"):
        nnfs.Model.load(path)
    path.write_bytes(b"no pickle")
    with pytest.raises(pickle.UnpicklingError):
        trained.load_parameters(path)
    with pytest.raises(FileNotFoundError):
        nnfs.Model.load(tmp_path / "none")


def test_before_finalize(tmp_path):
    model = nnfs.Model()
    model.add(nnfs.Layer_Dense(2, 3))
    for call in (model.get_parameters, lambda: model.set_parameters([]), lambda: model.save(tmp_path / "model"),
                 lambda: model.save_parameters(tmp_path / "model")):
        with pytest.raises(RuntimeError, match="input_layer of the model is None, expected add, set and finalize first"):
            call()


OPTIMIZERS = nnfs.Optimizer_SGD(momentum=0.9), nnfs.Optimizer_Adagrad(), nnfs.Optimizer_RMSprop(), nnfs.Optimizer_Adam()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
def test_read_only_arrays(trained, data, optimizer, tmp_path):
    """As of a memory map, or of pickles with immutable buffers: training goes on in copies, and the arrays are unchanged."""
    trained.set(optimizer=optimizer)
    trained.train(*data)
    layer = trained.layers[0]
    names = [name for name in vars(layer) if name.endswith(("_momentums", "_cache"))] + ["weights", "biases"]
    before = {name: getattr(layer, name).copy() for name in names}
    for name in names:
        np.save(tmp_path / f"{name}.npy", before[name])
        setattr(layer, name, np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    trained.train(*data)
    assert not np.array_equal(layer.weights, before["weights"])
    for name in names:
        assert_array_equal(np.load(tmp_path / f"{name}.npy"), before[name])


@pytest.mark.parametrize("part", [nnfs.Layer_Dense(2, 3), nnfs.Activation_ReLU(), nnfs.Activation_Softmax(),
                                  nnfs.Activation_Sigmoid()], ids=lambda part: type(part).__name__)
def test_backward_before_forward(part):
    with pytest.raises(RuntimeError, match=f"backward of {type(part).__name__} was called before forward, expected forward"):
        part.backward(np.ones((4, 3)))


def test_steps_before_others():
    dropout, dense = nnfs.Layer_Dropout(0.1), nnfs.Layer_Dense(2, 3)
    dropout.forward(np.ones((4, 3)), training=False)
    with pytest.raises(RuntimeError, match="backward of Layer_Dropout was called before forward in training"):
        dropout.backward(np.ones((4, 3)))
    dense.forward(np.ones((4, 2)))
    for optimizer in OPTIMIZERS:
        with pytest.raises(RuntimeError, match="update_params of Layer_Dense was called before backward, expected backward"):
            optimizer.update_params(dense)


def test_the_scale_of_new_weights(monkeypatch):
    """Chapter 17's is 0.1; a layer that there is already keeps its own."""
    np.random.seed(0)
    small = nnfs.Layer_Dense(2, 3).weights
    monkeypatch.setattr(nnfs.Layer_Dense, "weight_scale", 0.1)
    np.random.seed(0)
    numbers = np.random.randn(2, 3)
    np.random.seed(0)
    assert_array_equal(nnfs.Layer_Dense(2, 3).weights, 0.1 * numbers)
    assert_array_equal(small, 0.01 * numbers)
