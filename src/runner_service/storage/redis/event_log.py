"""The event log in Redis. One script appends what one execution has in a batch: log, journal and record agree."""

import asyncio
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from runner_service import states
from runner_service.executors.protocol import Stream
from runner_service.storage.changes import StoredChangeSet
from runner_service.storage.event_log import (
    Entry,
    ExecutionPage,
    LogError,
    NewCall,
    NewExecution,
    NewState,
    NewValue,
    Notify,
    Page,
    Rejection,
    StoredExecution,
)
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.execution_order import MAX_SORTED_EXECUTIONS, ExecutionOrder
from runner_service.storage.journal import JournaledCall
from runner_service.storage.redis.appending import RUN_ID, EncodedEntries, decode_result, encode
from runner_service.storage.redis.connection import Argument, Connection
from runner_service.storage.redis.following import Follower
from runner_service.storage.redis.hot_path import HotConnection
from runner_service.storage.redis.index import Index
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys
from runner_service.storage.redis.reading import read_output, read_page, read_records, read_size

_MAX_RECENT_BYTES = 2 * 1024 * 1024
_RECENT_SECONDS = 30.0


@dataclass(slots=True)
class _Sent:
    """What an owner has appended: how many entries, and the recent ones, which a failover of Redis may lose."""

    keys: ExecutionKeys
    token: int
    count: int
    recent_bytes: int = 0
    recent: deque[tuple[float, int, EncodedEntries]] = field(default_factory=deque)

    def add(self, encoded: EncodedEntries) -> None:
        now = time.monotonic()
        self.recent.append((now, self.count, encoded))
        self.count += encoded.count
        self.recent_bytes += encoded.size
        while self.recent_bytes > _MAX_RECENT_BYTES or (self.recent and self.recent[0][0] < now - _RECENT_SECONDS):
            self.recent_bytes -= self.recent.popleft()[2].size

    def since(self, count: int) -> list[tuple[int, EncodedEntries]] | None:
        """Returns what follows the first `count` entries; None when some of it is not kept any more."""
        wanted = [(before, each) for _, before, each in self.recent if before + each.count > count]
        return wanted if wanted and wanted[0][0] <= count else None


class RedisEventLog:
    """Implements `EventLog`."""

    def __init__(self, connection: Connection, hot: HotConnection, keys: DeploymentKeys, follower: Follower) -> None:
        self._connection = connection
        self._hot = hot
        self._keys = keys
        self._follower = follower
        self._index = Index(connection, keys)
        self._sent: dict[str, _Sent] = {}
        self.stored_fingerprint_key: bytes | None = None
        """Set once Redis has been reached."""

    @property
    def fingerprint_key(self) -> bytes:
        """Implements `EventLog`. Raises LogError before Redis has been reached."""
        if self.stored_fingerprint_key is None:
            raise LogError(f"Redis at {self._connection.address} has not been reached yet; call again")
        return self.stored_fingerprint_key

    async def append(self, entries: Sequence[Entry], owners: Mapping[str, int] = {}) -> Mapping[str, Rejection]:
        """Implements `EventLog`. After an error some executions may have their entries: repeating is safe."""
        by_execution: dict[str, list[Entry]] = {}
        for entry in entries:
            by_execution.setdefault(entry.execution_id, []).append(entry)
        ended = _ended(entries)
        await self._add_to_indexes(entries, ended)
        batch = []
        for name, own in by_execution.items():
            sent = await self._sent_of(name, owners.get(name, 0), is_new=isinstance(own[0], NewExecution))
            batch.append((name, sent, encode(sent.keys, own)))
        min_replicas = self._connection.address.min_replicas if any(map(_begins, entries)) else 0
        calls = [_append_call(sent, sent.count, encoded) for _, sent, encoded in batch]
        replies = await self._hot.scripts("append", calls, min_replicas=min_replicas)
        rejected: dict[str, Rejection] = {}
        for (name, sent, encoded), reply in zip(batch, replies, strict=True):
            if rejection := await self._settle(sent, encoded, reply):
                rejected[name] = rejection
        for name in [*ended, *rejected]:
            self._sent.pop(name, None)
        await self._index.remove_open([name for name in ended if name not in rejected])
        return rejected

    async def _add_to_indexes(self, entries: Sequence[Entry], ended: Collection[str]) -> None:
        new = [each for each in entries if isinstance(each, NewExecution)]
        await self._index.add([each.execution for each in new])
        await self._index.add_ended(ended)
        values = [(each.name, each.execution_id) for each in entries if isinstance(each, NewValue) and each.value]
        await self._index.add_values([*values, *((name, each.execution_id) for each in new for name in each.values)])

    async def _sent_of(self, execution_id: str, token: int, *, is_new: bool) -> _Sent:
        sent = self._sent.get(execution_id)
        if sent is None or sent.token != token:
            known = None if is_new else await self._connection.call("HGET", ExecutionKeys(execution_id).record, "n")
            sent = self._sent[execution_id] = _Sent(ExecutionKeys(execution_id), token, int(known or 0))
        return sent

    async def _settle(self, sent: _Sent, encoded: EncodedEntries, reply: Sequence[bytes | int]) -> Rejection | None:
        match reply:
            case [b"FENCED"]:
                return Rejection.FENCED
            case [b"DELETED"]:
                return Rejection.DELETED
            case [b"WENT_BACK", int(count)]:
                return await self._repeat(sent, count, encoded)
            case _:
                sent.add(encoded)
        return None

    async def _repeat(self, sent: _Sent, count: int, encoded: EncodedEntries) -> Rejection | None:
        """Appends again what a failover of Redis has lost: the same bytes under the same numbers."""
        lost = sent.since(count)
        if lost is None:
            return Rejection.LOST
        for before, each in [*lost, (sent.count, encoded)]:
            (reply,) = await self._hot.scripts("append", [_append_call(sent, before, each)])
            if reply[0] != b"OK":
                return Rejection.FENCED
        sent.add(encoded)
        return None

    async def read(self, execution_id: str, after: int, max_bytes: int, *, with_output: bool = True) -> Page:
        """Implements `EventLog`."""
        return await read_page(self._connection, execution_id, after, max_bytes, with_output=with_output)

    async def get(self, execution_id: str) -> StoredExecution | None:
        """Implements `EventLog`."""
        stored = (await read_records(self._connection, [execution_id]))[0]
        return stored.execution if stored else None

    def subscribe(self, execution_id: str, notify: Notify) -> AbstractContextManager[None]:
        """Implements `EventLog`."""
        return self._follower.subscribed(execution_id, notify)

    async def change_sets(self, execution_id: str) -> Sequence[StoredChangeSet]:
        """Implements `ChangeSets`."""
        stored = await self._connection.call("LRANGE", ExecutionKeys(execution_id).changes, 0, -1)
        split = (each.split(b":", 1) for each in stored)
        return [StoredChangeSet(int(sequence), data) for sequence, data in split]

    async def stored_bytes(self, execution_id: str) -> int:
        """Implements `EventLog`."""
        return await read_size(self._connection, execution_id)

    async def find_values(self, name: str) -> Mapping[str, bytes]:
        """Implements `EventLog`."""
        return await self._index.find_values(name)

    async def list_executions(
        self, wanted: ExecutionFilter, *, limit: int, before_key: int = 0, order: ExecutionOrder | None = None
    ) -> ExecutionPage:
        """Implements `EventLog`."""
        if order is None:
            return await self._index.list(wanted, limit=limit, before_key=before_key)
        newest = await self._index.list(wanted, limit=MAX_SORTED_EXECUTIONS, before_key=0)
        return ExecutionPage(*await asyncio.to_thread(order.page, newest.executions, limit=limit, position=before_key))

    async def read_output(
        self, execution_id: str, tool_call_id: str, stream: Stream, offset: int, max_bytes: int
    ) -> bytes | None:
        """Implements `EventLog`."""
        return await read_output(self._connection, execution_id, tool_call_id, stream, offset, max_bytes)

    async def unfinished(self) -> Sequence[str]:
        """Implements `EventLog`."""
        return await self._index.unfinished()

    async def mark_interrupted(self, execution_ids: Collection[str]) -> None:
        """Implements `EventLog`."""
        active = sorted(states.ACTIVE_STATES)
        keys = [ExecutionKeys(each) for each in execution_ids]
        calls: list[tuple[list[str], list[Argument]]] = [
            ([each.record], [states.INTERRUPTED, time.time(), each.channel, *active]) for each in keys
        ]
        if calls:
            await self._connection.scripts("interrupt", calls)

    async def run_id(self, execution_id: str) -> str | None:
        """Implements `Journal`."""
        stored = await self._connection.call("HGET", ExecutionKeys(execution_id).journal, RUN_ID)
        return stored.decode() if stored else None

    async def find_call(self, execution_id: str, tool_call_id: str) -> JournaledCall | None:
        """Implements `Journal`."""
        stored = await self._connection.call("HGET", ExecutionKeys(execution_id).journal, tool_call_id)
        return None if stored is None else JournaledCall(decode_result(stored))

    async def delete(self, execution_id: str) -> bool:
        """Implements `EventLog`."""
        self._sent.pop(execution_id, None)
        return await self._index.delete(execution_id)

    async def prune(self, *, max_age: float, max_bytes: int) -> int:
        """Implements `EventLog`."""
        return await self._index.prune(time.time() - max_age, max_bytes)


def _append_call(sent: _Sent, before: int, encoded: EncodedEntries) -> tuple[list[str], list[Argument]]:
    head: list[Argument] = [sent.token, before, encoded.count, time.time(), sent.keys.channel]
    return encoded.keys, [*head, *encoded.arguments]


def _begins(entry: Entry) -> bool:
    """Tells whether something is about to be done because the log has the entry."""
    return isinstance(entry, NewExecution) or (isinstance(entry, NewCall) and entry.result is None)


def _ended(entries: Sequence[Entry]) -> list[str]:
    return [
        each.execution_id for each in entries if isinstance(each, NewState) and states.is_final(each.execution.state)
    ]
