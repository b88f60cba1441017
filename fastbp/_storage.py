"""Named arrays and a JSON object in one file: what `save` of a network writes and `load` reads.

Reading runs nothing that is in a file: neither format is read with pickle.
"""
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from . import _files

_ABOUT = "fastbp"                               # the entry with the JSON; what marks a file as this package's
_RESERVED = (_ABOUT, "__metadata__")            # the second is where safetensors has its entries
_DTYPES = (np.float32, np.float64)


def write(path: str | os.PathLike, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write a .safetensors or .npz file, by the suffix of `path`, in place of one that was there.

    arrays: of float32 or float64, of any layout. about: what JSON can hold, so its tuples are read as lists.

    Raises ValueError for another suffix and for an array named "fastbp" or "__metadata__" or with a NUL, TypeError for
    another dtype and for what JSON cannot hold, and OSError if the file cannot be written. What was there is then as before.
    """
    pack, _ = _format(path)
    contiguous = {name: _checked(name, array) for name, array in arrays.items()}
    _files.write(path, pack(contiguous, json.dumps(about)))


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """The (arrays, about) of a file that write() wrote, the arrays in the order of their names.

    Raises ValueError for a suffix other than .safetensors and .npz, and for a file that is damaged or not of fastbp, and
    OSError, such as FileNotFoundError, if it cannot be read at all.
    """
    _, unpack = _format(path)
    content = Path(path).read_bytes()
    try:
        arrays, text = unpack(content)
        about = None if text is None else json.loads(text)
    except ImportError:
        raise
    except Exception as error:      # damage can raise anything: of zipfile and zlib, of NumPy, safetensors and json
        raise ValueError(f"{path} is damaged or not a file of fastbp: {type(error).__name__}: {error}") from error
    if text is None:
        raise ValueError(f"{path} is not a file of fastbp: it has no entry '{_ABOUT}'")
    if not isinstance(about, dict):
        raise ValueError(f"{path} has {type(about).__name__} as JSON in its entry '{_ABOUT}', expected an object")
    for name, array in arrays.items():
        if array.dtype not in _DTYPES:
            raise ValueError(f"{path} has dtype {array.dtype} in {name}, expected float32 or float64")
    return dict(sorted(arrays.items())), about


def _format(path):
    """The functions (pack, unpack) of that suffix."""
    suffix = Path(path).suffix
    if suffix.lower() not in _FORMATS:
        raise ValueError(f"path is '{os.fspath(path)}', with the suffix '{suffix}', expected {' or '.join(_FORMATS)}")
    return _FORMATS[suffix.lower()]


def _checked(name, array):
    """The array as both formats store it: safetensors asks for C order."""
    if name in _RESERVED or "\0" in name:       # a name in an archive ends at a NUL
        raise ValueError(f"an array is named {name!r}, expected a name without NUL, other than {' and '.join(_RESERVED)}")
    array = np.asarray(array, order="C")
    if array.dtype not in _DTYPES:
        raise TypeError(f"{name} has dtype {array.dtype}, expected float32 or float64")
    return array


def _pack_safetensors(arrays, text):
    from safetensors.numpy import save  # here, since `import fastbp` has to be fast

    return save(arrays, metadata={_ABOUT: text})


def _unpack_safetensors(content):
    from safetensors.numpy import load

    arrays = load(content)
    # safetensors gives the metadata of a path only, and that file may be another one by now.
    header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    return arrays, header.get("__metadata__", {}).get(_ABOUT)


def _pack_npz(arrays, text):
    """What numpy.savez writes, whose own arguments are names that an array cannot have, and which pickles in NumPy 2.0."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in {**arrays, _ABOUT: np.array(text)}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return buffer.getvalue()


def _unpack_npz(content):
    """Not with numpy.load, which notices damage only in an entry that it reads to the end, and takes what is no array."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        arrays = {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    text = arrays.pop(_ABOUT, None)
    return arrays, None if text is None else text.item()


def _array(content):
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


_FORMATS = {".safetensors": (_pack_safetensors, _unpack_safetensors), ".npz": (_pack_npz, _unpack_npz)}
