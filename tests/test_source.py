"""The files that count as the source of compiled code: all that kernels import, in any folder, and no edit goes unnoticed."""
import ast
import os
import py_compile
import shutil
from pathlib import Path

import pytest

import fastbp
from fastbp._compile import compiler, link
from fastbp._files import source
from fastbp._runtime import state
from fastbp.kernels.simd import tile

PACKAGE = Path(fastbp.__file__).parent


def imported(path):
    """Yield the package's files that one of them imports, at its top or within a function; not the package's own __init__."""
    folder = ("fastbp", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*folder[:len(folder) + 1 - node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [base, *([*base, alias.name] for alias in node.names)]
        for _, *parts in (name for name in names if name[0] == "fastbp" and len(name) > 1):
            place = PACKAGE.joinpath(*parts)
            yield from filter(Path.is_file, (place.with_suffix(".py"), place / "__init__.py"))


def all_imported():
    """Return the names of the files of kernels/ and of all that they import, and these, as they lie on the disk."""
    found, waiting = set(), set(PACKAGE.glob("kernels/**/*.py"))
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= set(imported(path)) - found
    return sorted(path.relative_to(PACKAGE).as_posix() for path in found)


NEEDED = all_imported()
FOLDERS = sorted({Path(name).parent.as_posix() for name in NEEDED})
FIRST = {folder: next(name for name in NEEDED if Path(name).parent.as_posix() == folder) for folder in FOLDERS}


@pytest.fixture
def package(tmp_path):
    """A copy of the package."""
    return shutil.copytree(PACKAGE, tmp_path / "fastbp", ignore=shutil.ignore_patterns("__pycache__"))


def test_what_kernels_import_is_found():
    names = [Path(module.__file__).relative_to(PACKAGE).as_posix() for module in (compiler, link, source, state, tile)]
    assert set(names) < set(NEEDED) and "layers.py" not in NEEDED


def test_every_file_that_kernels_are_made_from_counts(package):
    """Each edit makes another digest, and all of them differ."""
    before, digests = source.look(package), set()
    assert source.digest(before) == source.digest(source.look())
    for name in NEEDED:
        content = (package / name).read_bytes()
        (package / name).write_bytes(content + b"# edited")
        digests.add(source.digest(source.look(package)))
        (package / name).write_bytes(content)
    assert len(digests - {source.digest(before)}) == len(NEEDED)
    assert source.look(package) == before


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "."])
def test_a_new_file_counts_however_deep(package, folder):
    digests = {source.digest(source.look(package))}
    for name in ("new.py", "new/new.py", "new/newer/new.py"):
        (package / folder / name).parent.mkdir(exist_ok=True)
        (package / folder / name).write_text("NEW = 1\n")
        digests.add(source.digest(source.look(package)))
    assert len(digests) == 4


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_edit_after_the_import_is_noticed_in_any_folder(package, folder):
    before, path = source.look(package), package / FIRST[folder]
    source.check_unedited(before, package)
    path.write_bytes(path.read_bytes() + b"# edited")
    with pytest.raises(source.Outdated, match=f"{path} has changed since it was imported"):
        source.check_unedited(before, package)
    path.unlink()
    with pytest.raises(source.Outdated, match=f"{path} has changed since it was imported"):
        source.check_unedited(before, package)


@pytest.mark.parametrize("folder", FOLDERS)
def test_compiled_files_of_any_folder_are_compared_with_their_source(package, folder):
    path = package / FIRST[folder]
    path.write_text("VALUE = 1\n")
    py_compile.compile(path, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    source.check_compiled(source.look(package), package)
    times = path.stat()
    path.write_text("VALUE = 2\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    files = source.look(package)
    assert source.compiled_digest(files)
    with pytest.raises(source.Outdated, match=f"does not run {path} as it is now"):
        source.check_compiled(files, package)
