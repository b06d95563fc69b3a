"""Finding files by name below a root. All functions block on the file system.

One behaviour for this and for `grep`: symlinks are not followed, `.git` is skipped, no ignore file is heeded, results
are sorted by path, name by name, and after 20 seconds what was found until then is all.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from runner_service.executors.local.paths import Place, Root, readable
from runner_service.executors.protocol import FileEntry, FileError, Found

SEARCH_SECONDS = 20.0
SKIPPED = ".git"

_MOST_FILES = 10_000
_TOO_LONG = "the search took too long; search a smaller directory"
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")
Matcher = Callable[[str], bool]


class FoundFile(NamedTuple):
    """A regular file of a walk: its path from where that began, and, until the walk goes on, where it is."""

    relative: str
    directory: int
    entry: os.DirEntry[str]

    def place(self, base: str) -> Place:
        """Returns its place, with `base` in front of the path to show."""
        return Place(self.directory, self.entry.name, f"{base.rstrip('/')}/{self.relative}")


class Clock:
    """How long a search may still take; `stop` ends it at once."""

    def __init__(self, seconds: float = SEARCH_SECONDS) -> None:
        self._end = time.monotonic() + seconds

    def stop(self) -> None:
        """Makes the search end as if the time were up."""
        self._end = 0.0

    def is_up(self) -> bool:
        """Says whether the search has to end."""
        return time.monotonic() >= self._end


def matcher(pattern: str) -> Matcher:
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


def glob_files(root: Root, pattern: str, path: str, clock: Clock) -> Found[FileEntry]:
    """Finds regular files. A pattern that begins with the real root is meant from there. Raises FileError."""
    if pattern.startswith(f"{root.path}/") and root.path != "/":
        pattern, path = pattern.removeprefix(root.path), root.path
    matches = matcher(pattern)
    found: list[FileEntry] = []
    with root.locate(path) as place:
        for file in walk(place, clock):
            if not matches(file.relative):
                continue
            if len(found) == _MOST_FILES:
                return Found(found, truncated=True, why=f"there are more than {_MOST_FILES}; use a narrower pattern")
            with suppress(FileNotFoundError):
                found.append(_described(file, place.path))
    return found_until(clock, found)


def found_until(clock: Clock, items: Sequence[T]) -> Found[T]:
    """Returns what a search found, which is not all if its time is up."""
    return Found(items, truncated=True, why=_TOO_LONG) if clock.is_up() else Found(items)


def walk(place: Place, clock: Clock) -> Iterator[FoundFile]:
    """Yields the regular files below a directory in order, until the time is up. Raises FileError."""
    if not stat.S_ISDIR(os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode):
        raise FileError("not_directory", f"{place.path}: this is not a directory")
    levels = [_listed(os.open(place.name, _LIST, dir_fd=place.directory), "")]
    try:
        while levels and not clock.is_up():
            directory, prefix, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                os.close(levels.pop()[0])
            elif entry.is_file(follow_symlinks=False):
                yield FoundFile(prefix + entry.name, directory, entry)
            elif entry.is_dir(follow_symlinks=False):
                # What may not be listed, or is gone, has nothing to show.
                with suppress(OSError):
                    levels.append(_listed(os.open(entry.name, _LIST, dir_fd=directory), f"{prefix}{entry.name}/"))
    finally:
        for directory, _, _ in levels:
            os.close(directory)


def _listed(directory: int, prefix: str) -> tuple[int, str, Iterator[os.DirEntry[str]]]:
    try:
        with os.scandir(directory) as entries:
            kept = sorted((entry for entry in entries if entry.name != SKIPPED), key=lambda entry: entry.name)
    except OSError:
        os.close(directory)
        raise
    return directory, prefix, iter(kept)


def _described(file: FoundFile, base: str) -> FileEntry:
    status = file.entry.stat(follow_symlinks=False)
    return FileEntry(readable(file.place(base).path), is_directory=False, size=status.st_size, modified=status.st_mtime)
