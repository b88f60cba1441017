"""Regular files, and no others, for what is read to its end or replaced."""
import errno
import os
import stat


def read(path: str | os.PathLike) -> bytes:
    """What is in a regular file, or in the one that `path` as a link leads to.

    Raises OSError, also for what is no regular file: a pipe would be waited for, and /dev/zero has no end.
    """
    check(path, os.stat(path))                          # before it is opened, as that alone does something to a device
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        check(path, status)                             # another may have taken its place
        return file.read(status.st_size)


def check(path: str | os.PathLike, status: os.stat_result) -> None:
    """OSError unless it is the status of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))


def _without_waiting(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
