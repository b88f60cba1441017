"""Files that appear whole or not at all."""
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from . import _regular


def write(path: str | os.PathLike, *parts: bytes) -> None:
    """Write a file, in place of one that was there: with its permissions and, if `path` is a link, where that points.

    Raises OSError, and then what was there is as before. A crash, of the machine too, leaves the old file or the new one.
    """
    path = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        _regular.check(path, os.stat(path))             # or /dev/null would be replaced
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
