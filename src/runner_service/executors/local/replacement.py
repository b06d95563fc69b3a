"""New content for a file: renamed into place, or copied into it where a rename would lose something."""

import errno
import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from secrets import token_hex
from types import TracebackType
from typing import Self

from runner_service.executors.local.file_metadata import copy_metadata
from runner_service.executors.local.paths import Place, Root, file_errors
from runner_service.executors.protocol import FileError

_COPY_BYTES = 1024 * 1024
_NEW_FILE_MODE = 0o644  # the umask can only take from it
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_PLACE_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_FILES_DIRECTORY = "/proc/self/fd"
_TMPFILE_FLAG: int = getattr(os, "O_TMPFILE", 0) if os.access(_OPEN_FILES_DIRECTORY, os.X_OK) else 0
_UNWRITABLE_DIRECTORY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_IS_MOUNT_POINT = frozenset({errno.EBUSY, errno.EXDEV})


def temporary_name(tag: str = "") -> str:
    """Returns the name of new content beside its file: hidden, and random without a `tag`."""
    return f".{tag or token_hex(8)}.partial"


class Replacement:
    """New content for a file, which replaces it on `commit`.

    Collected in an unnamed file where the file system supports that, so that a killed writer leaves nothing; else in a
    hidden file beside it. A rename puts it in place, for readers at once. It is copied into the old file instead when
    that has other hard links, is mounted, cannot be given its owner or extended attributes again, or is in a directory
    that cannot be written. A complete copy then stays beside the file until that is done, so that a crash loses
    nothing. A context manager: exit discards what was not committed. Raises FileError. `temporary` is its name beside
    the file, by default a random one.
    """

    def __init__(
        self, root: Root, path: str, *, mode: int | None = None, create: bool = True, temporary: str = ""
    ) -> None:
        self._path = path
        self._mode = mode
        self._location = root.locate(path, create=create, write=True)
        self._place: Place | None = None
        self._old: os.stat_result | None = None
        self._in_place = False
        self._temporary = temporary or temporary_name()
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
            self._old = _replaceable(self._place)
            self._require_no_unfinished_copy(self._place)
            self._open_temporary(self._place)
            if self._old:
                keeps_all = self._old.st_nlink == 1 and copy_metadata(self._place, self._old, self._descriptor)
                self._in_place |= not keeps_all
            elif self._mode is not None:
                os.fchmod(self._descriptor, stat.S_IMODE(self._mode))

    def write(self, data: bytes | bytearray) -> None:
        """Appends to the new content."""
        with file_errors(self._path):
            _write_all(self._descriptor, data)

    def set_executable(self, is_executable: bool) -> None:
        """Makes the new content executable for all who may read it, or for nobody."""
        with file_errors(self._path):
            mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode)
            os.fchmod(self._descriptor, mode | (mode & 0o444) >> 2 if is_executable else mode & ~0o111)

    def commit(self, expected: os.stat_result | None = None) -> None:
        """Puts the new content in place, unless the file is no longer as `expected`."""
        place = self._opened()
        with file_errors(self._path):
            if expected is not None:
                self._require_unchanged(place, expected)
            if self._in_place or not self._rename(place):
                self._copy_into_old(place)

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

    def _open_temporary(self, place: Place) -> None:
        self._descriptor = _open_tmpfile(place)
        if self._descriptor >= 0:
            return
        try:
            mode = 0o600 if self._old else _NEW_FILE_MODE
            self._descriptor = os.open(self._temporary, _CREATE_FLAGS, mode, dir_fd=place.directory)
            self._has_name = True
        except OSError as error:
            if self._old is None or error.errno not in _UNWRITABLE_DIRECTORY:
                raise
            self._descriptor, name = tempfile.mkstemp()
            os.unlink(name)  # noqa: PTH108  # as the calls around it
            self._in_place = True

    def _rename(self, place: Place) -> bool:
        """Renames the new content into place; returns False if the old file is a mount point."""
        self._give_name(place, self._temporary)
        try:
            os.rename(self._temporary, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
        except OSError as error:
            if error.errno not in _IS_MOUNT_POINT:
                raise
            return False
        self._has_name = False
        return True

    def _copy_into_old(self, place: Place) -> None:
        copy = self._keep_copy(place)
        target = os.open(place.name, _IN_PLACE_FLAGS, dir_fd=place.directory)
        try:
            self._require_unchanged(place, os.fstat(target))
            size = os.lseek(self._descriptor, 0, os.SEEK_END)
            try:
                _reserve(target, size)
            except OSError:  # nothing was changed yet
                if copy:
                    os.unlink(copy, dir_fd=place.directory)
                raise
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            while data := os.read(self._descriptor, _COPY_BYTES):
                _write_all(target, data)
            os.ftruncate(target, size)
            os.fsync(target)
        finally:
            os.close(target)
        if copy:
            os.unlink(copy, dir_fd=place.directory)

    def _keep_copy(self, place: Place) -> str:
        """Names the complete new content, so that a crash while it is copied loses nothing; empty where impossible."""
        os.fsync(self._descriptor)
        copy = unfinished_name(place)
        try:
            self._give_name(place, copy)
            if self._has_name and self._temporary != copy:
                os.rename(self._temporary, copy, src_dir_fd=place.directory, dst_dir_fd=place.directory)
        except OSError:
            return ""
        self._has_name = False
        return copy

    def _give_name(self, place: Place, name: str) -> None:
        if not self._has_name:  # a link cannot replace an existing name, a rename can
            os.link(f"{_OPEN_FILES_DIRECTORY}/{self._descriptor}", name, dst_dir_fd=place.directory)
            self._temporary, self._has_name = name, True

    def _require_unchanged(self, place: Place, expected: os.stat_result) -> None:
        try:
            found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if found is None or file_version(found) != file_version(expected):
            raise FileError("changed", f"{self._path}: the file was changed meanwhile; read it and try again")

    def _require_no_unfinished_copy(self, place: Place) -> None:
        with suppress(FileNotFoundError):
            os.stat(unfinished_name(place), dir_fd=place.directory, follow_symlinks=False)
            copy = f"{place.path.rpartition('/')[0]}/{unfinished_name(place)}"
            raise FileError(
                "changed",
                f"{self._path}: the service was killed while it changed this file. The complete new content is in "
                f"{copy}: compare both, copy it over the file if that is right, then remove it by a command",
            )

    def _opened(self) -> Place:
        if self._place is None:
            raise ValueError("the replacement is not open")
        return self._place


def file_version(found: os.stat_result) -> tuple[int, int, int, int]:
    """Returns what changes when the content of a file does."""
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def unfinished_name(place: Place) -> str:
    """Returns the name, in the same directory, of the complete new content while it is copied into a file."""
    return f".{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:16]}.unfinished"


def _open_tmpfile(place: Place) -> int:
    """Opens an unnamed file in the directory; -1 where unsupported."""
    if _TMPFILE_FLAG:
        with suppress(OSError):  # the fallback reports what is wrong with the directory
            return os.open(".", _TMPFILE_FLAG | os.O_RDWR | os.O_CLOEXEC, _NEW_FILE_MODE, dir_fd=place.directory)
    return -1


def _write_all(descriptor: int, data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _reserve(descriptor: int, size: int) -> None:
    """Allocates the space of a file before it is overwritten, so that a full disk leaves it as it was."""
    old_size = os.fstat(descriptor).st_size
    if size <= old_size or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            os.ftruncate(descriptor, old_size)
            raise


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
