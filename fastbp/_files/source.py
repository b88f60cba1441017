"""The Python files that kernels are made from, and checks that Python runs what is in them.

Python runs a module's .pyc file instead of the source if the source still has the size and the modification time, in seconds,
that it had when the .pyc file was made; an unchecked .pyc file is always run. So Python does not notice every edit. Code that
was compiled from an old .pyc file must not be cached as if it came from the present source.
"""
import hashlib
import marshal
import struct
from contextlib import suppress
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path
from typing import NamedTuple

# The folder of this package.
_PACKAGE = Path(__file__).parents[1]

# The folders of the package that kernels are made from, and that compile and keep them.
_FOLDERS = "_arrays", "_compile", "_files", "_runtime", "kernels"

# The bytes of a .pyc file's header (PEP 552).
_HEADER_BYTES = 16

# The bits that a .pyc file keeps of a source's size and modification time.
_32_BITS = 0xFFFFFFFF


class File(NamedTuple):
    """The content of a source file, and of the .pyc file that Python runs in its place."""

    source: bytes
    compiled: bytes             # empty if Python compiles the source


class Outdated(Exception):
    """An error for a source that may differ from the code that Python runs."""


def look(package: Path = _PACKAGE) -> dict[str, File]:
    """Read the files as they are now, and return them by path in the package. Raises OSError."""
    paths = sorted(path for folder in _FOLDERS for path in package.glob(f"{folder}/**/*.py"))
    if not paths:
        raise FileNotFoundError(f"{package} holds no Python source")
    return {path.relative_to(package).as_posix(): _file(path) for path in paths}


def digest(files: dict[str, File]) -> str:
    """Return a digest of the names and sources. It does not depend on the package's place or on .pyc files."""
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name} {len(file.source)}\n".encode() + file.source)
    return digest.hexdigest()


def compiled_digest(files: dict[str, File]) -> str:
    """Return a digest of the .pyc files that Python runs, or "" if there are none."""
    compiled = {name: File(file.compiled, b"") for name, file in files.items() if file.compiled}
    return digest(compiled) if compiled else ""


def check_unedited(before: dict[str, File], package: Path = _PACKAGE) -> None:
    """Raise Outdated if a source is not as it was `before`. Raises OSError if one cannot be read."""
    now = look(package)
    for name in sorted(before.keys() | now.keys()):
        if name not in before or name not in now or now[name].source != before[name].source:
            raise Outdated(f"{package / name} has changed since it was imported")


def check_compiled(files: dict[str, File], package: Path = _PACKAGE) -> None:
    """Raise Outdated if a .pyc file holds other code than its source. This compiles all sources, which takes 0.2 s."""
    for name, file in files.items():
        path = str(package / name)
        if file.compiled and _code(file) != compile(file.source, path, "exec", dont_inherit=True):
            raise Outdated(f"Python does not run {path} as it is now, since {cache_from_source(path)} holds other code and "
                           "passes for current; delete that file")


def _code(file):
    """Return the code object in a .pyc file, or None if the file is damaged."""
    with suppress(EOFError, ValueError, TypeError):             # Python does not import a damaged file, either
        return marshal.loads(file.compiled[_HEADER_BYTES:])


def _file(path):
    source, compiled = path.read_bytes(), b""
    with suppress(OSError, NotImplementedError):                # no .pyc file, or a Python that makes none
        compiled = Path(cache_from_source(path)).read_bytes()
    return File(source, compiled if _is_run(compiled, source, path.stat()) else b"")


def _is_run(compiled, source, status):
    """Return whether Python runs the .pyc file, by the checks of its header that importlib makes (PEP 552)."""
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
