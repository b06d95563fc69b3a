"""Contents of changed files, compressed, in a directory for each execution below STATE_DIR."""

import asyncio
import logging
import os
import shutil
import threading
import zlib
from pathlib import Path
from secrets import token_hex

from runner_service.storage.event_log import LogError

logger = logging.getLogger(__name__)

_COMPRESSION_LEVEL = 1


class ContentFiles:
    """Implements `ContentStore`. The synchronous methods block on the file system; any thread may call them."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._size: int | None = None

    async def put(self, execution_id: str, sha256: str, data: bytes) -> bool:
        """Implements `ContentStore`."""
        return await asyncio.to_thread(self._put, execution_id, sha256, data)

    async def get(self, execution_id: str, sha256: str) -> bytes | None:
        """Implements `ContentStore`."""
        return await asyncio.to_thread(self._get, execution_id, sha256)

    async def names(self, execution_id: str) -> frozenset[str]:
        """Implements `ContentStore`."""
        return await asyncio.to_thread(lambda: frozenset(each.name for each in _files(self._of(execution_id))))

    def remove(self, execution_id: str) -> None:
        """Deletes the contents of an execution."""
        with self._lock:
            self._remove(self._of(execution_id))

    def _put(self, execution_id: str, sha256: str, data: bytes) -> bool:
        directory = self._of(execution_id)
        path = directory / sha256
        if path.exists():
            return True
        packed = zlib.compress(data, _COMPRESSION_LEVEL)
        with self._lock:
            if not self._make_room(len(packed), directory):
                return False
            try:
                self._write(path, packed)
            except OSError as error:  # the disk is full: the change is listed, and cannot be reverted
                logger.warning("content_not_stored execution=%s error=%s", execution_id, error.strerror)
                return False
            self._size = self._total() + len(packed)
        return True

    def _get(self, execution_id: str, sha256: str) -> bytes | None:
        try:
            return zlib.decompress((self._of(execution_id) / sha256).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, zlib.error) as error:
            raise LogError(f"a stored content cannot be read: {error}") from error

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f".{token_hex(8)}")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int, keep: Path) -> bool:
        if self._total() + size <= self._max_bytes:
            return True
        if _size_of(keep) + size > self._max_bytes:
            return False
        others = [each for each in self._directory.iterdir() if each != keep] if self._directory.exists() else []
        for each in sorted(others, key=_modified):
            self._remove(each)
            if self._total() + size <= self._max_bytes:
                return True
        return False

    def _remove(self, directory: Path) -> None:
        if directory.exists():
            size = _size_of(directory)
            shutil.rmtree(directory, ignore_errors=True)
            self._size = max(0, self._total() - size)

    def _total(self) -> int:
        if self._size is None:
            executions = self._directory.iterdir() if self._directory.exists() else ()
            self._size = sum(map(_size_of, executions))
        return self._size

    def _of(self, execution_id: str) -> Path:
        return self._directory / execution_id


def _files(directory: Path) -> list[Path]:
    try:
        return [each for each in directory.iterdir() if not each.name.startswith(".")]
    except FileNotFoundError:
        return []


def _size_of(directory: Path) -> int:
    return sum(each.stat().st_size for each in _files(directory))


def _modified(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except FileNotFoundError:
        return 0.0
