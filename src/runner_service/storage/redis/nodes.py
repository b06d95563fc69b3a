"""Appends and reads of entries at the primaries that have the executions: one hot connection to each."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from runner_service.addresses import TcpAddress
from runner_service.storage.event_log import LogError, Rejection
from runner_service.storage.redis.appender import Append, Appender
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.entry_reads import EntryReads, StoredEntry
from runner_service.storage.redis.hot_path import HotConnection

_ATTEMPTS = 3
_RETRY_INTERVAL_SECONDS = 0.1


class _Closable(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


class _AtNodes(Generic[C]):
    """Makes something on a hot connection to a node when it is first needed; the node None is the only primary."""

    def __init__(self, connection: Connection, make: Callable[[HotConnection], C]) -> None:
        self._connection = connection
        self._make = make
        self._made: dict[TcpAddress | None, C] = {}

    def at(self, node: TcpAddress | None) -> C:
        if node not in self._made:
            hot = HotConnection(self._connection.address, self._connection.topology, node)
            self._made[node] = self._make(hot)
        return self._made[node]

    async def close(self) -> None:
        for each in self._made.values():
            await each.close()


class NodeAppenders:
    """An `Appender` for each primary. One caller at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._appenders = _AtNodes(connection, Appender)

    async def append(self, appends: Sequence[Append], *, min_replicas: int = 0) -> Mapping[str, Rejection]:
        """Does as `Appender.append`, at all primaries at the same time."""
        if not self._connection.address.cluster:
            return await self._appenders.at(None).append(appends, min_replicas=min_replicas)
        groups: dict[TcpAddress, list[Append]] = {}
        for each in appends:
            groups.setdefault(await self._connection.node_of(each.sent.keys.record), []).append(each)
        replies = await asyncio.gather(
            *(self._appenders.at(node).append(group, min_replicas=min_replicas) for node, group in groups.items()),
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
        await self._appenders.close()


class NodeEntryReads:
    """`EntryReads` for each primary."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reads = _AtNodes(connection, EntryReads)

    async def read(self, key: str, after: str, count: int) -> Sequence[StoredEntry]:
        """Does as `EntryReads.read`, at the primary that has the key."""
        if not self._connection.address.cluster:
            return await self._reads.at(None).read(key, after, count)
        attempt = 1
        while True:
            try:
                return await self._reads.at(await self._connection.node_of(key)).read(key, after, count)
            except LogError:  # another node may have the key by now
                if attempt == _ATTEMPTS:
                    raise
            attempt += 1
            await asyncio.sleep(_RETRY_INTERVAL_SECONDS)

    async def close(self) -> None:
        """Ends what is being read, and closes all connections."""
        await self._reads.close()
