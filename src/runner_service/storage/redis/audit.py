"""The `AuditStore` in Redis: a stream, whose ids are made of a counter."""

import time
from collections.abc import Sequence

from runner_service.storage.audit import MAX_ENTRIES, AuditPage
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys

_ADDED, _TENANT, _ENTRY = "a", "t", "e"


class RedisAuditStore:
    """Keeps the entries of all replicas in a sorted set by a number that rises, as `<time> <tenant> <entry>`."""

    def __init__(self, connection: Connection, keys: DeploymentKeys) -> None:
        self._connection = connection
        self._key = keys.audit
        self._counter = keys.audit_count

    async def add(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Implements `AuditStore`."""
        last = int(await self._connection.call("INCRBY", self._counter, len(entries)))
        first = last - len(entries) + 1
        scored: list[bytes | str | int] = []
        for number, (tenant, entry) in enumerate(entries, first):
            # The number makes equal entries different members.
            scored += [number, f"{number} {time.time():.3f} {tenant} ".encode() + entry]
        await self._connection.pipeline(
            [("ZADD", self._key, *scored), ("ZREMRANGEBYRANK", self._key, 0, -MAX_ENTRIES - 1)]
        )

    async def page(self, tenant: str, *, limit: int, before_key: int = 0) -> AuditPage:
        """Implements `AuditStore`."""
        found: list[bytes] = []
        key = before_key
        while True:
            highest = f"({key}" if key else "+inf"
            members = await self._connection.call("ZREVRANGEBYSCORE", self._key, highest, "-inf", "LIMIT", 0, limit + 1)
            for member in members:
                number, _, owner, entry = bytes(member).split(b" ", 3)
                if len(found) == limit:
                    return AuditPage(found, key)
                key = int(number)
                if not tenant or owner.decode() == tenant:
                    found.append(entry)
            if len(members) <= limit:
                return AuditPage(found, 0)

    async def delete_before(self, unix_time: float) -> None:
        """Implements `AuditStore`."""
        while oldest := await self._connection.call("ZRANGE", self._key, 0, 99):
            old = [each for each in oldest if float(bytes(each).split(b" ", 2)[1]) < unix_time]
            if old:
                await self._connection.call("ZREM", self._key, *old)
            if len(old) < len(oldest):
                return
