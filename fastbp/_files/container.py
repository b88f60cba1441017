"""Named arrays and a JSON object in one file: what `save` of a network writes and `load` reads.

Reading runs nothing that is in a file: neither format is read with pickle. What is not as write() writes it is refused.
"""
import io
import json
import math
import os
import re
import reprlib
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np

from . import atomic, regular

_ABOUT = "fastbp"                               # the entry with the JSON; what marks a file as this package's
_RESERVED = (_ABOUT, "__metadata__")            # the second is where safetensors has its entries
_DTYPES = (np.float32, np.float64)
_MOST_ABOUT = 1 << 20                           # characters, of 10,000 layers: JSON takes up to 30 times its size in memory
_MOST_HEADER = 4 * _MOST_ABOUT                  # with the names and shapes of as many layers' arrays
_MOST_NPY_HEADER = 1000                         # characters
_MOST_EMPTY = 1 << 24                           # of a dimension beside one of 0: what there are no bytes for costs memory later
_MOST_SHOWN = 1000
_MOST_HEADER_SHOWN = 200
_TENSORS = {"F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}       # what safetensors calls them
_NPY = {dtype.str: dtype for dtype in map(np.dtype, _DTYPES)}
_NPY_MAGIC = b"\x93NUMPY\1\0"
# An .npy header as NumPy writes it, of one array of numbers or of texts.
_NPY_HEADER = re.compile(r"{'descr': '(?P<dtype>[<>|=][A-Za-z]\d*)', 'fortran_order': (?P<fortran>True|False), "
                         r"'shape': \((?P<shape>|\d+,|\d+(?:, \d+)+)\), } *\n")
_LOCAL_HEADER = struct.Struct("<26xHH")         # of an entry in an archive: at its end are the lengths of two fields after it
_END_OF_DIRECTORY = 22                          # bytes


def write(path: str | os.PathLike, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write a .safetensors or .npz file, by the suffix of `path`, in place of one that was there.

    arrays: of float32 or float64, of any layout. about: what JSON can hold, so its tuples are read as lists.

    Raises ValueError for another suffix, for an array named "fastbp" or "__metadata__" or with a NUL, for one of no elements
    with a dimension above 16,777,216, and for JSON of more than a million characters, TypeError for another dtype and for what
    JSON cannot hold, and OSError if the file cannot be written. What was there is then as before.
    """
    pack, _ = _format(path)
    contiguous = {name: _checked(name, array) for name, array in arrays.items()}
    atomic.write(path, pack(contiguous, _limited(json.dumps(about), _MOST_ABOUT)))


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """The (arrays, about) of a file that write() wrote, the arrays in the order of their names.

    A file may come from anybody: nothing in it is run, and memory is taken only for what is really there, a few times its size.

    Raises ValueError for a suffix other than .safetensors and .npz, and for a file that is damaged or not of fastbp, and
    OSError, such as FileNotFoundError, if it cannot be read at all or is not a regular file.
    """
    _, unpack = _format(path)
    content = regular.read(path)
    try:
        arrays, text = unpack(content)
        about = None if text is None else json.loads(_limited(text, _MOST_ABOUT), object_pairs_hook=_unique)
    except (ImportError, MemoryError):
        raise
    except Exception as error:      # damage can raise anything: of zipfile, of NumPy, safetensors and json
        reason = shown(f"{type(error).__name__}: {error}")
        raise ValueError(f"{path} is damaged or not a file of fastbp: {reason}") from error
    if text is None:
        raise ValueError(f"{path} is not a file of fastbp: it has no entry '{_ABOUT}'")
    if not isinstance(about, dict):
        raise ValueError(f"{path} has {type(about).__name__} as JSON in its entry '{_ABOUT}', expected an object")
    return dict(sorted(arrays.items())), about


def shown(message: str) -> str:
    """A message with words of a file in it, which could be of any length and steer a terminal, in one that is neither."""
    start = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message[:_MOST_SHOWN])
    return start + "..." * (len(message) > _MOST_SHOWN)


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
    _check_shape(name, array.shape)
    return array


def _check_shape(name, shape):
    """Raise ValueError unless it is a tuple or list of integers from 0, and small where no bytes stand behind it."""
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{name} has shape {reprlib.repr(shape)}, expected integers of 0 or more")
    if 0 in shape and max(shape) > _MOST_EMPTY:
        raise ValueError(f"{name} has shape {reprlib.repr(shape)}, so no elements, expected no dimension above {_MOST_EMPTY:,}")


def _limited(text, most):
    if len(text) > most:
        raise ValueError(f"JSON has {len(text):,} characters, expected at most {most:,}")
    return text


def _unique(pairs):
    """A JSON object, in which a name that is there twice could mean one thing here and another elsewhere."""
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a JSON object has a name twice")
    return named


def _pack_safetensors(arrays, text):
    from safetensors.numpy import save  # here, since `import fastbp` has to be fast

    content = save(arrays, metadata={_ABOUT: text})
    _header(content)
    return content


def _unpack_safetensors(content):
    from safetensors.numpy import load

    # safetensors gives the metadata of a path only, and that file may be another one by now.
    header = json.loads(_header(content), object_pairs_hook=_unique)
    text = header.pop("__metadata__", {}).get(_ABOUT)
    if text is None:
        return {}, None
    for name, tensor in header.items():
        if tensor["dtype"] not in _TENSORS:
            raise ValueError(f"{name} has dtype {reprlib.repr(tensor['dtype'])}, expected float32 or float64")
        _check_shape(name, tensor["shape"])
    return load(content), text


def _header(content):
    size = int.from_bytes(content[:8], "little")
    return _limited(content[8:8 + min(size, _MOST_HEADER + 1)], _MOST_HEADER).decode()


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
        _check_entries(archive, content)
        entries = {entry.filename.removesuffix(".npy"): archive.read(entry) for entry in archive.infolist()}
    if _ABOUT not in entries:
        return {}, None
    text = _text(entries.pop(_ABOUT))
    return {name: _array(name, content) for name, content in entries.items()}, text


def _check_entries(archive, content):
    """Each byte belongs to one entry or to the directory at the end, as numpy.savez writes them, and nothing is compressed.

    So no entry is larger than it is in the file, and no program finds other entries in it than this one.
    """
    names, end = set(), 0
    for entry in archive.infolist():
        name = entry.orig_filename                      # filename ends at a NUL
        if name != entry.filename or not name.endswith(".npy") or name in names:
            raise ValueError(f"an entry is named {name!r}, expected a name of its own that ends with '.npy'")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ValueError(f"entry {name!r} is a link or another special file, expected a regular one")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"entry {name!r} is compressed, expected it stored as it is")
        if entry.header_offset != end:
            raise ValueError(f"entry {name!r} begins at byte {entry.header_offset:,}, expected {end:,}, where there is room")
        names.add(name)
        end += _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack_from(content, end)) + entry.file_size
    if end != archive.start_dir:
        raise ValueError(f"the directory begins at byte {archive.start_dir:,}, expected {end:,}, where the last entry ends")
    if content[-_END_OF_DIRECTORY:][:4] != b"PK\5\6":
        raise ValueError("there is something after the directory")


def _array(name, content):
    """Return the array of an .npy file, after checking that all that its header promises is there."""
    code, is_fortran, shape, start = _npy_header(name, content)
    if code not in _NPY:
        raise ValueError(f"{name} has dtype {code!r}, expected float32 or float64")
    dtype = _NPY[code]
    _check_shape(name, shape)
    there = len(content) - start
    if math.prod(shape) * dtype.itemsize != there:
        raise ValueError(f"{name} has shape {reprlib.repr(shape)} of {dtype}, expected one of {there:,} bytes, which are there")
    return np.ndarray(shape, dtype, content, start, order="F" if is_fortran else "C").copy(order="C")


def _text(content):
    """Return the text of an .npy file."""
    code, _, shape, start = _npy_header(_ABOUT, content)
    count, there = int(code[2:]) if code[1] == "U" else -1, len(content) - start
    if shape or 4 * count != there:
        raise ValueError(f"entry '{_ABOUT}' has {code} of shape {reprlib.repr(shape)} in {there:,} bytes, expected a text of "
                         "all of them")
    return np.ndarray((), f"{code[0]}U{count}", content, start).item() if count else ""


def _npy_header(name, content):
    """Return (dtype's code, whether in Fortran order, shape, where the data begin) of an .npy file.

    NumPy's own reader evaluates what a header says, and makes any dtype and the memory for any shape before it looks what is
    there; fastbp has no use for a header that NumPy does not write.
    """
    if content[:8] != _NPY_MAGIC:
        raise ValueError(f"{name} is not an .npy file of version (1, 0)")
    end = 10 + int.from_bytes(content[8:10], "little")
    header = content[10:end].decode("latin1")
    found = _NPY_HEADER.fullmatch(header) if end - 10 == len(header) <= _MOST_NPY_HEADER else None
    if found is None:
        raise ValueError(f"{name} has the header {header[:_MOST_HEADER_SHOWN]!r}, expected one as NumPy writes it for an array "
                         "of float32 or float64")
    return found["dtype"], found["fortran"] == "True", tuple(map(int, re.findall(r"\d+", found["shape"]))), end


_FORMATS = {".safetensors": (_pack_safetensors, _unpack_safetensors), ".npz": (_pack_npz, _unpack_npz)}
