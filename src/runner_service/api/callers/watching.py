"""Reads CALLERS_FILE again when it changes, and ends the calls that it no longer allows."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runner_service.api.auth import authentication
from runner_service.api.callers.directory import Directory
from runner_service.api.callers.file import CallersFileError, read_callers_file
from runner_service.api.callers.open_calls import AdmittedCalls
from runner_service.api.callers.sources import Callers
from runner_service.settings import Settings

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_SECONDS = 1.0

_Version = tuple[int, int, int, int] | None


class KnownCallers(Callers):
    """Everybody who may call, with their open calls. Construct it with `known_callers`."""

    def __init__(self, settings: Settings) -> None:
        """Reads the files that the settings name. Raises CallersFileError, OSError."""
        self._path = settings.callers_file
        self._version = _version_of(self._path) if self._path else None
        super().__init__(authentication(settings), Directory(read_callers_file(self._path)) if self._path else None)
        self.calls = AdmittedCalls()

    async def watch(self) -> None:
        """Looks every second, for ever. The stat of a path also sees that a symlink on the way was replaced."""
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_SECONDS)
            is_changed = self._path is not None and await self._reload_if_changed(self._path)
            await self.calls.end_refused(is_changed=is_changed)

    async def _reload_if_changed(self, path: Path) -> bool:
        version = await asyncio.to_thread(_version_of, path)
        if version == self._version:
            return False
        try:
            self.directory = Directory(await asyncio.to_thread(read_callers_file, path))
        except CallersFileError as error:
            logger.error("callers_file_unusable consequence=the_earlier_one_holds reason=%s", error)  # noqa: TRY400  # its text says all
            self._version = version
            return False
        self._version = version
        file = self.directory.file
        logger.info("callers_file_read callers=%d digest=%.12s", len(file.callers), file.digest)
        return True


@asynccontextmanager
async def known_callers(settings: Settings) -> AsyncIterator[KnownCallers]:
    """Reads who may call, and watches for changes until the context ends.

    Raises:
        CallersFileError: CALLERS_FILE cannot be used.
    """
    callers = await asyncio.to_thread(KnownCallers, settings)
    watching = asyncio.create_task(callers.watch(), name="watch-callers")
    try:
        yield callers
    finally:
        watching.cancel()
        await asyncio.wait([watching])


def _version_of(path: Path) -> _Version:
    try:
        status = os.stat(path)  # noqa: PTH116  # follows symlinks, as reading does
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
