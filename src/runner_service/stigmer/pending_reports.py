"""Executions whose final report has not reached the daemon yet: an empty file each, so that they survive a restart."""

import asyncio
from pathlib import Path


class PendingReports:
    """A directory with one empty file per execution id. Every method raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def list_ids(self) -> list[str]:
        """Lists the execution ids, sorted."""
        return await asyncio.to_thread(self._list)

    async def add(self, execution_id: str) -> None:
        """Adds an execution."""
        await asyncio.to_thread(self._create, execution_id)

    async def remove(self, execution_id: str) -> None:
        """Removes an execution, if it is there."""
        await asyncio.to_thread((self._directory / execution_id).unlink, missing_ok=True)

    def _list(self) -> list[str]:
        return sorted(each.name for each in self._directory.iterdir()) if self._directory.is_dir() else []

    def _create(self, execution_id: str) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._directory / execution_id).touch(mode=0o600)
