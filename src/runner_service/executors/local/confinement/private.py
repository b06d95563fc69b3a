"""Private /tmp and cache directories, one pair for each session, kept below STATE_DIR and bounded by age and size."""

import logging
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

from runner_service.executors.local.confinement.mounts import PrivateDirectories

logger = logging.getLogger(__name__)

_DIRECTORY = "private"


class PrivateStore:
    """Makes and removes private directories. All methods block on the file system."""

    def __init__(self, state_dir: Path, *, max_age_seconds: float, max_bytes: int) -> None:
        self._base = state_dir / _DIRECTORY
        self._max_age_seconds = max_age_seconds
        self._max_bytes = max_bytes
        self._in_use: set[str] = set()

    def acquire(self, name: str) -> PrivateDirectories:
        """Returns the directories of a session, or of an execution without one, by a name that is a plain file name."""
        self._in_use.add(name)
        own = self._base / name
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._base.chmod(0o700)
        os.utime(own)
        temporary, cache = own / "tmp", own / "cache"
        temporary.mkdir(exist_ok=True)
        temporary.chmod(0o1777)
        cache.mkdir(mode=0o700, exist_ok=True)
        return PrivateDirectories(str(temporary.resolve()), str(cache.resolve()))

    def release(self, name: str, *, keep: bool) -> None:
        """Gives the directories up; those that are not kept are removed, and of the others what exceeds the bounds."""
        self._in_use.discard(name)
        if not keep:
            _remove(self._base / name)
        self.prune()

    def prune(self) -> None:
        """Removes directories that are too old, then the least recently used ones while all take too much."""
        if not self._base.is_dir():
            return
        unused = [each for each in self._base.iterdir() if each.name not in self._in_use]
        by_age = sorted(unused, key=lambda each: each.lstat().st_mtime)
        total = 0
        sizes = {each: _bytes_below(each) for each in self._base.iterdir()}
        total = sum(sizes.values())
        for each in by_age:
            is_old = time.time() - each.lstat().st_mtime > self._max_age_seconds
            if is_old or total > self._max_bytes:
                logger.info("private_directories_removed name=%s bytes=%d", each.name, sizes[each])
                _remove(each)
                total -= sizes[each]


def _bytes_below(directory: Path) -> int:
    total = 0
    for current, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(current, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _remove(directory: Path) -> None:
    """Removes a directory, with directories in it that a command has closed to its own user."""

    def open_up(function: Callable[..., object], path: str, _: object) -> None:
        try:
            os.chmod(os.path.dirname(path), stat.S_IRWXU)
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.chmod(path, stat.S_IRWXU)
                shutil.rmtree(path, ignore_errors=True)
            else:
                function(path)
        except OSError as error:
            logger.warning("private_directory_not_removed path=%s error=%s", path, error.strerror)

    shutil.rmtree(directory, onerror=open_up)
