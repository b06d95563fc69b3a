"""Appends and reads of entries at the primaries that have the executions: one hot connection to each."""

import asyncio
from collections.abc import Mapping, Sequence

from runner_service.addresses import TcpAddress
from runner_service.storage.event_log import LogError, Rejection
from runner_service.storage.redis.appender import Append, Appender
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.entry_reads import EntryReads, StoredEntry
from runner_service.storage.redis.hot_path import HotConnection

_ATTEMPTS = 3
_RETRY_INTERVAL_SECONDS = 0.1


class NodeAppenders:
    """An `Appender` for each primary. One caller at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._hot: dict[TcpAddress | None, HotConnection] = {}
        self._appenders: dict[TcpAddress | None, Appender] = {}

    async def append(self, appends: Sequence[Append], *, min_replicas: int = 0) -> Mapping[str, Rejection]:
        """Does as `Appender.append`, at all primaries at the same time."""
        if not self._connection.address.cluster:
            return await self._at(None).append(appends, min_replicas=min_replicas)
        groups: dict[TcpAddress, list[Append]] = {}
        for each in appends:
            groups.setdefault(await self._connection.node_of(each.sent.keys.record), []).append(each)
        replies = await asyncio.gather(
            *(self._at(node).append(group, min_replicas=min_replicas) for node, group in groups.items()),
            return_exceptions=True,  # so that no append goes on when this one returns
        )
        rejected: dict[str, Rejection] = {}
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
            rejected |= reply
        return rejected

    async def close(self) -> None:
        """Closes all connections."""
        for each in self._hot.values():
            await each.close()

    def _at(self, node: TcpAddress | None) -> Appender:
        if node not in self._appenders:
            hot = self._hot[node] = HotConnection(self._connection.address, self._connection.topology, node)
            self._appenders[node] = Appender(hot)
        return self._appenders[node]


class NodeEntryReads:
    """`EntryReads` for each primary."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reads: dict[TcpAddress | None, EntryReads] = {}

    async def read(self, key: str, after: str, count: int) -> Sequence[StoredEntry]:
        """Does as `EntryReads.read`, at the primary that has the key."""
        if not self._connection.address.cluster:
            return await self._at(None).read(key, after, count)
        attempt = 1
        while True:
            try:
                return await self._at(await self._connection.node_of(key)).read(key, after, count)
            except LogError:  # another node may have the key by now
                if attempt == _ATTEMPTS:
                    raise
            attempt += 1
            await asyncio.sleep(_RETRY_INTERVAL_SECONDS)

    async def close(self) -> None:
        """Ends what is being read, and closes all connections."""
        for each in self._reads.values():
            await each.close()

    def _at(self, node: TcpAddress | None) -> EntryReads:
        if node not in self._reads:
            hot = HotConnection(self._connection.address, self._connection.topology, node)
            self._reads[node] = EntryReads(hot)
        return self._reads[node]
