"""Numba's threading layers: the choice of one that kernels can use here, and its start.

Numba has three layers. TBB is safe everywhere, but PyPI's TBB is found only if it has been loaded before. GNU OpenMP kills a
forked child that computes after its parent has computed. The work queue aborts the process when two Python threads call it at
once, so fastbp never starts it. A layer that the user chose (NUMBA_THREADING_LAYER) is used if it can be loaded, and one that
the user's code has started is left as it is.
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

# The layers that kernels use.
SAFE = "tbb", "omp"

# The word in place of a layer's name that says that kernels run on one thread.
SERIAL = "serial"

# The file name of TBB's library, by sys.platform.
TBB_LIBRARY = {"linux": "libtbb.so.12", "darwin": "libtbb.12.dylib", "win32": "tbb12.dll"}

# The names of the layers in messages.
_TITLES = {"tbb": "TBB", "omp": "OpenMP"}

# The names of Numba's layers, in Numba's default order.
_PRIORITY = ["tbb", "omp", "workqueue"]

# The layers to try, in order, by what the user can choose in NUMBA_THREADING_LAYER. A layer that cannot be loaded may be
# replaced by another one, but a property, such as "forksafe", is kept.
_ORDERS = {"tbb": ("tbb", "omp"), "omp": ("omp", "tbb"), "workqueue": (), "safe": ("tbb",), "threadsafe": ("tbb", "omp"),
           "forksafe": ("tbb",) if sys.platform == "linux" else ("tbb", "omp")}


def find() -> tuple[str, str | None]:
    """Return the layer to use, and what the user should know about it, or None.

    The layer is the one that Numba runs or, if none runs, the one to start, or SERIAL. This loads libraries but starts nothing.
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
    """Start Numba's threads on that layer, whatever the user has chosen. Raises ValueError, ImportError or OSError."""
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
    """Load PyPI's TBB, because the system's loader would not find it for Numba."""
    name = TBB_LIBRARY.get(sys.platform)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError):
        for path in importlib.metadata.files("tbb") or ():
            if path.name == name:
                ctypes.CDLL(os.fspath(path.locate()))


def _choice():
    """Return what the user chose, the layers that may be used for it in order, and a list of what is wrong with the choice."""
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
    """Return the clause that says why the work queue is not used."""
    return f"{what}, which two Python threads must not use at once"


def _note(faults, name, wants_remedy):
    """Return what the user should know: the faults, the layer that is used and, if asked for, what to install."""
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
    else:                                                       # PyPI has no TBB for other CPUs
        how = "install TBB 2021.6 or later (libtbb12 of Debian and Ubuntu, tbb of Fedora and conda-forge)"
    with contextlib.suppress(ImportError, ValueError):
        if not any(importlib.util.find_spec(f"numba.np.ufunc.{name}pool") for name in SAFE):
            how += ", and a Numba that was built for it, as PyPI's and conda-forge's are"
    return f"for more, {how}"


@cache
def _is_loadable(name):
    """Load the libraries of a layer, without starting threads, and return whether that worked."""
    try:
        if name == "tbb":
            load_tbb()
            parallel._check_tbb_version_compatible()
        importlib.import_module(f"numba.np.ufunc.{name}pool")
    except (ImportError, Warning):                              # a Warning, where warnings are errors: TBB is too old
        return False
    return True
