"""The indexes of executions: lists, and what is deleted by age and size.

They are added to before a record is written and removed from after, so they name more than there is, never less.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from runner_service import states
from runner_service.identity import ANY_TENANT, tenant_of
from runner_service.storage.event_log import ExecutionPage
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys
from runner_service.storage.redis.reading import Stored, read_records
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_IDS_PER_READ = 200
_MAX_PRUNED_PER_CALL = 200

Condition = Callable[[Stored], bool]


class Index:
    """Lists and deletes executions of a deployment. All methods raise LogError."""

    def __init__(self, connection: Connection, keys: DeploymentKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def add(self, executions: Sequence[runner_pb2.Execution]) -> None:
        """Adds executions that are about to be stored."""
        calls = []
        for each in executions:
            keys = [self._keys.counter, self._keys.executions, self._keys.open]
            keys += [self._keys.session(each.session_id)] if each.session_id else []
            calls.append((keys, [each.execution_id]))
        if calls:
            await self._connection.scripts("enter", calls)

    async def add_ended(self, execution_ids: Collection[str]) -> None:
        """Adds executions that are about to end."""
        if execution_ids:
            now = time.time()
            await self._connection.call(
                "ZADD", self._keys.ended, *(each for name in execution_ids for each in (now, name))
            )

    async def remove_open(self, execution_ids: Collection[str]) -> None:
        """Removes executions that have ended."""
        if execution_ids:
            await self._connection.call("ZREM", self._keys.open, *execution_ids)

    async def add_values(self, names: Collection[tuple[str, str]]) -> None:
        """Adds pairs of a value's name and an execution that is about to have it."""
        await self._connection.pipeline([("SADD", self._keys.value(name), each) for name, each in names])

    async def find_values(self, name: str) -> Mapping[str, bytes]:
        """Returns, by execution, every stored value of a name."""
        ids = [each.decode() for each in await self._connection.call("SMEMBERS", self._keys.value(name))]
        replies = await self._connection.pipeline([("HGET", ExecutionKeys(each).values, name) for each in ids])
        gone = [each for each, value in zip(ids, replies, strict=True) if value is None]
        if gone and len(gone) > len(ids) // 2:  # a value that is about to be stored is removed at worst once
            await self._connection.call("SREM", self._keys.value(name), *gone)
        return {each: value for each, value in zip(ids, replies, strict=True) if value is not None}

    async def list(self, wanted: ExecutionFilter, *, limit: int, before_key: int) -> ExecutionPage:
        """Lists executions, newest first."""
        index = self._keys.executions
        if wanted.session_id:
            index = self._keys.session(wanted.session_id)
        elif wanted.states and not any(map(states.is_final, wanted.states)):
            index = self._keys.open
        found: list[tuple[runner_pb2.Execution, int]] = []
        position = f"({before_key}" if before_key else "+inf"
        while len(found) <= limit:
            reply = await self._connection.call(
                "ZREVRANGEBYSCORE", index, position, "-inf", "WITHSCORES", "LIMIT", 0, _IDS_PER_READ
            )
            pairs = [(name.decode(), int(float(score))) for name, score in reply]
            records = await read_records(self._connection, [name for name, _ in pairs])
            for (_, key), stored in zip(pairs, records, strict=True):
                if stored and _matches(stored, wanted):
                    found.append((stored.execution.execution, key))
            if len(pairs) < _IDS_PER_READ:
                break
            position = f"({pairs[-1][1]}"
        next_key = found[limit - 1][1] if len(found) > limit else 0
        return ExecutionPage([each for each, _ in found[:limit]], next_key)

    async def unfinished(self) -> Sequence[str]:
        """Returns the executions that are active, in any replica."""
        ids = [each.decode() for each in await self._connection.call("ZRANGE", self._keys.open, 0, -1)]
        active: list[str] = []
        ended: list[str] = []
        for some in _batches(ids):
            for name, stored in zip(some, await read_records(self._connection, some), strict=True):
                if stored and states.is_active(stored.execution.execution.state):
                    active.append(name)
                elif stored and states.is_final(stored.execution.execution.state):
                    ended.append(name)
        await self.remove_open(ended)
        return active

    async def prune(self, ended_before: float, max_bytes: int) -> int:
        """Deletes what ended before a Unix time, then the oldest while over `max_bytes`; returns how many."""
        reply = await self._connection.call(
            "ZRANGEBYSCORE", self._keys.ended, "-inf", ended_before, "LIMIT", 0, _MAX_PRUNED_PER_CALL
        )
        old = [each.decode() for each in reply]
        deleted = await self._delete_if(old, lambda stored: states.is_final(stored.execution.execution.state))
        opened = [each.decode() for each in await self._connection.call("ZRANGE", self._keys.open, 0, -1)]
        for some in _batches(opened):
            deleted += await self._delete_if(
                some,
                lambda stored: (
                    states.is_interrupted(stored.execution.execution.state) and stored.changed < ended_before
                ),
            )
        while await self._used_bytes() > max_bytes:
            oldest = [each.decode() for each in await self._connection.call("ZRANGE", self._keys.ended, 0, 9)]
            some_deleted = await self._delete_if(
                oldest, lambda stored: states.is_final(stored.execution.execution.state)
            )
            deleted += some_deleted
            if not some_deleted or deleted > _MAX_PRUNED_PER_CALL:
                break
        return deleted

    async def delete(self, execution_id: str) -> bool:
        """Deletes one execution; False when it is not in the log."""
        stored = (await read_records(self._connection, [execution_id]))[0]
        keys = ExecutionKeys(execution_id)
        calls = await self._connection.call("HKEYS", keys.calls)
        outputs = [keys.output(call.decode(), stream) for call in calls for stream in ("stdout", "stderr")]
        await self._connection.call("UNLINK", *keys.fixed, *outputs)
        await self._connection.call("HDEL", self._keys.content_sizes, execution_id)
        indexes = [self._keys.executions, self._keys.open, self._keys.ended, self._keys.contents]
        if stored and (session := stored.execution.execution.session_id):
            indexes.append(self._keys.session(session))
        await self._connection.pipeline([("ZREM", index, execution_id) for index in indexes])
        return stored is not None

    async def _used_bytes(self) -> int:
        return sum(int(info["used_memory"]) for info in await self._connection.call_primaries("INFO", "memory"))

    async def _delete_if(self, execution_ids: Sequence[str], condition: Condition) -> int:
        deleted = 0
        for name, stored in zip(execution_ids, await read_records(self._connection, execution_ids), strict=True):
            if stored is not None and condition(stored):
                deleted += await self.delete(name)
            elif stored is None:
                await self._connection.call("ZREM", self._keys.ended, name)
        return deleted


def _matches(stored: Stored, wanted: ExecutionFilter) -> bool:
    execution = stored.execution.execution
    return (
        (not wanted.states or execution.state in wanted.states)
        and wanted.tenant in {ANY_TENANT, tenant_of(execution.execution_id)}
        and wanted.session_id in {"", execution.session_id}
        and (not wanted.needs_record or wanted.matches_record(execution.SerializeToString()))
    )


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _IDS_PER_READ] for start in range(0, len(ids), _IDS_PER_READ))
