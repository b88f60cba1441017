"""Atomic writing of files: a file appears whole or not at all."""
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

# The names of temporary files, as _write makes them.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")


def write(path: str | os.PathLike, *parts: bytes) -> None:
    """Write a file in place of an old one, whose permissions it keeps. If `path` is a link, replace the file that it leads to.

    Raises OSError; then the old file is as it was. A crash, even of the machine, leaves either the old file or the new one.
    """
    def take_over(temporary):
        with suppress(FileNotFoundError):
            shutil.copymode(path, temporary)

    path = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        regular.check(path, os.stat(path))             # else /dev/null would be replaced
    try:
        _write(path, parts, 0o666, take_over)
    except OSError as error:
        if error.filename is not None:                  # name the user's path, not the temporary file
            error.filename, error.filename2 = os.fspath(path), None
        raise


def write_private(path: Path, *parts: bytes) -> None:
    """Write a file that only this user can read or write. It replaces whatever had that name: a link, or another user's file.

    Raises OSError, as write() does.
    """
    _write(path, parts, 0o600)


def delete_abandoned(folder: Path, seconds: float) -> None:
    """Delete temporary files that are older than that, which killed writers left in the folder. Raises OSError."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < time.time() - seconds:
                os.unlink(entry.path)


def _write(path: Path, parts, mode: int, prepare: Callable[[Path], None] = lambda temporary: None):
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
            prepare(temporary)                          # before there is anything in it to read
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())                     # else the name could reach the disk before the content
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
