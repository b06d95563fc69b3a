"""Private /tmp and cache directories, one pair for each session, kept below STATE_DIR and bounded by age and size."""

import logging
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from runner_service.executors.local.confinement.mounts import PrivateDirectories
from runner_service.executors.local.deep_removal import remove_whole

logger = logging.getLogger(__name__)

_DIRECTORY = "private"
_PRUNE_INTERVAL_SECONDS = 60.0
_BLOCK_BYTES = 512
_MAX_DEPTH = 500

BEYOND_MEASURE = sys.maxsize
"""The size of what cannot be measured: more than every bound."""


class PrivateStore:
    """Makes and removes private directories. All methods block on the file system; any thread may call them."""

    def __init__(self, state_dir: Path, *, max_age_seconds: float, max_bytes: int) -> None:
        self._base = state_dir / _DIRECTORY
        self._max_age_seconds = max_age_seconds
        self._max_bytes = max_bytes
        self._in_use: set[str] = set()
        self._lock = threading.Lock()
        self._next_prune = 0.0

    def acquire(self, name: str) -> PrivateDirectories:
        """Returns the directories of a session, or of an execution without one, by a name that is a plain file name."""
        own = self._base / name
        with self._lock:
            self._in_use.add(name)
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            own.mkdir(mode=0o700, exist_ok=True)
        os.utime(own)
        temporary, cache = own / "tmp", own / "cache"
        temporary.mkdir(exist_ok=True)
        temporary.chmod(0o1777)
        cache.mkdir(exist_ok=True)
        cache.chmod(0o700)
        return PrivateDirectories(str(temporary.resolve()), str(cache.resolve()))

    def size_of(self, name: str) -> int:
        """Returns the bytes in the directories of a session; `BEYOND_MEASURE` if commands have nested them too deep."""
        return _bytes_below(str(self._base / name))

    def release(self, name: str, *, keep: bool) -> None:
        """Gives the directories up; those that are not kept are removed, and of the others what exceeds the bounds."""
        if not keep:
            _remove(self._base / name)
        with self._lock:
            self._in_use.discard(name)
            is_due = time.monotonic() >= self._next_prune
            if is_due:
                self._next_prune = time.monotonic() + _PRUNE_INTERVAL_SECONDS
        if is_due:
            self.prune()

    def prune(self) -> None:
        """Removes directories that are too old, then the least recently used ones while all take too much."""
        used = {each: seconds for each in self._directories() if (seconds := _last_use(each)) is not None}
        sizes = {each: _bytes_below(str(each)) for each in used}
        total = sum(sizes.values())
        for each in sorted(used, key=lambda each: used[each]):
            is_old = time.time() - used[each] > self._max_age_seconds
            if (is_old or total > self._max_bytes) and self._remove_unused(each):
                logger.info("private_directories_removed name=%s bytes=%d", each.name, sizes[each])
                total -= sizes[each]

    def _directories(self) -> list[Path]:
        return list(self._base.iterdir()) if self._base.is_dir() else []

    def _remove_unused(self, directory: Path) -> bool:
        """Removes a directory, unless somebody has it; under the lock it only gets a name that nobody asks for."""
        with self._lock:
            if directory.name in self._in_use:
                return False
            doomed = directory.with_name(f".{directory.name}-{token_hex(4)}")
            try:
                directory.rename(doomed)
            except OSError:
                return False
        _remove(doomed)
        return True


def _last_use(directory: Path) -> float | None:
    try:
        return directory.lstat().st_mtime
    except OSError:
        return None


def _bytes_below(directory: str) -> int:
    """Returns the bytes below a directory; `BEYOND_MEASURE` if it is nested too deep."""
    total, waiting = 0, [(directory, 0)]
    while waiting:
        path, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            return BEYOND_MEASURE
        with suppress(OSError), os.scandir(path) as entries:  # removed meanwhile, or closed by its command
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, depth + 1))
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
    return total


def _remove(directory: Path) -> None:
    try:
        remove_whole(str(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("private_directory_not_removed path=%s error=%s", directory, error.strerror)
