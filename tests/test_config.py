"""The output of show_config."""
import os
import subprocess
import sys
from pathlib import Path

import fastbp
from fastbp._runtime import cpu
from fastbp.cli import config


def test_show_config_prints_every_fact_aligned(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    assert config.show_config() is None
    lines = capsys.readouterr().out.splitlines()
    facts = config.describe()
    column = max(map(len, facts)) + 2
    assert {line[:column].rstrip(): line[column:] for line in lines} == facts
    assert all(line[column - 2:column] == "  " and line[column] != " " for line in lines)


def test_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(config, "describe", lambda: {"cpu": "a CPU of many words " * 5, "folder": "/a" * 50})
    config.show_config()
    assert capsys.readouterr().out.splitlines() == [
        "cpu     a CPU of many words a CPU of many words a", "        CPU of many words a CPU of many words a",
        "        CPU of many words", "folder", "        " + "/a" * 50]


def test_facts_are_those_of_this_process(monkeypatch):
    facts = config.describe()
    assert facts["fastbp"] == fastbp.__version__
    assert facts["instruction set"] == cpu.instruction_set()
    assert {"python", "numpy", "numba", "llvmlite", "cpu", "caches", "threading layer"} < facts.keys()
    monkeypatch.setattr(config.threads, "_wanted", 9)
    monkeypatch.setattr(config.cpu, "caches", lambda: cpu.Caches(48 << 10, 2 << 20, 33 << 20))
    monkeypatch.setattr(config.disk_cache, "folder", lambda: None)
    monkeypatch.setattr(config.disk_cache, "problem", lambda: "no home")
    facts = config.describe()
    assert (facts["threads"], facts["cache folder"]) == ("9", "none: no home")
    assert facts["caches"] == "L1 48 KiB, L2 2048 KiB, L3 33792 KiB"


def test_it_compiles_nothing_and_starts_no_threads():
    code = """
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    from fastbp._runtime import threads
    from fastbp.cli import config
    config.show_config()
assert not recorder.buffer
assert threads.layer() == "not started"
"""
    package = Path(fastbp.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(package)}
    subprocess.run([sys.executable, "-c", code], cwd=package, env=environment, check=True)
