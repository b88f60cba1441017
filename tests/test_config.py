"""The output of show_config."""
import os
import subprocess
import sys
from pathlib import Path

import fastbp
from fastbp import _config, _cpu


def test_show_config_prints_every_fact_aligned(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    assert _config.show_config() is None
    lines = capsys.readouterr().out.splitlines()
    facts = _config.describe()
    column = max(map(len, facts)) + 2
    assert {line[:column].rstrip(): line[column:] for line in lines} == facts
    assert all(line[column - 2:column] == "  " and line[column] != " " for line in lines)


def test_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(_config, "describe", lambda: {"cpu": "a CPU of many words " * 5, "folder": "/a" * 50})
    _config.show_config()
    assert capsys.readouterr().out.splitlines() == [
        "cpu     a CPU of many words a CPU of many words a", "        CPU of many words a CPU of many words a",
        "        CPU of many words", "folder", "        " + "/a" * 50]


def test_facts_are_those_of_this_process(monkeypatch):
    facts = _config.describe()
    assert facts["fastbp"] == fastbp.__version__
    assert facts["instruction set"] == _cpu.instruction_set()
    assert {"python", "numpy", "numba", "llvmlite", "cpu", "caches", "threading layer"} < facts.keys()
    monkeypatch.setattr(_config._threads, "_wanted", 9)
    monkeypatch.setattr(_config._cpu, "caches", lambda: _cpu.Caches(48 << 10, 2 << 20, 33 << 20))
    monkeypatch.setattr(_config._cache, "folder", lambda: None)
    monkeypatch.setattr(_config._cache, "problem", lambda: "no home")
    facts = _config.describe()
    assert (facts["threads"], facts["cache folder"]) == ("9", "none: no home")
    assert facts["caches"] == "L1 48 KiB, L2 2048 KiB, L3 33792 KiB"


def test_it_compiles_nothing_and_starts_no_threads():
    code = """
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    from fastbp import _config, _threads
    _config.show_config()
assert not recorder.buffer
assert _threads.layer() == "not started"
"""
    package = Path(fastbp.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(package)}
    subprocess.run([sys.executable, "-c", code], cwd=package, env=environment, check=True)
