"""A disk cache of compiled functions, with one file for each function and signature.

Numba's own cache notices an edit only in the file of the cached function itself, and its processes share an index. Here, the
folder's name is a digest of everything that compiled code depends on, which includes this package's source. So no file in it is
ever stale. A file is written under another name and then renamed, so a reader sees the whole file or none, without a lock.

Whoever reads a file runs its content. So the cache is not used if others can write to its folder (trust.py), or if Python may
run something other than the source (_files/source.py).
"""
import hashlib
import itertools
import os
import pickle
import re
import secrets
import shutil
import sys
import time
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy
from numba.core import bytecode, caching, compiler, config
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from .._files import atomic, source
from .._runtime import cpu
from . import trust

# The names of the cache's folders and notes: key() or another digest of its length.
_KEY = re.compile("[0-9a-f]{32}")

# The bytes of the digest at the start of each file.
_DIGEST_BYTES = 32

# The settings of Numba that change the code that it compiles.
_FLAGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "USING_SVML")

# The largest file that is read, in bytes. No file has reached 1 MB.
_MOST_BYTES = 1 << 26

# The age in seconds at which an unused folder is deleted: 30 days.
_SECONDS_UNUSED = 30 * 24 * 3600

# The age in seconds at which a temporary file counts as abandoned. No writer takes this long for a file.
_SECONDS_ABANDONED = 3600


def attach(dispatcher, name: str) -> None:
    """Make `dispatcher.compile(signature)` load from the cache or save to it. No other function may have the same `name`."""
    dispatcher._cache = _DiskCache(name)


def holds(name: str, signature) -> bool:
    """Return whether the cache has a file for that name and signature."""
    path = _DiskCache(name).path(signature)
    return path is not None and os.path.isfile(path)


def folder() -> Path | None:
    """Return the folder of this package's compiled code, or None if there is none."""
    return _open()[0]


def problem() -> str | None:
    """Return why folder() is None, or None if there is a folder."""
    return _open()[1]


def is_writable() -> bool:
    """Return whether this process can keep compiled code for others: there is a folder, and this user may write to it."""
    return folder() is not None and os.access(folder(), os.W_OK)


def keep(name: str, content: bytes) -> None:
    """Write a file beside the compiled code, if there is a folder."""
    if folder() is not None:
        _write(folder() / name, content)


def kept(name: str) -> bytes | None:
    """Return the content of a file that keep() wrote, or None if the file is missing or damaged."""
    content = None if folder() is None else _read(folder() / name)
    return None if content is None else bytes(content)


class _DiskCache(caching.NullCache):
    """A cache with the methods that Numba's dispatcher calls."""

    def __init__(self, name):
        self._name = name

    @property
    def cache_path(self):
        return folder()

    def load_overload(self, signature, target_context):
        path = self.path(signature)
        payload = path and _read(path)
        if not payload:
            return None
        # This is all that compiled code links to. Numba's own cache refreshes the whole context, which takes 0.2 s.
        rtsys.initialize(target_context)
        return compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))

    def save_overload(self, signature, result):
        path = self.path(signature)
        if path and not result.lifted and not result.library.has_dynamic_globals:
            _write(path, dumps(result._reduce()))

    def path(self, signature):
        if folder() is None:
            return None
        return folder() / f"{self._name}-{hashlib.sha256(str(signature).encode()).hexdigest()[:16]}"


def _read(path):
    """Return the payload of a file, or None if the file is missing, damaged, not this user's, or has been renamed."""
    try:
        content = trust.read(path, _MOST_BYTES)
    except OSError:
        return None
    if content is None:
        return None
    payload = memoryview(content)[_DIGEST_BYTES:]
    return payload if content[:_DIGEST_BYTES] == _digest(path, payload) else None


def _write(path, payload):
    """Write the file, or leave things as they are if that is not possible."""
    with suppress(OSError):
        atomic.write_private(path, _digest(path, payload), payload)


def _digest(path, payload):
    """Return a digest of the payload and of the file's name."""
    identity = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES, key=identity).digest()


@cache
def _open():
    """Return (folder, None), or (None, the reason why there is no folder)."""
    try:
        source.check_unedited(source.FILES)
        root = trust.folder(_root())
        _check_compiled(root)
        is_new = not (root / key()).exists()
        path = trust.folder(root / key())
    except (trust.Unsafe, source.Outdated) as error:
        warnings.warn(f"fastbp does not use its cache of compiled code: {error}", RuntimeWarning, stacklevel=2)
        return None, str(error)
    except OSError as error:
        return None, str(error)
    with suppress(OSError):
        os.utime(path)                  # marks the folder as used, for _delete_unused
        if is_new:
            _delete_unused(root)
    for folder in (root, path):
        with suppress(OSError):
            atomic.delete_abandoned(folder, _SECONDS_ABANDONED)
    return path, None


def _check_compiled(root):
    """Raise Outdated if a .pyc file is outdated. This check is slow, so the cache keeps a note when all files passed it."""
    compiled = source.compiled_digest(source.FILES)
    note = root / hashlib.sha256(f"{key()} {compiled}".encode()).hexdigest()[:32]
    if compiled and _read(note) is None:
        source.check_compiled(source.FILES)
        _write(note, b"")


def _root():
    """Return the folder that holds the folders of all versions. Raises FileNotFoundError if there is no home folder for it."""
    chosen = os.environ.get("FASTBP_CACHE_DIR")
    if chosen:
        path = os.path.expanduser(chosen)
        if path.startswith("~"):
            raise FileNotFoundError(f"FASTBP_CACHE_DIR is {chosen!r}, and there is no such home folder")
        return Path(path).absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        base = base if os.path.isabs(base) else "~/.cache"      # the XDG specification: ignore a relative path
    path = Path(os.path.expanduser(base), "fastbp")
    if not path.is_absolute():
        raise FileNotFoundError("this user has no home folder")
    return path


def _delete_unused(root):
    """Delete the folders and notes that other versions left behind and that have not been used for _SECONDS_UNUSED."""
    for path in root.iterdir():
        if _KEY.fullmatch(path.name) and path.stat().st_mtime < time.time() - _SECONDS_UNUSED:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@cache
def key() -> str:
    """Return a digest of everything that the compiled code depends on."""
    flags = {name: repr(getattr(config, name, None)) for name in _FLAGS}
    facts = (source.digest(source.FILES), llvm.get_process_triple(), cpu.target(), cpu.has_amx(), flags, sys.version,
             object.__basicsize__, numba.__version__, llvmlite.__version__, numpy.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _number_functions():
    """Make Numba number the functions that it compiles from a random start.

    Numba counts from 1 in each process, and the symbols of two closures of one function differ only in that number. If files
    came from two processes that count alike, one closure would call the other's code.
    """
    bytecode.FunctionIdentity._unique_ids = itertools.count(secrets.randbits(60))


_number_functions()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions)
