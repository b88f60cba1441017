"""Checks that a path which is read to its end, or replaced, is a regular file."""
import errno
import os
import stat


def read(path: str | os.PathLike) -> bytes:
    """Return the content of a regular file, or of the one that `path` leads to as a link.

    Raises OSError, also if the file is not regular: reading would wait for a pipe's writer, and /dev/zero has no end.
    """
    check(path, os.stat(path))                          # before opening it, which alone has effects on a device
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        check(path, status)                             # another file may have taken its place
        return file.read(status.st_size)


def check(path: str | os.PathLike, status: os.stat_result) -> None:
    """Raise OSError unless it is the status of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))


def _without_waiting(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
