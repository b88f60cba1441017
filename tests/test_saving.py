"""Saved networks: loading gives the same network, bit for bit, and nothing else is taken for a saved network."""
import errno
import io
import json
import pickle
import re
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastbp
from fastbp._files import container

LOSSES = [None, fastbp.SoftmaxCrossEntropy, fastbp.BinaryCrossEntropy, fastbp.MeanSquaredError]
SUFFIXES = [".npz", ".safetensors"]


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"net{request.param}"


def make(loss=fastbp.SoftmaxCrossEntropy, dtype=np.float32, **options):
    """Every kind of layer."""
    layers = [fastbp.Dropout(0.1), fastbp.Dense(5, 4, dtype=dtype, need_dinputs=False, rng=0, **options), fastbp.ReLU(),
              fastbp.DenseReLU(4, 7, dtype=dtype, rng=1, **options), fastbp.Dropout(1 / 3)]
    layers += [fastbp.Dense(7, 7, activation=name, dtype=dtype, rng=2, **options)
               for name in ("leaky_relu", "sigmoid", "tanh", "gelu", "identity")]
    layers.append(fastbp.Dense(7, 3, dtype=dtype, rng=3, bias=False))
    for layer in layers:
        if isinstance(layer, fastbp.Dense) and layer.biases is not None:
            layer.biases[:] = np.random.default_rng(len(layer.weights)).standard_normal(layer.biases.shape)
    return fastbp.Sequential(layers, loss and loss(), l2=0.1)


def described(network):
    """All that makes it what it is."""
    layers = []
    for layer in network.layers:
        if isinstance(layer, fastbp.Dense):
            biases = None if layer.biases is None else (layer.biases.dtype, layer.biases.size, layer.biases.tobytes())
            layers.append((layer.activation, layer.precision, layer.need_dinputs, layer.weights.dtype, layer.weights.shape,
                           layer.weights.tobytes(), biases))
        else:
            layers.append((type(layer), getattr(layer, "rate", None)))
    return layers, type(network.loss), network.l2, network.dtype


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dtype": np.float64}, {"precision": "bfloat16"}],
                         ids=["float32", "no biases", "float64", "bfloat16"])
def test_what_is_read_is_what_was_saved(path, rng, recwarn, loss, options):
    network, x = make(loss, **options), rng.standard_normal((50, 5))
    network.save(path)
    read = fastbp.load(path)
    assert described(read) == described(network)
    assert_array_equal(read.predict(x), network.predict(x), strict=True)
    read.save(again := path.with_stem("again"))
    assert again.read_bytes() == path.read_bytes()


def test_a_read_network_is_trained_like_the_saved_one(path, rng):
    network, (x, y) = make(), (rng.standard_normal((50, 5)), rng.integers(0, 3, 50))
    network.fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.Adam(), rng=0)
    network.save(path)
    read = fastbp.load(str(path))
    for one in (network, read):
        one.fit(x, y, epochs=2, batch_size=16, optimizer=fastbp.Adam(), rng=0)
    assert described(read) == described(network)
    assert read.evaluate(x, y) == network.evaluate(x, y)
    assert read.check_gradients(x, y) < 1e-6


def test_the_two_formats_hold_the_same(tmp_path):
    for suffix in SUFFIXES:
        make().save(tmp_path / f"net{suffix}")
    first, second = (fastbp.load(tmp_path / f"net{suffix}") for suffix in SUFFIXES)
    assert described(first) == described(second)


def test_special_numbers_are_kept(path):
    network = fastbp.Sequential([fastbp.Dense(2, 3)])
    network.layers[0].weights[:] = [[np.nan, np.inf, -np.inf], [-0.0, 1e-45, 3.4e38]]
    network.save(path)
    assert described(fastbp.load(path)) == described(network)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda a: a.astype(np.float64), lambda a: np.round(a).astype(int),
                                    lambda a: a[::-1].copy()[::-1], lambda a: a.astype(np.float16)],
                         ids=["Fortran", "float64", "int", "strided", "float16"])
def test_assigned_arrays_are_saved_as_the_network_has_them(path, change):
    network = make()
    network.layers[1].weights, network.layers[1].biases = change(network.layers[1].weights), network.layers[1].biases[0]
    network.save(path)
    read = fastbp.load(path)
    assert described(read) == described(network)
    assert read.dtype == read.layers[1].weights.dtype == np.float32 and read.layers[1].biases.shape == (1, 4)
    x = np.ones((2, 5))
    assert_array_equal(read.predict(x), network.predict(x))


def test_assigned_arrays_that_do_not_fit_leave_the_old_file(path):
    network = make()
    network.save(path)
    before = path.read_bytes()
    network.layers[1].weights = np.ones((5, 9))
    with pytest.raises(ValueError, match=r"layers\[3\] has 4 inputs, expected 9"):
        network.save(path)
    assert path.read_bytes() == before


def test_the_names_of_the_arrays(path):
    """What other programs find in the file."""
    network = make()
    network.save(path)
    arrays, about = container.read(path)
    assert sorted(arrays) == sorted([f"{i}.{name}" for i in (1, 3, 5, 6, 7, 8, 9) for name in ("weights", "biases")]
                                    + ["10.weights"])
    assert_array_equal(arrays["3.weights"], network.layers[3].weights)
    assert about["layers"][0] == {"type": "Dropout", "rate": 0.1}
    assert about["layers"][1] == {"type": "Dense", "activation": "identity", "need_dinputs": False, "precision": None}
    assert about["layers"][2] == {"type": "ReLU"}
    assert (about["format"], about["loss"], about["l2"]) == (1, "SoftmaxCrossEntropy", 0.1)


def test_what_is_read_is_independent_of_the_file(path):
    make().save(path)
    read = fastbp.load(path)
    path.unlink()
    for array in read.parameters():
        assert array.flags.writeable and array.flags.c_contiguous
        array += 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"])
@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
def test_a_crash_leaves_the_old_file_and_no_other(path, monkeypatch, function, error):
    old = make()
    old.save(path)

    def fail(*arguments):
        raise error

    new = make(fastbp.MeanSquaredError, np.float64)
    with monkeypatch.context() as patched:
        patched.setattr(function, fail)
        with pytest.raises(type(error)):
            new.save(path)
    assert described(fastbp.load(path)) == described(old)
    assert list(path.parent.iterdir()) == [path]
    new.save(path)
    assert described(fastbp.load(path)) == described(new)


@pytest.mark.parametrize("name", ["net", "net.pt", "net.pkl", "net.npz.old", ".npz"])
def test_a_wrong_suffix(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ValueError, match=re.escape(f"path is '{path}'") + ".*expected .safetensors or .npz"):
        make().save(path)
    with pytest.raises(ValueError, match=re.escape(f"path is '{path}'") + ".*expected .safetensors or .npz"):
        fastbp.load(path)
    assert not list(tmp_path.iterdir())


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        fastbp.load(path)
    with pytest.raises(FileNotFoundError):
        make().save(path.parent / "no folder" / path.name)


def assert_refused(path, message=""):
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        fastbp.load(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\3\4", b"no network", pickle.dumps({"layers": []})])
def test_other_files(path, content):
    path.write_bytes(content)
    assert_refused(path, "is damaged or not a file of fastbp")


def test_arrays_of_others(tmp_path):
    np.savez(tmp_path / "net.npz", weights=np.ones((2, 3)))
    assert_refused(tmp_path / "net.npz", "it has no entry 'fastbp'")


def test_a_file_cut_short(path):
    make().save(path)
    content = path.read_bytes()
    for n in (1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:n])
        assert_refused(path)


@pytest.mark.parametrize("about", [{}, {"format": 2, "layers": []}, {"format": "1"}, {"format": None}, {"format": True},
                                   {"format": 1.0}, {"format": [1]}])
def test_another_format(path, about):
    container.write(path, {}, about)
    assert_refused(path, re.escape(f"is of format {about.get('format')!r}, expected 1"))


def change(path, **changes):
    """Save a network, and change the description of its layers, or arrays."""
    make().save(path)
    arrays, about = container.read(path)
    for name, value in changes.pop("layer", {}).items():
        about["layers"][3][name] = value
    for name, value in changes.pop("arrays", {}).items():
        arrays[name] = value
    for name in changes.pop("without", ()):
        place = about["layers"][3] if name in about["layers"][3] else about if name in about else arrays
        del place[name]
    container.write(path, arrays, about | changes)


DROPOUT = {"type": "Dropout", "rate": 0.5}
DENSE = {"type": "Dense", "activation": "relu", "need_dinputs": True, "precision": None}


@pytest.mark.parametrize("changes, message", [
    ({"layer": {"type": "Conv"}}, "'type': 'Conv'.*expected an object of type Dense or Dropout or ReLU"),
    ({"layer": {"type": None}}, "'type': None"),
    ({"layer": {"type": ["Dense"]}}, "Dense"),
    ({"layer": {"type": {}}}, "expected an object of type"),
    ({"layer": {"type": "Dropout", "rate": 0.5}}, "expected an object with type, rate"),
    ({"layer": {"type": "ReLU"}}, "expected an object with type"),
    ({"layer": {"activation": "swish"}}, r"activation of layers\[3\] is 'swish', expected 'identity' or 'relu' or"),
    ({"layer": {"activation": 1}}, r"activation of layers\[3\] is 1"),
    ({"layer": {"activation": ["relu"]}}, r"activation of layers\[3\] is \['relu'\]"),
    ({"layer": {"precision": "float16"}}, r"precision of layers\[3\] is 'float16', expected None or 'bfloat16'"),
    ({"layer": {"precision": "float64"}}, "is 'float64'"),
    ({"layer": {"need_dinputs": 1}}, r"need_dinputs of layers\[3\] is 1, expected False or True"),
    ({"layer": {"code": "exit()"}}, "'code': 'exit.*expected an object with type, activation, need_dinputs, precision"),
    ({"without": ["type"]}, "expected an object of type"),
    ({"without": ["activation"]}, "expected an object with type, activation"),
    ({"without": ["precision"]}, "expected an object with type, activation"),
    ({"without": ["need_dinputs"]}, "expected an object with type, activation"),
    ({"without": ["3.weights"]}, r"layers\[3\] has no weights, expected some of shape"),
    ({"without": ["10.weights"]}, r"layers\[10\] has no weights"),
    ({"without": ["layers"]}, "expected an object with format, layers, loss, l2"),
    ({"without": ["loss"]}, "expected an object with format, layers, loss, l2"),
    ({"without": ["l2"]}, "expected an object with format, layers, loss, l2"),
    ({"more": 1}, "expected an object with format, layers, loss, l2"),
    ({"arrays": {"3.weights": np.ones((5, 7), np.float32)}}, r"layers\[3\] has 5 inputs, expected 4"),
    ({"arrays": {"3.weights": np.ones((4, 8), np.float32)}}, r"shape \(1, 7\), expected float32 and shape \(1, 8\)"),
    ({"arrays": {"10.weights": np.ones((8, 3), np.float32)}}, r"layers\[10\] has 8 inputs, expected 7"),
    ({"arrays": {"10.weights": np.ones((7, 0), np.float32)}}, "0 neurons"),
    ({"arrays": {"10.weights": np.ones((7, 3))}}, "are of float64, expected float32"),
    ({"arrays": {"3.weights": np.ones((4, 7, 1), np.float32)}}, r"weights of shape \(4, 7, 1\), expected some of"),
    ({"arrays": {"3.weights": np.ones((), np.float32)}}, r"weights of shape \(\), expected some of"),
    ({"arrays": {"3.biases": np.ones((1, 8), np.float32)}}, r"shape \(1, 8\), expected float32 and shape \(1, 7\)"),
    ({"arrays": {"3.biases": np.ones((7, 1), np.float32)}}, r"shape \(7, 1\), expected float32 and shape \(1, 7\)"),
    ({"arrays": {"3.biases": np.ones((1, 7))}}, "biases of float64"),
    ({"arrays": {"11.weights": np.ones((3, 3), np.float32)}}, "arrays that belong to no layer: 11.weights"),
    ({"arrays": {"0.weights": np.ones((5, 5), np.float32)}}, "arrays that belong to no layer: 0.weights"),
    ({"arrays": {"03.weights": np.ones((4, 7), np.float32)}}, "arrays that belong to no layer: 03.weights"),
    ({"arrays": {"3.velocity": np.ones((4, 7), np.float32)}}, "arrays that belong to no layer: 3.velocity"),
    ({"layers": []}, "belong to no layer"),
    ({"layers": None}, "does not describe a network"),
    ({"layers": 3}, "does not describe a network"),
    ({"layers": "Dense"}, "does not describe a network"),
    ({"layers": [[]] * 11}, "does not describe a network"),
    ({"layers": {"0": DENSE}}, "does not describe a network"),
    ({"loss": "Hinge"}, "loss of the network is 'Hinge', expected None or 'SoftmaxCrossEntropy' or"),
    ({"loss": ["SoftmaxCrossEntropy"]}, "does not describe a network"),
    ({"loss": True}, "does not describe a network"),
    ({"l2": -1}, "l2 is -1"),
    ({"l2": float("nan")}, "l2 is nan"),
    ({"l2": 10**400}, "l2 is 1000"),
    ({"l2": "much"}, "l2 of the network is 'much', expected float or int"),
    ({"l2": "0.1"}, "l2 of the network is '0.1'"),
    ({"l2": True}, "l2 of the network is True"),
    ({"l2": None}, "does not describe a network"),
])
def test_a_damaged_description(path, changes, message):
    change(path, **changes)
    assert_refused(path, message)


@pytest.mark.parametrize("layers, message", [
    ([], "ends with no Dense"), ([DROPOUT], "ends with no Dense"), ([{"type": "Dropout", "rate": 1.0}], "rate is 1.0"),
    ([{"type": "Dropout", "rate": "0"}], "does not describe"), ([{"type": "Dropout"}], "expected an object with type, rate"),
    ([{"type": "Dropout", "rate": None}], "does not describe"), ([{"type": "Dropout", "rate": False}], "is False"),
    ([{"type": "Dropout", "rate": float("nan")}], "rate is nan"), ([{"type": "ReLU"}], "ends with no Dense"),
])
def test_layers_without_arrays(path, layers, message):
    container.write(path, {}, {"format": 1, "layers": layers, "loss": None, "l2": 0.0})
    assert_refused(path, message)


def test_a_loss_that_brings_the_last_activation_with_it(path):
    arrays, about = {"0.weights": np.ones((2, 3))}, {"format": 1, "layers": [DENSE], "l2": 0}
    container.write(path, arrays, about | {"loss": "SoftmaxCrossEntropy"})
    assert_refused(path, "has activation 'relu', expected 'identity'")
    container.write(path, arrays, about | {"loss": "MeanSquaredError"})
    assert fastbp.load(path).layers[0].biases is None


class Bomb:
    """What runs code when it is read with pickle."""

    def __reduce__(self):
        return exec, ("raise SystemExit('pickle was read')",)


@pytest.mark.parametrize("name", ["0.weights", "fastbp"])
def test_nothing_in_a_file_is_run(tmp_path, name):
    path = tmp_path / "net.npz"
    entries = {"0.weights": np.ones((2, 3)), "fastbp": np.array(json.dumps({"format": 1}))}
    entries[name] = np.array([Bomb()], object)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, array in entries.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=True)
            archive.writestr(f"{entry}.npy", content.getvalue())
    assert_refused(path, "is damaged or not a file of fastbp")


def test_saving_does_not_change_the_network(path):
    network = make()
    arrays, before = network.parameters(), described(network)
    network.save(path)
    assert described(network) == before
    assert all(a is b for a, b in zip(network.parameters(), arrays, strict=True))
