"""The connection on which events are appended: hiredis packs and parses, with nothing in between.

redis-py takes three times as long for a pipeline of scripts; see docs/adr/0403-appends-bypass-redis-py.md.
"""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hiredis

from runner_service.storage.event_log import LogError
from runner_service.storage.redis.connection import (
    CONNECT_TIMEOUT_SECONDS,
    REPLICATION_TIMEOUT_MS,
    TIMEOUT_SECONDS,
    Argument,
    RedisAddress,
    script,
)

_READ_BYTES = 64 * 1024


class HotConnection:
    """Runs scripts in one round trip. One caller at a time; connects when needed, and again after a failure."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._parser = hiredis.Reader()

    async def scripts(
        self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]], *, min_replicas: int = 0
    ) -> list[Any]:
        """Runs a script for each of `calls`, keys and arguments. Raises LogError for the first that failed.

        Returns when `min_replicas` replicas of Redis have what was written, or a little later.
        """
        text, digest = script(name)
        commands = [("EVALSHA", digest, len(keys), *keys, *arguments) for keys, arguments in calls]
        replies = await self._run(commands)
        missing = [at for at, reply in enumerate(replies) if _is_missing(reply)]
        if missing:
            again = await self._run([("SCRIPT", "LOAD", text), *(commands[at] for at in missing)])
            for at, reply in zip(missing, again[1:], strict=True):
                replies[at] = reply
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise LogError(f"Redis at {self._address} refuses: {reply}")
        if min_replicas:
            await self._run([("WAIT", min_replicas, REPLICATION_TIMEOUT_MS)])
        return replies

    async def close(self) -> None:
        """Closes the connection."""
        streams, self._streams = self._streams, None
        if streams:
            streams[1].close()
            with suppress(OSError):
                await streams[1].wait_closed()

    async def _run(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        try:
            if self._streams is None:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    await self._connect()
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._exchange(commands)
        except (OSError, TimeoutError, hiredis.HiredisError) as error:
            await self.close()
            raise LogError(f"Redis at {self._address} cannot be used: {error or type(error).__name__}") from error
        except BaseException:
            await self.close()  # replies that nobody reads would be taken for those of the next commands
            raise

    async def _connect(self) -> None:
        address = self._address
        context = ssl.create_default_context(cafile=address.tls_ca_file) if address.tls else None
        self._streams = await asyncio.open_connection(address.host, address.port, ssl=context)
        self._parser = hiredis.Reader()
        if address.password:
            login = (address.user, address.password) if address.user else (address.password,)
            (reply,) = await self._exchange([("AUTH", *login)])
            if isinstance(reply, hiredis.ReplyError):
                raise ConnectionError(str(reply))

    async def _exchange(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        if self._streams is None:
            raise ConnectionError("the connection is closed")
        reader, writer = self._streams
        packed = [hiredis.pack_command(each) for each in commands]  # type: ignore[arg-type]  # its stub means tuples of one
        writer.write(b"".join(packed))
        await writer.drain()
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._parser.gets()
            if reply is not False:
                replies.append(reply)
            elif data := await reader.read(_READ_BYTES):
                self._parser.feed(data)
            else:
                raise ConnectionError("Redis has closed the connection")
        return replies


def _is_missing(reply: object) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
