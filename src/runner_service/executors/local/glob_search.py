"""Finds files by name below a root: globs and the walk of the tree. All functions block on the file system.

As in `grep`, symlinks are not followed, `.git` is skipped, ignore files are heeded unless the search includes what is
ignored, and results are sorted by path, name by name. The result is truncated after 20 s, and where a directory has
over 100,000 entries or is over 200 deep.
"""

import heapq
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from runner_service.executors.local.deadline import Search
from runner_service.executors.local.globs import glob_matcher
from runner_service.executors.local.ignore_files import IgnoreRules, ignore_rules, path_names, rules_above
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


def glob_files(
    root: Root, pattern: str, path: str, search: Search, *, include_ignored: bool = False
) -> Found[FileEntry]:
    """Finds regular files. A pattern that begins with the real root is meant from there. Raises FileError."""
    if root.path != "/" and (below := root.below(pattern)):
        pattern, path = below, root.path
    matches = glob_matcher(pattern, search)
    found: list[FileEntry] = []
    with root.locate(path) as place:
        for file in walk_files(root, place, search, include_ignored=include_ignored):
            if not matches(file.relative):
                continue
            if len(found) == _MAX_FILES:
                return Found(found, truncated=True, why=f"there are more than {_MAX_FILES}; use a narrower pattern")
            with suppress(FileNotFoundError):
                found.append(_file_entry(file, place.path))
    return search.result(found)


class _Level(NamedTuple):
    """A directory of a walk, open, with the entries still to come and the names that lead to it from the root."""

    directory: int
    prefix: str
    entries: Iterator[os.DirEntry[str]]
    names: Sequence[str]
    rules: IgnoreRules | None

    def ignores(self, entry: os.DirEntry[str]) -> bool:
        """Returns whether the directory's ignore files, or those above it, name the entry."""
        return self.rules is not None and self.rules.ignore(
            [*self.names, entry.name], is_directory=entry.is_dir(follow_symlinks=False)
        )


class _Walk:
    def __init__(self, root: Root, place: Place, search: Search, *, include_ignored: bool) -> None:
        self._search = search
        self._include_ignored = include_ignored
        self._confinement = root.rules
        self._base = place.path.rstrip("/")
        names = path_names(root, place)
        above = None if include_ignored else rules_above(root, names, search)
        first = os.open(place.name, _LIST_FLAGS, dir_fd=place.directory)
        self._levels = [self._open(first, "", names, above)]

    def close(self) -> None:
        for level in self._levels:
            os.close(level.directory)

    def files(self) -> Iterator[FoundFile]:
        while self._levels and not self._search.has_passed():
            level = self._levels[-1]
            entry = next(level.entries, None)
            if entry is None:
                os.close(self._levels.pop().directory)
            elif self._hides(level, entry) or level.ignores(entry):
                continue
            elif entry.is_file(follow_symlinks=False):
                yield FoundFile(level.prefix + entry.name, level.directory, entry)
            elif entry.is_dir(follow_symlinks=False):
                self._enter(level, entry.name)

    def _hides(self, level: _Level, entry: os.DirEntry[str]) -> bool:
        hidden = self._confinement.hidden
        return bool(hidden) and self._confinement.is_hidden(f"{self._base}/{level.prefix}{entry.name}")

    def _enter(self, level: _Level, name: str) -> None:
        if len(self._levels) == _MAX_DEPTH:
            self._search.mark_incomplete(f"directories are nested more than {_MAX_DEPTH} deep")
            return
        # What may not be listed, or is gone, has nothing to show.
        with suppress(OSError):
            opened = os.open(name, _LIST_FLAGS, dir_fd=level.directory)
            self._levels.append(self._open(opened, f"{level.prefix}{name}/", [*level.names, name], level.rules))

    def _open(self, directory: int, prefix: str, names: Sequence[str], above: IgnoreRules | None) -> _Level:
        try:
            with os.scandir(directory) as entries:
                kept = [entry for entry in islice(entries, _MAX_ENTRIES + 1) if entry.name != SKIPPED_DIRECTORY]
            rules = None if self._include_ignored else ignore_rules(above, directory, len(names), self._search)
        except BaseException:
            os.close(directory)
            raise
        if len(kept) > _MAX_ENTRIES:
            self._search.mark_incomplete(f"a directory has more than {_MAX_ENTRIES:,} entries")
        return _Level(directory, prefix, sorted_in_steps(kept, attrgetter("name")), names, rules)


def walk_files(root: Root, place: Place, search: Search, *, include_ignored: bool) -> Iterator[FoundFile]:
    """Yields the regular files below a directory that are not hidden, sorted, until the deadline. Raises FileError."""
    if not stat.S_ISDIR(os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode):
        raise FileError("not_directory", f"{place.path}: this is not a directory")
    walk = _Walk(root, place, search, include_ignored=include_ignored)
    try:
        yield from walk.files()
    finally:
        walk.close()


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
