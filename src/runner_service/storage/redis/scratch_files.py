"""Files that deepagents offloads, in Redis: a hash for each thread."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys, ThreadKeys

if TYPE_CHECKING:
    from deepagents.backends.protocol import BackendProtocol


class RedisScratchFiles:
    """Implements `ScratchFiles`. Construct it in the event loop."""

    def __init__(self, connection: Connection, keys: DeploymentKeys) -> None:
        self._connection = connection
        self._keys = keys
        self._loop = asyncio.get_running_loop()

    def backend(self, thread_id: str) -> "BackendProtocol":
        """Implements `ScratchFiles`."""
        from runner_service.storage.redis.offloaded_files import OffloadedFiles  # noqa: PLC0415  # loaded by now

        return OffloadedFiles(self._connection, self._loop, self._keys.threads, thread_id)

    async def thread_ids(self) -> Sequence[str]:
        """Implements `ScratchFiles`."""
        return [each.decode() for each in await self._connection.call("SMEMBERS", self._keys.threads)]

    async def delete_thread(self, thread_id: str) -> None:
        """Implements `ScratchFiles`."""
        await self._connection.call("UNLINK", ThreadKeys(thread_id).files)
