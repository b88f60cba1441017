"""A package that is imported twice in one process: the second copy works beside the first, or says why it does not."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastbp

PACKAGE = Path(fastbp.__file__).parent

# Computes in every way, imports the package again and computes with both.
PROCESS = """
import gc, importlib, os, sys, threading
import numpy as np

def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastbp"]:
        del sys.modules[name]
    gc.collect()

def reload():
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastbp"]:
        importlib.reload(sys.modules[name])

def check(fastbp):
    x, w = np.ones((300, 200), "f4"), np.ones((200, 300), "f4")
    assert (fastbp.dense_forward(x, w) == 200).all()
    network = fastbp.Sequential([fastbp.Dense(200, 10, rng=0)], fastbp.SoftmaxCrossEntropy())
    network.fit(x, np.zeros(300, int), epochs=1, batch_size=50, optimizer=fastbp.SGD())
    return network.layers[0].weights.tobytes()

import fastbp
import caller
first, numbers = fastbp, check(fastbp)
caller.check()
{again}
import fastbp
import caller
assert check(fastbp) == check(first) == numbers
caller.check()
first.set_num_threads(1)
fastbp.set_num_threads(3)
threads = [threading.Thread(target=lambda package=package: found.append(check(package))) for package in (first, fastbp) * 2]
found = []
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == [numbers] * 4
if hasattr(os, "fork"):
    child = os.fork()
    if not child:
        os._exit(not check(fastbp) == check(first) == numbers)
    assert os.waitpid(child, 0)[1] == 0
print("both work")
"""

# A user's module with a cached compiled function.
CALLER = """
import numpy as np
from numba import njit
import fastbp

@njit(cache=True)
def forward(x, w):
    return fastbp.dense_forward(x, w)

def check():
    assert (forward(np.ones((4, 3)), np.ones((3, 2))) == 3).all()
"""


def run(folder, again):
    (folder / "caller.py").write_text(CALLER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(PACKAGE.parent)])}
    return subprocess.run([sys.executable, "-W", "error", "-c", PROCESS.replace("{again}", again)], env=environment, cwd=folder,
                          capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("again", [
    "forget(); del sys.modules['caller']", "reload()", "first = None; forget(); import fastbp as first; forget()",
    "forget(); sys.path.insert(0, 'copy')"], ids=["deleted", "reloaded", "the first one freed", "a copy elsewhere"])
def test_the_second_import_works_beside_the_first(tmp_path, again):
    if "copy" in again:
        shutil.copytree(PACKAGE, tmp_path / "copy" / "fastbp")
    answer = run(tmp_path, again)
    assert (answer.returncode, answer.stdout) == (0, "both work\n"), answer.stderr


def test_another_source_is_refused_with_what_to_do(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "copy" / "fastbp")
    with open(tmp_path / "copy" / "fastbp" / "_runtime" / "state.py", "a") as source:
        source.write("# edited\n")
    answer = run(tmp_path, "forget(); sys.path.insert(0, 'copy')")
    last = answer.stderr.splitlines()[-1]
    assert answer.returncode == 1 and last.startswith("ImportError: another fastbp was imported in this process before")
    assert "start a new one; in a notebook, restart the kernel" in last
