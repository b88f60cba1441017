"""The disk cache of compiled functions: what it holds, who may use it, and that everything works without it."""
import compileall
import errno
import json
import os
import py_compile
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checks import _cache_faults, child
from numba import njit, types
from numba.core import config

import fastbp
import forked
from fastbp._compile import ahead, disk_cache
from fastbp._compile import trust as _private
from fastbp._files import source
from test_source import FIRST, FOLDERS

if os.name == "posix":
    import grp
    import pwd

PACKAGE = Path(fastbp.__file__).parent
posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX's")

# Compiles or loads the functions that its arguments name and prints what came out.
PROCESS = """
import json, sys, warnings
import numpy as np
from numba import njit, prange, types
from numba.core import event

compiled = []

class Compiled(event.Listener):
    def on_start(self, event):
        compiled.append(event.data["dispatcher"].__name__)
    def on_end(self, event):
        pass

event.register("numba:compile", Compiled())

def plain(n):
    return 3 * n + 1

def parallel(n):
    total = 0
    for i in prange(n):
        total += i
    return total

def array(x):
    if x.size > 3:
        raise ValueError("too large")
    return 2 * x

def closure(factor):
    @njit
    def down(n, limit):
        return limit if n <= 0 else factor * n + down(n - 1, limit)
    def closure(n):
        return down(n, n & 1)
    return closure

def run(name):
    function, _, factor = name.partition("-")
    function, signature, argument = {
        "plain": (plain, types.intp(types.intp), 5),
        "parallel": (parallel, types.intp(types.intp), 5),
        "array": (array, types.float64[::1](types.float64[::1]), np.arange(3.0)),
        "closure": (closure(int(factor or 0)), types.intp(types.intp), 5),
    }[function]
    dispatcher = njit(parallel=function is parallel)(function)
    disk_cache.attach(dispatcher, name)
    dispatcher.compile(signature)
    return np.asarray(dispatcher(argument)).tolist()

def report(names):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = {name: run(name) for name in names}
    top_level = {"plain", "parallel", "array", "closure"}
    print(json.dumps({"results": results, "compiled": [name for name in compiled if name in top_level],
                      "folder": disk_cache.folder() and str(disk_cache.folder()), "problem": disk_cache.problem(),
                      "warnings": [str(warning.message) for warning in caught]}))

from fastbp._compile import disk_cache
"""
RESULTS = {"plain": 16, "parallel": 10, "array": [0.0, 2.0, 4.0], "closure-2": 31, "closure-7": 106}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "cache"


def variables(root, package):
    return os.environ | {"PYTHONPATH": str(package.parent), "FASTBP_CACHE_DIR": str(root)}


def start(code, root, package=PACKAGE):
    return subprocess.Popen([sys.executable, "-c", PROCESS + code], cwd=package.parent, env=variables(root, package), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return json.loads(output)


def run(root, *names, before="", package=PACKAGE):
    """Run the named functions in a process of their own, which must get them right."""
    code = f"{before}\nreport({names!r})"
    if forked.is_possible():
        status, output, errors = forked.run(PROCESS + code, package.parent, variables(root, package))
        assert status == 0, errors
        report = json.loads(output)
    else:
        report = finish(start(code, root, package))
    assert report["results"] == {name: RESULTS[name] for name in names}
    return report


def whole(path):
    return disk_cache._read(path) is not None


def files(root):
    """Those of compiled code."""
    return sorted(path for path in root.glob("*/*") if path.is_file())


def test_a_second_process_compiles_nothing(root):
    names = "plain", "parallel", "array", "closure-2"
    assert run(root, *names)["compiled"] == ["plain", "parallel", "array", "closure"]
    again = run(root, *names)
    assert again["compiled"] == []
    assert [path.parent for path in files(root)] == [Path(again["folder"])] * 4


def test_two_processes_at_once(root):
    names = "plain", "array"
    both = [start(f"report({names})", root) for _ in range(2)]
    for process in both:
        assert finish(process)["results"] == {name: RESULTS[name] for name in names}
    assert [whole(path) for path in files(root)] == [True, True]


def test_a_damaged_file_is_replaced(root):
    run(root, "plain", "array", "closure-7")
    array, closure, plain = files(root)
    array.write_bytes(array.read_bytes()[:-1])
    plain.write_bytes(closure.read_bytes())
    report = run(root, "closure-7", "plain", "array")
    assert report["compiled"] == ["plain", "array"] and not report["warnings"]
    assert [whole(path) for path in files(root)] == [True, True, True]


def test_what_is_read_is_what_was_written_under_that_name(tmp_path):
    path, payload = tmp_path / "key" / "name", bytes(range(64))
    path.parent.mkdir()
    disk_cache._write(path, payload)
    assert disk_cache._read(path) == payload
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i])
        assert not whole(path), f"the first {i} bytes"
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1:])
        assert not whole(path), f"byte {i} changed"
    for foreign in (tmp_path / "key" / "another name", tmp_path / "another key" / "name"):
        foreign.parent.mkdir(exist_ok=True)
        foreign.write_bytes(content)
        assert not whole(foreign)
    assert not whole(tmp_path / "absent")


def test_closures_of_one_function_from_two_processes_stay_apart(root):
    for name in ("closure-2", "closure-7"):
        run(root, name)
    assert run(root, "closure-7", "closure-2")["compiled"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_closures_of_one_function_from_two_forked_children_stay_apart(root):
    fork = """
import os
for name in ("closure-2", "closure-7"):
    child = os.fork()
    if not child:
        run(name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    assert run(root, "closure-2", "closure-7", before=fork)["compiled"] == []


@pytest.fixture
def package(tmp_path):
    """A copy of the package, with its .pyc files: to make them takes a second."""
    return shutil.copytree(PACKAGE, tmp_path / "copy" / "fastbp")


def test_an_edited_package_has_another_folder(root, package):
    copied = run(root, "plain", package=package)
    assert Path(copied["folder"]).name == disk_cache.key()
    with (package / "kernels" / "simd" / "tile.py").open("a") as file:
        file.write("# edited")
    edited = run(root, "plain", package=package)
    assert edited["folder"] != copied["folder"] and edited["compiled"] == ["plain"]


def test_a_package_that_is_edited_after_it_was_imported_has_none(root, package):
    path = str(package / "kernels" / "simd" / "tile.py")
    report = run(root, "plain", package=package, before=f"open({path!r}, 'a').write('# edited')")
    assert report["folder"] is None and f"{path} has changed" in report["problem"]
    assert len(report["warnings"]) == 1 and report["problem"] in report["warnings"][0]


def test_a_package_without_sources_has_none(root, package):
    compileall.compile_dir(package, legacy=True, quiet=1)
    for path in package.rglob("*.py"):
        path.unlink()
    report = run(root, "plain", package=package)
    assert report["folder"] is None and str(package) in report["problem"]


@pytest.mark.parametrize("mode", py_compile.PycInvalidationMode)
def test_an_edit_that_python_does_not_notice(root, package, mode):
    path = package / "kernels" / "elementwise" / "relu.py"
    py_compile.compile(path, invalidation_mode=mode)
    before = run(root, "plain", package=package)
    times, text = path.stat(), path.read_text()
    path.write_text(text.replace("1 << 15", "1 << 14"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    unnoticed = run(root, "plain", package=package)
    if mode is py_compile.PycInvalidationMode.CHECKED_HASH:
        assert unnoticed["folder"] not in (None, before["folder"])              # Python did notice it
    else:
        assert unnoticed["folder"] is None and f"does not run {path}" in unnoticed["problem"] and unnoticed["warnings"]
    shutil.rmtree(path.parent / "__pycache__")
    noticed = run(root, "plain", package=package)
    assert noticed["folder"] not in (None, before["folder"])


def test_source_is_told_apart_by_content_and_name(tmp_path):
    def digest(**contents):
        shutil.rmtree(tmp_path / "package", ignore_errors=True)
        for folder in ("kernels", "_runtime"):
            (tmp_path / "package" / folder).mkdir(parents=True)
        for name, content in contents.items():
            (tmp_path / "package" / name.replace("__", "/")).with_suffix(".py").write_text(content)
        return source.digest(source.look(tmp_path / "package"))

    digests = [digest(_runtime__a="1", kernels__b="2"), digest(_runtime__a="1", kernels__b="3"),
               digest(_runtime__a="1", kernels__c="2"), digest(_runtime__a="1", _runtime__b="2"),
               digest(_runtime__a="12", kernels__b=""), digest(_runtime__a="1")]
    assert len(set(digests)) == len(digests)
    assert digest(_runtime__a="1", layers="2") == digest(_runtime__a="1")       # no kernel is made from it
    assert digest(_runtime__a="1", kernels__b="2") == digests[0]


@pytest.fixture
def here(monkeypatch, root):
    """This process, with a cache that it has not opened yet."""
    def forget():
        disk_cache._open.cache_clear()
        disk_cache.key.cache_clear()
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(root))
    forget()
    yield forget
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_key_depends_on_the_source_in_any_folder(here, monkeypatch, package, folder):
    before, path = disk_cache.key(), package / FIRST[folder]
    path.write_bytes(path.read_bytes() + b"# edited")
    monkeypatch.setattr(source, "FILES", source.look(package))
    here()
    assert disk_cache.key() != before


@pytest.mark.parametrize("flag, value", [("CPU_NAME", "haswell"), ("CPU_FEATURES", "-avx2"), ("OPT", 1),
                                         ("BOUNDSCHECK", 1)])
def test_the_folder_depends_on_what_numba_compiles_for(here, monkeypatch, flag, value):
    before = disk_cache.folder()
    monkeypatch.setattr(config, flag, value)
    here()
    assert disk_cache.folder() != before and disk_cache.folder().parent == before.parent


@posix
def test_only_this_user_may_enter(here, root):
    before = os.umask(0)
    try:
        disk_cache.folder()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (root, disk_cache.folder())} == {0o700}


@posix
@pytest.mark.parametrize("mode", [0o770, 0o702])
@pytest.mark.parametrize("which", ["root", "key"])
def test_a_folder_that_others_can_write_is_refused(here, root, which, mode):
    folder = disk_cache.folder() if which == "key" else root
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(mode)
    here()
    with pytest.warns(RuntimeWarning, match=f"{folder} has mode {mode:o}") as caught:
        assert disk_cache.folder() is None
    assert disk_cache.folder() is None and f"{mode:o}" in disk_cache.problem()
    assert len(caught) == 1


@posix
def test_a_folder_of_another_user_is_refused(here, root, monkeypatch):
    root.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    with pytest.warns(RuntimeWarning, match=f"{root} belongs to user {root.stat().st_uid}"):
        assert disk_cache.folder() is None


@posix
def test_a_folder_above_that_others_can_write_must_be_sticky(here, root, monkeypatch):
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(root / "cache"))
    root.mkdir()
    root.chmod(0o1777)
    assert disk_cache.folder()
    root.chmod(0o777)
    here()
    with pytest.warns(RuntimeWarning, match=f"{root}, on the way to it, has mode 777"):
        assert disk_cache.folder() is None


@posix
def test_links_are_followed_where_only_this_user_can_change_them(here, root, tmp_path, monkeypatch):
    for folder in (root, tmp_path / "open"):
        folder.mkdir()
    (tmp_path / "to-open").symlink_to("open")
    (tmp_path / "open" / "to-root").symlink_to(root)
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "to-open" / "to-root" / "cache"))
    assert disk_cache.folder().parent == root / "cache"
    (tmp_path / "open").chmod(0o777)
    here()
    with pytest.warns(RuntimeWarning, match=f"{tmp_path / 'open'}, on the way to it, has mode 777"):
        assert disk_cache.folder() is None


@posix
def test_links_of_others_and_groups_of_the_home_folder(tmp_path, monkeypatch):
    def status(mode, user=0, group=7):
        return os.stat_result((mode, 0, 0, 1, user, group, 0, 0, 0, 0))

    def is_trusted(mode, user=0, group=7, path=Path("/shared/folder")):
        try:
            trust.check(path, status(mode, user, group))
        except _private.Unsafe:
            return False
        return True

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(_private, "_own_group", lambda: ())
    trust = _private._Trust()
    own, other = os.geteuid(), os.geteuid() + 1
    assert is_trusted(stat.S_IFLNK | 0o777) and is_trusted(stat.S_IFLNK | 0o777, own)
    assert not is_trusted(stat.S_IFLNK | 0o777, other)
    assert is_trusted(stat.S_IFDIR | 0o755, own) and not is_trusted(stat.S_IFDIR | 0o755, other)
    assert not is_trusted(stat.S_IFDIR | 0o775) and not is_trusted(stat.S_IFDIR | 0o757)
    assert is_trusted(stat.S_IFDIR | 0o777, other, path=tmp_path) and not is_trusted(stat.S_IFDIR | 0o777, path=home)
    home.chmod(0o770)
    trust = _private._Trust()
    assert is_trusted(stat.S_IFDIR | 0o775, group=home.stat().st_gid) and not is_trusted(stat.S_IFDIR | 0o775, group=7_777)
    assert not is_trusted(stat.S_IFDIR | 0o757, group=home.stat().st_gid)


@posix
@pytest.mark.parametrize("group, is_own", [(("me", ["me"]), True), (("me", []), True), (("staff", []), False),
                                           (("me", ["you"]), False)])
def test_a_group_of_its_own_may_write_above(monkeypatch, group, is_own):
    user = pwd.struct_passwd(("me", "x", os.geteuid(), 1234, "", "", ""))
    monkeypatch.setattr(pwd, "getpwuid", {os.geteuid(): user}.__getitem__)
    monkeypatch.setattr(grp, "getgrgid", {1234: grp.struct_group((group[0], "x", 1234, group[1]))}.__getitem__)
    assert (1234 in _private._Trust().groups) == is_own
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)            # as of a container's user without a name
    assert 1234 not in _private._Trust().groups


@posix
@pytest.mark.parametrize("mode", [0o602, 0o620])
def test_a_file_that_others_can_write_is_not_read(here, root, mode):
    compiled_here()
    file, = files(root)
    file.chmod(mode)
    assert not whole(file)
    before = os.umask(0)
    try:
        compiled_here()
    finally:
        os.umask(before)
    assert whole(file) and file.stat().st_mode & 0o777 == 0o600


@posix
def test_a_file_of_another_user_is_not_read(here, root, monkeypatch):
    compiled_here()
    file, = files(root)
    assert whole(file)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    assert not whole(file)


@posix
@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "huge"])
def test_what_is_no_file_of_the_cache_is_not_read(here, root, tmp_path, kind):
    compiled_here()
    file, = files(root)
    content = file.read_bytes()
    if kind == "huge":
        payload = content[disk_cache._DIGEST_BYTES:] + bytes(disk_cache._MOST_BYTES)
        file.write_bytes(disk_cache._digest(file, payload) + payload)
    else:
        file.rename(tmp_path / "file")
        {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: os.symlink(tmp_path / "file", path)}[kind](file)
    assert not whole(file)
    assert compiled_here()(5) == 16
    assert whole(file) == (kind != "folder") and not file.is_symlink()
    if kind != "huge":
        assert (tmp_path / "file").read_bytes() == content


def test_what_killed_writers_left_is_deleted(here, root):
    folder, hours_ago = disk_cache.folder(), time.time() - 2 * 3600
    old = [folder / ".name.0123456789abcdef", root / ".name.0123456789abcdef"]
    others = [folder / "name.0123456789abcdef", folder / ".name", folder / ".recent.0123456789abcdef"]
    for path in (*old, *others):
        path.touch()
        if "recent" not in path.name:
            os.utime(path, (hours_ago, hours_ago))
    here()
    disk_cache.folder()
    assert [path for path in (*old, *others) if path.exists()] == others


def compiled_here():
    """Compile a function in this process, and save it if that is possible."""
    dispatcher = njit(lambda n: 3 * n + 1)
    disk_cache.attach(dispatcher, "plain")
    dispatcher.compile(types.intp(types.intp))
    return dispatcher


@posix
def test_kernels_work_with_a_refused_folder(here, root):
    root.mkdir()
    root.chmod(0o777)
    with pytest.warns(RuntimeWarning, match=str(root)) as caught:
        assert compiled_here()(5) == 16
    assert compiled_here()(5) == 16
    assert len(caught) == 1 and list(root.iterdir()) == []


def test_kernels_work_where_no_folder_can_be_made(here, root):
    root.touch()
    assert compiled_here()(5) == 16
    assert disk_cache.folder() is None and str(root) in disk_cache.problem()


@posix
def test_kernels_work_when_the_folder_was_deleted(here, root):
    shutil.rmtree(disk_cache.folder())
    assert compiled_here()(5) == 16


@posix
def test_a_folder_that_is_closed_meanwhile_is_no_problem(root, tmp_path):
    try:
        python = _cache_faults.plain_user(tmp_path)
    except _cache_faults.NotHere as reason:
        pytest.skip(str(reason))
    code = ("from fastbp._compile import disk_cache; disk_cache.folder().chmod(0); "
            "print(disk_cache.holds('plain', 'signature'), disk_cache.kept('name'))")
    assert child.run(code, python=python, FASTBP_CACHE_DIR=str(root)) == (0, "False None\n", "")


@posix
def test_a_full_disk_is_no_problem(here, root):
    import resource
    disk_cache.folder()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))        # bytes that a file may have
    try:
        dispatcher = compiled_here()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert dispatcher(5) == 16
    assert files(root) == []
    assert compiled_here()(5) == 16 and len(files(root)) == 1


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_at_the_last_step_is_no_problem(here, monkeypatch, step):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = disk_cache.folder()
    monkeypatch.setattr(os, step, fail)
    assert compiled_here()(5) == 16
    assert list(folder.iterdir()) == []


def test_no_other_process_compiles_for_a_folder_that_it_cannot_write(here, monkeypatch):
    fastbp.set_num_threads(2)
    assert ahead._is_possible()
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (disk_cache.folder(), os.W_OK))
    assert not ahead._is_possible()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
@pytest.mark.parametrize("home", [{"HOME": "/proc"}, {"HOME": "relative"}, {"XDG_CACHE_HOME": "/proc"}])
def test_an_unwritable_home_is_no_problem(here, monkeypatch, home):
    for name in ("FASTBP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in home.items():
        monkeypatch.setenv(name, value)
    assert disk_cache.folder() is None and disk_cache.problem()


@posix
def test_where_the_cache_is(here, monkeypatch, tmp_path):
    places = [({"HOME": "home", "XDG_CACHE_HOME": "xdg", "FASTBP_CACHE_DIR": "chosen"}, "chosen")]
    if sys.platform == "darwin":
        places += [({"HOME": "home"}, "home/Library/Caches/fastbp")]
    else:
        places += [({"HOME": "home", "XDG_CACHE_HOME": "xdg"}, "xdg/fastbp"), ({"HOME": "home"}, "home/.cache/fastbp")]
    for environment, expected in places:
        for name in ("HOME", "XDG_CACHE_HOME", "FASTBP_CACHE_DIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(tmp_path / value))
        here()
        assert disk_cache.folder().parent == tmp_path / expected


@posix
@pytest.mark.parametrize(("chosen", "expected"), [
    ("~/x", "home/x"), ("~", "home"), ("{user}/x", "{home}/x"), ("x", "here/x"), ("./~", "here/~"), ("", None),
    ("~nobody-has-this-name/x", "FASTBP_CACHE_DIR is '~nobody-has-this-name/x', and there is no such home folder"),
    ("a file", "File exists")])
def test_a_chosen_folder(here, monkeypatch, tmp_path, chosen, expected):
    user = pwd.getpwuid(os.getuid())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("a file").touch()
    monkeypatch.delenv("FASTBP_CACHE_DIR", raising=False)
    default = disk_cache._root()
    monkeypatch.setenv("FASTBP_CACHE_DIR", chosen.format(user=f"~{user.pw_name}"))
    if not chosen:
        assert disk_cache._root() == default
    elif " " in expected:
        here()
        assert disk_cache.folder() is None and expected in disk_cache.problem()
    else:
        assert disk_cache._root() == tmp_path / expected.format(home=user.pw_dir)


def test_the_other_process_has_the_same_cache_wherever_this_one_has_gone(here, root, monkeypatch, tmp_path):
    """FASTBP_CACHE_DIR may say where from the folder that this process was in."""
    started = []
    monkeypatch.setattr(ahead.subprocess, "Popen", lambda *arguments, env, **options: started.append(env))
    folder = disk_cache.folder()
    monkeypatch.setenv("FASTBP_CACHE_DIR", "somewhere else")
    ahead._Helper(["pack-float32"])
    assert Path(started[0]["FASTBP_CACHE_DIR"]) == folder.parent


def test_folders_that_were_long_unused_are_deleted_when_a_new_one_is_made(here, root):
    current = disk_cache.folder()
    month_ago, yesterday = time.time() - 31 * 86400, time.time() - 86400
    times = {"0" * 32: month_ago, "1" * 32: yesterday, "not-ours": month_ago, current.name: month_ago}
    for name, modified in times.items():
        (root / name).mkdir(exist_ok=True)
        (root / name / "file").touch()
        os.utime(root / name, (modified, modified))
    here()
    assert disk_cache.folder() == current                               # there already, and from now on in use
    assert {path.name for path in root.iterdir() if path.is_dir()} == set(times)
    assert current.stat().st_mtime > yesterday
    (root / current.name).rename(root / ("2" * 32))
    old_note = root / ("3" * 32)
    old_note.touch()
    os.utime(old_note, (month_ago, month_ago))
    here()
    assert disk_cache.folder() == current and not old_note.exists()
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"1" * 32, "not-ours", "2" * 32, current.name}
