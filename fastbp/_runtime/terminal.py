"""Output to the terminal: text that every stream can take, lines that fit, progress bars, and the end of a command."""
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

from . import stderr

NARROWEST = 44                  # Lines are made for at least this many columns.
WIDEST = 100                    # A table has at most this many columns.
INTERRUPTED = 130               # A shell reports this status if Ctrl-C ended a program.
CLOSED_PIPE = 141               # A shell reports this status if a program wrote to a pipe that nobody reads any more.

# Characters outside ASCII are replaced by these where an encoding lacks them.
_ASCII = {"→": "->", "←": "<-", "µ": "u", "μ": "u", "×": "x", "·": "*", "÷": "/", "−": "-", "±": "+-", "²": "^2", "³": "^3",
          "©": "(C)", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "∞": "inf", "Σ": "sum", "°": " deg", "…": "...", "–": "-",
          "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*", "─": "-", "│": "|", "\xa0": " ", "®": "(R)", "™": "(TM)"}


def _replace(error):
    """Handle an encoding error: replace what the encoding lacks by _ASCII, or by the character's number in hexadecimal."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start:error.end]
    return "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


codecs.register_error("fastbp.ascii", _replace)


# ---- text

def in_ascii(text: str) -> str:
    """Return the text in ASCII, for example "->" for an arrow and "u" for the prefix micro."""
    return text.encode("ascii", "fastbp.ascii").decode()


def readable(text: str, stream: object) -> str:
    """Return the text with ASCII in place of the characters that the encoding of `stream` lacks."""
    encoding = getattr(stream, "encoding", None)
    if not isinstance(encoding, str):           # the stream takes any text, as io.StringIO does
        return text
    try:
        return text.encode(encoding, "fastbp.ascii").decode(encoding)
    except (LookupError, UnicodeError):         # Python does not know the encoding, or it even lacks ASCII
        return in_ascii(text)


def say(text: str) -> None:
    """Print a line to standard output, whatever its encoding."""
    print(readable(text, sys.stdout))


def complain(text: str) -> None:
    """Print a line to standard error, or nothing if that cannot be written."""
    try:
        sys.stderr.write(readable(" ".join(text.split()), sys.stderr) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):               # the disk is full, or the stream is closed or None
        _give_up(sys.stderr)


def _give_up(stream):
    """Let what is still in a stream's buffer go nowhere. Otherwise Python tries again at its exit, and returns 120."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def width(most: int = WIDEST) -> int:
    """Return how many columns lines may have: the terminal's or those of COLUMNS, but between NARROWEST and `most`."""
    return max(NARROWEST, min(most, shutil.get_terminal_size((most, 24)).columns))


def fill(text: str, indent: str = "", most: int = 1 << 20) -> str:
    """Return the text in lines of `width(most)` columns. All lines but the first are indented. A long path is not broken."""
    return textwrap.fill(text, width(most), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


# ---- commands

class Output(io.TextIOBase):
    """The standard output of a command, for print and argparse.

    Characters that the encoding lacks are written in ASCII. After an error, which is kept in `failure`, all text is dropped, so
    that a command does its work to the end.
    """

    def __init__(self, stream: io.TextIOBase | None):
        """Write to `stream`, or nowhere if it is None: standard output was closed before the start."""
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
        """Flush. Return 0, or CLOSED_PIPE, or 1 after a line on standard error that says why output cannot be written."""
        self.flush()
        if self.failure is None:
            return 0
        _give_up(self._stream)
        number = getattr(self.failure, "errno", None)
        if number == errno.EPIPE or sys.platform == "win32" and number == errno.EINVAL:
            return CLOSED_PIPE
        complain(f"standard output cannot be written: {getattr(self.failure, 'strerror', None) or self.failure}")
        return 1


def is_read() -> bool:
    """Return whether somebody may still read the output of a command."""
    sys.stdout.flush()
    return getattr(sys.stdout, "failure", None) is None


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit status, or CLOSED_PIPE or 1 if standard output failed.

    An OSError or MemoryError becomes a line on standard error and status 1. Ctrl-C becomes INTERRUPTED. SystemExit, which
    argparse raises, passes.
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
    """Return tqdm's progress bar with these settings, on a terminal or in a notebook, else None.

    A disabled bar of tqdm would not do: it takes a lock and starts a thread all the same. A forked child might wait for the
    lock forever, and would compute on one thread because of the other thread (_runtime/threads.py).
    """
    # tqdm is imported here, because importing fastbp shall take no longer than importing Numba.
    if stderr.in_notebook():
        with warnings.catch_warnings():         # without ipywidgets, tqdm warns and shows a bar of text
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
    elif stderr.is_watched():
        from tqdm import tqdm
    else:
        return None

    class Bar(tqdm):
        monitor_interval = 0            # no thread is started

    return Bar(**settings)


@contextlib.contextmanager
def progress(total: int, what: str, unit: str, **settings: object) -> Iterator[Callable[[int], object]]:
    """Show a progress bar within the block if progress_bar makes one. The block gets the function advance(count)."""
    bar = progress_bar(total=total, desc=what, unit=unit, leave=False, **settings)
    try:
        yield bar.update if bar is not None else lambda count: None
    finally:
        if bar is not None:
            bar.close()
