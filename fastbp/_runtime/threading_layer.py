"""Numba's threading layers: which of them kernels can use here, and how one is started.

Numba brings three. TBB is safe everywhere, but PyPI's is found only if it is loaded beforehand. GNU OpenMP kills a forked
child that computes after its parent did. The work queue aborts the process when two Python threads call at once, so it is
never started here. A layer that the user chose (NUMBA_THREADING_LAYER) is used if it can be loaded, and one that the user's
code has started is left as it is.
"""
import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import itertools
import os
import platform
import sys
from functools import cache

import numba
from numba.np.ufunc import parallel

SAFE = "tbb", "omp"             # the layers that kernels use
SERIAL = "serial"               # in place of a layer's name: kernels run on one thread
TBB_LIBRARY = {"linux": "libtbb.so.12", "darwin": "libtbb.12.dylib", "win32": "tbb12.dll"}

_TITLES = {"tbb": "TBB", "omp": "OpenMP"}
_PRIORITY = ["tbb", "omp", "workqueue"]

# What may be used for what the user can choose: another layer for one that cannot be loaded, but none without the property.
_ORDERS = {"tbb": ("tbb", "omp"), "omp": ("omp", "tbb"), "workqueue": (), "safe": ("tbb",), "threadsafe": ("tbb", "omp"),
           "forksafe": ("tbb",) if sys.platform == "linux" else ("tbb", "omp")}


def find() -> tuple[str, str | None]:
    """Return the layer that Numba runs or, if none, the one to start, or SERIAL; and what the user should know about it.

    It loads libraries, and starts nothing.
    """
    name = running()
    if name is not None:
        return (name, None) if name in SAFE else (SERIAL, _note([_unsafe("Numba runs its work queue")], SERIAL, False))
    chosen, names, faults = _choice()
    name = next(filter(_is_loadable, names), SERIAL)
    if chosen in SAFE and name != chosen:
        faults.append(f"Numba's THREADING_LAYER is {chosen!r}, which cannot be loaded")
    elif name == SERIAL and names:
        faults.append(f"{' and '.join(map(_TITLES.get, names))} cannot be loaded")
    return name, _note(faults, name, bool(names)) if faults else None


def start(name: str) -> None:
    """Start Numba's threads on that layer, whatever the user chose. Raises ValueError, ImportError or OSError."""
    config = numba.config
    chosen = config.THREADING_LAYER, config.THREADING_LAYER_PRIORITY
    config.THREADING_LAYER, config.THREADING_LAYER_PRIORITY = name, _PRIORITY
    try:
        numba.get_num_threads()
    finally:
        config.THREADING_LAYER, config.THREADING_LAYER_PRIORITY = chosen


def running() -> str | None:
    """Return the name of the layer that Numba runs, or None."""
    try:
        return numba.threading_layer()
    except ValueError:
        return None


def load_tbb() -> None:
    """Load PyPI's TBB, which the system's loader would not find for Numba."""
    name = TBB_LIBRARY.get(sys.platform)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError):
        for path in importlib.metadata.files("tbb") or ():
            if path.name == name:
                ctypes.CDLL(os.fspath(path.locate()))


def _choice():
    """Return what the user chose, the layers that may be used for it, the best first, and what is wrong with the choice."""
    chosen, priority, faults = str(numba.config.THREADING_LAYER).lower(), numba.config.THREADING_LAYER_PRIORITY, []
    if not isinstance(priority, list | tuple) or sorted(map(str, priority)) != sorted(_PRIORITY):
        faults.append(f"Numba's THREADING_LAYER_PRIORITY is {priority!r}, expected {', '.join(_PRIORITY)} in some order")
        priority = _PRIORITY
    names = _ORDERS.get(chosen)
    if names is None:
        names = tuple(itertools.takewhile(lambda name: name != "workqueue", priority))
        if chosen != "default":
            faults.append(f"Numba's THREADING_LAYER is {chosen!r}, expected default, {', '.join(_ORDERS)}")
    if not names:
        faults.append(_unsafe("Numba's work queue was chosen"))
    return chosen, names, faults


def _unsafe(what):
    return f"{what}, which two Python threads must not use at once"


def _note(faults, name, wants_remedy):
    used = f"fastbp uses {_TITLES[name]}" if name in SAFE else "fastbp's kernels are serial, on one thread"
    return "; ".join([*faults, used, *([_remedy()] if name == SERIAL and wants_remedy else [])])


def _remedy():
    """Return what to install where no layer can be loaded."""
    if os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        how = "run `conda install -c conda-forge tbb`"
    elif sys.platform == "darwin":
        how = "install OpenMP's library, as by `brew install libomp`, or fastbp and TBB in a conda environment"
    elif platform.machine().lower() in ("x86_64", "amd64"):
        how = f"run `{os.path.basename(sys.executable or 'python')} -m pip install tbb`"
    else:                                                       # PyPI has no TBB for them
        how = "install TBB 2021.6 or later (libtbb12 of Debian and Ubuntu, tbb of Fedora and conda-forge)"
    with contextlib.suppress(ImportError, ValueError):
        if not any(importlib.util.find_spec(f"numba.np.ufunc.{name}pool") for name in SAFE):
            how += ", and a Numba that was built for it, as PyPI's and conda-forge's are"
    return f"for more, {how}"


@cache
def _is_loadable(name):
    """Load the libraries of a layer, which starts no threads, and return whether that worked."""
    try:
        if name == "tbb":
            load_tbb()
            parallel._check_tbb_version_compatible()
        importlib.import_module(f"numba.np.ufunc.{name}pool")
    except (ImportError, Warning):                              # Warning: TBB is too old, and warnings are errors
        return False
    return True
