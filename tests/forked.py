"""Processes that have imported Numba, but not fastbp: forks of one such process, each 2 s earlier at work than a new Python."""
import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

# Forks a child for each line of its input, which runs the code that the line holds as the module __main__, and prints the
# child's exit status.
_SERVER = """
import json, os, sys, traceback, types
import numba, numpy
from numba.core import event

for line in sys.stdin:
    code, folder, environment, output, errors = json.loads(line)
    child = os.fork()
    if not child:
        status = 1
        try:
            for number, path in enumerate((os.devnull, output, errors)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
            assert "fastbp" not in sys.modules
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), main.__dict__)
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def _server():
    """Return the process that forks. It ends when its input does, at the end of this process."""
    server = subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def run(code, folder, environment):
    """Run code in a process of its own, as `python -c` does, and return (exit status, output, errors).

    environment: all its variables; NUMBA_ ones have no effect, and PYTHONPATH must be there.
    """
    server = _server()
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place, "output"), Path(place, "errors")
        print(json.dumps([code, str(folder), dict(environment), str(output), str(errors)]), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return status, output.read_text(), errors.read_text()


def is_possible():
    """Return whether this system has forks."""
    return hasattr(os, "fork")
