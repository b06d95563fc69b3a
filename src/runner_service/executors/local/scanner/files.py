"""Reads files of a directory that others may change meanwhile, without following symlinks."""

import hashlib
import os
import stat
from contextlib import suppress
from typing import NamedTuple

MAX_CONTENT_BYTES = 10 * 1024 * 1024
"""Larger files are listed, without their content."""

FILE, EXECUTABLE, SYMLINK, REPOSITORY = "file", "executable", "symlink", "repository"
_ENTER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class Content(NamedTuple):
    """What is at a path: the kind, the size in bytes, and the content, unless it is too large or a repository's."""

    kind: str
    size: int
    data: bytes | None = None
    identity: str = ""
    """Tells apart what has no content: the version of a large file, the commit of a repository."""

    def describe(self) -> dict[str, object]:
        """Returns what a message says of it."""
        digest = hashlib.sha256(self.data).hexdigest() if self.data is not None else ""
        return {"kind": self.kind, "size": self.size, "sha256": digest, "identity": self.identity}


class Status(NamedTuple):
    """The status of a path, as the scanner remembers it. A change of the file changes it."""

    kind: str
    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @property
    def identity(self) -> str:
        """Tells versions of a large file apart."""
        return f"{self.size}:{self.modified_ns}"


def status_of(path: str | int, found: os.stat_result | None = None) -> Status | None:
    """Returns the status of a file or a symlink; None when there is neither."""
    if found is None:
        with suppress(OSError, ValueError):
            found = os.stat(path, follow_symlinks=False) if isinstance(path, str) else os.fstat(path)
    if found is None or not (kind := kind_of(found.st_mode)):
        return None
    return Status(kind, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def kind_of(mode: int) -> str:
    """Returns the kind of a file by its mode; empty for what is not tracked."""
    if stat.S_ISLNK(mode):
        return SYMLINK
    if stat.S_ISREG(mode):
        return EXECUTABLE if mode & stat.S_IXUSR else FILE
    return ""


def read_below(root: int, path: str) -> Content | None:
    """Reads a file or a symlink below an open directory; None when there is none that can be read."""
    *parents, name = path.split("/")
    directory = os.dup(root)
    try:
        for parent in parents:
            above, directory = directory, os.open(parent, _ENTER_FLAGS, dir_fd=directory)
            os.close(above)
        return read_at(directory, name)
    except (OSError, ValueError):
        return None
    finally:
        os.close(directory)


def read_at(directory: int, name: str) -> Content | None:
    """Reads a file or a symlink in an open directory; None when it is neither. Raises OSError, ValueError."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        target = os.fsencode(os.readlink(name, dir_fd=directory))
        return Content(SYMLINK, len(target), target)
    if not stat.S_ISREG(found.st_mode):
        return None
    with open(os.open(name, _READ_FLAGS, dir_fd=directory), "rb") as file:
        if (status := status_of(file.fileno())) is None:
            return None
        if status.size > MAX_CONTENT_BYTES:
            return Content(status.kind, status.size, None, status.identity)
        data = file.read(MAX_CONTENT_BYTES + 1)
    if len(data) > MAX_CONTENT_BYTES:
        return Content(status.kind, len(data), None, status.identity)
    return Content(status.kind, len(data), data)


def last_change(root: str, path: str) -> float:
    """Returns when a path was last changed or, if it is gone, when its directory was; 0 when neither is known."""
    with suppress(OSError, ValueError):
        return os.lstat(f"{root}/{path}").st_ctime
    with suppress(OSError, ValueError):
        return os.lstat(os.path.dirname(f"{root}/{path}")).st_ctime
    return 0.0
