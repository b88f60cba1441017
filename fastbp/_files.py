"""Files that appear whole or not at all."""
import os
import secrets
from contextlib import suppress
from pathlib import Path


def write(path: str | Path, *parts: bytes) -> None:
    """Write a file, in place of one that was there. Raises OSError, and then what was there is as before."""
    temporary = Path(path).with_name(f".{Path(path).name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
