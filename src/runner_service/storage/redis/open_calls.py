"""The `OpenCalls` in Redis: a hash for each tenant, whose fields are replicas."""

from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys


class RedisOpenCalls:
    """Implements `OpenCalls` for one replica."""

    def __init__(self, connection: Connection, keys: DeploymentKeys, replica: str) -> None:
        self._connection = connection
        self._keys = keys
        self._replica = replica

    async def open_call(self, tenant: str, count: int, limit: int) -> bool:
        """Implements `OpenCalls`."""
        keys = [self._keys.calls(tenant), self._keys.leases]
        return bool(await self._connection.script("calls", keys, [self._replica, count, limit]))

    async def set_open_calls(self, tenant: str, count: int) -> None:
        """Implements `OpenCalls`."""
        await self._connection.call("HSET", self._keys.calls(tenant), self._replica, count)
