"""Show that fastbp.load refuses a damaged or hostile model file with a reason, in little memory, and runs nothing of it.

Files made to do harm come first; then good files of several networks are changed at random: their bytes, their sizes, offsets,
shapes and dtypes, and what their descriptions say. Each is loaded in a process that may take little memory. It has to raise
ValueError, or OSError for what cannot be read, with the path and a reason on one line, or to give a network that is one:
it can be saved and read again, the same bit for bit; and of an .npz, which has checksums, the one that was saved.
"""
import io
import json
import os
import random
import shutil
import socket
import stat
import struct
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

import fastbp

from . import child, report

BATCH = 5000                    # cases in a process
MEMORY = 256 << 20              # bytes that they may take beside what the process has before them
CHANGED = "npz", "safetensors"
_TENSOR_OF = {4: "F32", 8: "F64"}


def main(arguments):
    options = report.options(sys.modules[__name__], cases=100_000).parse_args(arguments)
    faults, loaded = [], 0
    crafted, refused = run("crafted"), run("saving")
    faults += crafted["faults"] + refused["faults"]
    for first in range(0, options.cases, BATCH):
        done = run("changed", options.seed, first, min(options.cases, first + BATCH))
        faults += done["faults"]
        loaded += done.get("loaded", 0)
        print(f"seed {options.seed}: {min(options.cases, first + BATCH):,} files, {len(faults):,} faults", flush=True)
    return report.close(faults, hostile_files_and_paths=crafted.get("files", 0), paths_not_to_save_to=refused.get("files", 0),
                        changed_files=options.cases, of_them_loaded_as_valid_networks=loaded)


def run(what, *arguments, patience=child.PATIENCE):
    """What `what`(folder, *arguments) returned in a process of its own; what it left on the disk is a fault."""
    code = f"import sys; from checks import loading; loading.in_child(loading.{what}, *sys.argv[1:])"
    with tempfile.TemporaryDirectory(prefix="fastbp-loading-") as folder:
        status, output, errors = child.run(code, folder, *arguments, patience=patience)
        if status != 0:
            ended = "was killed as it hung" if status is None else f"ended with {status}"
            return {"faults": [f"{what}{arguments} {ended} in {output.splitlines()[-1:]}: {errors[-2000:]}"]}
        done = json.loads(output.splitlines()[-1])
        done["faults"] += [f"{what}{arguments} left {name}" for name in os.listdir(folder)]
        return done


def in_child(what, folder, *arguments):
    warnings.simplefilter("ignore")             # bfloat16 is not faster everywhere; NumPy says what it thinks of a header
    os.chdir(folder)                            # where relative names of a file would lead
    print("\n" + json.dumps(what(Path(folder), *map(int, arguments))))


def _limit_memory():
    """From here on: what there is already does not count."""
    import safetensors.numpy  # noqa: F401  (so that its own memory is not counted)
    try:
        import resource
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return                                  # not Linux: what takes the memory of the machine is seen all the same
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


# ---- what is right

def fault(path, good=None):
    """(what is wrong with the way in which load takes this file, or None; the error, or None if it was loaded)."""
    try:
        network = fastbp.load(path)
    except Exception as error:
        return _fault_of_error(error, path), error
    return _fault_of(network, path, good), None


def _fault_of_error(error, path):
    said = str(error)
    if not isinstance(error, ValueError | OSError):
        return f"{type(error).__name__}: {said[:300]}"
    if str(path) not in said or len(said) < len(str(path)) + 10:
        return f"{type(error).__name__} without the path or a reason: {said[:300]!r}"
    if not said.isprintable() or len(said) > len(str(path)) + 1200:
        return f"a reason that steers a terminal or has no end: {said[:300]!r}"
    return None


def _fault_of(network, path, good):
    try:
        again = path.with_stem("again")
        network.save(again)
        same = described(fastbp.load(again)) == described(network)
        again.unlink()
    except BaseException as error:
        return f"loaded as what cannot be saved and loaded again: {type(error).__name__}: {str(error)[:300]}"
    if not same:
        return "loaded as what is another network when it is saved and loaded again"
    return None if good is None or described(network) == good else "loaded as another network than the one that was saved"


def described(network):
    layers = [{name: value for name, value in vars(layer).items() if name in ("rate", "_kind", "precision", "need_dinputs")}
              for layer in network.layers]
    arrays = [(a.dtype, a.shape, a.tobytes()) for a in network.parameters()]
    return str(layers), arrays, type(network.loss), network.l2


# ---- good files, in parts that can be changed

def networks():
    dense, loss = fastbp.Dense, fastbp.SoftmaxCrossEntropy
    return [
        fastbp.Sequential([dense(3, 2, rng=0)]),
        fastbp.Sequential([fastbp.Dropout(0.1), fastbp.DenseReLU(5, 4, rng=0, need_dinputs=False), fastbp.Dropout(0.5),
                           dense(4, 3, rng=1, bias=False)], loss(), l2=0.1),
        fastbp.Sequential([dense(5, 4, rng=0, dtype="float64"), fastbp.ReLU(), dense(4, 1, rng=1, dtype="float64")],
                          fastbp.BinaryCrossEntropy()),
        fastbp.Sequential([dense(9, 40, rng=0, activation="gelu", precision="bfloat16"),
                           dense(40, 2, rng=1, activation="tanh")], fastbp.MeanSquaredError(), l2=1e-4),
    ]


def parts(network, folder):
    """(the arrays, the description) of its file."""
    network.save(path := folder / "part.npz")
    with zipfile.ZipFile(path) as archive:
        entries = {name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)))
                   for name in archive.namelist()}
    path.unlink()
    return entries, json.loads(entries.pop("fastbp").item())


def npy(shape, data, descr="<f4", fortran=False):
    """An .npy file with a header of these values, whatever they are."""
    return npy_of(f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}", data)


def npy_of(header, data, version=b"\1\0"):
    header = (header + " " * (-(len(header) + 11) % 64) + "\n").encode("latin1")
    return b"\x93NUMPY" + version + len(header).to_bytes(2 if version == b"\1\0" else 4, "little") + header + data


def npy_text(text):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array(text), allow_pickle=False)
    return file.getvalue()


def npz(entries, text=None, **changes):
    """An archive of (name, content), of which the first one's ZipInfo is changed; text: that of the description."""
    file, entries = io.BytesIO(), [*entries, *([] if text is None else [("fastbp.npy", npy_text(text))])]
    with zipfile.ZipFile(file, "w") as archive:
        for i, (name, content) in enumerate(entries):
            info = zipfile.ZipInfo("x" * len(name))
            for key, value in changes.items() if i == 0 else ():
                setattr(info, key, value)
            info.filename = name
            archive.writestr(info, content)
    return file.getvalue()


def tensors(entries, text=None, header=None):
    """A .safetensors file of (name, dtype, shape, data); header(dict) changes what its header says, or gives its text."""
    said, data = {} if text is None else {"__metadata__": {"fastbp": text}}, b""
    for name, dtype, shape, content in entries:
        said[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    said = said if header is None else header(said)
    said = (said if isinstance(said, str) else json.dumps(said)).encode()
    return len(said).to_bytes(8, "little") + said + data


def written(suffix, arrays, text):
    if suffix == "npz":
        return npz([(f"{name}.npy", npy(a.shape, a.tobytes(), a.dtype.str)) for name, a in arrays.items()], text)
    return tensors([(name, _TENSOR_OF[a.itemsize], list(a.shape), a.tobytes()) for name, a in arrays.items()], text)


# ---- files and paths made to do harm

_ABOUT = {"format": 1, "layers": [{"type": "Dense", "activation": "relu", "need_dinputs": True, "precision": None}],
          "loss": None, "l2": 0.0}
_TEXT = json.dumps(_ABOUT)
_DATA = np.ones((2, 3), np.float32).tobytes()
_WEIGHTS = ("0.weights.npy", npy((2, 3), _DATA))
_TENSOR = ("0.weights", "F32", [2, 3], _DATA)


class Payload:
    """What makes a file when it is read with pickle."""

    def __reduce__(self):
        return open, ("ran", "w")


def _pickled():
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([Payload()]), allow_pickle=True)
    return file.getvalue()


def _local_and_directory(archive):
    start, end = archive.rindex(b"PK\5\6") - int.from_bytes(archive[-10:-6], "little"), archive.rindex(b"PK\5\6")
    return archive[:start], archive[start:end]


def _with_directory(local, directory, entries):
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries, entries, len(directory), len(local), 0)
    return local + directory + end


def archives():
    """{what it is: (the .npz, what is said of it)}."""
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
        "Python objects": (_pickled(), "Python objects"),
        "10**12 numbers": (npy((10**12,), b""), "which are there"),
        "10**30 numbers": (npy((10**15, 10**15), _DATA), "which are there"),
        "-2 by -3": (npy((-2, -3), _DATA), "negative dimensions"),
        "records": (npy((2,), bytes(16), [("x", "<f4"), ("y", "<f4")]), "expected float32 or float64"),
        "bytes the other way round": (npy((2, 3), _DATA, ">f4"), "expected float32 or float64"),
        "a header that is deep": (npy_of("{'descr': " + "[" * 150, _DATA), "damaged"),
        "a header that is long": (npy_of("-" * 60_000 + "1", _DATA), "Header info length"),
        "a header that no parser likes": (npy_of("-" * 9_000 + "1", _DATA), "Header info length"),
        "another version": (npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", _DATA, b"\2\0"), "version"),
        "code": (npy_of("__import__('os').mkdir('ran')", _DATA), "damaged"),
    }.items()}
    texts = {f"a text that is {what}": (npz([_WEIGHTS, ("fastbp.npy", content)]), said) for what, (content, said) in {
        "a pickle": (_pickled(), "Python objects"), "bytes": (npy((), b"{}", "|S2"), "expected a text"),
        "a number": (npy((), bytes(4)), "expected a text"), "no Unicode": (npy((), b"\xff" * 8, "<U2"), "damaged")}.items()}
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
    """{what it is: (the .safetensors file, what is said of it)}."""
    def of(shape, offsets, dtype="F32", data=_DATA):
        header = {"__metadata__": {"fastbp": _TEXT}, "0.weights": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
        return tensors([], header=lambda _: json.dumps(header)) + data

    doubled = json.dumps({"__metadata__": {"fastbp": _TEXT}})
    return {what: (content, "damaged") for what, content in {
        "a header of 2**63 bytes": (1 << 63).to_bytes(8, "little") + b"{}",
        "a header of 90 MB that are not there": (90_000_000).to_bytes(8, "little") + b"{}",
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
        "backward offsets": of([2, 3], [24, 0]),
        "another dtype": of([2, 3], [0, 24], "O"),
    }.items()} | {
        "no description": (tensors([_TENSOR]), "no entry 'fastbp'"),
        "a path for a name": (tensors([_TENSOR, ("../x", *_TENSOR[1:])], _TEXT), "belong to no layer"),
        "a text for a number": (tensors([_TENSOR], _TEXT.replace("0.0", '"0.0"')), "l2 of the network is '0.0'"),
        "half floats": (of([2, 6], [0, 24], "F16"), "expected float32 or float64"),
    }


def descriptions():
    """{what it is: (its JSON, what is said of it)}."""
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
        "with 10**400": (_TEXT.replace("0.0", "9" * 400), "OverflowError"),
        "with NaN": (_TEXT.replace("0.0", "NaN"), "l2 is nan"),
        "that steers a terminal": (_TEXT.replace('"relu"', '"\\u001b[2J\\r\\n"'), "activation of layers[0]"),
        "of a class": (_TEXT.replace('"Dense"', '"Payload"'), "expected an object of type"),
        "with a name that nothing reads": (_TEXT.replace('"l2"', '"code": "exit()", "l2"'), "expected an object with format"),
    }


def paths(folder):
    """[(what it is, the path, the error, what is said of it)], with what is there to be made."""
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
        listener.bind(os.path.relpath(path))            # as the path of one may not be long


def crafted(folder):
    """{"faults": what was wrong, "files": how many there were}."""
    files = [(what, "npz", *file) for what, file in archives().items()]
    files += [(what, "safetensors", *file) for what, file in safetensors().items()]
    for what, (text, said) in descriptions().items():
        files += [(f"a description {what}", "npz", npz([_WEIGHTS], text), said),
                  (f"a description {what}", "safetensors", tensors([_TENSOR], text), said)]
    _limit_memory()
    faults = []
    for what, suffix, content, said in files:
        (path := folder / f"net.{suffix}").write_bytes(content)
        print(what, flush=True)
        faults += _refused(what, path, ValueError, said)
        path.unlink()
    n = len(files)
    if os.name == "posix":
        for what, path, error, said in paths(folder):
            print(what, flush=True)
            faults += _refused(what, path, error, said)
            n += 1
    _clear(folder)
    return {"faults": faults, "files": n}


def _refused(what, path, expected, said):
    wrong, error = fault(path)
    if wrong or error is None:
        return [f"{what}, {path.suffix}: {wrong or 'was loaded'}"]
    if isinstance(error, expected) and said in str(error):
        return []
    return [f"{what}, {path.suffix}: expected {expected.__name__} with {said!r}, was {type(error).__name__}: {error}"]


def _clear(folder):
    """Delete what the cases made, and nothing else that is there."""
    for path in folder.iterdir():
        if path.suffix in (".npz", ".safetensors") or path.name == "the pipe":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def saving(folder):
    """Saving to what is no regular file leaves it as it was: {"faults": what was wrong, "files": how many there were}."""
    network, faults, n = networks()[0], [], 0
    for what, path, _, _ in paths(folder) if os.name == "posix" else ():
        if what in ("an endless device", "a link to a folder"):
            continue                                    # these are of the machine: a fault would not end with the check
        print(what, flush=True)
        before = _state(folder)
        n += 1
        try:
            network.save(path)
            if what != "a dangling link":
                faults.append(f"saving to {what}: it was replaced")
            else:
                (folder / "nowhere.npz").unlink()
        except OSError as error:
            if str(path.name) not in str(error) and "the pipe" not in str(error):
                faults.append(f"saving to {what}: an error without the path: {error}")
        if _state(folder) != before:
            faults.append(f"saving to {what}: the folder is another")
    _clear(folder)
    return {"faults": faults, "files": n}


def _state(folder):
    return sorted((path.name, stat.S_IFMT(path.lstat().st_mode), path.lstat().st_ino) for path in folder.iterdir())


# ---- good files changed at random

def changed(folder, seed, first, last):
    """Cases from `first` to before `last`: {"faults": what was wrong, "loaded": how many were networks}."""
    bases = [(suffix, network, *parts(network, folder)) for suffix in CHANGED for network in networks()]
    _limit_memory()
    faults, loaded = [], 0
    for case in range(first, last):
        draw = random.Random(f"{seed} {case}")
        suffix, network, arrays, about = draw.choice(bases)
        kind = draw.choice([_bytes, _bytes, _description, _description, _arrays])
        path = folder / f"net.{suffix}"
        print(f"case {case}", flush=case % 100 == 0)
        path.write_bytes(content := kind(draw, suffix, arrays, about))
        wrong, error = fault(path, described(network) if suffix == "npz" and kind is _bytes else None)
        if path.read_bytes() != content:
            wrong = "the file was changed"
        if wrong:
            faults.append(f"case {case} of seed {seed}, {suffix}, {kind.__name__}: {wrong}")
        loaded += error is None
        path.unlink()
    return {"faults": faults, "loaded": loaded}


_NUMBERS = [0, 1, 2, 8, 20, 22, 64, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62,
            (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def _bytes(draw, suffix, arrays, about):
    """One to three changes, more often where the structure is than among the numbers of the arrays."""
    content = bytearray(written(suffix, arrays, json.dumps(about)))
    for _ in range(draw.choice([1, 1, 2, 3])):
        i = _place(draw, suffix, content)
        how = draw.randrange(7)
        if how == 0:
            content[i:i + 1] = bytes([draw.randrange(256)])
        elif how == 1:
            content[i] ^= 1 << draw.randrange(8)
        elif how == 2:
            size = draw.choice([1, 2, 4, 8])
            number = draw.choice([*_NUMBERS, len(content), len(content) - 1])
            content[i:i + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
        elif how == 3:
            del content[i:i + draw.choice([1, 2, 8, 100, len(content)])]
        elif how == 4:
            content[i:i] = draw.randbytes(draw.choice([1, 2, 8, 100]))
        elif how == 5:
            j = draw.randrange(len(content))
            content[i:i] = content[j:j + draw.choice([4, 30, 200])]
        else:
            content += draw.randbytes(draw.choice([1, 22, 100]))
        if not content:
            break
    return bytes(content)


def _place(draw, suffix, content):
    if draw.random() < 0.2:
        return draw.randrange(len(content))
    if suffix == "safetensors":
        return draw.randrange(min(len(content), draw.choice([8, 600])))
    marks = [i for i in range(len(content) - 1) if content[i:i + 2] in (b"PK", b"\x93N")] or [0]
    return min(draw.choice(marks) + draw.randrange(120), len(content) - 1)


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


_VALUES = [None, True, False, 0, 1, -1, 2, 1.0, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"),
           1 << 63, -1 << 63, 10**400, -10**400, "", "1", "relu", "bfloat16", "float32", "float64", "Dense", "Dropout", "ReLU",
           "SoftmaxCrossEntropy", "Sequential", "__import__('os').abort()", "\0", "\x1b[2J\r\n", "\ud800", "é" * 100_000, [],
           {}, [[]], ["Dense"], {"type": "Dense"}, {"__class__": "Dense"}, _nested(50), _nested(500), _nested(900)]


def _description(draw, suffix, arrays, about):
    """A value, a name or an element of the JSON is another, is there no more, or is there twice."""
    about = json.loads(json.dumps(about))
    for _ in range(draw.choice([1, 1, 2])):
        place = draw.choice([about, about, *(layer for layer in _as_list(about.get("layers")) if isinstance(layer, dict))])
        name, how = draw.choice([*place, "more"]), draw.randrange(8)
        if how == 0:
            place.pop(name, None)
        elif how == 1:
            place[draw.choice(["", "code", "__class__", "biases", "Type", name + "\0"])] = draw.choice(_VALUES)
        elif how == 2 and isinstance(about.get("layers"), list):
            layers = about["layers"]
            i = draw.randrange(len(layers) + 1)
            layers[i:i + draw.randrange(2)] = draw.choice([[], layers[:1], layers, [draw.choice(_VALUES)]])
        else:
            place[name] = draw.choice(_VALUES)
    text = json.dumps(about)
    how = draw.randrange(20)
    if how == 0:
        text = text.replace('"', "'", 1)
    elif how == 1:
        text = text.replace("{", '{"l2": 0.5, ', 1)
    elif how == 2:
        text = "[" * draw.choice([1, 1000, 100_000]) + text
    return written(suffix, arrays, text)


def _as_list(value):
    return value if isinstance(value, list) else []


_DTYPES = ["<f4", "<f8", ">f4", "f4", "=f4", "f", "float32", "<f2", "<f16", "<i4", "|O", "O", "|S4", "<U1", "|V4", "<c8", "|b1",
           "<M8[s]", "f4,f4", [("x", "<f4")], ("<f4", (2,)), ("<f4", (1 << 40,)), {}, None, 4, "numpy.float32", "<U999999999",
           "os.system"]
_TENSOR_DTYPES = ["F32", "F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "C64", "", "O", None, 4]
_NAMES = ["../../x", "/x", "C:\\x", "x\0", "", "0.weights", "1.biases", "00.weights", "0.weights.npy", "\x1b[2J", "é" * 300,
          "fastbp", "__metadata__"]
_SHAPES = [(), (0,), (1,), (-1,), (3, -2), (-2, -3), (True, 2), (1.0,), ("2",), (10**12,), (10**12, 0), (0, 10**18),
           (2**32, 2**32), (2**63,), (10**30, 0), (1,) * 65, [3, 2], 6, None, (3, 2), (2, 3), (6,)]


def _arrays(draw, suffix, arrays, about):
    """What a file says of one array is another: its shape, its name, its dtype, how much there is, or where."""
    name, how = draw.choice([*arrays]), draw.choice(["shape", "axes", "name", "data", "dtype", "place"])
    array, data = arrays[name], arrays[name].tobytes()
    shape, said, dtype = array.shape, name, array.dtype.str if suffix == "npz" else _TENSOR_OF[array.itemsize]
    if how == "shape":
        shape = draw.choice(_SHAPES)
    elif how == "axes":
        shape = draw.choice([shape[::-1], (*shape, 1), (1, *shape), shape[:-1], (array.size,)])
    elif how == "name":
        said = draw.choice(_NAMES)
    elif how == "data":
        data = draw.choice([b"", data[:-1], data + b"\0", data * 2, data[:4]])
    elif how == "dtype":
        dtype = draw.choice(_DTYPES if suffix == "npz" else _TENSOR_DTYPES)
    others = [(key, value) for key, value in arrays.items() if key != name]
    i, text = draw.randrange(len(others) + 1), json.dumps(about)
    if suffix == "npz":
        content = bytearray(npy(shape, data, dtype, draw.choice([True, 1, None]) if how == "place" else False))
        if how == "place":
            content[draw.randrange(min(len(content), 128))] = draw.randrange(256)
        entries = [(f"{key}.npy", npy(value.shape, value.tobytes(), value.dtype.str)) for key, value in others]
        return npz([*entries[:i], (f"{said}.npy", bytes(content)), *entries[i:]], text)

    def misplaced(header):
        header[name]["data_offsets"] = [draw.choice([*_NUMBERS, -1, 0.0, None, 4, len(data)]) for _ in range(2)]
        return header

    entries = [(key, _TENSOR_OF[value.itemsize], list(value.shape), value.tobytes()) for key, value in others]
    return tensors([*entries[:i], (said, dtype, shape, data), *entries[i:]], text, misplaced if how == "place" else None)
