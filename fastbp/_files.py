"""Files that appear whole or not at all, and are read only where they have an end."""
import errno
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path


def write(path: str | os.PathLike, *parts: bytes) -> None:
    """Write a file, in place of one that was there: with its permissions and, if `path` is a link, where that points.

    Raises OSError, and then what was there is as before. A crash, of the machine too, leaves the old file or the new one.
    """
    path = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        _check_regular(path, os.stat(path))             # or /dev/null would be replaced
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            with suppress(FileNotFoundError):
                shutil.copymode(path, temporary)        # while there is nothing in it for others to read
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())                     # or the name could reach the disk before what it stands for
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def read(path: str | os.PathLike) -> bytes:
    """What is in a regular file, or in the one that `path` as a link leads to.

    Raises OSError, also for what is no regular file: a pipe would be waited for, and /dev/zero has no end.
    """
    _check_regular(path, os.stat(path))                 # before it is opened, as that alone does something to a device
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        _check_regular(path, status)                    # another may have taken its place
        return file.read(status.st_size)


def _check_regular(path, status):
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))


def _without_waiting(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
