"""What fastbp prints: text that every stream can take, lines as wide as the terminal, progress bars, and how a command ends."""
import codecs
import contextlib
import errno
import io
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator

from . import _terminal

NARROWEST = 44                  # columns that lines are made for, at least
WIDEST = 100                    # columns of a table, at most
INTERRUPTED = 130               # what a shell reports of a program that Ctrl-C ended
CLOSED_PIPE = 141               # what a shell reports of a program that wrote to a pipe which nobody reads any more

_ASCII = {"→": "->", "←": "<-", "µ": "u", "μ": "u", "×": "x", "·": "*", "÷": "/", "−": "-", "±": "+-", "²": "^2", "³": "^3",
          "©": "(C)", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "∞": "inf", "Σ": "sum", "°": " deg", "…": "...", "–": "-",
          "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*", "─": "-", "│": "|", "\xa0": " ", "®": "(R)", "™": "(TM)"}


def _replace(error):
    """Handle an encoding error: write the characters that the encoding lacks in ASCII, unknown ones by their numbers."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start:error.end]
    return "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


codecs.register_error("fastbp.ascii", _replace)


# ---- text

def in_ascii(text: str) -> str:
    """Return the text in ASCII: "->" for an arrow, "u" for the prefix micro."""
    return text.encode("ascii", "fastbp.ascii").decode()


def readable(text: str, stream: object) -> str:
    """Return the text with what the encoding of `stream` lacks in ASCII."""
    encoding = getattr(stream, "encoding", None)
    if not isinstance(encoding, str):           # a stream of text, such as io.StringIO
        return text
    try:
        return text.encode(encoding, "fastbp.ascii").decode(encoding)
    except (LookupError, UnicodeError):         # an encoding that Python does not know, or that even lacks ASCII
        return in_ascii(text)


def say(text: str) -> None:
    """Print a line to standard output, whatever its encoding."""
    print(readable(text, sys.stdout))


def complain(text: str) -> None:
    """Print a line to standard error, or nothing where that cannot be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):      # a full disk, a closed stream, none at all
        sys.stderr.write(readable(" ".join(text.split()), sys.stderr) + "\n")


def width(most: int = WIDEST) -> int:
    """Return how many columns lines may have: those of the terminal or of COLUMNS, from NARROWEST to `most`."""
    return max(NARROWEST, min(most, shutil.get_terminal_size((most, 24)).columns))


def fill(text: str, indent: str = "", most: int = 1 << 20) -> str:
    """Return the text in lines of `width(most)`, of which all but the first are indented. A long path stays in one piece."""
    return textwrap.fill(text, width(most), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


# ---- commands

class Output(io.TextIOBase):
    """Standard output of a command, as print and argparse use it.

    What the encoding lacks is written in ASCII. An error of writing is kept, and what is written after it is dropped, so that
    a command does its work to the end.
    """

    def __init__(self, stream: io.TextIOBase | None):
        """stream: None where standard output was closed before the start."""
        self._stream = stream
        self.failure: Exception | None = None

    @property
    def encoding(self) -> str | None:
        return getattr(self._stream, "encoding", None)

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return super().fileno() if self._stream is None else self._stream.fileno()

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(readable(text, self._stream)))
        return len(text)

    def flush(self) -> None:
        self._try(lambda: self._stream.flush())

    def _try(self, do):
        if self._stream is not None and self.failure is None:
            try:
                do()
            except (OSError, ValueError) as error:      # ValueError: the stream is closed
                self.failure = error

    def end(self) -> int:
        """Write what is left. Return 0, CLOSED_PIPE or, after a line that says why output cannot be written, 1."""
        self.flush()
        if self.failure is None:
            return 0
        with contextlib.suppress(OSError, ValueError):      # or Python would try again when it ends, and complain
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        number = getattr(self.failure, "errno", None)
        if number == errno.EPIPE or sys.platform == "win32" and number == errno.EINVAL:
            return CLOSED_PIPE
        complain(f"standard output cannot be written: {getattr(self.failure, 'strerror', None) or self.failure}")
        return 1


def is_read() -> bool:
    """Return whether somebody may still read what a command prints."""
    sys.stdout.flush()
    return getattr(sys.stdout, "failure", None) is None


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit status, of which standard output can make CLOSED_PIPE or 1.

    What the system refuses and too little memory are a line on standard error and 1, Ctrl-C is INTERRUPTED. SystemExit, with
    which argparse ends, passes.
    """
    output = Output(sys.stdout)
    try:
        with contextlib.redirect_stdout(output):
            status = command()
    except SystemExit as ended:
        failed = output.end()
        if failed and not ended.code:
            raise SystemExit(failed) from None
        raise
    except KeyboardInterrupt:
        complain("interrupted")
        output.end()
        return INTERRUPTED
    except (OSError, MemoryError) as error:
        complain(f"{type(error).__name__}: {error}")
        status = 1
    return output.end() or status


# ---- progress

def progress_bar(**settings: object):
    """Return a progress bar of tqdm with these settings, on a terminal or in a notebook, else None.

    A hidden one of tqdm takes its lock, too, and starts its thread, so that a forked child might wait for the one and would
    compute on one thread because of the other (_threads.py).
    """
    # tqdm is imported here, as importing fastbp is to take no longer than importing Numba.
    if _terminal.in_notebook():
        with warnings.catch_warnings():         # tqdm warns where ipywidgets is missing, and takes its bar of text
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
    elif _terminal.is_watched():
        from tqdm import tqdm
    else:
        return None

    class Bar(tqdm):
        monitor_interval = 0            # without that thread

    return Bar(**settings)


@contextlib.contextmanager
def progress(total: int, what: str, unit: str, **settings: object) -> Iterator[Callable[[int], object]]:
    """Show a bar within the block, where there can be one; give the function advance(count)."""
    bar = progress_bar(total=total, desc=what, unit=unit, leave=False, **settings)
    try:
        yield bar.update if bar is not None else lambda count: None
    finally:
        if bar is not None:
            bar.close()
