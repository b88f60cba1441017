"""The package works with each Python here, with the oldest and the newest versions that pyproject.toml allows.

Each Python of a supported version that is on PATH, or that pyenv has, gets two environments with the extra 'test'. One has the
oldest version of each package that pyproject.toml names, as far as there is a wheel of it for that Python; the other has the
newest. uv, which is installed from PyPI, chooses them. In each environment `python -W error` imports all modules and compiles
all kernels, and then tests run.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

from . import report

ROOT = Path(__file__).parents[2]        # The folder of the repository.
PATIENCE = 3600                         # A command that has not ended after this many seconds is killed.
NEWEST_PYTHON = 15                      # Python 3.15 is the last version that is looked for.
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}          # uv's names of the ways to choose versions.
# The names of the test modules that run without --all: they take a few minutes.
TESTS = ["cache", "dask_arrays", "dask_fit", "fit", "functional", "jitted", "layers", "memory", "nnfs_book", "saving", "shapes",
         "sklearn", "sklearn_arrays", "sklearn_overrides", "storage", "threads"]

# The code that `python -W error` runs: it imports all modules, compiles all kernels, and prints the versions in use.
_WARNINGS_ARE_ERRORS = """
import importlib, pkgutil, fastbp
for module in pkgutil.walk_packages(fastbp.__path__, "fastbp."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
fastbp.warmup()
print(fastbp.cli.config.machine(["numpy", "numba", "llvmlite", "safetensors", "scikit-learn"]))
"""


def main(arguments):
    parser = report.options(sys.modules[__name__])
    parser.add_argument("--folder", type=Path, metavar="PATH", help="where the environments are made, and "
                        "kept, with what they compile; a temporary one unless it is named")
    parser.add_argument("--python", action="append", metavar="3.N", help="only this one; may be given again")
    parser.add_argument("--all", action="store_true", help="all of the tests, in place of those that take a few minutes")
    options = parser.parse_args(arguments)
    found, missing = pythons(options.python or supported())
    for version in missing:
        print(f"Python {version} was not found: skipped", flush=True)
    tests = [ROOT / "tests"] if options.all else [ROOT / "tests" / f"test_{name}.py" for name in TESTS]
    faults, passed = [], 0
    with tempfile.TemporaryDirectory(prefix="fastbp-versions-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        uv = _install_uv(folder / "uv")
        environments = [_Environment(uv, folder, version, found[version], age) for version in found for age in RESOLUTIONS]
        for environment in environments:
            try:
                passed += environment.check(tests)
            except _Failure as failure:
                faults.append(f"{environment}: {failure}")
                print(faults[-1], flush=True)
    return report.close(faults, environments=len(environments), tests_passed=passed, Pythons_skipped=len(missing))


def supported():
    """Return the versions of Python that pyproject.toml allows, each as "3.10"."""
    allowed = SpecifierSet(metadata.metadata("fastbp")["Requires-Python"])
    return [version for minor in range(NEWEST_PYTHON + 1) if (version := f"3.{minor}") in allowed]


def pythons(versions):
    """Return ({version: its interpreter}, the versions that are missing). An interpreter on PATH precedes pyenv's newest."""
    pyenv, found = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser(), {}
    for version in versions:
        names = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"), key=_numbers)[::-1]]
        found[version] = next((str(name) for name in names if name and _version(name) == version), None)
    return {version: name for version, name in found.items() if name}, [version for version in versions if not found[version]]


def _numbers(path):
    """Return the numbers in the name of one of pyenv's versions, to sort by."""
    return [int(number) for number in re.findall(r"\d+", path.parts[-3])]


def _version(python):
    """Return an interpreter's version, as "3.10", or None if it does not run: pyenv puts names on PATH that do not."""
    said = subprocess.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True)
    return said.stdout.strip() if said.returncode == 0 else None


def _install_uv(folder):
    """Install uv in an environment in that folder, and return its path."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "uv>=0.5,<1"], check=True)
    return folder / "bin" / "uv"


class _Failure(Exception):
    """An error with the output of a command that failed in an environment."""


class _Environment:
    """An environment of one Python with the oldest or the newest versions, in a folder of its own."""

    def __init__(self, uv, folder, version, python, age):
        self._uv, self._version, self._base, self._age = uv, version, python, age
        self._folder = folder / f"{version}-{age}"
        self._python = self._folder / "bin" / "python"
        self._variables = os.environ | {"UV_CACHE_DIR": str(folder / "uv-cache"),
                                        "FASTBP_CACHE_DIR": str(self._folder / "compiled")}

    def __str__(self):
        return f"Python {self._version}, {self._age}"

    def check(self, tests):
        """Install the environment and run the tests there; return how many passed. Raise _Failure."""
        self._install()
        print(f"{self}: {self._run(self._python, '-W', 'error', '-c', _WARNINGS_ARE_ERRORS).strip()}", flush=True)
        output = self._run(self._python, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *tests)
        print(f"{self}: {output.splitlines()[-1]}", flush=True)
        return passed(output)

    def _install(self):
        self._run(self._uv, "venv", "--clear", "--python", self._base, self._folder)
        to = ("pip", "install", "--python", self._python)
        self._run(self._uv, *to, "--only-binary", ":all:", "--resolution", RESOLUTIONS[self._age], "--extra", "test",
                  "-r", ROOT / "pyproject.toml")
        self._run(self._uv, *to, "--no-deps", "--editable", ROOT)

    def _run(self, *command):
        """Run a command and return its output. Raise _Failure if it fails or hangs."""
        process = subprocess.Popen([*map(str, command)], env=self._variables, cwd=ROOT, stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)      # kills the processes of the tests, too
            output, _ = process.communicate()
        if process.returncode:
            raise _Failure(f"{' '.join(map(str, command[:4]))} … ended with {process.returncode}:\n{output}")
        return output


def passed(output):
    """Return how many tests passed, read from pytest's closing line."""
    return int(re.search(r"(\d+) passed", output.splitlines()[-1])[1])
