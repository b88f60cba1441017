"""Files that appear whole or not at all."""
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from . import regular

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")


def write(path: str | os.PathLike, *parts: bytes) -> None:
    """Write a file, in place of one that was there: with its permissions and, if `path` is a link, where that points.

    Raises OSError, and then what was there is as before. A crash, of the machine too, leaves the old file or the new one.
    """
    def take_over(temporary):
        with suppress(FileNotFoundError):
            shutil.copymode(path, temporary)

    path = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        regular.check(path, os.stat(path))             # or /dev/null would be replaced
    try:
        _write(path, parts, 0o666, take_over)
    except OSError as error:
        if error.filename is not None:                  # the temporary file's, which nobody knows
            error.filename, error.filename2 = os.fspath(path), None
        raise


def write_private(path: Path, *parts: bytes) -> None:
    """Write a file that only this user can write or read, in place of whatever had the name, be it a link or another's.

    Raises OSError, as write() does.
    """
    _write(path, parts, 0o600)


def delete_abandoned(folder: Path, seconds: float) -> None:
    """Delete what writers that were killed left in the folder so many seconds ago. Raises OSError."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < time.time() - seconds:
                os.unlink(entry.path)


def _write(path: Path, parts, mode: int, prepare: Callable[[Path], None] = lambda temporary: None):
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
            prepare(temporary)                          # while there is nothing in it for others to read
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())                     # or the name could reach the disk before what it stands for
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
