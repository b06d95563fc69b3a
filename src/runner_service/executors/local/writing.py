"""Writes files below a root, each change atomic. All functions block on the file system."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from secrets import token_hex
from types import TracebackType
from typing import Self

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.paths import Place, Root, file_errors
from runner_service.executors.local.reading import open_regular
from runner_service.executors.local.removal import remove_tree
from runner_service.executors.protocol import FileError

_MAX_EDIT_BYTES = 64 * 1024 * 1024
_WINDOW_BYTES = 1024 * 1024
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILES_DIRECTORY = "/proc/self/fd"
_TMPFILE_FLAG: int = getattr(os, "O_TMPFILE", 0) if os.access(_OPEN_FILES_DIRECTORY, os.X_OK) else 0


class Replacement:
    """New content for a file, which replaces it on `commit`.

    Written to an unnamed file where the file system supports that, so that a killed writer leaves nothing; else to a
    hidden file beside it. A context manager: exit discards what was not committed. Raises FileError.
    """

    def __init__(self, root: Root, path: str, *, mode: int | None = None, create: bool = True) -> None:
        self._path = path
        self._mode = mode
        self._location = root.locate(path, create=create)
        self._place: Place | None = None
        self._temporary = f".{token_hex(8)}.partial"
        self._descriptor = -1
        self._has_name = False

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Creates the empty new content."""
        self._place = self._location.__enter__()
        with file_errors(self._path):
            old = _replaceable(self._place)
            self._descriptor = self._open_tmpfile(self._place)
            if self._descriptor < 0:
                self._descriptor = os.open(self._temporary, _CREATE_FLAGS, 0o666, dir_fd=self._place.directory)
                self._has_name = True
            _copy_owner_and_mode(self._descriptor, old, self._mode)

    def write(self, data: bytes | bytearray) -> None:
        """Appends to the new content."""
        rest = memoryview(data)
        with file_errors(self._path):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def commit(self) -> None:
        """Puts the new content in place."""
        place = self._opened()
        with file_errors(self._path):
            if not self._has_name:  # a link cannot replace an existing name, a rename can
                os.link(f"{_OPEN_FILES_DIRECTORY}/{self._descriptor}", self._temporary, dst_dir_fd=place.directory)
                self._has_name = True
            os.rename(self._temporary, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)

    def close(self) -> None:
        """Discards what was not committed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._has_name:
            self._has_name = False
            with suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._opened().directory)
        if self._place:
            self._place = None
            self._location.__exit__(None, None, None)

    @staticmethod
    def _open_tmpfile(place: Place) -> int:
        """Opens an unnamed file in the directory; -1 where unsupported."""
        if _TMPFILE_FLAG:
            with suppress(OSError):  # the fallback reports what is wrong with the directory
                return os.open(".", _TMPFILE_FLAG | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=place.directory)
        return -1

    def _opened(self) -> Place:
        if self._place is None:
            raise ValueError("the replacement is not open")
        return self._place


def write_text(root: Root, path: str, text: str) -> None:
    """Writes a whole file. Raises FileError."""
    _write(root, path, _encoded(text), create=True)


def edit_text(root: Root, path: str, old: str, new: str, deadline: Deadline, *, replace_all: bool) -> int:
    """Replaces `old` by `new` in a file and returns how often. Raises FileError."""
    if not old:
        raise FileError("invalid", "the text to be replaced cannot be empty; to make a new file, write it")
    if old == new:
        raise FileError("invalid", "the new text is the same as the old one")
    data = _content(root, path)
    before, after = _with_line_ends_of(data, _encoded(old), _encoded(new))
    changed, end, count = bytearray(), 0, 0
    for start in _occurrences(data, before):
        deadline.require(path)
        changed += data[end:start] + after
        end = start + len(before)
        count += 1
        if len(changed) + len(data) - end > _MAX_EDIT_BYTES:
            raise FileError("too_large", f"{path}: it would become larger than 64 MiB; edit it by a command")
    if count == 0:
        raise FileError("no_match", f"{path}: the text was not found; it has to match exactly, white space included")
    if count > 1 and not replace_all:
        raise FileError("not_unique", f"{path}: the text occurs {count} times; add lines around it, or replace all")
    changed += data[end:]
    _write(root, path, changed, create=False)
    return count


def delete(root: Root, path: str, deadline: Deadline) -> None:
    """Removes a file, a link, or a directory with all below it. Raises FileError."""
    with root.locate(path, follow=False) as place:
        if place.name == ".":
            raise FileError("invalid", f"{path}: delete needs the path of what is to go, and not the root")
        found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            remove_tree(place, deadline)
        else:
            os.unlink(place.name, dir_fd=place.directory)


def _write(root: Root, path: str, data: bytes | bytearray, *, create: bool) -> None:
    with Replacement(root, path, create=create) as replacement:
        replacement.write(data)
        replacement.commit()


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FileError(
            "invalid", f"the text has half a surrogate pair at {error.start}, which no file can hold"
        ) from error


def _content(root: Root, path: str) -> bytes:
    with open_regular(root, path) as file, file_errors(path):
        if os.fstat(file.fileno()).st_size > _MAX_EDIT_BYTES:
            raise FileError("too_large", f"{path}: larger than 64 MiB; edit it by a command")
        return file.read()


def _with_line_ends_of(data: bytes, old: bytes, new: bytes) -> tuple[bytes, bytes]:
    r"""Converts `\n` to the file's line ends; in a file that mixes them, to those that match."""
    dos_old, dos_new = (text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for text in (old, new))
    if old != dos_old:
        return (dos_old, dos_new) if next(_occurrences(data, dos_old), None) is not None else (old, new)
    count = _counted(data, b"\r\n")
    return old, dos_new if count and count == _counted(data, b"\n") else new


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


def _replaceable(place: Place) -> os.stat_result | None:
    """Returns the status of the existing file, if any. Raises FileError unless it is regular and writable."""
    if place.name == ".":
        raise FileError("is_directory", f"{place.path}: this is a directory")
    try:
        old = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(old.st_mode):
        raise FileError("is_directory", f"{place.path}: this is a directory")
    if not stat.S_ISREG(old.st_mode):
        raise FileError("not_regular", f"{place.path}: this is not a regular file")
    if not os.access(place.name, os.W_OK, dir_fd=place.directory):
        raise FileError("permission_denied", f"{place.path}: permission denied; the file is read-only")
    return old


def _copy_owner_and_mode(descriptor: int, old: os.stat_result | None, mode: int | None) -> None:
    """Copies owner and mode of the replaced file; without one, sets `mode`."""
    if old:
        with suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    elif mode is not None:
        os.fchmod(descriptor, stat.S_IMODE(mode))
