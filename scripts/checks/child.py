"""A part of a check in a process of its own, that may die or hang without taking the check along."""
import os
import subprocess
import sys
from pathlib import Path

PATIENCE = 600                  # seconds until a process that hangs is given up

_FOLDERS = Path(__file__).parents[1], Path(__file__).parents[2] / "tests"


def start(code, *arguments, python=sys.executable, prefix=(), stdin=subprocess.DEVNULL, **environment):
    """A process that runs this Python code, which finds `checks` and the tests' modules; its output is kept.

    prefix: a command that runs it.
    """
    path = os.pathsep.join(map(str, [*_FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])]))
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen([*prefix, python, "-X", "faulthandler", "-c", code, *map(str, arguments)], text=True,
                            env=inherited | {"PYTHONPATH": path} | environment, stdin=stdin,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, patience=PATIENCE):
    """(exit status, output, errors) of a process; one that hangs is killed, with the status None."""
    try:
        output, errors = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        return None, *process.communicate()
    return process.returncode, output, errors


def run(code, *arguments, patience=PATIENCE, **environment):
    return finish(start(code, *arguments, **environment), patience)
