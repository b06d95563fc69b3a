"""Which executions the daemon is still owed reports of: an empty file each, so that a restart forgets none."""

import asyncio
from pathlib import Path


class Notes:
    """Notes below a directory, named by execution id. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def all(self) -> list[str]:
        """Lists what there is."""
        return await asyncio.to_thread(self._list)

    async def put(self, execution_id: str) -> None:
        """Notes an execution."""
        await asyncio.to_thread(self._put, execution_id)

    async def remove(self, execution_id: str) -> None:
        """Takes a note away, if there is one."""
        await asyncio.to_thread((self._directory / execution_id).unlink, missing_ok=True)

    def _list(self) -> list[str]:
        return sorted(each.name for each in self._directory.iterdir()) if self._directory.is_dir() else []

    def _put(self, execution_id: str) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._directory / execution_id).touch(mode=0o600)
