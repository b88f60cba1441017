"""Folders and files that nobody but this user can have put code in.

To read compiled code is to run it, and a digest beside it tells damage from health, not friend from foe: whoever can write
the file can write its digest. What protects is who can write: the folder is this user's and only the user can write to it,
and so it is with every folder on the way there, links included, since who can write to a folder can rename what is in it and
put something else in its place. It is what sshd's StrictModes asks of a home folder. Allowed is what costs nothing:

    root, who can do anything
    a sticky folder, like /tmp: there nobody renames what is another's
    the home folder's owner, its group if that can write there, and all above it: Python and the shell take code from it anyway
    a group that has this user's name, and only this user in it

Not seen are access lists that the mode does not show, as NFSv4 and macOS have them, and Windows is not asked: there a user's
own folders are private.
"""
import os
import stat
from contextlib import suppress
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40                # as Linux has it
_POSIX = os.name == "posix"


class Unsafe(Exception):
    """Another user could put code there."""


def folder(path: Path) -> Path:
    """Make the folder, unless it is there, and see that it is private; returns it without links in its path.

    Raises Unsafe, and OSError where it cannot be made.
    """
    for missing in reversed([path, *path.parents]):
        if not missing.is_dir():
            missing.mkdir(mode=0o700, exist_ok=True)
    if not _POSIX:
        return path
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise Unsafe(f"{path} belongs to user {status.st_uid}, expected {os.geteuid()}")
    if status.st_mode & _OTHERS_WRITE:
        raise Unsafe(f"{path} has mode {status.st_mode & 0o777:o}, expected 700: others can write to it")
    return _followed(path, _Trust(), _MOST_LINKS)


def read(path: Path, most: int) -> bytes | None:
    """The content of a file, unless it is no regular one, of more than `most` bytes, or another user could have written it.

    Raises OSError.
    """
    with open(path, "rb", opener=_open) as file:
        status = os.fstat(file.fileno())
        is_own = not _POSIX or (status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE)
        return file.read() if is_own and stat.S_ISREG(status.st_mode) and status.st_size <= most else None


def _open(path, flags):
    """No link, which could lead to a file that this user has, but has from others; and no wait for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


class _Trust:
    """Who and what can run code as this user without a cache."""

    def __init__(self):
        home = Path(os.path.expanduser("~"))
        self.folders = {*home.parents, *Path(os.path.realpath(home)).parents}
        self.users, self.groups = {0, os.geteuid()}, set(_own_group())
        with suppress(OSError):
            status = home.stat()
            self.users.add(status.st_uid)
            if status.st_mode & stat.S_IWGRP:
                self.groups.add(status.st_gid)

    def check(self, path, status):
        """Raise Unsafe if others can put something else in the place of what is at `path` or, of a folder, in it."""
        if path in self.folders:
            return
        if status.st_uid not in self.users:
            raise Unsafe(f"{path}, on the way to it, belongs to user {status.st_uid}, expected {os.geteuid()} or root")
        others = status.st_mode & (stat.S_IWOTH if status.st_gid in self.groups else _OTHERS_WRITE)
        if others and not stat.S_ISLNK(status.st_mode) and not status.st_mode & stat.S_ISVTX:
            raise Unsafe(f"{path}, on the way to it, has mode {status.st_mode & 0o777:o}: others can put another folder there")


def _own_group():
    """This user's first group, if it is of the user's name and nobody else is in it."""
    import grp
    import pwd
    with suppress(KeyError):
        user = pwd.getpwuid(os.geteuid())
        group = grp.getgrgid(user.pw_gid)
        if group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}:
            yield user.pw_gid


def _followed(path, trust, links):
    """The path with its links followed, each part of it checked before what is beyond."""
    for part in [*reversed(path.parents), path]:
        status = part.lstat()
        trust.check(part, status)
        if stat.S_ISLNK(status.st_mode):
            if not links:
                raise Unsafe(f"{path} has too many links in it")
            return _followed(part.parent / os.readlink(part) / path.relative_to(part), trust, links - 1)
    return path
