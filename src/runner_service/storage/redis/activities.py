"""The `ActivityStore` in Redis."""

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from runner_service.storage.activities import AnnouncedWorkflow, OpenActivity, WorkerIdentity, replica_of
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys
from runner_service.storage.redis.ownership import RedisOwnership

_FOLLOWED_BY = "replica"


class RedisActivityStore:
    """Implements `ActivityStore` with a hash, a field for each activity."""

    is_shared = True

    def __init__(self, connection: Connection, keys: DeploymentKeys, ownership: RedisOwnership) -> None:
        self._connection = connection
        self._ownership = ownership
        self._key = keys.activities
        self._announced = keys.announced

    async def add(self, activity: OpenActivity) -> None:
        """Implements `ActivityStore`."""
        fields = {
            name: b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in asdict(activity).items()
        }
        fields[_FOLLOWED_BY] = self._ownership.replica
        await self._connection.call("HSET", self._key, _name(activity), json.dumps(fields))
        await self.withdraw(AnnouncedWorkflow(activity.workflow_id, activity.run_id))

    async def remove(self, activity: OpenActivity) -> None:
        """Implements `ActivityStore`."""
        stored = await self._connection.call("HGET", self._key, _name(activity))
        if stored and _activity(json.loads(stored)).task_token == activity.task_token:
            await self._connection.call("HDEL", self._key, _name(activity))

    async def list_open(self) -> Sequence[OpenActivity]:
        """Implements `ActivityStore`."""
        found = [json.loads(each) for each in await self._connection.call("HVALS", self._key)]
        alive = await self._ownership.alive(sorted({each[_FOLLOWED_BY] for each in found}))
        alive[self._ownership.replica] = True
        lost = [_activity(each) for each in found if not alive[each[_FOLLOWED_BY]]]
        return sorted(lost, key=lambda each: each.deadline)

    async def new_identity(self) -> WorkerIdentity:
        """Implements `ActivityStore`. It has the name of the replica, whose lease tells whether it lives."""
        return WorkerIdentity(self._ownership.replica, 1)

    async def has_ended(self, worker: str) -> bool:
        """Implements `ActivityStore`."""
        replica = replica_of(worker)
        return bool(replica) and not (await self._ownership.alive([replica]))[replica]

    async def announce(self, workflow: AnnouncedWorkflow) -> None:
        """Implements `ActivityStore`."""
        await self._connection.call("SADD", self._announced, json.dumps(workflow))

    async def withdraw(self, workflow: AnnouncedWorkflow) -> None:
        """Implements `ActivityStore`."""
        await self._connection.call("SREM", self._announced, json.dumps(workflow))

    async def list_announced(self) -> Sequence[AnnouncedWorkflow]:
        """Implements `ActivityStore`."""
        stored = await self._connection.call("SMEMBERS", self._announced)
        return [AnnouncedWorkflow(*json.loads(each)) for each in stored]


def _name(activity: OpenActivity) -> str:
    return json.dumps([activity.workflow_id, activity.run_id, activity.activity_id])


def _activity(stored: dict[str, Any]) -> OpenActivity:
    fields = {name: value for name, value in stored.items() if name != _FOLLOWED_BY}
    for name in ("task_token", "request"):
        fields[name] = b64decode(fields[name])
    return OpenActivity(**fields)
