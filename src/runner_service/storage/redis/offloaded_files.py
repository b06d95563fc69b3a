"""Offloaded files of a thread, as deepagents accesses them. Importing this takes up to a second."""

import json
from typing import Any

from deepagents.backends import StateBackend
from deepagents.backends.protocol import GlobResult
from redis import Redis, RedisError

from runner_service.storage.redis.keys import ThreadKeys


class OffloadedFiles(StateBackend):
    """Keeps files in a hash of Redis, where deepagents' own class keeps them in the state of the graph."""

    def __init__(self, client: Redis, threads: str, thread_id: str) -> None:
        super().__init__()
        self._client = client
        self._threads = threads
        self._thread_id = thread_id
        self._key = ThreadKeys(thread_id).files

    async def aglob(self, pattern: str, path: str | None = None) -> GlobResult:
        """Points to `ls`: deepagents' globs run as regular expressions that can take forever."""
        del pattern
        return GlobResult(error=f"glob does not look into {path}; use ls")

    def _read_files(self) -> dict[str, Any]:
        try:
            stored: Any = self._client.hgetall(self._key)
        except RedisError as error:
            raise OSError(f"Redis cannot be read: {error}") from error
        return {name.decode(): json.loads(value) for name, value in stored.items()}

    def _send_files_update(self, update: dict[str, Any]) -> None:
        try:
            self._client.sadd(self._threads, self._thread_id)
            for name, value in update.items():
                if value is None:
                    self._client.hdel(self._key, name)
                else:
                    self._client.hset(self._key, name, json.dumps(value))
        except RedisError as error:
            raise OSError(f"Redis cannot be written: {error}") from error
