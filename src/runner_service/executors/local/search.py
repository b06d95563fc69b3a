"""Glob search below a root. All functions block on the file system.

As in `grep`, symlinks are not followed, `.git` is skipped, no ignore file is heeded, and results are sorted by path,
name by name. The result is truncated after 20 s, and where a directory has over 100,000 entries or is over 200 deep.
"""

import heapq
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from runner_service.executors.local.confinement.file_rules import FileRules
from runner_service.executors.local.deadline import Search
from runner_service.executors.local.globs import glob_matcher
from runner_service.executors.local.paths import Place, Root, display_path
from runner_service.executors.protocol import FileEntry, FileError, Found

SKIPPED_DIRECTORY = ".git"

_MAX_FILES = 10_000
_MAX_ENTRIES = 100_000
_MAX_DEPTH = 200  # each level holds a descriptor
_SORTED_AT_ONCE = 10_000  # some milliseconds, in which no other thread runs
T = TypeVar("T")
_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FoundFile(NamedTuple):
    """A regular file of a walk: its relative path and, until the walk continues, its open directory and entry."""

    relative: str
    directory: int
    entry: os.DirEntry[str]

    def place(self, base: str) -> Place:
        """Returns its place, with `base` as prefix of the displayed path."""
        return Place(self.directory, self.entry.name, f"{base.rstrip('/')}/{self.relative}")


def glob_files(root: Root, pattern: str, path: str, search: Search) -> Found[FileEntry]:
    """Finds regular files. A pattern that begins with the real root is meant from there. Raises FileError."""
    if root.path != "/" and (below := root.below(pattern)):
        pattern, path = below, root.path
    matches = glob_matcher(pattern, search)
    found: list[FileEntry] = []
    with root.locate(path) as place:
        for file in walk_files(place, search, root.rules):
            if not matches(file.relative):
                continue
            if len(found) == _MAX_FILES:
                return Found(found, truncated=True, why=f"there are more than {_MAX_FILES}; use a narrower pattern")
            with suppress(FileNotFoundError):
                found.append(_file_entry(file, place.path))
    return search.result(found)


def walk_files(place: Place, search: Search, rules: FileRules) -> Iterator[FoundFile]:
    """Yields the regular files below a directory that are not hidden, sorted, until the deadline. Raises FileError."""
    if not stat.S_ISDIR(os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode):
        raise FileError("not_directory", f"{place.path}: this is not a directory")
    levels = [_open_level(os.open(place.name, _LIST_FLAGS, dir_fd=place.directory), "", search)]
    try:
        while levels and not search.has_passed():
            directory, prefix, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                os.close(levels.pop()[0])
            elif rules.hidden and rules.is_hidden(f"{place.path.rstrip('/')}/{prefix}{entry.name}"):
                continue
            elif entry.is_file(follow_symlinks=False):
                yield FoundFile(prefix + entry.name, directory, entry)
            elif entry.is_dir(follow_symlinks=False):
                if len(levels) == _MAX_DEPTH:
                    search.mark_incomplete(f"directories are nested more than {_MAX_DEPTH} deep")
                    continue
                # What may not be listed, or is gone, has nothing to show.
                with suppress(OSError):
                    opened = os.open(entry.name, _LIST_FLAGS, dir_fd=directory)
                    levels.append(_open_level(opened, f"{prefix}{entry.name}/", search))
    finally:
        for directory, _, _ in levels:
            os.close(directory)


def _open_level(directory: int, prefix: str, search: Search) -> tuple[int, str, Iterator[os.DirEntry[str]]]:
    try:
        with os.scandir(directory) as entries:
            kept = [entry for entry in islice(entries, _MAX_ENTRIES + 1) if entry.name != SKIPPED_DIRECTORY]
    except BaseException:
        os.close(directory)
        raise
    if len(kept) > _MAX_ENTRIES:
        search.mark_incomplete(f"a directory has more than {_MAX_ENTRIES:,} entries")
    return directory, prefix, sorted_in_steps(kept, attrgetter("name"))


def sorted_in_steps(items: Iterable[T], key: Callable[[T], Any]) -> Iterator[T]:
    """Sorts lazily, never holding the GIL for more than some milliseconds."""
    rest = iter(items)
    runs = []
    while run := sorted(islice(rest, _SORTED_AT_ONCE), key=key):
        runs.append(run)
    return heapq.merge(*runs, key=key)


def _file_entry(file: FoundFile, base: str) -> FileEntry:
    status = file.entry.stat(follow_symlinks=False)
    return FileEntry(
        display_path(file.place(base).path), is_directory=False, size=status.st_size, modified=status.st_mtime
    )
