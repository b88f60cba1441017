"""Arrays in .npy files of the user's folder, a block of rows at a time, and how fast its disk is.

A file that is mapped into memory and has no bytes, or no space on the disk, for a page ends the process with SIGBUS. So
files get all of their space before they are mapped, and their lengths are looked at before each block.
"""
import contextlib
import errno
import os
import tempfile
import time
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import disk_usage
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

PIECE = 4 << 20                 # bytes that are read or written at once
SCRATCH = 256 << 20             # at most, to measure the disk

_FULL = errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)
_NOT_SUPPORTED = errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS


class Rows:
    """An array (rows, columns) in an open .npy file. A block of its rows at a time is mapped into memory."""

    def __init__(self, file: BinaryIO, shape: tuple[int, int], dtype: np.dtype, mode: str):
        """file: it stands behind its header. mode: numpy.memmap's."""
        self._file, self._shape, self.dtype, self._mode, self._offset = file, shape, dtype, mode, file.tell()
        self._row_bytes = shape[1] * dtype.itemsize
        self.bytes = shape[0] * self._row_bytes

    @classmethod
    def read(cls, file: BinaryIO, shape: tuple[int, int], dtype: np.dtype) -> "Rows":
        """That in a file that was there. Raises ValueError unless it is of that shape and dtype, in C order, and whole."""
        found, expected = _header(file), (shape, False, dtype)
        if found != expected:
            raise ValueError(f"{file.name} holds {_in_words(*found)}, expected {_in_words(*expected)}")
        rows = cls(file, shape, dtype, "c")     # not "r": PyTorch warns of arrays that are read-only; nobody writes to them
        rows.check()
        return rows

    @classmethod
    def create(cls, file: BinaryIO, shape: tuple[int, int], dtype: np.dtype) -> "Rows":
        """A new one, with all of its space on the disk. Raises OSError if there is not enough."""
        npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
        rows = cls(file, shape, dtype, "r+")
        allocate(file, rows._offset + rows.bytes)
        return rows

    def __len__(self) -> int:
        return self._shape[0]

    def check(self) -> None:
        """Raise ValueError if the file has another length than it should."""
        found, expected = os.fstat(self._file.fileno()).st_size, self._offset + self.bytes
        if found != expected:
            raise ValueError(f"{self._file.name} has {found:,} bytes, expected {expected:,}"
                             + (": it was cut short" if found < expected else ""))

    def block(self, rows: slice) -> np.ndarray:
        """These rows, in the file itself. Raises ValueError if the file has become shorter."""
        # Whoever cuts it short after this, while the block is in use, still ends the process, and so does a disk that cannot
        # read. Only a copy would be safe, by read(), of which the system says how much it was.
        self.check()
        offset, shape = self._offset + rows.start * self._row_bytes, (rows.stop - rows.start, self._shape[1])
        return np.asarray(np.memmap(self._file, self.dtype, self._mode, offset, shape))

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._file.fileno())

    def forget(self) -> None:
        """Take the file out of the system's cache, if it has a function for that, so that it is read from the disk."""
        if self._mode == "r+":
            self.flush()                        # what is not on the disk yet stays in the cache
        _advise(self._file, 0, 0, "POSIX_FADV_DONTNEED")

    def read_ahead(self, start: int, stop: int) -> None:
        """Let the system begin to read these rows, if it has a function for that."""
        _advise(self._file, self._offset + start * self._row_bytes, (stop - start) * self._row_bytes, "POSIX_FADV_WILLNEED")


def _header(file):
    """(shape, whether in Fortran order, dtype) of an array in a .npy file."""
    try:
        version = npy.read_magic(file)
        return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    except (ValueError, SyntaxError, tokenize.TokenError) as error:     # of what NumPy does not understand it passes some on
        raise ValueError(f"{file.name} is not a whole .npy file: {error}") from None


def _in_words(shape, fortran, dtype):
    return f"{dtype} of shape {shape} in {'Fortran' if fortran else 'C'} order"


def _advise(file, start, count, advice):
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, count, getattr(os, advice))


def allocate(file: BinaryIO, size: int) -> None:
    """Give a file `size` bytes on the disk. What it holds stays; it must stand at its end. Raises OSError if there is no room.

    Where the file system cannot do that, zeros are written; the GNU C library does so by itself, a byte for each block, which
    is slow over a network. One that writes changed blocks to new places, as ZFS does, promises nothing even so.
    """
    file.flush()
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
    for start in range(file.tell(), size, PIECE):
        file.write(bytes(min(PIECE, size - start)))
    file.flush()


def refuse(paths: Iterable[Path]) -> None:
    """FileExistsError if there is a file."""
    for path in paths:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "expected no such file, it would be overwritten", str(path))


@contextlib.contextmanager
def room(folder: Path, needed: int) -> Iterator[None]:
    """OSError if so many bytes do not fit there, or turn out not to."""
    def full(error, problem):
        return OSError(error, f"{problem}: {needed:,} bytes needed, {disk_usage(folder).free:,} free", str(folder))

    if disk_usage(folder).free < needed:
        raise full(errno.ENOSPC, "not enough room")
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full(error.errno, error.strerror) from error
        raise


@contextlib.contextmanager
def new_folder(folder: Path, keep: bool) -> Iterator[Path]:
    """A folder in that one for what is made. At the end it goes; with `keep`, unless there was an error, its files stay."""
    with tempfile.TemporaryDirectory(prefix="fastbp-", dir=folder) as made:
        yield Path(made)
        if keep:
            _move(list(Path(made).iterdir()), folder)


def _move(files, folder):
    """All of them or, if that fails, none."""
    try:
        refuse(folder / file.name for file in files)       # again: some may have come in the meantime
        for file in files:
            file.rename(folder / file.name)
    except BaseException:
        for file in files:
            if not file.exists():                           # then it is what now has the name
                (folder / file.name).unlink()
        raise


def rates(folder: Path) -> tuple[float, float]:
    """Bytes a second that the disk reads and writes one after the other, measured with a file that is removed again.

    Written bytes count when they are on the disk. Where the system has no function to take a file out of its cache, as macOS
    and Windows, what is read comes from there.
    """
    size = min(SCRATCH, disk_usage(folder).free // 4)
    piece = np.random.default_rng(0).bytes(min(PIECE, size))        # random: some file systems compress
    count = size // len(piece)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        start = time.perf_counter()
        for _ in range(count):
            file.write(piece)
        os.fsync(file.fileno())
        written = time.perf_counter()
        _advise(file, 0, 0, "POSIX_FADV_DONTNEED")
        file.seek(0)
        begun, into = time.perf_counter(), bytearray(len(piece))
        while file.readinto(into):
            pass
        read = time.perf_counter()
    return count * len(piece) / (read - begun), count * len(piece) / (written - start)
