"""Printing on any terminal, in any encoding, to a closed pipe or a full disk; and progress bars."""
import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastbp
from fastbp import demo
from fastbp.__main__ import main
from fastbp._runtime import terminal
from fastbp.profiler import measure
from fastbp.profiler.machine import Ceilings

ENCODINGS = "ascii", "cp1252", "cp932", "cp437", "utf-8", "utf-16", "koi8-r"
PROFILE = "profile", "--layers", "8,4", "--batch", "5", "--repeat", "1"
DEMO = "demo", "--epochs", "1", "--batch", "200"


class Stream(io.TextIOWrapper):
    """Standard output in an encoding, whose bytes can be looked at; with an error, nothing can be written to it."""

    def __init__(self, encoding="utf-8", error=None):
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n", write_through=True)
        self.error = error

    def write(self, text):
        if self.error:
            raise self.error
        return super().write(text)

    @property
    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(measure, "QUIET", 0)
    monkeypatch.setattr(measure, "ceilings", lambda dtype, threads, anew=False: Ceilings(1e11, 2e10))
    monkeypatch.setattr(demo, "median_seconds", lambda functions: [(function(), 1.0)[1] for function in functions])


@pytest.mark.parametrize("text, encoding, expected", [
    ("1 → 2, 3 µs, 4 × 5, 6 ≥ 7, 8²…", "ascii", "1 -> 2, 3 us, 4 x 5, 6 >= 7, 8^2..."),
    ("1 → 2, 3 µs, 4 × 5", "cp1252", "1 -> 2, 3 µs, 4 × 5"),
    ("1 → 2, 3 µs, 4 × 5", "cp932", "1 → 2, 3 us, 4 × 5"),
    ("1 → 2, 3 µs", "utf-8", "1 → 2, 3 µs"),
    ("/home/Jérôme/\udcff", "ascii", "/home/J\\xe9r\\xf4me/\\udcff"),
    ("/home/\udcff", "utf-8", "/home/\\udcff"),
    ("1 → 2", None, "1 → 2"),
    ("1 → 2", "no such encoding", "1 -> 2"),
])
def test_readable(text, encoding, expected):
    assert terminal.readable(text, SimpleNamespace(encoding=encoding)) == expected


@pytest.mark.parametrize("command, encoding", [
    *((command, encoding) for command in [("explain",), ("config",), ("--help",), ("profile", "--help")]
      for encoding in ENCODINGS),
    *((command, encoding) for command in [PROFILE, DEMO] for encoding in ("ascii", "cp932")),
], ids=lambda value: value if isinstance(value, str) else value[0])
def test_every_command_in_every_encoding(command, encoding, quick, monkeypatch):
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(fastbp._runtime.cpu, "model", lambda: "Prozeßor → 3 µm")
    if "--help" in command:
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 0
    else:
        assert main(command) == 0
    assert len(stream.text) > 100 and "?" not in stream.text


@pytest.mark.parametrize("error, status, said", [
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), terminal.CLOSED_PIPE, ""),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "standard output cannot be written: No space left on device\n"),
    (ValueError("I/O operation on closed file."), 1, "standard output cannot be written: I/O operation on closed file.\n"),
])
@pytest.mark.parametrize("command", [("explain",), ("config",), ("profile", "--help"), ("--version",), PROFILE],
                         ids=lambda command: command[0])
def test_output_that_fails(command, error, status, said, quick, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "stdout", Stream(error=error))
    files = [tmp_path / "it.json", tmp_path / "it.png"] if command is PROFILE else []
    options = ["--json", str(files[0]), "--plot", str(files[1])] if files else []
    if "--help" in command or "--version" in command:
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == status
    else:
        assert main([*command, *options]) == status
    assert capsys.readouterr().err == said
    assert all(path.stat().st_size > 1000 for path in files)


def test_no_output_at_all(quick, monkeypatch, tmp_path):
    """As of a process whose standard output and error were closed before it started."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main([*PROFILE, "--json", str(tmp_path / "it.json")]) == 0
    assert json.loads((tmp_path / "it.json").read_text())["sizes"] == [8, 4]
    assert main([*PROFILE, "--trace", "/dev/null"]) == 1


def test_a_demo_that_nobody_reads_draws_its_picture_and_measures_no_times(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", Stream(error=BrokenPipeError(errno.EPIPE, "Broken pipe")))
    monkeypatch.setattr(demo, "times", None)
    assert main([*DEMO, "--plot", str(tmp_path / "it.png")]) == terminal.CLOSED_PIPE
    assert (tmp_path / "it.png").stat().st_size > 1000


def test_a_picture_that_cannot_be_written_is_a_line(quick, monkeypatch, tmp_path, capsys):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "it.png")

    monkeypatch.setattr("fastbp._files.atomic.write", fail)
    assert main([*DEMO, "--plot", str(tmp_path / "it.png")]) == 1
    assert main([*PROFILE, "--plot", str(tmp_path / "it.png"), "--json", str(tmp_path / "it.json")]) == 1
    out, err = capsys.readouterr()
    assert err == 3 * "OSError: [Errno 28] No space left on device: 'it.png'\n"
    assert "Resident in this process" in out


def test_ctrl_c_is_a_line(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(fastbp, "show_config", interrupt)
    assert main(["config"]) == terminal.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("arguments", [["nonsense"], ["demo", "--batch", "0"], ["demo", "--plot", "a\nb/c.png"],
                                       ["profile", "--batch", "5"], [*PROFILE, "--threads", "0"],
                                       [*PROFILE, "--json", "a" * 300], ["explain", "--bias", "x"]])
def test_wrong_arguments_are_a_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and not out
    assert err.startswith("python -m fastbp") and ": error: " in err and err.count("\n") == 1


@pytest.mark.parametrize("command, option", [(DEMO, "--plot"), (PROFILE, "--plot"), (PROFILE, "--json")])
def test_a_folder_that_cannot_be_written_is_known_before_the_work(command, option, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SystemExit):
        main([*command, option, str(tmp_path / "it.png")])
    assert f"argument {option}: the folder '{tmp_path}' cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("threads", [100, 1 << 70])
def test_more_threads_than_cores(threads, quick, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(measure, "ceilings",
                        lambda dtype, threads, anew=False: asked.append(threads) or Ceilings(1e30, 2e10))
    assert main([*PROFILE, "--threads", str(threads)]) == 0
    assert f"threads: {threads}\n" in capsys.readouterr().out
    assert asked == [fastbp._runtime.cpu.cores()]


@pytest.mark.parametrize("columns, most", [("50", 50), ("1", terminal.NARROWEST)])
def test_narrow_lines(columns, most, quick, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(DEMO) == 0
    assert main(PROFILE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("Compiling, or loading compiled code")) <= most


@pytest.mark.parametrize("columns, width", [("50", 50), ("1", 44), ("500", 100), ("0", None), ("-5", None), ("x", None)])
def test_width(columns, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal.width() == width or width is None and terminal.NARROWEST <= terminal.width() <= terminal.WIDEST


@pytest.mark.parametrize("ending, status, said", [
    ("| head -0", 141, ""), (">&-", 0, ""), (">&- 2>&-", 0, ""),
    ("> /dev/full", 1, "standard output cannot be written: No space left on device\n"), ("> /dev/full 2>&1", 1, "")])
def test_a_process(ending, status, said):
    if not Path("/dev/full").exists() or not Path("/bin/bash").exists():
        pytest.skip("no /dev/full or bash here")
    script = f'"{sys.executable}" -m fastbp explain {ending}; exit ${{PIPESTATUS[0]}}'
    package = Path(fastbp.__file__).parents[1]
    done = subprocess.run(["/bin/bash", "-c", script], cwd=package, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (status, said, "")


# ---- bars

def fit():
    network = fastbp.Sequential([fastbp.Dense(4, 3, rng=0)], fastbp.SoftmaxCrossEntropy())
    return network.fit(np.ones((20, 4), np.float32), np.zeros(20, int), epochs=2, batch_size=10, optimizer=fastbp.SGD(), rng=0)


@pytest.mark.parametrize("kernel, shows", [(object(), True), (None, False)])
def test_a_notebook_has_a_bar_though_it_is_no_terminal(kernel, shows, monkeypatch):
    """Of text here, where no front end is: tqdm.auto looks for ipykernel, and warns if there are no widgets."""
    shell = SimpleNamespace(kernel=kernel)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    fit()
    assert ("2.0/2 epochs" in sys.stderr.getvalue()) is shows


def test_ipywidgets_that_are_missing_are_no_warning(monkeypatch):
    for name in [name for name in sys.modules if name in ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    test_a_notebook_has_a_bar_though_it_is_no_terminal(object(), True, monkeypatch)


def test_a_terminal_of_ascii(monkeypatch):
    stream = Stream("ascii")
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "200")
    fit()
    assert "Training: 100%|####" in stream.text
