"""The `UsageStore` in Redis."""

import secrets

from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys

_KEPT_SECONDS = 2 * 24 * 3600


class RedisUsageStore:
    """Counts for all replicas together. A counter of tokens expires when its day is over."""

    def __init__(self, connection: Connection, keys: DeploymentKeys) -> None:
        self._connection = connection
        self._patient = connection.patient()
        self._keys = keys

    async def add(self, tenant: str, day: str, tokens: int) -> None:
        """Implements `UsageStore`."""
        key = self._keys.usage(tenant, day)
        await self._patient.pipeline([("INCRBY", key, tokens), ("EXPIRE", key, _KEPT_SECONDS)])

    async def total(self, tenant: str, day: str) -> int:
        """Implements `UsageStore`."""
        return int(await self._patient.call("GET", self._keys.usage(tenant, day)) or 0)

    async def start(self, tenant: str, limit: int) -> float:
        """Implements `UsageStore`."""
        name = secrets.token_hex(8)
        return int(await self._connection.script("start", [self._keys.starts(tenant)], [limit, name])) / 1000
