"""Tracks a directory without git: remembers the status of every file, and keeps a copy of its content."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.ignore_files import IgnoreRules, ignore_rules
from runner_service.executors.local.scanner.changes import Change, Limits, NotTrackedError, Place
from runner_service.executors.local.scanner.files import (
    MAX_CONTENT_BYTES,
    REPOSITORY,
    SYMLINK,
    Content,
    Status,
    read_below,
    status_of,
)
from runner_service.executors.protocol import FileError

_SCAN_TIMEOUT_SECONDS = 60.0
_MAX_DEPTH = 200
_ENTER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Known(NamedTuple):
    """What is remembered of a path: its status, and where its content is in the file of contents; -1 for nowhere."""

    status: Status
    offset: int
    sha256: str


class WalkTracker:
    """Remembers the status of each file in a table."""

    def __init__(self, place: Place, limits: Limits) -> None:
        self._root, directory, self._skips_hidden = place
        self._limits = limits
        self._table = f"{directory}/files.json"
        self._contents = f"{directory}/contents"

    def remember(self) -> int:
        """Remembers the directory as it is now, and returns how many files it has. Raises NotTrackedError."""
        found = self._statuses(())
        self._limits.require_files(len(found))
        stored = sum(each.size for each in found.values() if each.size <= MAX_CONTENT_BYTES)
        self._limits.require_new(len(found), stored)
        with open(self._contents, "wb"):
            pass
        known: dict[str, _Known] = {}
        for _ in self._changes(known, found):
            pass
        self._write(known)
        return len(known)

    def changes(self, also: Sequence[str]) -> Iterator[Change]:
        """Yields what has changed since it was last remembered, and remembers that. `also` names ignored files."""
        known = self._read()
        found = self._statuses(also)
        self._limits.require_files(len(found))
        yield from self._changes(known, found)
        self._write(known)

    def _changes(self, known: dict[str, _Known], found: dict[str, Status]) -> Iterator[Change]:
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with open(self._contents, "r+b") as contents:
                for path in sorted(known.keys() - found.keys()):
                    yield Change(path, _content(known.pop(path), contents), None)
                for path, status in found.items():
                    old = known.get(path)
                    if old and old.status == status:
                        continue
                    before = _content(old, contents) if old else None
                    after = _now(root, path, status)
                    if after is None:
                        continue
                    known[path] = _kept(status, after, contents)
                    yield Change(path, before, after)
        finally:
            os.close(root)

    def _statuses(self, also: Sequence[str]) -> dict[str, Status]:
        """Returns the status of each file that no ignore file names, and of each of `also`."""
        deadline = Deadline(_SCAN_TIMEOUT_SECONDS)
        root = os.open(self._root, _ENTER_FLAGS)
        try:
            found = dict(self._walk(root, (), None, deadline))
        except FileError as error:
            raise NotTrackedError(error.message) from error
        finally:
            os.close(root)
        for path in also:
            if path not in found and (status := status_of(f"{self._root}/{path}")):
                found[path] = status
        return found

    def _walk(
        self, directory: int, names: tuple[str, ...], above: IgnoreRules | None, deadline: Deadline
    ) -> Iterator[tuple[str, Status]]:
        rules = ignore_rules(above, directory, len(names), deadline)
        with os.scandir(directory) as entries:
            below = sorted(entries, key=lambda entry: entry.name)
        for entry in below:
            path = [*names, entry.name]
            is_directory = entry.is_dir(follow_symlinks=False)
            is_left_out = entry.name == ".git" or (
                self._skips_hidden and is_directory and not names and entry.name.startswith(".")
            )
            if is_left_out or (rules and rules.ignore(path, is_directory=is_directory)):
                continue
            with suppress(OSError):
                if not is_directory:
                    if status := status_of("", entry.stat(follow_symlinks=False)):
                        yield "/".join(path), status
                elif len(path) < _MAX_DEPTH:
                    yield from self._enter(directory, entry.name, tuple(path), rules, deadline)

    def _enter(
        self, above: int, name: str, names: tuple[str, ...], rules: IgnoreRules | None, deadline: Deadline
    ) -> Iterator[tuple[str, Status]]:
        directory = os.open(name, _ENTER_FLAGS, dir_fd=above)
        try:
            if os.access(".git", os.F_OK, dir_fd=directory, follow_symlinks=False):
                yield "/".join(names), Status(REPOSITORY, 0, 0, 0, 0)
            else:
                yield from self._walk(directory, names, rules, deadline)
        finally:
            os.close(directory)

    def _read(self) -> dict[str, _Known]:
        try:
            with open(self._table, encoding="ascii") as file:
                rows = json.load(file)
        except (OSError, ValueError) as error:
            raise NotTrackedError("the scanner's directory was deleted while the execution ran") from error
        return {path: _Known(Status(*status), offset, sha256) for path, (status, offset, sha256) in rows.items()}

    def _write(self, known: dict[str, _Known]) -> None:
        with open(self._table, "w", encoding="ascii") as file:
            json.dump(known, file)


def _now(root: int, path: str, status: Status) -> Content | None:
    if status.kind == REPOSITORY:
        return Content(REPOSITORY, 0, None, "nested")
    return read_below(root, path)


def _content(known: _Known, contents: BinaryIO) -> Content:
    """Returns what a file held when it was remembered."""
    status = known.status
    if known.offset < 0:
        return Content(status.kind, status.size, None, "nested" if status.kind == REPOSITORY else status.identity)
    contents.seek(known.offset)
    data = contents.read(status.size)
    is_intact = hashlib.sha256(data).hexdigest() == known.sha256
    return Content(status.kind, status.size, data if is_intact else None, "" if is_intact else known.sha256)


def _kept(status: Status, content: Content, contents: BinaryIO) -> _Known:
    """Keeps the content of a file."""
    if content.data is None:
        return _Known(status, -1, "")
    offset = contents.seek(0, os.SEEK_END)
    contents.write(content.data)
    size = len(content.data)
    kept = status if size == status.size or status.kind == SYMLINK else status._replace(size=size)
    return _Known(kept, offset, hashlib.sha256(content.data).hexdigest())
