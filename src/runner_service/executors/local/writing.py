"""Writes files below a root, the changes of one file one after the other. All functions block on the file system."""

import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.file_locks import locked_file
from runner_service.executors.local.paths import Root, file_errors
from runner_service.executors.local.reading import open_regular
from runner_service.executors.local.removal import remove_tree
from runner_service.executors.local.replacement import Replacement, file_version
from runner_service.executors.local.write_recorder import WriteRecorder
from runner_service.executors.protocol import FileError, FileErrorCode

_MAX_EDIT_BYTES = 64 * 1024 * 1024
_WINDOW_BYTES = 1024 * 1024
_MAX_SHOWN_BYTES = 8 * 1024
_MAX_SEEN_FILES = 10_000
_REPLACEMENT_CHARACTER = "\ufffd"

Version = tuple[int, int, int, int]


@dataclass
class SeenFiles:
    """Which version of a file each agent has read or written last, by agent and real path."""

    _versions: dict[tuple[str, str], tuple[int, Version]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _lock: Lock = field(default_factory=Lock)

    def record(self, root: Root, path: str, agent: str) -> None:
        """Records that an agent knows the file as it is now, unless a call that began later has recorded it."""
        number = next(self._numbers)
        if found := _status(root, path):
            key = agent, found[0]
            version = number, file_version(found[1])
            with self._lock:  # not around the above: a file system that does not answer would hold up all
                self._versions[key] = max(version, self._versions.pop(key, version))
                if len(self._versions) > _MAX_SEEN_FILES:
                    del self._versions[next(iter(self._versions))]

    def is_outdated(self, root: Root, path: str, agent: str) -> bool:
        """Returns whether the file exists and is not the one that the agent has read."""
        found = _status(root, path)
        seen = found and self._versions.get((agent, found[0]))
        return bool(found and seen and seen[1] != file_version(found[1]))


class Change(NamedTuple):
    """A change of the file at `path`, by an agent, that has seen what `seen` holds for it."""

    root: Root
    path: str
    deadline: Deadline
    seen: SeenFiles
    agent: str
    recorder: WriteRecorder

    def is_of_an_outdated_file(self) -> bool:
        """Returns whether the file is not the one that the agent has read."""
        return self.seen.is_outdated(self.root, self.path, self.agent)

    def record(self) -> None:
        """Records that the agent knows the file as it is now."""
        self.seen.record(self.root, self.path, self.agent)

    def recording(self) -> AbstractContextManager[None]:
        """Records what the block changes."""
        return self.recorder.recording(self.root, self.path)

    def refused(self, code: FileErrorCode, text: str) -> FileError:
        """Returns the error that refuses the change."""
        return FileError(code, f"{self.path}: {text}")


def write_text(change: Change, text: str) -> None:
    """Writes a whole file, unless it was changed since the agent read it. Raises FileError."""
    data = _encoded(text)
    with locked_file(change.root, change.path, change.deadline, create=True):
        if change.is_of_an_outdated_file():
            now = _excerpt(change, "")
            change.record()
            raise change.refused(
                "changed",
                "not written, since the file was changed after you read it, by another agent or a command. Keep that "
                f"change in what you write, or write again to overwrite it. It now holds:\n{now}",
            )
        with change.recording(), Replacement(change.root, change.path) as replacement:
            replacement.write(data)
            replacement.commit()
        change.record()


def edit_text(change: Change, old: str, new: str, *, replace_all: bool) -> int:
    """Replaces `old` by `new` in a file and returns how often. Raises FileError."""
    if not old:
        raise FileError("invalid", "the text to be replaced cannot be empty; to make a new file, write it")
    if old == new:
        raise FileError("invalid", "the new text is the same as the old one")
    with locked_file(change.root, change.path, change.deadline):
        data, status = _content(change)
        edited, count = _edited(change, data, *_encoded_as(data, old, new))
        if count == 0:
            raise _no_match(change, old)
        if count > 1 and not replace_all:
            raise change.refused("not_unique", f"the text occurs {count} times; add lines around it, or replace all")
        with change.recording(), Replacement(change.root, change.path, create=False) as replacement:
            replacement.write(edited)
            replacement.commit(expected=status)
        change.record()
    return count


def commit_upload(change: Change, replacement: Replacement) -> None:
    """Puts an uploaded file in place. Raises FileError."""
    with locked_file(change.root, change.path, change.deadline), change.recording():
        replacement.commit()


def delete(root: Root, path: str, deadline: Deadline) -> None:
    """Removes a file, a link, or a directory with all below it. Raises FileError."""
    with root.locate(path, follow=False, write=True) as place:
        if place.name == ".":
            raise FileError("invalid", f"{path}: delete needs the path of what is to go, and not the root")
        found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            remove_tree(place, deadline)
        else:
            os.unlink(place.name, dir_fd=place.directory)


def _status(root: Root, path: str) -> tuple[str, os.stat_result] | None:
    try:
        with root.locate(path) as place:
            return place.path, os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileError:
        return None


def _content(change: Change) -> tuple[bytes, os.stat_result]:
    with open_regular(change.root, change.path) as file, file_errors(change.path):
        status = os.fstat(file.fileno())
        if status.st_size > _MAX_EDIT_BYTES:
            raise change.refused("too_large", "larger than 64 MiB; edit it by a command")
        return file.read(_MAX_EDIT_BYTES + 1), status


def _edited(change: Change, data: bytes, old: bytes, new: bytes) -> tuple[bytearray, int]:
    edited, end, count = bytearray(), 0, 0
    for start in _occurrences(data, old):
        change.deadline.require(change.path)
        edited += data[end:start] + new
        end = start + len(old)
        count += 1
        if len(edited) + len(data) - end > _MAX_EDIT_BYTES:
            raise change.refused("too_large", "it would become larger than 64 MiB; edit it by a command")
    return edited + data[end:], count


def _no_match(change: Change, old: str) -> FileError:
    if _REPLACEMENT_CHARACTER in old:
        return change.refused(
            "no_match",
            f"the text was not found; {_REPLACEMENT_CHARACTER} stands for bytes that are not UTF-8: leave them out, or "
            "edit it by a command",
        )
    if change.is_of_an_outdated_file():
        return change.refused(
            "no_match",
            "the text was not found: the file was changed after you read it, by another agent or a command. It now "
            f"holds:\n{_excerpt(change, old)}",
        )
    return change.refused("no_match", "the text was not found; it has to match exactly, white space included")


def _excerpt(change: Change, wanted: str) -> str:
    """Returns at most 8 KiB of a file, from about where the longest line of `wanted` is."""
    data, _ = _content(change)
    line = max(_encoded(wanted).splitlines(), key=len, default=b"").strip()
    start = max(0, next(_occurrences(data, line), 0) - _MAX_SHOWN_BYTES // 2) if line else 0
    start = data.rfind(b"\n", 0, start) + 1
    shown = data[start : start + _MAX_SHOWN_BYTES].decode("utf-8", "replace")
    return shown if len(data) - start <= _MAX_SHOWN_BYTES else f"{shown}\n[… the rest is left out …]"


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FileError(
            "invalid", f"the text has half a surrogate pair at {error.start}, which no file can hold"
        ) from error


def _encoded_as(data: bytes, old: str, new: str) -> tuple[bytes, bytes]:
    """Encodes both as UTF-8, or as Latin-1 if only that is in the file, with the file's line ends."""
    before, after = _with_line_ends_of(data, _encoded(old), _encoded(new))
    if old.isascii() or _is_in(data, before):
        return before, after
    try:
        latin = _with_line_ends_of(data, old.encode("latin-1"), new.encode("latin-1"))
    except UnicodeEncodeError:
        return before, after
    return latin if _is_in(data, latin[0]) else (before, after)


def _with_line_ends_of(data: bytes, old: bytes, new: bytes) -> tuple[bytes, bytes]:
    r"""Converts `\n` to the file's line ends; in a file that mixes them, to those that match."""
    dos_old, dos_new = (text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for text in (old, new))
    if old != dos_old:
        return (dos_old, dos_new) if _is_in(data, dos_old) else (old, new)
    count = _counted(data, b"\r\n")
    return old, dos_new if count and count == _counted(data, b"\n") else new


def _is_in(data: bytes, text: bytes) -> bool:
    return next(_occurrences(data, text), None) is not None


def _occurrences(data: bytes, text: bytes) -> Iterator[int]:
    """Yields where `text` is, in windows: one search of 64 MiB would keep other threads waiting for half a second."""
    at = 0
    while at + len(text) <= len(data):
        found = data.find(text, at, at + _WINDOW_BYTES + len(text) - 1)
        if found >= 0:
            yield found
        at = found + len(text) if found >= 0 else at + _WINDOW_BYTES


def _counted(data: bytes, text: bytes) -> int:
    starts = range(0, len(data), _WINDOW_BYTES)
    return sum(data.count(text, start, start + _WINDOW_BYTES + len(text) - 1) for start in starts)
