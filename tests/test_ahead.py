"""Compiling in two processes: compiled code comes from the other process, and nothing is missing without it."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp._compile import ahead, disk_cache, link

# Takes a first gradient, and prints whether it is right and which units this process compiled.
PROCESS = """
import json, sys
import numpy as np
import fastbp
from fastbp._compile import ahead, disk_cache

written = []

def write(path, payload, write=disk_cache._write):
    if "-" in path.name:                            # the others are notes about .pyc files
        written.append(path.name.split("-")[0])
    write(path, payload)

disk_cache._write = write
{before}
{gradient}
print(json.dumps([bool(right), written]))
"""
GRADIENT = """
x, weights = np.ones((64, 40), "f4"), np.full((40, 20), 0.5, "f4")
output = fastbp.dense_relu_forward(x, weights)
dinputs, dweights, dbiases = fastbp.dense_relu_backward(output, output, x, weights)
right = (output == 20).all() and (dinputs == 200).all() and (dweights == 1280).all() and (dbiases == 1280).all()
"""


def first_gradient(cache, *missing, before=""):
    """Take the gradient in a process in whose cache the units of these kinds are missing.

    Return (the kinds that the process itself compiled, the names of the files in the cache afterwards).
    """
    for path in cache.glob("*/*-float32-*"):
        if path.name.split("-")[0] in missing:
            path.unlink()
    environment = os.environ | {"PYTHONPATH": str(Path(fastbp.__file__).parents[1]), "FASTBP_CACHE_DIR": str(cache),
                                "FASTBP_NUM_THREADS": "2"}
    answer = subprocess.run([sys.executable, "-c", PROCESS.format(before=before, gradient=GRADIENT)], env=environment,
                            text=True, capture_output=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    right, written = json.loads(answer.stdout)
    assert right
    return set(written), names(cache)


def names(cache):
    return {path.name for path in cache.glob("*/*-*")}


@pytest.fixture
def cache(tmp_path):
    """A copy of this process's cache with all that the gradient needs: to compile it takes a minute."""
    exec(GRADIENT, {"np": np, "fastbp": fastbp})
    shutil.copytree(disk_cache.folder(), tmp_path / disk_cache.folder().name, ignore=shutil.ignore_patterns(".*"))
    return tmp_path


def test_what_the_other_process_compiles_and_what_is_compiled_here_when_it_fails(cache):
    all_units = names(cache)
    assert first_gradient(cache, "forward", *ahead.KINDS) == ({"forward"}, all_units)
    # Where that process fails, forward asks for what is missing.
    assert first_gradient(cache, "forward", "mask", before='ahead._CODE = "raise SystemExit(1)"') == ({"forward", "mask"},
                                                                                                      all_units)


@pytest.fixture
def started(monkeypatch):
    """What is asked of another process, with nothing in the cache: [names, names, ...]."""
    asked = []

    class Helper:
        def __init__(self, names):
            asked.append(names)
            self.names = set()

        def wait(self, name):
            pass

    monkeypatch.setattr(ahead, "_Helper", Helper)
    monkeypatch.setattr(ahead, "_helpers", {})
    monkeypatch.setattr(link.Unit, "is_compiled", lambda unit: False)
    fastbp.set_num_threads(2)
    return asked


def start(name):
    ahead.start(link._units[name], link._units.values())


def test_a_process_is_started_once_for_a_type(started):
    for name in "forward-float32", "backward-float32", "forward-float64":
        start(name)
    assert [name.partition("-")[2] for names in started for name in names] == ["float32"] * 3 + ["float64"] * 3


@pytest.mark.parametrize("fault", ["one thread", "compiled", "no folder", "embedded"])
def test_no_process_is_started(started, monkeypatch, fault):
    if fault == "one thread":
        fastbp.set_num_threads(1)
    if fault == "compiled":
        monkeypatch.setattr(link.Unit, "is_compiled", lambda unit: True)
    if fault == "no folder":
        monkeypatch.setattr(ahead.disk_cache, "folder", lambda: None)
    if fault == "embedded":
        monkeypatch.setattr(sys, "executable", "/usr/bin/blender")
    start("forward-float32")
    assert started == []


@pytest.mark.parametrize(("name", "expected"), [
    ("forward-float32", ["pack-float32", "backward-float32", "mask-float32"]),
    ("backward-float32", ["pack-float32", "mask-float32"]),
    ("forward-bfloat16", ["pack-bfloat16", "backward-bfloat16"]),
    ("transposed_shard-float32", ["update-float32", "optimize-float32", "steps-float32", "norms-float32"]),
    ("relu-float32", None), ("spread", None)])
def test_what_a_unit_asks_for(started, name, expected):
    start(name)
    assert started == ([expected] if expected else [])


# ---- everything beforehand


def test_another_process_compiles_everything_for_a_dtype(monkeypatch):
    """In a folder where that is there already, so that it takes little time."""
    fastbp.warmup(np.float64)
    fastbp.set_num_threads(2)
    with link.warming_up(["float64"]) as wait:
        assert wait("float64") is False
    monkeypatch.setattr(link.Unit, "is_compiled", lambda unit: unit.kind != "dot")
    with link.warming_up(["float64"]) as wait:
        assert wait("float32") is False and wait("float64") == 0
    fastbp.set_num_threads(1)
    with link.warming_up(["float64"]) as wait:
        assert wait("float64") is False


def test_that_process_ends_when_compiling_is_interrupted(monkeypatch):
    begun, start = [], ahead._start
    monkeypatch.setattr(link.Unit, "is_compiled", lambda unit: False)
    monkeypatch.setattr(ahead, "_WARMUP", "import time; time.sleep(100)  # {path} {dtype}")
    monkeypatch.setattr(ahead, "_start", lambda *arguments: begun.append(start(*arguments)) or begun[-1])
    fastbp.set_num_threads(2)
    with pytest.raises(KeyboardInterrupt), link.warming_up(["float32", "float64"]):
        raise KeyboardInterrupt
    assert [process.returncode < 0 for process in begun] == [True, True]
