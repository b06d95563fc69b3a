"""Race-free path resolution confined to a root directory.

A path is resolved one name at a time, each opened relative to the previous directory without following symlinks; links
are read and resolved in the same way. So there is no time between check and use.
"""

import errno
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runner_service.executors.local.confinement.file_rules import FileRules
from runner_service.executors.protocol import FileError, FileErrorCode

_MAX_SYMLINKS = 40
_MAX_PATH_CHARACTERS = 4096
_MAX_DEPTH = 500  # each level holds a descriptor
_NO_RULES = FileRules()
_ENTER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_CODES: dict[int, tuple[FileErrorCode, str]] = {
    errno.ENOENT: ("not_found", "there is no such file or directory; list its directory to see what there is"),
    errno.ENOTDIR: ("not_directory", "a part of this path is not a directory"),
    errno.EISDIR: ("is_directory", "this is a directory"),
    errno.EACCES: ("permission_denied", "permission denied"),
    errno.EPERM: ("permission_denied", "permission denied"),
    errno.EROFS: ("permission_denied", "the file system is read-only"),
    errno.ENOSPC: ("no_space", "no space is left on the device; nothing was changed"),
    errno.EDQUOT: ("no_space", "the disk quota is used up; nothing was changed"),
    errno.EFBIG: ("too_large", "the file would become larger than the system allows; nothing was changed"),
    errno.ENAMETOOLONG: ("invalid", "the path or a name in it is too long"),
    errno.ELOOP: ("invalid", "the path changed while it was being opened, or its symlinks go in a circle"),
    errno.ENXIO: ("not_regular", "this is not a regular file"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A resolved path: an open directory, a name in it (`.` for the directory itself), and the real path."""

    directory: int
    name: str
    path: str


@contextmanager
def file_errors(path: str) -> Iterator[None]:
    """Converts OSError to a FileError that names the path as requested."""
    try:
        yield
    except OSError as error:
        code, text = _CODES.get(error.errno or 0, ("invalid", error.strerror or "the system refused it"))
        raise FileError(code, f"{path}: {text}") from error


class Root:
    """A directory, by its real path, and the paths below it. Without `follows_links` none is followed."""

    def __init__(self, path: str, rules: FileRules | None = None, *, follows_links: bool = True) -> None:
        self.path = path.rstrip("/") or "/"
        self.rules = rules or _NO_RULES
        self.follows_links = follows_links

    @contextmanager
    def locate(self, path: str, *, follow: bool = True, create: bool = False, write: bool = False) -> Iterator[Place]:
        """Walks to `path`; the last name need not exist. What the system refuses inside the block is a FileError too.

        Args:
            path: as the agent names it: below the real root as it stands, else `/` means the root.
            follow: whether a symlink at the end is followed.
            create: whether missing directories on the way are made.
            write: whether what is there is to be changed.

        Raises:
            FileError: it leads out of the root, cannot be walked, or is refused by the rules.
        """
        with file_errors(path):
            walk = _Walk(self, path, follow=follow, create=create, write=write)
            try:
                yield walk.resolve()
            finally:
                walk.close()

    def relative(self, path: str) -> str:
        """Returns `path` without the root in front of it, if it has that; `..` is left in.

        Raises:
            FileError: no path can be like this.
        """
        if "\0" in path:
            raise FileError("invalid", "a path cannot contain a NUL character")
        if len(path) > _MAX_PATH_CHARACTERS:
            raise FileError("invalid", f"a path has at most {_MAX_PATH_CHARACTERS} characters")
        below = self.below(path)
        return path if below is None else below

    def below(self, path: str) -> str | None:
        """Returns an absolute path's part below the root, however it names the root; None if it is not below it.

        The root is recognised by its inode as well, since users and models name it as they know it: by a symlink to it,
        or by another mount of it.
        """
        if self.path in {"/", path} or path.startswith(f"{self.path}/"):
            return path.removeprefix(self.path)
        if not path.startswith("/"):
            return None
        try:
            root, names, prefix = Path(self.path).stat(), _names(path), ""
            for index, name in enumerate(names):
                prefix += f"/{name}"
                if os.path.samestat(Path(prefix).stat(), root):
                    return "/" + "/".join(names[index + 1 :])
        except OSError:  # the path does not exist by this name
            pass
        return None

    def shown(self, names: list[str]) -> str:
        """Returns the absolute path of these names below the root."""
        return "/".join([self.path.rstrip("/"), *names]) or "/"


class _Walk:
    def __init__(self, root: Root, path: str, *, follow: bool, create: bool, write: bool) -> None:
        self._root = root
        self._asked = path
        self._follow = follow
        self._create = create
        self._write = write
        self._pending = deque(_names(root.relative(path)))
        self._directories = [os.open(root.path, _ENTER_FLAGS & ~os.O_NOFOLLOW)]
        self._entered: list[str] = []
        self._links = 0

    def close(self) -> None:
        while self._directories:
            os.close(self._directories.pop())

    def resolve(self) -> Place:
        while self._pending:
            name = self._pending.popleft()
            if name == "..":
                self._go_up()
            elif (target := self._link(name)) is not None:
                self._follow_symlink(target)
            elif self._pending:
                self._enter(name)
            else:
                return self._place(name, [*self._entered, name])
        return self._place(".", self._entered)

    def _place(self, name: str, names: list[str]) -> Place:
        path = self._root.shown(names)
        self._root.rules.require_readable(path)
        if self._write:
            self._root.rules.require_writable(path)
        return Place(self._directories[-1], name, path)

    def _go_up(self) -> None:
        if not self._entered:
            raise self._outside()
        self._entered.pop()
        os.close(self._directories.pop())

    def _link(self, name: str) -> str | None:
        """Returns the target if `name` is a symlink to follow."""
        if not self._pending and not (self._follow and self._root.follows_links):
            return None
        try:
            return os.readlink(name, dir_fd=self._directories[-1])
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOENT}:
                return None
            raise

    def _follow_symlink(self, target: str) -> None:
        if not self._root.follows_links:
            raise FileError("changed", f"{self._asked}: a symlink is on the way to it")
        self._links += 1
        if self._links > _MAX_SYMLINKS:
            raise FileError("invalid", f"{self._asked}: its symlinks go in a circle")
        if target.startswith("/"):
            below = self._root.below(target)
            if below is None:
                raise self._outside()
            while self._entered:
                self._go_up()
            target = below
        self._pending.extendleft(reversed(_names(target)))

    def _enter(self, name: str) -> None:
        if len(self._directories) > _MAX_DEPTH:
            raise FileError("invalid", f"{self._asked[:100]}…: nested more than {_MAX_DEPTH} deep")
        try:
            directory = os.open(name, _ENTER_FLAGS, dir_fd=self._directories[-1])
        except FileNotFoundError:
            if not self._create:
                raise
            self._root.rules.require_writable(self._root.shown([*self._entered, name]))
            os.mkdir(name, dir_fd=self._directories[-1])
            directory = os.open(name, _ENTER_FLAGS, dir_fd=self._directories[-1])
        self._directories.append(directory)
        self._entered.append(name)

    def _outside(self) -> FileError:
        return FileError("outside_root", f"{self._asked}: leads out of {self._root.path}, where all files have to be")


def display_path(path: str) -> str:
    """Returns a path as displayable text; bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]
