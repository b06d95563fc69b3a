"""Puts files below a root back, as they were before an execution."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.file_locks import locked_file
from runner_service.executors.local.paths import Place, Root, file_errors
from runner_service.executors.local.replacement import Replacement, temporary_name
from runner_service.executors.local.scanner.files import read_below
from runner_service.executors.local.threads import FileThreads
from runner_service.executors.local.write_recorder import state_of
from runner_service.executors.protocol import FileError
from runner_service.executors.tracking import EXECUTABLE, OTHER, SYMLINK, FileState, Restoration

T = TypeVar("T")

_RESERVE_BYTES = 1024 * 1024


class LocalRestorer:
    """Implements `Restorer` for a directory of this machine."""

    def __init__(self, root: str, threads: FileThreads) -> None:
        # A path was tracked without links: one on the way now would lead to another file, such as a hook of git.
        self._root = Root(root, follows_links=False)
        self._threads = threads

    async def states(self, paths: Sequence[str]) -> Sequence[FileState | None]:
        """Implements `Restorer`. A directory counts as nothing: there is no file."""
        return await self._run(partial(_states, self._root, paths))

    async def restore(self, restorations: Sequence[Restoration]) -> None:
        """Implements `Restorer`."""
        for each in restorations:
            await self._run(partial(_restore, self._root, each))

    async def require_space(self, size: int) -> None:
        """Implements `Restorer`."""
        await self._run(partial(_require_space, self._root, size))

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._threads.run(work)


def _states(root: Root, paths: Sequence[str]) -> list[FileState | None]:
    with file_errors(root.path):
        directory = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [_state(root, directory, path) for path in paths]
    finally:
        os.close(directory)


def _state(root: Root, directory: int, path: str) -> FileState | None:
    if content := read_below(directory, path):
        return state_of(content)
    try:
        found = os.lstat(f"{root.path}/{path}")
    except OSError:
        return None
    return None if stat.S_ISDIR(found.st_mode) else FileState(OTHER, found.st_size)


def _restore(root: Root, restoration: Restoration) -> None:
    path, wanted = restoration.path, restoration.wanted
    creates = wanted is not None
    with locked_file(root, path, Deadline(), create=creates), root.locate(path, follow=False, write=True) as place:
        if _states(root, [path])[0] != restoration.expected:
            raise FileError("changed", f"{path}: changed by somebody else meanwhile")
        if wanted is None:
            os.unlink(place.name, dir_fd=place.directory)
            _remove_empty_directories(root, path)
        elif wanted.kind == SYMLINK:
            _replace_by_link(place, restoration.data)
        else:
            _replace_by_file(root, place, restoration, is_executable=wanted.kind == EXECUTABLE)


def _replace_by_link(place: Place, target: bytes) -> None:
    temporary = _free_temporary_name(place)
    os.symlink(target, os.fsencode(temporary), dir_fd=place.directory)
    try:
        os.rename(temporary, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except OSError:
        os.unlink(temporary, dir_fd=place.directory)
        raise


def _replace_by_file(root: Root, place: Place, restoration: Restoration, *, is_executable: bool) -> None:
    expected, wanted = restoration.expected, restoration.wanted
    if expected and expected.kind == SYMLINK:
        os.unlink(place.name, dir_fd=place.directory)
    elif expected and wanted and expected.sha256 == wanted.sha256:
        _set_executable(place, is_executable=is_executable)
        return
    with Replacement(root, restoration.path, temporary=_free_temporary_name(place)) as replacement:
        replacement.write(restoration.data)
        replacement.set_executable(is_executable)
        replacement.commit()
    _set_executable(place, is_executable=is_executable)  # where it was written in place


def _free_temporary_name(place: Place) -> str:
    """Returns the name of new content until it is renamed, after removing what a killed process has left of it.

    It is always the same for a file: a revert that was killed is completed, and puts the same files back. Only where
    something that cannot be removed has that name, as a command may make it, it is a random one.
    """
    name = temporary_name(hashlib.sha256(os.fsencode(place.name)).hexdigest()[:16])
    try:
        os.unlink(name, dir_fd=place.directory)
    except FileNotFoundError:
        pass
    except OSError:
        return temporary_name()
    return name


def _set_executable(place: Place, *, is_executable: bool) -> None:
    mode = stat.S_IMODE(os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode)
    wanted = mode | (mode & 0o444) >> 2 if is_executable else mode & ~0o111
    if wanted != mode:
        os.chmod(place.name, wanted, dir_fd=place.directory)


def _remove_empty_directories(root: Root, path: str) -> None:
    """Removes the directories that a file was the last in. Git does not know empty ones either."""
    names = path.split("/")[:-1]
    with suppress(OSError, FileError):
        while names:
            with root.locate("/".join(names), follow=False, write=True) as place:
                os.rmdir(place.name, dir_fd=place.directory)
            names.pop()


def _require_space(root: Root, size: int) -> None:
    with file_errors(root.path):
        found = os.statvfs(root.path)
        if found.f_bavail * found.f_frsize < size + _RESERVE_BYTES:
            raise OSError(errno.ENOSPC, "no space")
