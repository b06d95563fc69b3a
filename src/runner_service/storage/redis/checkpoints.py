"""LangGraph checkpoints in Redis: plain hashes, and the token of the owner as a fence. Importing this takes long."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from ormsgpack import packb, unpackb

from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import owner_token
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys, ThreadKeys
from runner_service.storage.redis.lua import Argument
from runner_service.storage.state_serializer import StateSerializer

_SEPARATOR = "\0"
_TAKEN_OVER = "another replica has taken the execution over"


class RedisSaver(BaseCheckpointSaver[str]):
    """Stores checkpoints and pending writes. Only the asynchronous methods work.

    A field of a hash is `namespace NUL checkpoint`, for a write with `NUL task NUL index` behind it.
    """

    def __init__(self, connection: Connection, keys: DeploymentKeys) -> None:
        super().__init__(serde=StateSerializer())
        self._connection = connection
        self._deployment = keys

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Reads a checkpoint, the newest if the config names none."""
        thread, namespace = _thread_of(config), _namespace_of(config)
        if wanted := get_checkpoint_id(config):
            return await self._read(thread, namespace, wanted)
        ids = await self._ids(thread, namespace)
        return await self._read(thread, namespace, ids[0]) if ids else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # the library's name for it
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Reads the checkpoints of a thread, newest first."""
        if config is None:
            return
        thread, namespace = _thread_of(config), _namespace_of(config)
        end = get_checkpoint_id(before) if before else None
        yielded = 0
        for each in await self._ids(thread, namespace):
            if (end and each >= end) or (limit is not None and yielded >= limit):
                continue
            found = await self._read(thread, namespace, each)
            metadata: dict[str, Any] = dict(found.metadata) if found else {}
            if found and all(metadata.get(key) == value for key, value in (filter or {}).items()):
                yielded += 1
                yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Writes a checkpoint."""
        del new_versions
        thread, namespace = _thread_of(config), _namespace_of(config)
        kind, data = self.serde.dumps_typed(checkpoint)
        described = json.dumps(get_checkpoint_metadata(config, metadata), ensure_ascii=False)
        packed = packb((get_checkpoint_id(config) or "", kind, data, described.encode("utf-8", "ignore")))
        keys = ThreadKeys(thread)
        await self._connection.call("SADD", self._deployment.threads, thread)
        await self._write(keys, keys.checkpoints, [_field(namespace, checkpoint["id"]), packed])
        return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Writes what a node has returned, before the superstep ends."""
        keys = ThreadKeys(_thread_of(config))
        prefix = _field(_namespace_of(config), str(config["configurable"]["checkpoint_id"]), task_id)
        fields: list[Argument] = []
        for index, (channel, value) in enumerate(writes):
            packed = packb((channel, *self.serde.dumps_typed(value), task_path))
            fields += [f"{prefix}{_SEPARATOR}{WRITES_IDX_MAP.get(channel, index)}", packed]
        replaces = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        await self._write(keys, keys.writes, fields, keeps=not replaces)

    async def adelete_thread(self, thread_id: str) -> None:
        """Deletes the checkpoints of a thread."""
        keys = ThreadKeys(thread_id)
        await self._connection.call("UNLINK", keys.checkpoints, keys.writes, keys.token)
        await self._connection.call("SREM", self._deployment.threads, thread_id)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Returns the version that follows one of a channel; versions are compared as strings."""
        del channel
        return f"{int(current.split('.')[0]) + 1 if current else 1:032}"

    async def _write(self, keys: ThreadKeys, key: str, fields: Sequence[Argument], *, keeps: bool = False) -> None:
        written, _ = await self._connection.replicated_script(
            "checkpoint", [keys.token, key], [owner_token.get(), int(keeps), *fields]
        )
        if not written:
            raise LogError(_TAKEN_OVER)

    async def _ids(self, thread: str, namespace: str) -> list[str]:
        """Returns the checkpoints of a namespace, newest first."""
        fields = await self._connection.call("HKEYS", ThreadKeys(thread).checkpoints)
        pairs = [each.decode().split(_SEPARATOR) for each in fields]
        return sorted((name for own, name in pairs if own == namespace), reverse=True)

    async def _read(self, thread: str, namespace: str, checkpoint_id: str) -> CheckpointTuple | None:
        keys = ThreadKeys(thread)
        stored = await self._connection.call("HGET", keys.checkpoints, _field(namespace, checkpoint_id))
        if stored is None:
            return None
        parent, kind, data, metadata = unpackb(stored)
        return CheckpointTuple(
            _config(thread, namespace, checkpoint_id),
            self.serde.loads_typed((kind, data)),
            json.loads(metadata),
            _config(thread, namespace, parent) if parent else None,
            await self._pending_writes(keys, _field(namespace, checkpoint_id)),
        )

    async def _pending_writes(self, keys: ThreadKeys, prefix: str) -> list[tuple[str, str, Any]]:
        fields = await self._connection.call("HKEYS", keys.writes)
        chosen = [each.decode() for each in fields if each.startswith(f"{prefix}{_SEPARATOR}".encode())]
        if not chosen:
            return []
        found = []
        for name, value in zip(chosen, await self._connection.call("HMGET", keys.writes, *chosen), strict=True):
            if value is not None:
                task, index = name.split(_SEPARATOR)[-2:]
                channel, kind, data, path = unpackb(value)
                found.append((path, task, int(index), channel, self.serde.loads_typed((kind, data))))
        found.sort(key=lambda each: each[:3])
        return [(task, channel, value) for _, task, _, channel, value in found]


class RedisCheckpoints:
    """Implements `Checkpoints`."""

    def __init__(self, saver: RedisSaver, connection: Connection, keys: DeploymentKeys) -> None:
        self._saver = saver
        self._connection = connection
        self._keys = keys

    @property
    def saver(self) -> RedisSaver:
        """Implements `Checkpoints`."""
        return self._saver

    async def enter(self, thread_id: str, execution_id: str) -> None:
        """Implements `Checkpoints`."""
        key, token, entered = ThreadKeys(thread_id).token, owner_token.get(), None
        while entered is None:
            # Thread and execution may be at two servers. The token of the thread is read before the ownership is
            # looked at, and only replaced if it is still the same: so nobody has entered in between.
            seen = await self._connection.call("GET", key)
            owner = await self._connection.call("HGET", ExecutionKeys(execution_id).record, "token")
            if int(owner or 0) != token:
                raise LogError(_TAKEN_OVER)
            entered = await self._connection.script("enter_thread", [key], [seen or 0, token])
        owner_token.set(int(entered))

    async def thread_ids(self) -> Sequence[str]:
        """Implements `Checkpoints`."""
        return [each.decode() for each in await self._connection.call("SMEMBERS", self._keys.threads)]

    async def delete_thread(self, thread_id: str) -> None:
        """Implements `Checkpoints`."""
        await self._saver.adelete_thread(thread_id)


@asynccontextmanager
async def redis_checkpoints(connection: Connection, keys: DeploymentKeys) -> AsyncIterator[RedisCheckpoints]:
    """Opens the checkpoints."""
    patient = connection.patient()
    yield RedisCheckpoints(RedisSaver(patient, keys), patient, keys)


def _thread_of(config: RunnableConfig) -> str:
    return str(config["configurable"]["thread_id"])


def _namespace_of(config: RunnableConfig) -> str:
    return str(config["configurable"].get("checkpoint_ns", ""))


def _field(*parts: str) -> str:
    return _SEPARATOR.join(parts)


def _config(thread: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}}
