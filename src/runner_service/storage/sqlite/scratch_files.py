"""Offloaded files in a directory below STATE_DIR."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepagents.backends.protocol import BackendProtocol


class DirectoryScratchFiles:
    """Implements `ScratchFiles` with a directory for each thread, created when needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def backend(self, thread_id: str) -> "BackendProtocol":
        """Implements `ScratchFiles`."""
        from runner_service.storage.sqlite.offloaded_files import OffloadedFiles  # noqa: PLC0415  # loaded by now

        directory = self._directory / thread_id
        # Some microseconds, a few times in a long conversation.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return OffloadedFiles(root_dir=directory, virtual_mode=True)

    async def thread_ids(self) -> Sequence[str]:
        """Implements `ScratchFiles`."""
        return await asyncio.to_thread(self._list)

    async def delete_thread(self, thread_id: str) -> None:
        """Implements `ScratchFiles`."""
        directory = self._directory / thread_id
        if directory.exists():  # of most threads there is none
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _list(self) -> list[str]:
        return [path.name for path in self._directory.iterdir()] if self._directory.exists() else []
