"""Arrays in .npy files in the user's folder, a block of rows at a time, and the speed of its disk.

If a file is mapped into memory, and a page lies behind its end or finds no space on the disk, SIGBUS ends the process. So files
get all of their space before they are mapped, and their lengths are checked before each block.
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

PIECE = 4 << 20                 # This many bytes are read or written at once.
SCRATCH = 256 << 20             # The file that measures the disk has at most this many bytes.

# These error numbers say that there is no room on the disk or in the user's quota.
_FULL = errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)
# These error numbers say that a file system cannot reserve space.
_NOT_SUPPORTED = errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS


class Rows:
    """An array (rows, columns) in an open .npy file. It maps a block of rows at a time into memory."""

    def __init__(self, file: BinaryIO, shape: tuple[int, int], dtype: np.dtype, mode: str):
        """Use a file that stands behind its header. mode: that of numpy.memmap."""
        self._file, self._shape, self.dtype, self._mode, self._offset = file, shape, dtype, mode, file.tell()
        self._row_bytes = shape[1] * dtype.itemsize
        self.bytes = shape[0] * self._row_bytes

    @classmethod
    def read(cls, file: BinaryIO, shape: tuple[int, int], dtype: np.dtype) -> "Rows":
        """Return the array in an existing file.

        Raises ValueError unless it has this shape and dtype, is in C order, and is complete.
        """
        found, expected = _header(file), (shape, False, dtype)
        if found != expected:
            raise ValueError(f"{file.name} holds {_in_words(*found)}, expected {_in_words(*expected)}")
        rows = cls(file, shape, dtype, "c")     # nobody writes to it, but PyTorch warns of arrays with mode "r", read-only
        rows.check()
        return rows

    @classmethod
    def create(cls, file: BinaryIO, shape: tuple[int, int], dtype: np.dtype) -> "Rows":
        """Return a new array, with all of its space reserved on the disk. Raises OSError if there is not enough."""
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
        """Return these rows as a view of the file. Raises ValueError if the file has become shorter."""
        # The process still ends if somebody shortens the file while the block is in use, or if the disk cannot read. Only a
        # copy made by read() would be safe, because read() returns how many bytes it got.
        self.check()
        offset, shape = self._offset + rows.start * self._row_bytes, (rows.stop - rows.start, self._shape[1])
        return np.asarray(np.memmap(self._file, self.dtype, self._mode, offset, shape))

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._file.fileno())

    def forget(self) -> None:
        """Remove the file from the system's cache, so that it is read from the disk. Does nothing on systems that cannot."""
        if self._mode == "r+":
            self.flush()                        # bytes that are not on the disk yet would stay in the cache
        _advise(self._file, 0, 0, "POSIX_FADV_DONTNEED")

    def read_ahead(self, start: int, stop: int) -> None:
        """Let the system begin to read these rows. Does nothing on systems that cannot."""
        _advise(self._file, self._offset + start * self._row_bytes, (stop - start) * self._row_bytes, "POSIX_FADV_WILLNEED")


def _header(file):
    """Return (shape, whether in Fortran order, dtype) of the array in a .npy file. Raises ValueError for another file."""
    try:
        version = npy.read_magic(file)
        return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    except (ValueError, SyntaxError, tokenize.TokenError) as error:     # NumPy passes some errors of its parser on
        raise ValueError(f"{file.name} is not a whole .npy file: {error}") from None


def _in_words(shape, fortran, dtype):
    return f"{dtype} of shape {shape} in {'Fortran' if fortran else 'C'} order"


def _advise(file, start, count, advice):
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, count, getattr(os, advice))


def allocate(file: BinaryIO, size: int) -> None:
    """Reserve `size` bytes on the disk for a file, which must stand at its end and keeps its content.

    Raises OSError if there is no room.

    If the file system cannot reserve space, zeros are written. The GNU C library does so by itself, one byte for each block,
    which is slow over a network. A file system that writes changed blocks to new places, as ZFS does, guarantees no space even
    then.
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
    """Raise FileExistsError if one of the files exists."""
    for path in paths:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "expected no such file, it would be overwritten", str(path))


@contextlib.contextmanager
def room(folder: Path, needed: int) -> Iterator[None]:
    """Raise OSError, with the numbers of bytes, if `needed` bytes do not fit into the folder, now or within the block."""
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
    """Make a folder inside `folder` for the block, and remove it at the end. With `keep`, its files move to `folder` first.

    After an error no file is kept.
    """
    with tempfile.TemporaryDirectory(prefix="fastbp-", dir=folder) as made:
        yield Path(made)
        if keep:
            _move(list(Path(made).iterdir()), folder)


def _move(files, folder):
    """Move all files into the folder or, if that fails, none."""
    try:
        refuse(folder / file.name for file in files)       # checked again: somebody may have made one in the meantime
        for file in files:
            file.rename(folder / file.name)
    except BaseException:
        for file in files:
            if not file.exists():                           # it has moved
                (folder / file.name).unlink()
        raise


def rates(folder: Path) -> tuple[float, float]:
    """Return the bytes a second that the disk (reads, writes) in sequence, measured with a temporary file.

    Written bytes count once they are on the disk. macOS and Windows have no function that removes a file from the system's
    cache, so that they read from the cache.
    """
    size = min(SCRATCH, disk_usage(folder).free // 4)
    piece = np.random.default_rng(0).bytes(min(PIECE, size))        # random, because some file systems compress
    count = size // len(piece)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        start = time.perf_counter()
        for _ in range(count):
            file.write(piece)
        os.fsync(file.fileno())
        written = time.perf_counter()
        _advise(file, 0, 0, "POSIX_FADV_DONTNEED")
        file.seek(0)
        read_start, buffer = time.perf_counter(), bytearray(len(piece))
        while file.readinto(buffer):
            pass
        read = time.perf_counter()
    return count * len(piece) / (read - read_start), count * len(piece) / (written - start)
