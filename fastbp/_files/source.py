"""The Python files that kernels are made from, and whether Python runs what they say.

Python runs a module's .pyc file in place of the source if that still has the size and the second of change that it had when
the .pyc file was made, or with unchecked .pyc files always. So it does not notice every edit. What is compiled then must not
be kept as if it came from the source that is there now.
"""
import hashlib
import marshal
import struct
from contextlib import suppress
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).parents[1]

# The folders of the package whose files kernels are made from, and what compiles and keeps them.
_FOLDERS = "_arrays", "_compile", "_files", "_runtime", "kernels"
_HEADER_BYTES = 16
_32_BITS = 0xFFFFFFFF


class File(NamedTuple):
    """A source, and the .pyc file that Python runs in its place, empty where it compiles the source."""

    source: bytes
    compiled: bytes


class Outdated(Exception):
    """Python may run other code than there is in the source."""


def look(package: Path = _PACKAGE) -> dict[str, File]:
    """Return the files now, by their paths in the package. Raises OSError."""
    paths = sorted(path for folder in _FOLDERS for path in package.glob(f"{folder}/**/*.py"))
    if not paths:
        raise FileNotFoundError(f"{package} holds no Python source")
    return {path.relative_to(package).as_posix(): _file(path) for path in paths}


def digest(files: dict[str, File]) -> str:
    """Of the names and sources: the same wherever the package is, and whatever .pyc files there are."""
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name} {len(file.source)}\n".encode() + file.source)
    return digest.hexdigest()


def compiled_digest(files: dict[str, File]) -> str:
    """Of the .pyc files that Python runs; "" if there are none."""
    compiled = {name: File(file.compiled, b"") for name, file in files.items() if file.compiled}
    return digest(compiled) if compiled else ""


def check_unedited(before: dict[str, File], package: Path = _PACKAGE) -> None:
    """Raise Outdated if a source is not as it was then. Raises OSError if one cannot be read."""
    now = look(package)
    for name in sorted(before.keys() | now.keys()):
        if name not in before or name not in now or now[name].source != before[name].source:
            raise Outdated(f"{package / name} has changed since it was imported")


def check_compiled(files: dict[str, File], package: Path = _PACKAGE) -> None:
    """Raise Outdated if a .pyc file holds other code than its source. That compiles them all, which takes 0.2 s."""
    for name, file in files.items():
        path = str(package / name)
        if file.compiled and _code(file) != compile(file.source, path, "exec", dont_inherit=True):
            raise Outdated(f"Python does not run {path} as it is now, since {cache_from_source(path)} holds other code and "
                           "passes for current; delete that file")


def _code(file):
    with suppress(EOFError, ValueError, TypeError):             # damaged: Python does not import it either
        return marshal.loads(file.compiled[_HEADER_BYTES:])


def _file(path):
    source, compiled = path.read_bytes(), b""
    with suppress(OSError, NotImplementedError):                # there may be none, or a Python that makes none
        compiled = Path(cache_from_source(path)).read_bytes()
    return File(source, compiled if _is_run(compiled, source, path.stat()) else b"")


def _is_run(compiled, source, status):
    """Whether Python runs the .pyc file: what importlib asks of its header (PEP 552)."""
    flags, of_source = int.from_bytes(compiled[4:8], "little"), compiled[8:_HEADER_BYTES]
    if compiled[:4] != MAGIC_NUMBER:
        return False
    if flags:
        is_checked = flags & 2
        return not is_checked or of_source == source_hash(source)
    return of_source == struct.pack("<2L", int(status.st_mtime) & _32_BITS, status.st_size & _32_BITS)


# The files when this module was imported, before any kernel: what is edited later must not pass for what this process runs.
FILES: dict[str, File] = {}
with suppress(OSError):
    FILES = look()
