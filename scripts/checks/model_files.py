"""Model files for the checks of loading: of several networks, and of arbitrary parts, which are written without fastbp."""
import io
import json
import zipfile
from types import SimpleNamespace

import numpy as np

import fastbp

TENSOR_OF = {4: "F32", 8: "F64"}        # The names in .safetensors files of floats of 4 and 8 bytes.


def networks():
    """Return networks that together have each kind of layer and loss, both dtypes, and all options."""
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
    """Return (arrays, description) of a network's file."""
    network.save(path := folder / "part.npz")
    with zipfile.ZipFile(path) as archive:
        entries = {name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)))
                   for name in archive.namelist()}
    path.unlink()
    return entries, json.loads(entries.pop("fastbp").item())


def training():
    """Return (problem, state) of a training with Dask in its second epoch, for fastbp.dask.checkpoint."""
    from fastbp.dask.plan import Plan
    from fastbp.dask.worker import Problem, State

    network, optimizer = networks()[1], fastbp.Adam()
    optimizer.remember([[np.ones((1, a.size), a.dtype) for _ in range(2)] for a in network.parameters()])
    plan = Plan((10, 20, 0, 5), (range(0, 2), range(2, 4)), 7, 123)
    return Problem(plan, 5, network.loss, network.l2, 456, False, True), State(network._specs(), optimizer, [1.0, 2.0, 3.0])


def checkpoint(problem, state):
    """Return (arrays, description) of a checkpoint's file."""
    from fastbp.dask import checkpoint as files

    at = SimpleNamespace(results=[[1.5, 35.0, 12.0]], step=2)
    return files._arrays(state), json.loads(json.dumps(files._about(problem, at, state)))


def fault_of_checkpoint(problem, state, read_problem, read_state, results, step):
    """Return what is wrong with what was read from a checkpoint, or None. All of it must fit the training that it is for."""
    shares = [*read_problem.plan.shares]
    if [n for share in shares for n in share] != [*range(len(problem.plan.chunks))]:
        return f"shares {shares}"
    if not 0 <= step <= problem.plan.steps or any(len(result) != 3 for result in [*results, read_state.results]):
        return f"step {step}, results {results}"
    pairs = [(part.weights, read.weights) for part, read in zip(state.specs, read_state.specs, strict=True)]
    pairs += [(part.biases, read.biases) for part, read in zip(state.specs, read_state.specs, strict=True)]
    kept = read_state.optimizer._states
    if kept is not None:
        parameters = [a for part in state.specs for a in (part.weights, part.biases) if a is not None]
        pairs += [(a.ravel(), b.ravel()) for a, arrays in zip(parameters, kept, strict=True) for b in arrays]
    wrong = [(a, b) for a, b in pairs
             if (a is None) != (b is None) or a is not None and (a.shape, a.dtype) != (b.shape, b.dtype)]
    return f"arrays {wrong}" if wrong else None


def npy(shape, data, descr="<f4", fortran=False):
    """Return an .npy file with these values in its header, whatever they are."""
    return npy_of(f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}", data)


def npy_of(header, data, version=b"\1\0"):
    """Return an .npy file with this text as its header."""
    header = (header + " " * (-(len(header) + 11) % 64) + "\n").encode("latin1")
    return b"\x93NUMPY" + version + len(header).to_bytes(2 if version == b"\1\0" else 4, "little") + header + data


def npy_text(text):
    """Return an .npy file of one text."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array(text), allow_pickle=False)
    return file.getvalue()


def npz(entries, text=None, **changes):
    """Return an archive of entries (name, content), with a description if there is a text.

    changes: attributes to set in the ZipInfo of the first entry.
    """
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
    """Return a .safetensors file of entries (name, dtype, shape, data), with a description if there is a text.

    header: a function of the dictionary of the header that returns another one, or the header's text.
    """
    said, data = {} if text is None else {"__metadata__": {"fastbp": text}}, b""
    for name, dtype, shape, content in entries:
        said[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    said = said if header is None else header(said)
    said = (said if isinstance(said, str) else json.dumps(said)).encode()
    return len(said).to_bytes(8, "little") + said + data


def written(suffix, arrays, text):
    """Return a good file of these arrays and this description, of the format that the suffix names."""
    if suffix == "npz":
        return npz([(f"{name}.npy", npy(a.shape, a.tobytes(), a.dtype.str)) for name, a in arrays.items()], text)
    return tensors([(name, TENSOR_OF[a.itemsize], list(a.shape), a.tobytes()) for name, a in arrays.items()], text)
