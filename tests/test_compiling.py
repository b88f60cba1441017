"""Compiling: a line on standard error where somebody can see it, and the state after Ctrl-C."""
import io
import os
import signal
import sys
import time
import traceback
from types import SimpleNamespace

import numpy as np
import pytest
from numba import types
from numba.extending import intrinsic

import fastbp
from fastbp import functional
from fastbp._compile import ahead, compiler, disk_cache, notice
from fastbp._runtime import stderr


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is told to go on, before a terminal."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(notice.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(stderr, "is_watched", lambda: True)
    monkeypatch.delenv("FASTBP_QUIET", raising=False)
    return now


def compile_for(clock, *seconds, is_sure=False):
    with notice.compiling("this"):
        for second in seconds:
            with notice.compiling("a part of it"):
                clock.seconds += second
                notice.look(is_sure)


def said(capsys):
    return capsys.readouterr().err.splitlines()


def test_one_line_after_a_second(clock, capsys):
    compile_for(clock, 0.5, 0.4)
    notice.look()
    assert said(capsys) == []
    compile_for(clock, 0.5, 0.6, 5.0)
    folder = disk_cache.folder().parent
    assert said(capsys) == [f"fastbp: compiling this, once: it is kept in {folder} (FASTBP_QUIET=1 silences this)"]
    compile_for(clock, 0.1, is_sure=True)
    assert len(said(capsys)) == 1


@pytest.mark.parametrize("fault", ["no home", "read-only"])
def test_nothing_is_promised_that_the_cache_cannot_keep(clock, capsys, monkeypatch, fault):
    if fault == "no home":
        monkeypatch.setattr(disk_cache, "_open", lambda: (None, fault))
    monkeypatch.setattr(disk_cache.os, "access", lambda *arguments: False)
    compile_for(clock, 2.0)
    line, = said(capsys)
    assert line.startswith("fastbp: compiling this, for this process alone: it cannot be kept (") and fault in line


@pytest.mark.parametrize(("value", "lines"), [("1", 0), ("yes", 0), ("0", 1), ("", 1)])
def test_it_can_be_silenced(clock, capsys, monkeypatch, value, lines):
    monkeypatch.setenv("FASTBP_QUIET", value)
    compile_for(clock, 2.0)
    assert len(said(capsys)) == lines


def test_nothing_is_said_where_nobody_looks(clock, capsys, monkeypatch):
    monkeypatch.setattr(stderr, "is_watched", lambda: False)
    compile_for(clock, 2.0)
    assert said(capsys) == []


@pytest.mark.parametrize("stream", [None, "closed", "full"])
def test_a_stream_that_takes_nothing_is_no_error(clock, monkeypatch, stream):
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    if stream == "full":
        stream = SimpleNamespace(write=raiser(OSError), flush=raiser(OSError), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    compile_for(clock, 2.0)


def raiser(error):
    def fail(*arguments):
        raise error
    return fail


def test_a_terminal_and_a_notebook_are_watched_and_nothing_else(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in io.StringIO(), None, closed:
        monkeypatch.setattr(sys, "stderr", stream)
        assert not stderr.is_watched()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object())))
    assert stderr.is_watched()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_a_pseudo_terminal_is_watched(monkeypatch):
    ends = os.openpty()
    with open(ends[1], "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert stderr.is_watched()
    os.close(ends[0])


def test_a_line_stands_above_a_progress_bar(clock, monkeypatch):
    from tqdm import tqdm
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)        # no thread of its own
    with tqdm(total=2, file=stream, ascii=True):
        compile_for(clock, 2.0)
    before, line, after = stream.getvalue().partition("fastbp: compiling")
    assert before.endswith("\r") and after.partition("\n")[2].startswith("\r") and "0/2" in after


def test_what_is_compiled_is_said_and_what_is_loaded_is_not(monkeypatch, capsys):
    """Each kernel that Numba compiles is a moment at which the clock is looked at."""
    monkeypatch.setattr(stderr, "is_watched", lambda: True)
    monkeypatch.setattr(notice, "_SECONDS", -1)
    signature, name = types.intp(types.intp), "test_said"
    path = disk_cache._DiskCache(name).path(signature)

    def build():
        inner = compiler.kernel(lambda n: n + 1)
        return lambda n: inner(n)

    try:
        compiler.native(build(), signature, name)
        assert [line.partition(",")[0] for line in said(capsys)] == ["fastbp: compiling the kernel test_said"]
        compiler.native(build(), signature, name)
        assert said(capsys) == []
    finally:
        path.unlink(missing_ok=True)


# ---- Ctrl-C


@pytest.fixture
def interrupted_once(monkeypatch):
    """The forward pass as in a new process, with Ctrl-C while it is compiled the first time."""
    @intrinsic
    def interrupt(typing_context):
        signal.raise_signal(signal.SIGINT)
        return types.intp(), lambda context, builder, signature, args: context.get_constant(types.intp, 7)

    built = []

    def build(dtype, build=functional._FORWARD._build):
        if not built:
            built.append(dtype)
            compiler.native(lambda: interrupt(), types.intp(), name)
        return build(dtype)

    name = "test_interrupted_once"
    monkeypatch.setattr(functional, "_FORWARD", functional._Entries(build, "the forward pass"))
    yield
    disk_cache._DiskCache(name).path(types.intp()).unlink(missing_ok=True)


def test_an_interrupt_has_a_short_traceback_and_the_next_call_works(interrupted_once):
    x, w = np.ones((4, 3), np.float32), np.ones((3, 2), np.float32)
    with pytest.raises(KeyboardInterrupt) as caught:
        fastbp.dense_forward(x, w)
    error = caught.value
    assert str(error) == "compiling the forward pass for float32 was interrupted; the next call goes on with it"
    assert error.__context__ is None and error.__cause__ is None
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert frames[1] == "dense_forward" and len(frames) <= (4 if sys.version_info >= (3, 11) else 12)
    np.testing.assert_array_equal(fastbp.dense_forward(x, w), np.full((4, 2), 3))


def test_other_errors_and_interrupts_of_other_things_stay_as_they_are():
    for error in ValueError("mine"), KeyboardInterrupt("mine"):
        with pytest.raises(type(error), match="^mine$"):
            if isinstance(error, ValueError):
                with notice.compiling("this"):
                    raise error
            raise error


def test_an_interrupt_ends_the_other_process(monkeypatch):
    monkeypatch.setattr(ahead, "_helpers", {})
    monkeypatch.setattr(ahead, "_CODE", "import time; time.sleep(100)  # {path} {names}")
    ahead._helpers["float32"] = helper = ahead._Helper(["pack-float32"])
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), notice.compiling("this"):
        assert ahead.is_expected("pack-float32")
        signal.raise_signal(signal.SIGINT)
    assert helper._process.returncode is not None and time.monotonic() - start < 50
    assert not ahead._helpers and not ahead.is_expected("pack-float32")
