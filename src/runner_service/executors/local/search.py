"""Glob search below a root. All functions block on the file system.

One behaviour for this and for `grep`: symlinks are not followed, `.git` is skipped, no ignore file is heeded, results
are sorted by path, name by name, and after 20 seconds what was found until then is all.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from runner_service.executors.local.paths import Place, Root, display_path
from runner_service.executors.protocol import FileEntry, FileError, Found

SEARCH_TIMEOUT_SECONDS = 20.0
SKIPPED_DIRECTORY = ".git"

_MAX_FILES = 10_000
_TIMED_OUT = "the search took too long; search a smaller directory"
_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")
Matcher = Callable[[str], bool]


class FoundFile(NamedTuple):
    """A regular file of a walk: its relative path and, until the walk continues, its open directory and entry."""

    relative: str
    directory: int
    entry: os.DirEntry[str]

    def place(self, base: str) -> Place:
        """Returns its place, with `base` as prefix of the displayed path."""
        return Place(self.directory, self.entry.name, f"{base.rstrip('/')}/{self.relative}")


class Deadline:
    """The time limit of a search; `stop` ends it early, from any thread."""

    def __init__(self, seconds: float = SEARCH_TIMEOUT_SECONDS) -> None:
        self._end = time.monotonic() + seconds

    def stop(self) -> None:
        """Expires the deadline."""
        self._end = 0.0

    def has_passed(self) -> bool:
        """Returns whether the search must end."""
        return time.monotonic() >= self._end


def glob_matcher(pattern: str) -> Matcher:
    """Returns what says whether a path, relative to where the search begins, matches a glob.

    Without `/` in it the pattern is matched with names at any depth, else with whole paths, `**` standing for any
    directories; a leading `/` is where the search begins. `{a,b}` expands. A leading dot has to be written.

    Raises:
        FileError: the pattern is refused.
    """
    from wcmatch import glob  # noqa: PLC0415  # only who searches pays for it

    if ".." in pattern.split("/") or not pattern.strip("/"):
        raise FileError("invalid", f"{pattern}: not a pattern for files below a directory")
    try:
        compiled = glob.compile(pattern.lstrip("/"), flags=glob.BRACE | glob.GLOBSTAR | glob.CASE | glob.FORCEUNIX)
    except Exception as error:  # the class of "too many alternatives" is private to wcmatch
        raise FileError("invalid", f"{pattern}: {error}") from error
    if "/" in pattern:
        return compiled.match
    return lambda path: compiled.match(path.rpartition("/")[2])


def glob_files(root: Root, pattern: str, path: str, deadline: Deadline) -> Found[FileEntry]:
    """Finds regular files. A pattern that begins with the real root is meant from there. Raises FileError."""
    if pattern.startswith(f"{root.path}/") and root.path != "/":
        pattern, path = pattern.removeprefix(root.path), root.path
    matches = glob_matcher(pattern)
    found: list[FileEntry] = []
    with root.locate(path) as place:
        for file in walk_files(place, deadline):
            if not matches(file.relative):
                continue
            if len(found) == _MAX_FILES:
                return Found(found, truncated=True, why=f"there are more than {_MAX_FILES}; use a narrower pattern")
            with suppress(FileNotFoundError):
                found.append(_file_entry(file, place.path))
    return search_result(deadline, found)


def search_result(deadline: Deadline, items: Sequence[T]) -> Found[T]:
    """Wraps the items found, marked as truncated if the deadline has passed."""
    return Found(items, truncated=True, why=_TIMED_OUT) if deadline.has_passed() else Found(items)


def walk_files(place: Place, deadline: Deadline) -> Iterator[FoundFile]:
    """Yields the regular files below a directory, sorted, until the deadline. Raises FileError."""
    if not stat.S_ISDIR(os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode):
        raise FileError("not_directory", f"{place.path}: this is not a directory")
    levels = [_open_level(os.open(place.name, _LIST_FLAGS, dir_fd=place.directory), "")]
    try:
        while levels and not deadline.has_passed():
            directory, prefix, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                os.close(levels.pop()[0])
            elif entry.is_file(follow_symlinks=False):
                yield FoundFile(prefix + entry.name, directory, entry)
            elif entry.is_dir(follow_symlinks=False):
                # What may not be listed, or is gone, has nothing to show.
                with suppress(OSError):
                    levels.append(
                        _open_level(os.open(entry.name, _LIST_FLAGS, dir_fd=directory), f"{prefix}{entry.name}/")
                    )
    finally:
        for directory, _, _ in levels:
            os.close(directory)


def _open_level(directory: int, prefix: str) -> tuple[int, str, Iterator[os.DirEntry[str]]]:
    try:
        with os.scandir(directory) as entries:
            kept = sorted((entry for entry in entries if entry.name != SKIPPED_DIRECTORY), key=lambda entry: entry.name)
    except OSError:
        os.close(directory)
        raise
    return directory, prefix, iter(kept)


def _file_entry(file: FoundFile, base: str) -> FileEntry:
    status = file.entry.stat(follow_symlinks=False)
    return FileEntry(
        display_path(file.place(base).path), is_directory=False, size=status.st_size, modified=status.st_mtime
    )
