"""Parts of checks in processes of their own, which may die or hang while the check goes on."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PATIENCE = 600                  # A process that has not ended after this many seconds is killed.

# The folders where a process finds `checks` and the modules of the tests.
_FOLDERS = Path(__file__).parents[1], Path(__file__).parents[2] / "tests"


def start(code, *arguments, python=sys.executable, prefix=(), stdin=subprocess.DEVNULL, **environment):
    """Start a process that runs this Python code, and return it. The code can import `checks` and the modules of the tests.

    prefix: words of a command that runs Python in its turn. environment: variables to set.
    """
    path = os.pathsep.join(map(str, [*_FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])]))
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen([*prefix, python, "-X", "faulthandler", "-c", code, *map(str, arguments)], text=True,
                            env=inherited | {"PYTHONPATH": path} | environment, stdin=stdin,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, patience=PATIENCE):
    """Wait for the end of a process, and return (exit status, output, errors). One that hangs is killed; its status is None."""
    try:
        output, errors = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        return None, *process.communicate()
    return process.returncode, output, errors


def run(code, *arguments, patience=PATIENCE, **environment):
    """Run code in a process of its own; return (exit status, output, errors). Arguments as for start() and finish()."""
    return finish(start(code, *arguments, **environment), patience)


def ask(code, job, is_cold=False, **environment):
    """Run code in a process of its own with a job; return (answer, faults).

    The code finds the job as JSON in sys.argv[1], and prints its answer as JSON in its last line. answer is None if the process
    failed. is_cold: whether its cache of compiled code is empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        if is_cold:
            environment["FASTBP_CACHE_DIR"] = folder
        status, output, errors = run(code, json.dumps(job), **environment)
    if status != 0:
        return None, [f"the process ended with {status}: {errors[-2000:]}"]
    return json.loads(output.splitlines()[-1]), []
