"""Whether somebody looks at standard error while it is written."""
import sys


def is_watched() -> bool:
    """Return whether standard error is a terminal or a notebook's: what is written elsewhere is read later, if at all."""
    stream = sys.stderr
    if type(stream).__module__.partition(".")[0] == "ipykernel":        # it says of itself that it is no terminal
        return True
    try:
        return stream.isatty()
    except (AttributeError, ValueError, OSError):                       # there is none, or it is closed
        return False
