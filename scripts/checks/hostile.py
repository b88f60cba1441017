"""Model files and paths that are made to do harm, each with a part of the error message that it must cause."""
import io
import json
import os
import socket
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np

from .model_files import npy, npy_of, npz, tensors

# A good file describes one layer, with weights (2, 3): the description, the data, and the array of each format.
_ABOUT = {"format": 1, "layers": [{"type": "Dense", "activation": "relu", "need_dinputs": True, "precision": None}],
          "loss": None, "l2": 0.0}
_TEXT = json.dumps(_ABOUT)
_DATA = np.ones((2, 3), np.float32).tobytes()
_WEIGHTS = ("0.weights.npy", npy((2, 3), _DATA))
_TENSOR = ("0.weights", "F32", [2, 3], _DATA)


class Payload:
    """An object whose pickle makes a file when it is loaded."""

    def __reduce__(self):
        return open, ("ran", "w")


def _pickled():
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([Payload()]), allow_pickle=True)
    return file.getvalue()


def _local_and_directory(archive):
    """Return the two parts of a zip archive: the entries, and the central directory without its end record."""
    start, end = archive.rindex(b"PK\5\6") - int.from_bytes(archive[-10:-6], "little"), archive.rindex(b"PK\5\6")
    return archive[:start], archive[start:end]


def _with_directory(local, directory, entries):
    """Return an archive of these entries and this directory, whose end record names so many entries."""
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries, entries, len(directory), len(local), 0)
    return local + directory + end


def archives():
    """Return {what the file is: (the .npz, a part of the error)}."""
    good, bomb = npz([_WEIGHTS], _TEXT), npy((1 << 12, 1 << 12), bytes(1 << 26))
    local, directory = _local_and_directory(good)
    encrypted = bytearray(good)
    encrypted[6] |= 1
    encrypted[len(local) + 8] |= 1
    one = _local_and_directory(npz([_WEIGHTS]))[1]
    hidden, hidden_directory = _local_and_directory(npz([("0.biases.npy", npy((1, 64), bytes(256)))]))
    hidden += bytes(-len(hidden) % 4)
    around = npz([("0.weights.npy", npy((1, len(hidden) // 4), hidden))], _TEXT)
    around, around_directory = _local_and_directory(around)
    inside = hidden_directory[:42] + struct.pack("<I", around.index(hidden)) + hidden_directory[46:]
    named = {f"named {name!r}": (npz([(name, _WEIGHTS[1])], _TEXT), said) for name, said in {
        "../0.weights.npy": "has no weights", "/0.weights.npy": "has no weights", "C:\\0.weights.npy": "has no weights",
        "0.weights.npy\0.txt": "an entry is named", "0.weights": "an entry is named", "code.py": "an entry is named"}.items()}
    arrays = {f"an array of {what}": (npz([("0.weights.npy", content)], _TEXT), said) for what, (content, said) in {
        "Python objects": (_pickled(), "expected float32 or float64"),
        "10**12 numbers": (npy((10**12,), b""), "which are there"),
        "10**30 numbers": (npy((10**15, 10**15), _DATA), "which are there"),
        "-2 by -3": (npy((-2, -3), _DATA), "expected one as NumPy"),
        **{f"10**13 items of no bytes, {descr!r}": (npy((10**13,), b"", descr), said) for descr, said in {
            "|V0": "expected float32 or float64", "|S0": "expected float32 or float64", "<U0": "expected float32 or float64",
            ("<f4", (0,)): "expected one as NumPy", ("|V0", (10**6,)): "expected one as NumPy", (): "expected one as NumPy",
            "(10**6,)f4": "expected one as NumPy", "|V": "expected float32 or float64"}.items()},
        **{f"shape {shape}": (npy(shape, b""), "expected no dimension above") for shape in [
            (0, 10**13), (10**13, 0), (0, 10**30), (10**13, 0, 10**13), (2**63, 0), (0, 2**24 + 1)]},
        **{f"shape {shape!r}": (npy(shape, data), "expected one as NumPy") for shape, data in {
            (True, 6): _DATA, (6, True): _DATA, (False,): b"", (-1, -6): _DATA, (2.0, 3): _DATA, "ab": b"", None: b"",
            ((2, 3),): _DATA}.items()},
        "60 dimensions": (npy((1,) * 60, _DATA[:4]), "has weights of shape"),
        "70 dimensions": (npy((1,) * 70, _DATA[:4]), "damaged"),
        "a number of 800 digits": (npy((10**800,), b""), "which are there"),
        "records": (npy((2,), bytes(16), [("x", "<f4"), ("y", "<f4")]), "expected one as NumPy"),
        "bytes the other way round": (npy((2, 3), _DATA, ">f4"), "expected float32 or float64"),
        "a header that is deep": (npy_of("{'descr': " + "[" * 150, _DATA), "damaged"),
        "a header that is long": (npy_of("-" * 60_000 + "1", _DATA), "expected one as NumPy"),
        "a header that no parser likes": (npy_of("-" * 9_000 + "1", _DATA), "expected one as NumPy"),
        "another version": (npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", _DATA, b"\2\0"), "version"),
        "code": (npy_of("__import__('os').mkdir('ran')", _DATA), "damaged"),
    }.items()}
    texts = {f"a text that is {what}": (npz([_WEIGHTS, ("fastbp.npy", content)]), said) for what, (content, said) in {
        "a pickle": (_pickled(), "expected a text"), "bytes": (npy((), b"{}", "|S2"), "expected a text"),
        "a number": (npy((), bytes(4)), "expected a text"),
        "10**13 of them": (npy((10**13,), b"", "<U0"), "expected a text"),
        "not there": (npy((), b"", "<U99999999999"), "expected a text"),
        "an empty one": (npy((), b"", "<U0"), "damaged"), "no Unicode": (npy((), b"\xff" * 8, "<U2"), "damaged")}.items()}
    return named | arrays | texts | {
        "a bomb": (npz([("0.weights.npy", bomb)], _TEXT, compress_type=zipfile.ZIP_DEFLATED), "compressed"),
        "LZMA": (npz([_WEIGHTS], _TEXT, compress_type=zipfile.ZIP_LZMA), "compressed"),
        "a link": (npz([("0.weights.npy", b"/etc/passwd")], _TEXT, external_attr=(stat.S_IFLNK | 0o777) << 16), "a link"),
        "a name twice": (npz([_WEIGHTS, _WEIGHTS], _TEXT), "an entry is named"),
        "an entry twice in the directory": (_with_directory(local, one + directory, 3), "an entry is named"),
        "an entry within another": (_with_directory(around, around_directory + inside, 3), "begins at byte"),
        "encrypted": (bytes(encrypted), "encrypted"),
        "something before": (b"#!/bin/sh\n" + good, "begins at byte"),
        "something after": (good + b"exit", "something after"),
        "a comment": (good[:-2] + b"\4\0exit", "something after"),
        "a pickle": (_pickled(), "damaged"),
        "nothing": (b"", "damaged"),
    }


def safetensors():
    """Return {what the file is: (the .safetensors file, a part of the error)}."""
    def of(shape, offsets, dtype="F32", data=_DATA):
        header = {"__metadata__": {"fastbp": _TEXT}, "0.weights": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
        return tensors([], header=lambda _: json.dumps(header)) + data

    doubled = json.dumps({"__metadata__": {"fastbp": _TEXT}})
    return {what: (content, "damaged") for what, content in {
        "a header of 90 MB": (90_000_000).to_bytes(8, "little") + b"[" * 90_000_000,
        "a deep header": tensors([], header=lambda _: "[" * 100_000),
        "a header that is a list": tensors([], header=lambda _: "[]"),
        "a name twice": tensors([_TENSOR], _TEXT, lambda said: doubled[:-1] + ", " + json.dumps(said)[1:]),
        "offsets that overlap": tensors([_TENSOR, ("0.biases", "F32", [1, 3], _DATA[:12])], _TEXT,
                                        lambda said: json.dumps(said).replace("[24, 36]", "[12, 24]")),
        "a hole": of([2, 3], [4, 28], data=bytes(4) + _DATA),
        "something after": of([2, 3], [0, 24]) + b"exit",
        "less than there should be": of([2, 3], [0, 24], data=_DATA[:-1]),
        "a shape that overflows": of([1 << 32, 1 << 32, 4], [0, 24]),
        "a shape that comes to 6 again": of([(1 << 63) + 3, 2], [0, 24]),
        "10**12 numbers": of([10**6, 10**6], [0, 4 * 10**12]),
        "-2 by -3": of([-2, -3], [0, 24]),
        "broken numbers": of([2.0, 3.0], [0, 24]),
        "another dtype": of([2, 3], [0, 24], "O"),
        "backward offsets": of([2, 3], [24, 0]),
        "a shape of no list": of("ab", [0, 24]),
    }.items()} | {
        "a header of 2**63 bytes": ((1 << 63).to_bytes(8, "little") + b"{}", "not a file of fastbp"),
        "a header of 90 MB that are not there": ((90_000_000).to_bytes(8, "little") + b"{}", "not a file of fastbp"),
        "no description": (tensors([_TENSOR]), "no entry 'fastbp'"),
        "a path for a name": (tensors([_TENSOR, ("../x", *_TENSOR[1:])], _TEXT), "belong to no layer"),
        "a text for a number": (tensors([_TENSOR], _TEXT.replace("0.0", '"0.0"')), "l2 of the network is '0.0'"),
        "no bytes for 10**13 columns": (of([0, 10**13], [0, 0], data=b""), "expected no dimension above"),
        "no bytes for 10**13 rows": (of([10**13, 0], [0, 0], data=b""), "expected no dimension above"),
        "no bytes for 10**30 rows": (of([10**30, 0], [0, 0], data=b""), "expected no dimension above"),
        "booleans as dimensions": (of([True, 6], [0, 24]), "expected integers of 0 or more"),
        "a shape that is deep": (of([[[2]], 3], [0, 24]), "expected integers of 0 or more"),
        "a shape of a million ones": (of([1] * 1_000_000, [0, 4], data=_DATA[:4]), "damaged"),
        "half floats": (of([2, 6], [0, 24], "F16"), "expected float32 or float64"),
    }


def descriptions():
    """Return {what the description is: (its JSON, a part of the error)}."""
    layers = json.dumps(_ABOUT["layers"])[1:-1]
    dropouts = ", ".join(['{"type": "Dropout", "rate": 0.1}'] * 29_000)
    return {
        "deep": ("[" * 100_000, "damaged"),
        "deep in a layer": (_TEXT.replace('"Dense"', "[" * 900 + "]" * 900), "expected an object of type"),
        "of 5 MB": (_TEXT.replace('"relu"', f'"{"x" * 5_000_000}"'), "expected at most"),
        "of 29,000 layers": (_TEXT.replace(layers, dropouts), "belong to no layer"),
        "of 10,000 layers that are one": (_TEXT.replace(layers, ", ".join(["{}"] * 10_000)), "expected an object of type"),
        "with a name twice": (_TEXT.replace('"l2"', '"l2": 1, "l2"'), "a name twice"),
        "with a number of 10,000 digits": (_TEXT.replace("0.0", "9" * 10_000), "damaged"),
        "with 10**400": (_TEXT.replace("0.0", "9" * 400), "l2 is 9999"),
        "with NaN": (_TEXT.replace("0.0", "NaN"), "l2 is nan"),
        "that steers a terminal": (_TEXT.replace('"relu"', '"\\u001b[2J\\r\\n"'), "activation of layers[0]"),
        "of a class": (_TEXT.replace('"Dense"', '"Payload"'), "expected an object of type"),
        "with a name that nothing reads": (_TEXT.replace('"l2"', '"code": "exit()", "l2"'), "expected an object with format"),
    }


def files():
    """Return (what it is, suffix, content, a part of the error) of each file."""
    described = descriptions().items()
    return [*((what, "npz", *file) for what, file in archives().items()),
            *((what, "safetensors", *file) for what, file in safetensors().items()),
            *((f"a description {what}", "npz", npz([_WEIGHTS], text), said) for what, (text, said) in described),
            *((f"a description {what}", "safetensors", tensors([_TENSOR], text), said) for what, (text, said) in described)]


def paths(folder):
    """Make what is at each path in the folder, and yield (what it is, path, class of the error, a part of the error)."""
    special = [("a pipe", _pipe), ("an endless device", lambda path: path.symlink_to("/dev/zero")), ("a folder", Path.mkdir),
               ("a socket", _socket), ("a link to a folder", lambda path: path.symlink_to("/tmp"))]
    for what, make in special:
        make(path := folder / f"{what}.npz")
        yield what, path, OSError, "Not a regular file"
    make_pipe = folder / "the pipe"
    _pipe(make_pipe)
    (path := folder / "a link to a pipe.safetensors").symlink_to(make_pipe)
    yield "a link to a pipe", path, OSError, "Not a regular file"
    (path := folder / "a dangling link.npz").symlink_to("nowhere.npz")
    yield "a dangling link", path, FileNotFoundError, "No such file"
    (path := folder / "a loop.npz").symlink_to(path)
    yield "a loop", path, OSError, "symbolic links"


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))            # the path of a socket must be short
