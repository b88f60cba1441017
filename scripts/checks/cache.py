"""The cache of compiled code: cold processes at once, kills, damaged files, unfit folders, edited kernels.

Each process does a small piece of work on whole numbers, so that NumPy gets the same bits, and shares the folder of compiled
code with others, or with what is left of them. What cannot be tried on this system is printed with the reason.
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

from fastbp import _cache

from . import _cache_faults, _cache_work, report
from ._cache_work import DENSE, MASK, PACKAGE, RELU

_LONGEST_REWRITE = 0.3          # seconds until the kill
_TOO_MANY = 50                  # faults, to go on for the sake of more


class Check:
    """Its folders are made in `place`; `faults` and `figures` are what it has found so far."""

    def __init__(self, place, seed, works=(RELU, DENSE)):
        self.place, self.random, self.works = Path(place), random.Random(seed), works
        self.faults, self.figures = [], Counter()
        self.full = self.folder() / "full"          # a cache with all that RELU needs
        self.see("the first process", self.run(self.full, RELU))

    def folder(self):
        return Path(tempfile.mkdtemp(dir=self.place))

    def run(self, root, *works, **options):
        self.figures["processes"] += 1
        return _cache_work.run(root, *works, **options)

    def told(self, part):
        print(f"  {part}: {len(self.faults)} faults so far", flush=True)

    def see(self, what, found, is_right=True):
        """Note a fault in what has become of a process."""
        if found.fault or not is_right:
            self.faults.append(f"{what}: {found}")
        return found

    def see_whole(self, what, folder, like=None):
        """Note files that are not whole, or not as in the folder `like`; returns the temporary ones."""
        paths = sorted(folder.iterdir()) if folder.exists() else []
        for path in paths:
            content = None if path.name.startswith(".") else _cache._read(path)
            if not path.name.startswith(".") and (content is None or like and content != _cache._read(like / path.name)):
                self.faults.append(f"{what}: {path.name} is not whole")
        return {path for path in paths if path.name.startswith(".")}

    def cold(self, processes):
        """Processes that all find an empty folder, then one that finds all in it."""
        root = self.folder() / "cache"
        at_once = [_cache_work.start(root, *self.works) for _ in range(processes)]
        self.figures["processes"] += processes
        for process in at_once:
            self.see("cold at once", _cache_work.finish(process))
        self.see_whole("cold at once", root / _cache.key())
        found = self.run(root, *self.works)
        self.see("after the cold ones", found, not found.written)

    def kills_of_writers(self, kills):
        """Processes that write whole files, two at a time, killed at random; what they leave is whole and of use."""
        root = shutil.copytree(self.full, self.folder() / "cache")
        folder, left = root / _cache.key(), set()
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
        """Processes that compile into one folder until it is full, killed at random, then into the next."""
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
            left = self._count_left("killed as it compiled", root / _cache.key(), left)

    def _kill(self, *processes):
        self.figures["kills"] += sum([_cache_work.kill(process) for process in processes])

    def _count_left(self, what, folder, before, like=None):
        left = self.see_whole(what, folder, like)
        self.figures["kills in the middle of a file"] += len(left - before)
        return left

    def file(self, kind):
        """A file that is damaged or another's is not used, but replaced, and no other file is touched. Raises NotHere."""
        place = self.folder()
        root = shutil.copytree(self.full, place / "cache")
        path = self.random.choice(sorted((root / _cache.key()).iterdir()))
        _cache_faults.FILES[kind](path, place, self.random)
        others = _contents(place)
        python = _cache_faults.plain_user(place) if kind == "unreadable" else sys.executable
        found = self.run(root, RELU, python=python)
        is_replaced = _cache._read(path) is not None or kind == "folder"
        self.see(f"a file: {kind}", found, found.written == [path.name] and is_replaced and not (place / "run").exists()
                 and others.items() <= _contents(place).items())
        self.figures["damaged files"] += 1

    def forged(self):
        """That a forged file would do harm, or else the faults with such files show nothing."""
        place = self.folder()
        path = place / "name"
        _cache_faults.forge(path, place)
        pickle.loads(_cache._read(path))
        assert (place / "run").is_dir()

    def unfit_folder(self, kind):
        """Of a folder that others can write a process warns; with any it works. Raises NotHere."""
        with _cache_faults.FOLDERS[kind](self.folder(), self.full) as case:
            found = self.run(case.root, RELU, python=case.python)
            is_told = case.problem in (found.problem or "") if case.problem else not found.problem
            self.see(f"a folder: {kind}", found, is_told and bool(found.warnings) == case.warns
                     and bool(found.written) == (case.writes and not case.problem))
            if found.folder:
                self.see_whole(f"a folder: {kind}", found.folder)
        self.figures["folders"] += 1

    def deleted(self):
        """A folder that is deleted while processes use it."""
        root = self.folder() / "cache"
        process = _cache_work.start(root, *self.works)
        while process.poll() is None:
            shutil.rmtree(root, ignore_errors=True)
            time.sleep(0.01)
        self.figures["processes"] += 1
        self.figures["folders"] += 1
        self.see("a folder that is deleted meanwhile", _cache_work.finish(process))

    def edits(self):
        """Kernels that change but for length and time: what a process does is what Python runs, and is kept as nothing else."""
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
        shutil.rmtree(package / "kernels" / "__pycache__")
        run("an edit that Python notices", edited=True)
        run("an edit that Python notices", edited=True, bytecode=True)
        _cache_work.edit(package)
        run("an edit taken back, which Python does not notice", edited=True, warns=True)
        shutil.rmtree(package / "kernels" / "__pycache__")
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
    for kind in kinds:
        try:
            fault(kind)
        except _cache_faults.NotHere as reason:
            print(f"  not tried: {kind}: {reason}")


def _contents(place):
    return {path: path.read_bytes() for path in place.iterdir() if path.is_file() and not path.is_symlink()}
