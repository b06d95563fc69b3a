"""The event log in Redis."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress

from runner_service import states
from runner_service.executors.protocol import Stream
from runner_service.storage.changes import StoredChangeSet
from runner_service.storage.event_log import (
    Entry,
    ExecutionPage,
    LogError,
    NewCall,
    NewEvent,
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
from runner_service.storage.redis.appender import Append, Position, Sent
from runner_service.storage.redis.appending import RUN_ID, decode_result
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.following import Follower
from runner_service.storage.redis.index import Index
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys
from runner_service.storage.redis.nodes import NodeAppenders, NodeEntryReads
from runner_service.storage.redis.reading import PageReader, read_output, read_position, read_records, read_size


class RedisEventLog:
    """Implements `EventLog`."""

    def __init__(
        self,
        connection: Connection,
        appenders: NodeAppenders,
        entries: NodeEntryReads,
        keys: DeploymentKeys,
        follower: Follower,
    ) -> None:
        self._connection = connection
        self._patient = connection.patient()
        self._keys = keys
        self._follower = follower
        self._index = Index(connection, keys)
        self._pages = PageReader(connection, entries)
        self._appenders = appenders
        self._sent: dict[str, Sent] = {}
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
        ended: list[str] = []
        min_replicas = 0
        if not all(isinstance(each, NewEvent) for each in entries):  # mostly it is text alone
            ended = _ended(entries)
            await self._add_to_indexes(entries, ended)
            min_replicas = self._connection.address.min_replicas if any(map(_begins, entries)) else 0
        appends = [
            Append(self._sent_by(name, owners) or await self._new_sent(name, owners, own[0]), own)
            for name, own in by_execution.items()
        ]
        rejected = await self._appenders.append(appends, min_replicas=min_replicas)
        for name in [*ended, *rejected]:
            self._sent.pop(name, None)
        with suppress(LogError):  # what was appended must not be appended again, and the index may name too many
            await self._index.remove_open([name for name in ended if name not in rejected])
        return rejected

    async def _add_to_indexes(self, entries: Sequence[Entry], ended: Collection[str]) -> None:
        new = [each for each in entries if isinstance(each, NewExecution)]
        await self._index.add([each.execution for each in new])
        await self._index.add_ended(ended)
        values = [(each.name, each.execution_id) for each in entries if isinstance(each, NewValue) and each.value]
        await self._index.add_values([*values, *((name, each.execution_id) for each in new for name in each.values)])

    def _sent_by(self, execution_id: str, owners: Mapping[str, int]) -> Sent | None:
        sent = self._sent.get(execution_id)
        return sent if sent and sent.token == owners.get(execution_id, 0) else None

    async def _new_sent(self, execution_id: str, owners: Mapping[str, int], first: Entry) -> Sent:
        keys = ExecutionKeys(execution_id)
        is_new = isinstance(first, NewExecution)
        stored = Position(0, 0) if is_new else await read_position(self._connection, keys)
        sent = self._sent[execution_id] = Sent(execution_id, keys, owners.get(execution_id, 0), stored)
        return sent

    async def read(self, execution_id: str, after: int, max_bytes: int, *, with_output: bool = True) -> Page:
        """Implements `EventLog`."""
        return await self._pages.read(execution_id, after, max_bytes, with_output=with_output)

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

    async def remove_values(self, name: str, execution_ids: Collection[str]) -> None:
        """Implements `EventLog`."""
        await self._connection.pipeline([("HDEL", ExecutionKeys(each).values, name) for each in execution_ids])

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
        state = (states.INTERRUPTED, time.time())
        await self._connection.scripts(
            "interrupt", [([each.record, each.events], [*state, each.channel, *active]) for each in keys]
        )

    async def run_id(self, execution_id: str) -> str | None:
        """Implements `Journal`."""
        stored = await self._patient.call("HGET", ExecutionKeys(execution_id).journal, RUN_ID)
        return stored.decode() if stored else None

    async def find_call(self, execution_id: str, tool_call_id: str) -> JournaledCall | None:
        """Implements `Journal`."""
        stored = await self._patient.call("HGET", ExecutionKeys(execution_id).journal, tool_call_id)
        return None if stored is None else JournaledCall(decode_result(stored))

    async def delete(self, execution_id: str) -> bool:
        """Implements `EventLog`."""
        self._sent.pop(execution_id, None)
        return await self._index.delete(execution_id)

    async def prune(self, *, max_age: float, max_bytes: int) -> int:
        """Implements `EventLog`."""
        return await self._index.prune(time.time() - max_age, max_bytes)


def _begins(entry: Entry) -> bool:
    """Tells whether something is about to be done because the log has the entry."""
    return isinstance(entry, NewExecution) or (isinstance(entry, NewCall) and entry.result is None)


def _ended(entries: Sequence[Entry]) -> list[str]:
    return [
        each.execution_id for each in entries if isinstance(each, NewState) and states.is_final(each.execution.state)
    ]
