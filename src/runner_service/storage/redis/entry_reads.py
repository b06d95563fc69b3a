"""Reads entries of event streams on a connection of its own: what is wanted at the same time is one round trip."""

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis

from runner_service.storage.event_log import LogError
from runner_service.storage.redis.hot_path import HotConnection
from runner_service.storage.redis.link import pack

_ATTEMPTS = 3
_RETRY_INTERVAL_SECONDS = 0.1


StoredEntry = tuple[bytes, list[bytes]]
"""Id and fields, names and values."""


class EntryReads:
    """Runs `XRANGE` for many callers. redis-py would take several times as long for each of them."""

    def __init__(self, connection: HotConnection) -> None:
        self._connection = connection
        self._wanted: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    async def read(self, key: str, after: str, count: int) -> Sequence[StoredEntry]:
        """Returns at most `count` entries above the id `after`. Raises LogError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._wanted.append((pack("XRANGE", key, f"({after}", "+", "COUNT", count), future))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="redis-entry-reads")
        reply = await future
        if isinstance(reply, LogError):
            raise LogError(str(reply)) from reply
        if isinstance(reply, hiredis.ReplyError):
            raise self._connection.refusal(reply)
        entries: Sequence[StoredEntry] = reply
        return entries

    async def close(self) -> None:
        """Ends what is being read."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._connection.close()

    async def _run(self) -> None:
        taken: list[tuple[bytes, asyncio.Future[Any]]] = []
        try:
            while self._wanted:
                taken, self._wanted = self._wanted, []
                replies = await self._replies([packed for packed, _ in taken])
                for (_, future), reply in zip(taken, replies, strict=True):
                    if not future.done():  # its reader may have been cancelled
                        future.set_result(reply)
        finally:
            self._task = None
            for _, future in (*taken, *self._wanted):
                future.cancel()

    async def _replies(self, commands: list[bytes]) -> list[Any]:
        attempt = 1
        while True:
            try:
                replies, _ = await self._connection.run(commands, len(commands))
            except LogError as error:
                if attempt == _ATTEMPTS:
                    return [error] * len(commands)
                attempt += 1
                await asyncio.sleep(_RETRY_INTERVAL_SECONDS)
            else:
                return replies
