"""Contents of changed files in Redis: a hash for each execution."""

import asyncio
import time
import zlib

from runner_service.storage.event_log import LogError
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys

_COMPRESSION_LEVEL = 1


class RedisContentStore:
    """Implements `ContentStore`."""

    def __init__(self, connection: Connection, keys: DeploymentKeys, max_bytes: int) -> None:
        self._connection = connection
        self._keys = keys
        self._max_bytes = max_bytes

    async def put(self, execution_id: str, sha256: str, data: bytes) -> bool:
        """Implements `ContentStore`."""
        contents = ExecutionKeys(execution_id).contents
        if await self._connection.call("HEXISTS", contents, sha256):
            return True
        stored = await asyncio.to_thread(zlib.compress, data, _COMPRESSION_LEVEL)
        if not await self._make_room(execution_id, len(stored)):
            return False
        await self._connection.pipeline([
            ("ZADD", self._keys.contents, "NX", time.time(), execution_id),
            ("HINCRBY", self._keys.content_sizes, execution_id, len(stored)),
            ("HSET", contents, sha256, stored),
        ])  # fmt: skip
        return True

    async def get(self, execution_id: str, sha256: str) -> bytes | None:
        """Implements `ContentStore`."""
        stored = await self._connection.call("HGET", ExecutionKeys(execution_id).contents, sha256)
        try:
            return None if stored is None else await asyncio.to_thread(zlib.decompress, stored)
        except zlib.error as error:
            raise LogError(f"the content {sha256} cannot be read: {error}") from error

    async def names(self, execution_id: str) -> frozenset[str]:
        """Implements `ContentStore`."""
        fields = await self._connection.call("HKEYS", ExecutionKeys(execution_id).contents)
        return frozenset(each.decode() for each in fields)

    async def _make_room(self, execution_id: str, size: int) -> bool:
        sizes = await self._connection.call("HGETALL", self._keys.content_sizes)
        used = sum(map(int, sizes.values()))
        if used + size <= self._max_bytes:
            return True
        if int(sizes.get(execution_id.encode(), 0)) + size > self._max_bytes:
            return False
        for name in await self._connection.call("ZRANGE", self._keys.contents, 0, -1):
            if name.decode() != execution_id:
                await self._remove(name.decode())
                used -= int(sizes.get(name, 0))
            if used + size <= self._max_bytes:
                return True
        return False

    async def _remove(self, execution_id: str) -> None:
        await self._connection.call("UNLINK", ExecutionKeys(execution_id).contents)
        await self._connection.pipeline([
            ("HDEL", self._keys.content_sizes, execution_id),
            ("ZREM", self._keys.contents, execution_id),
        ])  # fmt: skip
