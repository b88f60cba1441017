"""The cache of compiled code: cold processes at once, kills, damaged files, unfit folders, edited kernels.

Each process does a small piece of work on whole numbers, so that the result must have NumPy's bits. It shares the folder of
compiled code with other processes, or with what killed ones have left there. A fault that cannot be made on this system is
printed with the reason.
"""
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from fastbp._compile import disk_cache

from . import _cache_faults, _cache_work, report
from ._cache_work import DENSE, MASK, PACKAGE, RELU

_LONGEST_REWRITE = 0.3          # A process that writes files is killed after at most this many seconds.
_TOO_MANY = 50                  # The kills of compiling processes end once this many faults are found.


class Check:
    """A run of the check with folders in `place`; `faults` and `figures` hold what it has found so far."""

    def __init__(self, place, seed, works=(RELU, DENSE)):
        self.place, self.random, self.works = Path(place), random.Random(seed), works
        self.faults, self.figures = [], Counter()
        self.full = self.folder() / "full"          # a cache with all that RELU needs
        self.see("the first process", self.run(self.full, RELU))

    def folder(self):
        """Make a new folder and return its path."""
        return Path(tempfile.mkdtemp(dir=self.place))

    def run(self, root, *works, **options):
        """Do pieces of work in a process of its own, count it, and return its Report. Arguments as for _cache_work.run."""
        self.figures["processes"] += 1
        return _cache_work.run(root, *works, **options)

    def told(self, part):
        """Print how many faults there are after a part of the check."""
        print(f"  {part}: {len(self.faults)} faults so far", flush=True)

    def see(self, what, found, is_right=True):
        """Note a fault if a Report has one, or is not right; return the Report."""
        if found.fault or not is_right:
            self.faults.append(f"{what}: {found}")
        return found

    def see_whole(self, what, folder, like=None):
        """Note a fault for each file that is not whole, or not as in the folder `like`. Return the paths of temporary files."""
        paths = sorted(folder.iterdir()) if folder.exists() else []
        for path in paths:
            content = None if path.name.startswith(".") else disk_cache._read(path)
            if not path.name.startswith(".") and (content is None or like and content != disk_cache._read(like / path.name)):
                self.faults.append(f"{what}: {path.name} is not whole")
        return {path for path in paths if path.name.startswith(".")}

    def cold(self, processes):
        """Start processes that all find an empty folder, then one that finds everything there."""
        root = self.folder() / "cache"
        at_once = [_cache_work.start(root, *self.works) for _ in range(processes)]
        self.figures["processes"] += processes
        for process in at_once:
            self.see("cold at once", _cache_work.finish(process))
        self.see_whole("cold at once", root / disk_cache.key())
        found = self.run(root, *self.works)
        self.see("after the cold ones", found, not found.written)

    def kills_of_writers(self, kills):
        """Kill processes that write files, two at a time, at random moments. The files that they leave must be whole."""
        root = shutil.copytree(self.full, self.folder() / "cache")
        folder, left = root / disk_cache.key(), set()
        for kill in range(0, kills, 2):
            self.figures["processes"] += 2
            both = [_cache_work.rewrite(self.full / folder.name, folder, self.random.random()) for _ in range(2)]
            time.sleep(self.random.uniform(0, _LONGEST_REWRITE))
            self._kill(*both)
            left = self._count_left("killed as it wrote", folder, left, self.full / folder.name)
            if kill % 20 == 0:
                found = self.run(root, RELU)
                self.see("after kills of writers", found, not found.written)
        for path in left:
            os.utime(path, (0, 0))
        self.see("after kills of writers", self.run(root, RELU))
        if self.see_whole("after kills of writers", folder):
            self.faults.append("temporary files of long ago were not deleted")

    def kills_of_compilers(self, kills):
        """Kill processes that compile, at random moments. They use one folder until it is full, then the next one."""
        begun = time.monotonic()
        self.see("a cold process", self.run(self.folder() / "cache", *self.works))
        longest = time.monotonic() - begun
        root, left, enough = self.folder() / "cache", set(), self.figures["kills"] + kills
        while self.figures["kills"] < enough and len(self.faults) < _TOO_MANY:
            self.figures["processes"] += 1
            process = _cache_work.start(root, *self.works)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.random.uniform(0, longest))
            if process.poll() is None:
                self._kill(process)
            else:
                self.see("after kills of compilers", _cache_work.finish(process))
                root, left = self.folder() / "cache", set()
            left = self._count_left("killed as it compiled", root / disk_cache.key(), left)

    def _kill(self, *processes):
        self.figures["kills"] += sum([_cache_work.kill(process) for process in processes])

    def _count_left(self, what, folder, before, like=None):
        """Count the temporary files that came since `before`, each of a kill in the middle of a file; return all of them."""
        left = self.see_whole(what, folder, like)
        self.figures["kills in the middle of a file"] += len(left - before)
        return left

    def file(self, kind):
        """Damage or forge a file: it must be replaced and not used, and no other file may change. Raise NotHere."""
        place = self.folder()
        root = shutil.copytree(self.full, place / "cache")
        path = self.random.choice(sorted((root / disk_cache.key()).iterdir()))
        _cache_faults.FILES[kind](path, place, self.random)
        others = _contents(place)
        python = _cache_faults.plain_user(place) if kind == "unreadable" else sys.executable
        found = self.run(root, RELU, python=python)
        is_replaced = disk_cache._read(path) is not None or kind == "folder"
        self.see(f"a file: {kind}", found, found.written == [path.name] and is_replaced and not (place / "run").exists()
                 and others.items() <= _contents(place).items())
        self.figures["damaged files"] += 1

    def forged(self):
        """Raise AssertionError if a forged file does no harm when it is loaded: then faults with such files show nothing."""
        place = self.folder()
        path = place / "name"
        _cache_faults.forge(path, place)
        pickle.loads(disk_cache._read(path))
        assert (place / "run").is_dir()

    def unfit_folder(self, kind):
        """Run a process with an unfit folder: it must work, and warn if others can write there. Raise NotHere."""
        with _cache_faults.FOLDERS[kind](self.folder(), self.full) as case:
            found = self.run(case.root, RELU, python=case.python)
            is_told = case.problem in (found.problem or "") if case.problem else not found.problem
            self.see(f"a folder: {kind}", found, is_told and bool(found.warnings) == case.warns
                     and bool(found.written) == (case.writes and not case.problem))
            if found.folder:
                self.see_whole(f"a folder: {kind}", found.folder)
        self.figures["folders"] += 1

    def deleted(self):
        """Delete a folder again and again while a process uses it."""
        root = self.folder() / "cache"
        process = _cache_work.start(root, *self.works)
        while process.poll() is None:
            shutil.rmtree(root, ignore_errors=True)
            time.sleep(0.01)
        self.figures["processes"] += 1
        self.figures["folders"] += 1
        self.see("a folder that is deleted meanwhile", _cache_work.finish(process))

    def edits(self):
        """Edit kernels without a change of the file's length and time.

        A process must compute what the code that Python runs says, and must not store it as the result of another version.
        """
        root = self.folder() / "cache"
        package = shutil.copytree(PACKAGE, self.folder() / "fastbp", ignore=shutil.ignore_patterns("__pycache__"))

        def run(what, *works, edited=False, warns=False, bytecode=False):
            environment = {"PYTHONDONTWRITEBYTECODE": "" if bytecode else "1"}
            found = self.run(root, *works, MASK, package=package, edited=edited, **environment)
            self.see(what, found, bool(found.warnings) == warns and bool(found.folder) != warns)
            self.figures["edits"] += 1

        run("before edits", bytecode=True)
        _cache_work.edit(package)
        run("an edit that Python does not notice", warns=True)
        shutil.rmtree(package / "kernels" / "elementwise" / "__pycache__")
        run("an edit that Python notices", edited=True)
        run("an edit that Python notices", edited=True, bytecode=True)
        _cache_work.edit(package)
        run("an edit taken back, which Python does not notice", edited=True, warns=True)
        shutil.rmtree(package / "kernels" / "elementwise" / "__pycache__")
        run("an edit taken back")
        run("an edit of what was imported", "edit", warns=True)
        run("after that", edited=True)
        run("an edit of what was imported, taken back", "edit", edited=True, warns=True)
        run("after that")


def main(arguments):
    options = report.options(sys.modules[__name__], processes=8, kills=200, rounds=3).parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fastbp-check-", ignore_cleanup_errors=True) as place:
        check = Check(place, options.seed)
        check.cold(options.processes)
        check.told(f"{options.processes} cold processes at once")
        check.kills_of_compilers(options.kills // 4)
        check.told("kills of processes that compile")
        check.kills_of_writers(options.kills - options.kills // 4)
        check.told("kills of processes that write")
        check.forged()
        _try(check.file, [*_cache_faults.FILES] * options.rounds)
        check.told("files")
        _try(check.unfit_folder, _cache_faults.FOLDERS)
        check.deleted()
        check.told("folders")
        check.edits()
        return report.close(check.faults, **check.figures)


def _try(fault, kinds):
    """Call fault(kind) for each kind, and print the reason where it raises NotHere."""
    for kind in kinds:
        try:
            fault(kind)
        except _cache_faults.NotHere as reason:
            print(f"  not tried: {kind}: {reason}")


def _contents(place):
    """Return {path: content} of the files in a folder."""
    return {path: path.read_bytes() for path in place.iterdir() if path.is_file() and not path.is_symlink()}
