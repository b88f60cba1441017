"""Checks whether somebody watches standard error."""
import sys


def in_notebook() -> bool:
    """Return whether this process is a Jupyter kernel. It shows standard error at once, though that is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def is_watched() -> bool:
    """Return whether standard error is a terminal or shown in a notebook. Elsewhere its text is read later, if at all."""
    try:
        return sys.stderr.isatty() or in_notebook()
    except (AttributeError, ValueError, OSError):                       # standard error is None or closed
        return False
