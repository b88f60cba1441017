"""Who looks at standard error while it is written."""
import sys


def in_notebook() -> bool:
    """Return whether a kernel of Jupyter runs this: its standard error is no terminal, but shown as it comes."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def is_watched() -> bool:
    """Return whether standard error is a terminal or a notebook's: what is written elsewhere is read later, if at all."""
    try:
        return sys.stderr.isatty() or in_notebook()
    except (AttributeError, ValueError, OSError):                       # there is none, or it is closed
        return False
