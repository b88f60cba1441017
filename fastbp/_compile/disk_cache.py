"""Compiled functions on disk, one file per function and signature.

Numba's own cache notices an edited function only in the file that it is in, and its processes share an index. Here the
folder's name is a digest of everything that compiled code depends on, this package's source included, so a file in it
is never stale; it is written under another name and then renamed, so a reader sees all of it or none, without a lock.

To read a file is to run what is in it, so a folder that others can write is not used (trust.py), nor is any where Python may
run something else than the source (_files/source.py).
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

_KEY = re.compile("[0-9a-f]{32}")
_DIGEST_BYTES = 32
_FLAGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "USING_SVML")
_MOST_BYTES = 1 << 26           # of a file: none has reached 1 MB
_SECONDS_UNUSED = 30 * 24 * 3600
_SECONDS_ABANDONED = 3600       # no writer takes so long for a file


def attach(dispatcher, name: str) -> None:
    """Let `dispatcher.compile(signature)` load from the cache or save to it; `name` is for this function alone."""
    dispatcher._cache = _DiskCache(name)


def holds(name: str, signature) -> bool:
    """Whether there is a file of that name and signature."""
    path = _DiskCache(name).path(signature)
    return path is not None and os.path.isfile(path)


def folder() -> Path | None:
    """The folder of this package's compiled code, or None if there is none."""
    return _open()[0]


def problem() -> str | None:
    """Why folder() is None."""
    return _open()[1]


def is_writable() -> bool:
    """Return whether compiled code is kept for other processes: there is a folder, and this user may write to it."""
    return folder() is not None and os.access(folder(), os.W_OK)


def keep(name: str, content: bytes) -> None:
    """Write a file beside the compiled code, if there is a folder."""
    if folder() is not None:
        _write(folder() / name, content)


def kept(name: str) -> bytes | None:
    """What was kept under that name; None if it is not there, or not whole."""
    content = None if folder() is None else _read(folder() / name)
    return None if content is None else bytes(content)


class _DiskCache(caching.NullCache):
    """What Numba's dispatcher asks of a cache."""

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
        # All that compiled code links to. Numba's own cache refreshes the whole context, which takes 0.2 s.
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
    """The payload of a file, or None if it is not there, not whole, not this user's or was written under another name."""
    try:
        content = trust.read(path, _MOST_BYTES)
    except OSError:
        return None
    if content is None:
        return None
    payload = memoryview(content)[_DIGEST_BYTES:]
    return payload if content[:_DIGEST_BYTES] == _digest(path, payload) else None


def _write(path, payload):
    """Write the file, or nothing if that is not possible."""
    with suppress(OSError):
        atomic.write_private(path, _digest(path, payload), payload)


def _digest(path, payload):
    identity = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES, key=identity).digest()


@cache
def _open():
    """(folder, None) or (None, why there is none)."""
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
        os.utime(path)                  # in use: see _delete_unused
        if is_new:
            _delete_unused(root)
    for folder in (root, path):
        with suppress(OSError):
            atomic.delete_abandoned(folder, _SECONDS_ABANDONED)
    return path, None


def _check_compiled(root):
    """Raise Outdated if a .pyc file is. That none is takes long to see, and is noted in the cache."""
    compiled = source.compiled_digest(source.FILES)
    note = root / hashlib.sha256(f"{key()} {compiled}".encode()).hexdigest()[:32]
    if compiled and _read(note) is None:
        source.check_compiled(source.FILES)
        _write(note, b"")


def _root():
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
        base = base if os.path.isabs(base) else "~/.cache"      # as the XDG specification says of a relative path
    path = Path(os.path.expanduser(base), "fastbp")
    if not path.is_absolute():
        raise FileNotFoundError("this user has no home folder")
    return path


def _delete_unused(root):
    """Delete what other versions left behind."""
    for path in root.iterdir():
        if _KEY.fullmatch(path.name) and path.stat().st_mtime < time.time() - _SECONDS_UNUSED:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@cache
def key() -> str:
    """A digest of all that the compiled code depends on."""
    flags = {name: repr(getattr(config, name, None)) for name in _FLAGS}
    facts = (source.digest(source.FILES), llvm.get_process_triple(), cpu.target(), cpu.has_amx(), flags, sys.version,
             numba.__version__, llvmlite.__version__, numpy.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _number_functions():
    """Let Numba number the functions that it compiles from a random start.

    It counts from 1 in each process, and the number is all that tells the symbols of two closures of one function
    apart. From the files of two processes, one would call the other's code.
    """
    bytecode.FunctionIdentity._unique_ids = itertools.count(secrets.randbits(60))


_number_functions()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions)
