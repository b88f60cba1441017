"""The parts of scripts/check versions; the environments themselves take minutes each."""
import os
import platform

import pytest
from checks import versions

THIS = platform.python_version().rpartition(".")[0]


def interpreter(path, version, runs=True):
    """What says that it is that Python, or fails as a name of pyenv's whose version is not chosen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n" if runs else "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(os.name != "posix", reason="the interpreters are shell scripts here")
def test_pythons_are_on_path_or_pyenvs_and_run(tmp_path, monkeypatch):
    on_path, pyenv = tmp_path / "bin", tmp_path / "pyenv"
    monkeypatch.setenv("PATH", str(on_path))
    monkeypatch.setenv("PYENV_ROOT", str(pyenv))
    first = interpreter(on_path / "python3.10", "3.10")
    interpreter(on_path / "python3.11", "3.11", runs=False)
    interpreter(pyenv / "versions/3.11.9/bin/python", "3.11")
    newest = interpreter(pyenv / "versions/3.11.10/bin/python", "3.11")
    interpreter(on_path / "python3.12", "3.9")
    interpreter(pyenv / "versions/3.12.1/bin/python", "3.12", runs=False)
    assert versions.pythons(["3.10", "3.11", "3.12", "3.13"]) == ({"3.10": first, "3.11": newest}, ["3.12", "3.13"])


def test_the_supported_versions_are_those_of_the_package():
    supported = versions.supported()
    assert supported[0] == "3.10" and "3.9" not in supported and THIS in supported


def test_the_tests_are_there_and_counted():
    assert all((versions.ROOT / "tests" / f"test_{name}.py").is_file() for name in versions.TESTS)
    assert versions.passed("...\n3543 passed, 2 skipped in 856.35s (0:14:16)\n") == 3543
