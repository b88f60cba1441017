"""Faults of the files and folders of a cache of compiled code: damage, forgery, wrong modes and owners, full disks."""
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from fastbp._compile import disk_cache

SOMEBODY = 65534                # The number of another user, on most systems "nobody".
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0      # Only root can make some of the faults.


class NotHere(Exception):
    """An error for a fault that this system or this user cannot make."""


def need_root():
    """Raise NotHere if this process does not run as root."""
    if not IS_ROOT:
        raise NotHere("only root can give files away and mount")


def plain_user(place):
    """Return the path of a Python that file modes restrict, as they do not restrict root. Raise NotHere if there is none.

    place: a folder for a script that starts such a Python.
    """
    if not IS_ROOT:
        return sys.executable
    if not shutil.which("setpriv"):
        raise NotHere("modes do not hold for root, and there is no setpriv")
    python = place / "plain_user"
    python.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-dac_override,-dac_read_search {sys.executable} "$@"\n')
    python.chmod(0o700)
    return str(python)


# ---- files: each function damages or replaces the file `path` of a cache; place: a folder for what it needs beside that file


def _cut(path, place, rng):
    os.truncate(path, rng.randrange(path.stat().st_size))


def _lengthened(path, place, rng):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 100)))


def _one_bit(path, place, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _a_hole(path, place, rng):
    """Fill a block with zeros, as a file system does that lost the block in a crash."""
    content = bytearray(path.read_bytes())
    begin = rng.randrange(0, len(content), 4096)
    content[begin:begin + 4096] = bytes(len(content[begin:begin + 4096]))
    path.write_bytes(content)


def _noise(path, place, rng):
    path.write_bytes(rng.randbytes(rng.randint(0, 100_000)))


def _another_function(path, place, rng):
    other = rng.choice([other for other in sorted(path.parent.iterdir()) if other != path])
    path.write_bytes(other.read_bytes())


def _another_version(path, place, rng):
    other = place / ("0" * 32) / path.name
    other.parent.mkdir()
    disk_cache._write(other, bytes(disk_cache._read(path)))
    path.write_bytes(other.read_bytes())


def _huge(path, place, rng):
    os.truncate(path, 1 << 40)


def _pipe(path, place, rng):
    path.unlink()
    os.mkfifo(path)


def _folder(path, place, rng):
    path.unlink()
    path.mkdir()


def _link_to_nothing(path, place, rng):
    path.unlink()
    path.symlink_to(place / "nothing")


def _link_to_a_device(path, place, rng):
    path.unlink()
    path.symlink_to("/dev/zero")


def _unreadable(path, place, rng):
    plain_user(place)
    path.chmod(0)


def forge(path, place):
    """Write a valid file of a cache that makes the folder place/run when it is loaded as compiled code."""
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(place / "run"),)
    disk_cache._write(path, pickle.dumps(Attack()))


def _forged_by_another(path, place, rng):
    need_root()
    forge(path, place)
    os.chown(path, SOMEBODY, -1)
    path.chmod(0o644)


def _forged_where_others_write(path, place, rng):
    forge(path, place)
    path.chmod(rng.choice([0o602, 0o620, 0o666]))


def _link_to_a_forged_one(path, place, rng):
    forge(path, place)
    path.rename(place / path.name)
    path.symlink_to(place / path.name)


# The faults of files, by name.
FILES = {function.__name__.strip("_").replace("_", " "): function for function in (
    _cut, _lengthened, _one_bit, _a_hole, _noise, _another_function, _another_version, _huge, _pipe, _folder, _link_to_nothing,
    _link_to_a_device, _unreadable, _forged_by_another, _forged_where_others_write, _link_to_a_forged_one)}


# ---- folders: each function makes a folder and yields a Folder; full: a cache to copy


class Folder(NamedTuple):
    """A folder for FASTBP_CACHE_DIR, and what a process must do with it."""

    root: Path
    problem: str | None = None      # a part of the problem that it must report, or None if there must be none
    warns: bool = False             # whether it must warn
    writes: bool = True             # whether it must write compiled code, if there is no problem
    python: str = sys.executable    # the Python that runs it


def _with_mode(path, mode):
    path.mkdir(parents=True)
    path.chmod(mode)
    return path


def _missing(place, full):
    yield Folder(place / "a" / "b")


def _a_file_in_its_place(place, full):
    (place / "file").touch()
    yield Folder(place / "file", "File exists")


def _others_can_write(place, full):
    shutil.copytree(full, place / "cache")
    (place / "cache").chmod(0o777)
    yield Folder(place / "cache", "has mode 777", True)


def _others_can_write_inside(place, full):
    shutil.copytree(full, place / "cache")
    (place / "cache" / disk_cache.key()).chmod(0o770)
    yield Folder(place / "cache", "has mode 770", True)


def _others_can_write_above(place, full):
    shutil.copytree(full, _with_mode(place / "shared", 0o777) / "cache")
    yield Folder(place / "shared" / "cache", "others can put another folder there", True)


def _sticky_above(place, full):
    yield Folder(_with_mode(place / "shared", 0o1777) / "cache")


def _of_another_user(place, full):
    need_root()
    shutil.copytree(full, place / "cache")
    os.chown(place / "cache", SOMEBODY, -1)
    yield Folder(place / "cache", f"belongs to user {SOMEBODY}", True)


def _of_another_user_above(place, full):
    need_root()
    shutil.copytree(full, _with_mode(place / "shared", 0o755) / "cache")
    os.chown(place / "shared", SOMEBODY, -1)
    yield Folder(place / "shared" / "cache", f"belongs to user {SOMEBODY}", True)


def _a_link_of_another_user(place, full):
    need_root()
    shared = _with_mode(place / "shared", 0o755)        # in a sticky folder Linux itself would not follow the link
    shutil.copytree(full, place / "cache")
    (shared / "link").symlink_to(place / "cache")
    os.chown(shared / "link", SOMEBODY, -1, follow_symlinks=False)
    yield Folder(shared / "link", f"belongs to user {SOMEBODY}", True)


def _a_link(place, full):
    shutil.copytree(full, place / "cache")
    (place / "link").symlink_to("cache")
    yield Folder(place / "link", writes=False)


def _read_only_and_full(place, full):
    shutil.copytree(full, place / "cache")
    for path in (place / "cache", *(place / "cache").iterdir()):
        path.chmod(0o500 if path.is_dir() else 0o400)
    yield Folder(place / "cache", writes=False, python=plain_user(place))


def _read_only_and_empty(place, full):
    yield Folder(_with_mode(place / "cache", 0o500), "Permission denied", python=plain_user(place))


def _closed(place, full):
    yield Folder(_with_mode(place / "cache", 0), "Permission denied", python=plain_user(place))


def _small_disk(place, full):
    with _tmpfs(place / "disk", "64k") as disk:
        yield Folder(disk)


def _full_disk(place, full):
    with _tmpfs(place / "disk", "64k") as disk:
        with suppress(OSError):
            (disk / "full").write_bytes(bytes(1 << 20))
        yield Folder(disk)


def _read_only_disk(place, full):
    with _tmpfs(place / "disk", "16m") as disk:
        shutil.copytree(full, disk / "cache")
        _mount("-o", "remount,ro", disk)
        yield Folder(disk / "cache", writes=False)


def _read_only_disk_and_empty(place, full):
    with _tmpfs(place / "disk", "16m") as disk:
        _mount("-o", "remount,ro", disk)
        yield Folder(disk / "cache", "Read-only file system")


@contextmanager
def _tmpfs(path, size):
    need_root()
    path.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def _mount(*arguments):
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotHere(f"mount is refused: {getattr(error, 'stderr', error)}") from None


# The faults of folders, by name.
FOLDERS = {function.__name__.strip("_").replace("_", " "): contextmanager(function) for function in (
    _missing, _a_file_in_its_place, _others_can_write, _others_can_write_inside, _others_can_write_above, _sticky_above,
    _of_another_user, _of_another_user_above, _a_link_of_another_user, _a_link, _read_only_and_full, _read_only_and_empty,
    _closed, _small_disk, _full_disk, _read_only_disk, _read_only_disk_and_empty)}
