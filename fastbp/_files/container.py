"""Files that hold named arrays and a JSON object. A network's `save` writes them, and `load` reads them.

Reading never runs code from a file, as neither format is read with pickle. A file that differs from what write() writes is
refused.
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

# The entry that holds the JSON object. It marks a file as this package's.
_ABOUT = "fastbp"

# The names that an array cannot have. safetensors keeps its own entries under the second one.
_RESERVED = (_ABOUT, "__metadata__")

# The dtypes that an array may have.
_DTYPES = (np.float32, np.float64)

# The most characters of the JSON object, enough for 10,000 layers. JSON takes up to 30 times its size in memory.
_MOST_ABOUT = 1 << 20

# The most bytes of a safetensors header, which also has the names and shapes of the arrays of that many layers.
_MOST_HEADER = 4 * _MOST_ABOUT

# The most characters of an .npy header.
_MOST_NPY_HEADER = 1000

# The largest dimension of an array without elements, which has another dimension of 0. No bytes in the file stand behind such a
# dimension, but it costs memory later.
_MOST_EMPTY = 1 << 24

# The most characters of an error's message that are shown.
_MOST_SHOWN = 1000

# The most characters of an .npy header that are shown in a message.
_MOST_HEADER_SHOWN = 200

# The names of dtypes in safetensors.
_TENSORS = {"F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}

# The dtypes by their codes in an .npy header.
_NPY = {dtype.str: dtype for dtype in map(np.dtype, _DTYPES)}

# The first bytes of an .npy file of version (1, 0).
_NPY_MAGIC = b"\x93NUMPY\1\0"

# The pattern of an .npy header as NumPy writes it, for one array of numbers or of texts.
_NPY_HEADER = re.compile(r"{'descr': '(?P<dtype>[<>|=][A-Za-z]\d*)', 'fortran_order': (?P<fortran>True|False), "
                         r"'shape': \((?P<shape>|\d+,|\d+(?:, \d+)+)\), } *\n")

# The header before an entry of an archive. It ends with the lengths of the two fields that follow it.
_LOCAL_HEADER = struct.Struct("<26xHH")

# The bytes of the record that ends an archive's directory.
_END_OF_DIRECTORY = 22


def write(path: str | os.PathLike, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write a .safetensors or .npz file, according to the suffix of `path`, in place of one that was there.

    arrays: float32 or float64, in any layout. about: anything that JSON can hold; tuples come back as lists.

    Raises ValueError for another suffix, for an array whose name is "fastbp" or "__metadata__" or contains a NUL, for an array
    without elements that has a dimension above 16,777,216, and for JSON of more than a million characters. Raises TypeError for
    another dtype and for what JSON cannot hold. Raises OSError if the file cannot be written; then an old file is as before.
    """
    pack, _ = _format(path)
    contiguous = {name: _checked(name, array) for name, array in arrays.items()}
    atomic.write(path, pack(contiguous, _limited(json.dumps(about), _MOST_ABOUT)))


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Return (arrays, about) from a file that write() wrote, with the arrays in the order of their names.

    A file may come from anybody. Nothing in it is run, and reading takes only a few times the memory of the data that are
    there.

    Raises ValueError for a suffix other than .safetensors and .npz, and for a file that is damaged or not of fastbp. Raises
    OSError, such as FileNotFoundError, if the file cannot be read or is not a regular file.
    """
    _, unpack = _format(path)
    content = regular.read(path)
    try:
        arrays, text = unpack(content)
        about = None if text is None else json.loads(_limited(text, _MOST_ABOUT), object_pairs_hook=_unique)
    except (ImportError, MemoryError):
        raise
    except Exception as error:      # a damaged file can raise any error of zipfile, NumPy, safetensors and json
        reason = shown(f"{type(error).__name__}: {error}")
        raise ValueError(f"{path} is damaged or not a file of fastbp: {reason}") from error
    if text is None:
        raise ValueError(f"{path} is not a file of fastbp: it has no entry '{_ABOUT}'")
    if not isinstance(about, dict):
        raise ValueError(f"{path} has {type(about).__name__} as JSON in its entry '{_ABOUT}', expected an object")
    return dict(sorted(arrays.items())), about


def shown(message: str) -> str:
    """Return a message that quotes a file in a form that is safe to print: not too long, and without terminal controls."""
    start = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message[:_MOST_SHOWN])
    return start + "..." * (len(message) > _MOST_SHOWN)


def _format(path):
    """Return the functions (pack, unpack) for the suffix of the path. Raises ValueError for an unknown one."""
    suffix = Path(path).suffix
    if suffix.lower() not in _FORMATS:
        raise ValueError(f"path is '{os.fspath(path)}', with the suffix '{suffix}', expected {' or '.join(_FORMATS)}")
    return _FORMATS[suffix.lower()]


def _checked(name, array):
    """Return the array in C order, which safetensors needs. Raises ValueError or TypeError if it cannot be stored."""
    if name in _RESERVED or "\0" in name:       # zipfile cuts a name at a NUL
        raise ValueError(f"an array is named {name!r}, expected a name without NUL, other than {' and '.join(_RESERVED)}")
    array = np.asarray(array, order="C")
    if array.dtype not in _DTYPES:
        raise TypeError(f"{name} has dtype {array.dtype}, expected float32 or float64")
    _check_shape(name, array.shape)
    return array


def _check_shape(name, shape):
    """Raise ValueError unless the shape has integers of 0 or more, and none above _MOST_EMPTY if one is 0."""
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{name} has shape {reprlib.repr(shape)}, expected integers of 0 or more")
    if 0 in shape and max(shape) > _MOST_EMPTY:
        raise ValueError(f"{name} has shape {reprlib.repr(shape)}, so no elements, expected no dimension above {_MOST_EMPTY:,}")


def _limited(text, most):
    """Return the text, or raise ValueError if it is longer than `most`."""
    if len(text) > most:
        raise ValueError(f"JSON has {len(text):,} characters, expected at most {most:,}")
    return text


def _unique(pairs):
    """Return a JSON object as a dictionary. Raises ValueError for a name that is there twice, as readers would differ on it."""
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a JSON object has a name twice")
    return named


def _pack_safetensors(arrays, text):
    """Return the content of a .safetensors file."""
    from safetensors.numpy import save  # here, because `import fastbp` has to be fast

    content = save(arrays, metadata={_ABOUT: text})
    _header(content)
    return content


def _unpack_safetensors(content):
    """Return (arrays, text of the JSON), or ({}, None) if the file is not of fastbp."""
    from safetensors.numpy import load

    # The safetensors package reads metadata only from a path, where another file may be by now. So this parses the header
    # itself.
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
    """Return the header of a .safetensors file as text. Raises ValueError if it is too long."""
    size = int.from_bytes(content[:8], "little")
    return _limited(content[8:8 + min(size, _MOST_HEADER + 1)], _MOST_HEADER).decode()


def _pack_npz(arrays, text):
    """Return the content of an .npz file, as numpy.savez writes it.

    numpy.savez itself is not used: no array can have the name of one of its arguments, and in NumPy 2.0 it pickles.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in {**arrays, _ABOUT: np.array(text)}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return buffer.getvalue()


def _unpack_npz(content):
    """Return (arrays, text of the JSON), or ({}, None) if the file is not of fastbp.

    numpy.load is not used: it notices damage only in an entry that it reads to the end, and it accepts entries that are no
    arrays.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _check_entries(archive, content)
        entries = {entry.filename.removesuffix(".npy"): archive.read(entry) for entry in archive.infolist()}
    if _ABOUT not in entries:
        return {}, None
    text = _text(entries.pop(_ABOUT))
    return {name: _array(name, content) for name, content in entries.items()}, text


def _check_entries(archive, content):
    """Raise ValueError unless each byte belongs to one entry, or to the directory at the end, and nothing is compressed.

    numpy.savez writes such files. So no entry takes more memory than it takes in the file, and every program finds the same
    entries in it.
    """
    names, end = set(), 0
    for entry in archive.infolist():
        name = entry.orig_filename                      # entry.filename is cut at a NUL
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
    """Return the array of an .npy file. Raises ValueError unless the file has all the bytes that its header promises."""
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
    """Return the text of an .npy file. Raises ValueError unless the file holds one text, and nothing else."""
    code, _, shape, start = _npy_header(_ABOUT, content)
    count, there = int(code[2:]) if code[1] == "U" else -1, len(content) - start
    if shape or 4 * count != there:
        raise ValueError(f"entry '{_ABOUT}' has {code} of shape {reprlib.repr(shape)} in {there:,} bytes, expected a text of "
                         "all of them")
    return np.ndarray((), f"{code[0]}U{count}", content, start).item() if count else ""


def _npy_header(name, content):
    """Return (the dtype's code, whether it is in Fortran order, the shape, the byte where the data begin) of an .npy file.

    Raises ValueError for any header that NumPy does not write. NumPy's own reader is not used: it evaluates the header, and it
    makes any dtype, and the memory for any shape, before it looks whether the data are there.
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


# The functions (pack, unpack) by the suffix of a file.
_FORMATS = {".safetensors": (_pack_safetensors, _unpack_safetensors), ".npz": (_pack_npz, _unpack_npz)}
