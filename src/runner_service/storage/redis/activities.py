"""The `ActivityStore` in Redis."""

import json
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import asdict

from runner_service.storage.activities import AnnouncedWorkflow, OpenActivity, WorkerIdentity
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys


class RedisActivityStore:
    """Implements `ActivityStore` with a hash, a field for each activity."""

    def __init__(self, connection: Connection, keys: DeploymentKeys) -> None:
        self._connection = connection
        self._key = keys.activities
        self._announced = keys.announced

    async def add(self, activity: OpenActivity) -> None:
        """Implements `ActivityStore`."""
        fields = {
            name: b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in asdict(activity).items()
        }
        await self._connection.call("HSET", self._key, _name(activity), json.dumps(fields))
        await self.withdraw(AnnouncedWorkflow(activity.workflow_id, activity.run_id))

    async def remove(self, activity: OpenActivity) -> None:
        """Implements `ActivityStore`."""
        stored = await self._connection.call("HGET", self._key, _name(activity))
        if stored and _decode(stored).task_token == activity.task_token:
            await self._connection.call("HDEL", self._key, _name(activity))

    async def list_open(self) -> Sequence[OpenActivity]:
        """Implements `ActivityStore`."""
        found = [_decode(each) for each in await self._connection.call("HVALS", self._key)]
        return sorted(found, key=lambda each: each.deadline)

    async def new_identity(self) -> WorkerIdentity:
        """Implements `ActivityStore`. No other replica follows this one: several run at once."""
        return WorkerIdentity(secrets.token_hex(8), 1)

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


def _decode(stored: bytes) -> OpenActivity:
    fields = json.loads(stored)
    for name in ("task_token", "request"):
        fields[name] = b64decode(fields[name])
    return OpenActivity(**fields)
