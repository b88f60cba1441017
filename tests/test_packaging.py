"""The package: its installed files, the effects of its import, and its public names."""
import importlib
import inspect
import pkgutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import fastbp
from fastbp.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
MODULES = ["fastbp", *(module.name for module in pkgutil.walk_packages(fastbp.__path__, "fastbp."))]


def python(code, **options):
    """What Python prints for that code in a fresh process."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, **options).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is in the extra 'test'")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
                   cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    info = f"fastbp-{fastbp.__version__}.dist-info"
    names = set(wheel.namelist())
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastbp").rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}
    assert {name for name in names if not name.startswith(f"{info}/")} == files
    assert {"fastbp/py.typed", "fastbp/data/digits.npz", "fastbp/data/README.md"} <= files
    assert f"{info}/licenses/LICENSE" in names


def test_the_wheel_finds_its_data(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = "import fastbp.demo; print(fastbp.__file__, len(fastbp.demo.load_digits().labels))"
    assert python(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}", cwd=tmp_path).split() == \
        [str(tmp_path / "fastbp" / "__init__.py"), "1797"]


def test_installed_version():
    try:
        installed = metadata.version("fastbp")
    except metadata.PackageNotFoundError:
        pytest.skip("fastbp is imported from its sources without being installed")
    assert installed == fastbp.__version__


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports(name):
    assert importlib.import_module(name).__doc__


def test_an_import_compiles_nothing_and_starts_no_threads():
    python(f"""
import threading
from importlib import import_module
from numba.core import event
import numba
with event.install_recorder("numba:compile") as compiled, event.install_recorder("numba:run_pass") as passes:
    for name in {MODULES}:
        import_module(name)
assert not compiled.buffer and not passes.buffer, [*compiled.buffer, *passes.buffer]
assert threading.active_count() == 1
try:
    print(numba.threading_layer())
except ValueError:
    pass            # not started
else:
    raise AssertionError("the threading layer runs")
""")


def test_an_import_loads_nothing_that_numba_did_not():
    added = python("""
import sys
import numba, numpy
before = set(sys.modules)
import fastbp.__main__
print(*sorted(set(sys.modules) - before))
""").split()
    packages = {name.partition(".")[0] for name in added} - sys.stdlib_module_names
    assert packages <= {"fastbp", "numba", "numpy", "llvmlite"}
    assert not {"fastbp.demo", "fastbp.cli.explain", "fastbp.cli.plan", "fastbp.profiler.command"} & set(added)


def test_all_lists_the_public_names():
    assert len(fastbp.__all__) == len(set(fastbp.__all__))
    public = {name for name, value in vars(fastbp).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(fastbp.__all__) == public


def callables():
    """(name, function) of the public functions and methods of the modules that people import or read."""
    collections = "fastbp", "fastbp.nnfs", "fastbp.demo", "fastbp.cli.explain", "fastbp.__main__"
    for module_name in (*collections, "fastbp.functional", "fastbp.layers", "fastbp.losses", "fastbp.network",
                        "fastbp.profiler"):
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            if name.startswith("_") or not getattr(value, "__module__", "").startswith("fastbp"):
                continue
            if module_name not in collections and value.__module__ != module_name:
                continue
            if inspect.isclass(value):
                for method_name, method in inspect.getmembers(value, inspect.isfunction):
                    if not method_name.startswith("_") or method_name == "__init__" and method_name in vars(value):
                        yield f"{module_name}.{name}.{method_name}", method
            elif inspect.isfunction(value):
                yield f"{module_name}.{name}", value


@pytest.mark.parametrize("function", [pytest.param(function, id=name) for name, function in callables()])
def test_public_functions_have_type_hints(function):
    parameters = inspect.signature(function).parameters
    unhinted = {name for name in parameters if name != "self"} - set(function.__annotations__)
    assert not unhinted
    assert function.__name__ == "__init__" or "return" in function.__annotations__


def test_without_a_command_help_is_printed(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)


@pytest.mark.parametrize("command", ["config", "warmup"])
def test_commands_print(command, capsys):
    assert main([command]) == 0
    assert capsys.readouterr().out


def test_an_unknown_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["nonsense"])
    assert stop.value.code == 2
    assert "nonsense" in capsys.readouterr().err
