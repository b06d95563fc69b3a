"""The connection on which events are appended: commands as bytes, replies as hiredis parses them.

redis-py takes three times as long for a pipeline; see docs/adr/0403-appends-bypass-redis-py.md.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import RedisError

from runner_service.addresses import TcpAddress
from runner_service.errors import text_of
from runner_service.storage.event_log import LogError
from runner_service.storage.redis.address import REPLICATION_TIMEOUT_MS, RedisAddress
from runner_service.storage.redis.link import FAILURES, Link, open_link, pack
from runner_service.storage.redis.lua import ScriptCall, evalsha, script
from runner_service.storage.redis.topology import Topology

_NUMBERS = itertools.count(1)
_ELSEWHERE = ("READONLY", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN")
"""Errors of a server that is no primary any more, or not that of the key."""


class HotConnection:
    """Runs commands in one round trip. One caller at a time; connects when needed, and again after a failure."""

    def __init__(self, address: RedisAddress, topology: Topology, node: TcpAddress | None = None) -> None:
        """Makes one to a node of a cluster, or to the only primary, whichever that is."""
        self._address = address
        self._topology = topology
        self._node = node
        self._link: Link | None = None
        self._number = 0

    async def connect(self) -> int:
        """Connects unless it is connected, and returns the number of the connection, which no other one has had.

        Between two of them, Redis may have lost what it had confirmed. Raises LogError.
        """
        await self._connected()
        return self._number

    async def run(
        self,
        packed: Sequence[bytes],
        replies: int,
        name: str = "",
        calls: Sequence[ScriptCall] = (),
        *,
        min_replicas: int = 0,
    ) -> tuple[list[Any], list[Any]]:
        """Sends `packed` commands with so many `replies`, and runs the script `name` for each of `calls`.

        Returns the replies of both, when `min_replicas` replicas of Redis have what was written, or a little later.
        Errors are among the replies of the commands. Raises LogError for the first script that failed.
        """
        scripts = [pack(*evalsha(name, keys, arguments)) for keys, arguments in calls]
        found = await self._exchange([*packed, *scripts], replies + len(scripts))
        plain, results = found[:replies], found[replies:]
        missing = [at for at, reply in enumerate(results) if _is_error(reply, "NOSCRIPT")]
        if missing:
            load = pack("SCRIPT", "LOAD", script(name)[0])
            again = await self._exchange([load, *(scripts[at] for at in missing)], 1 + len(missing))
            for at, reply in zip(missing, again[1:], strict=True):
                results[at] = reply
        for reply in results:
            if isinstance(reply, hiredis.ReplyError):
                raise self.refusal(reply)
        if min_replicas:
            await self._exchange([pack("WAIT", min_replicas, REPLICATION_TIMEOUT_MS)], 1)
        return plain, results

    def refusal(self, error: hiredis.ReplyError) -> LogError:
        """Returns the LogError for a reply that is an error."""
        if str(error).startswith(_ELSEWHERE):
            self._doubt()
        return LogError(f"Redis at {self._address} refuses: {error}")

    async def close(self) -> None:
        """Closes the connection."""
        self._drop()

    def _doubt(self) -> None:
        self._drop()
        self._topology.doubt()

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link:
            link.abort()

    async def _exchange(self, packed: Sequence[bytes], replies: int) -> list[Any]:
        if not replies:
            return []
        link = await self._connected()
        try:
            return await link.exchange(b"".join(packed), replies)
        except FAILURES as error:
            self._doubt()
            raise self._unusable(error) from error
        except BaseException:
            self._drop()  # replies that nobody reads would be taken for those of the next commands
            raise

    async def _connected(self) -> Link:
        if self._link is None or self._link.is_lost:
            try:
                node = self._node or (await self._topology.primaries()).nodes[0]
                self._link = await open_link(self._address, node)
            except (*FAILURES, RedisError) as error:
                self._doubt()
                raise self._unusable(error) from error
            self._number = next(_NUMBERS)
        return self._link

    def _unusable(self, error: BaseException) -> LogError:
        return LogError(f"Redis at {self._address} cannot be used: {text_of(error)}")


def _is_error(reply: object, code: str) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(code)
