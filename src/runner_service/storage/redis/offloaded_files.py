"""Offloaded files of a thread, as deepagents accesses them. Importing this takes up to a second."""

import asyncio
import json
from typing import Any

from deepagents.backends import StateBackend
from deepagents.backends.protocol import GlobResult

from runner_service.storage.event_log import LogError
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import ThreadKeys
from runner_service.storage.redis.lua import Argument


class OffloadedFiles(StateBackend):
    """Keeps files in a hash of Redis, where deepagents' own class keeps them in the state of the graph.

    deepagents calls it in threads, which wait for the event loop.
    """

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop, threads: str, thread_id: str) -> None:
        super().__init__()
        self._connection = connection
        self._loop = loop
        self._threads = threads
        self._thread_id = thread_id
        self._key = ThreadKeys(thread_id).files

    async def aglob(self, pattern: str, path: str | None = None) -> GlobResult:
        """Points to `ls`: deepagents' globs run as regular expressions that can take forever."""
        del pattern
        return GlobResult(error=f"glob does not look into {path}; use ls")

    def _read_files(self) -> dict[str, Any]:
        names = self._call("HKEYS", self._key)
        values = self._call("HMGET", self._key, *names) if names else []
        return {name.decode(): json.loads(value) for name, value in zip(names, values, strict=True) if value}

    def _send_files_update(self, update: dict[str, Any]) -> None:
        self._call("SADD", self._threads, self._thread_id)
        for name, value in update.items():
            if value is None:
                self._call("HDEL", self._key, name)
            else:
                self._call("HSET", self._key, name, json.dumps(value))

    def _call(self, *command: Argument) -> Any:
        calling = asyncio.run_coroutine_threadsafe(self._connection.call(*command), self._loop)
        try:
            return calling.result()
        except LogError as error:
            raise OSError(str(error)) from error
