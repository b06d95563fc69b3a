"""Locks that make the changes of one file serial, whatever path, sub-agent, execution or session they come from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.paths import Place, Root

_POLL_SECONDS = 0.1

_Key = tuple[int, int, str]


class _KeyedLocks:
    """A lock per key, which exists while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._locks: dict[_Key, tuple[Lock, int]] = {}

    @contextmanager
    def hold(self, key: _Key, path: str, deadline: Deadline) -> Iterator[None]:
        with self._guard:
            lock, users = self._locks.get(key, (Lock(), 0))
            self._locks[key] = lock, users + 1
        try:
            while not lock.acquire(timeout=_POLL_SECONDS):
                deadline.require(path)
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                users = self._locks[key][1] - 1
                if users:
                    self._locks[key] = lock, users
                else:
                    del self._locks[key]


_locks = _KeyedLocks()  # of the process: executions that share a root have an executor in common, but no sandbox


@contextmanager
def locked_file(root: Root, path: str, deadline: Deadline, *, create: bool = False) -> Iterator[None]:
    """Holds the lock of the file at `path`, which need not exist; `create` makes its directories. Raises FileError.

    A file is known by its name in its real directory, which stays when a rename replaces the file, and by its inode,
    which all its hard links and bind mounts have in common. Whoever waits for an inode already holds a name, and never
    the other way round, so nobody waits in a circle.
    """
    with root.locate(path, create=create, write=True) as place:
        directory = os.fstat(place.directory)
        with _locks.hold((directory.st_dev, directory.st_ino, place.name), path, deadline):
            while (inode := _inode(place)) is not None:
                with _locks.hold((*inode, ""), path, deadline):
                    if _inode(place) == inode:
                        yield
                        return
            yield


def _inode(place: Place) -> tuple[int, int] | None:
    try:
        found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
