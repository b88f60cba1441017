"""Private folders and files, where nobody but this user can have put code.

Whoever reads compiled code runs it. A digest beside it shows damage, but not who wrote it: whoever can write the file can write
its digest. So the protection is in who can write. The folder belongs to this user, and nobody else can write to it. The same
holds for every folder on the path to it, links included, because whoever can write to a folder can rename what is in it and put
something else in its place. sshd's StrictModes asks the same of a home folder. These exceptions add no risk:

    root, who can do anything
    a sticky folder, like /tmp, where users cannot rename each other's files
    the home folder's owner, its group if that can write there, and all folders above: Python and the shell run code from there
    a group that has this user's name, and only this user as a member

Access lists that a file's mode does not show, as NFSv4 and macOS have them, are not checked. On Windows nothing is checked,
because a user's own folders are private there.
"""
import os
import stat
from contextlib import suppress
from pathlib import Path

# The bits of a mode that let the group or everybody write.
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

# The most links that are followed in one path: Linux's own limit.
_MOST_LINKS = 40

# Whether files have POSIX owners and modes here.
_POSIX = os.name == "posix"


class Unsafe(Exception):
    """An error for a folder where another user could put code."""


def folder(path: Path) -> Path:
    """Make the folder unless it exists, check that it is private, and return it without links in its path.

    Raises Unsafe if it is not private, and OSError if it cannot be made.
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
    """Return a file's content, or None if it is not regular, has more than `most` bytes, or others could have written it.

    Raises OSError.
    """
    with open(path, "rb", opener=_open) as file:
        status = os.fstat(file.fileno())
        is_own = not _POSIX or (status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE)
        return file.read() if is_own and stat.S_ISREG(status.st_mode) and status.st_size <= most else None


def _open(path, flags):
    """Open the file without following a link and without waiting for the writer of a pipe.

    A link could lead to a file that belongs to this user but whose content came from others.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


class _Trust:
    """The users, groups and folders that can make this user run their code even without a cache."""

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
        """Raise Unsafe if others can replace what is at `path` or, if that is a folder, what is in it."""
        if path in self.folders:
            return
        if status.st_uid not in self.users:
            raise Unsafe(f"{path}, on the way to it, belongs to user {status.st_uid}, expected {os.geteuid()} or root")
        others = status.st_mode & (stat.S_IWOTH if status.st_gid in self.groups else _OTHERS_WRITE)
        if others and not stat.S_ISLNK(status.st_mode) and not status.st_mode & stat.S_ISVTX:
            raise Unsafe(f"{path}, on the way to it, has mode {status.st_mode & 0o777:o}: others can put another folder there")


def _own_group():
    """Yield this user's primary group if it has the user's name and nobody else is in it."""
    import grp
    import pwd
    with suppress(KeyError):
        user = pwd.getpwuid(os.geteuid())
        group = grp.getgrgid(user.pw_gid)
        if group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}:
            yield user.pw_gid


def _followed(path, trust, links):
    """Return the path with its links followed. Each part is checked before the parts after it. Raises Unsafe."""
    for part in [*reversed(path.parents), path]:
        status = part.lstat()
        trust.check(part, status)
        if stat.S_ISLNK(status.st_mode):
            if not links:
                raise Unsafe(f"{path} has too many links in it")
            return _followed(part.parent / os.readlink(part) / path.relative_to(part), trust, links - 1)
    return path
