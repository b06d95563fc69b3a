"""The `TenantSlots` in Redis: a hash for each tenant, whose fields are its executions."""

from collections.abc import Mapping, Sequence

from runner_service.identity import tenant_of
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys
from runner_service.storage.redis.lua import Argument

_NO_LIMIT = -1


class RedisTenantSlots:
    """Implements `TenantSlots` for one replica."""

    def __init__(self, connection: Connection, keys: DeploymentKeys, replica: str) -> None:
        self._connection = connection
        self._keys = keys
        self._replica = replica

    async def join(
        self, execution_id: str, session_id: str, *, running: int | None, queued: int | None, has_room: bool
    ) -> bool:
        """Implements `TenantSlots`."""
        turns = [self._keys.turns(session_id)] if session_id else []
        limits = (_limit(running), _limit(queued), int(has_room))
        return bool(await self._script("join", tenant_of(execution_id), (execution_id, *limits), turns))

    async def admit(self, execution_id: str, *, running: int | None) -> bool:
        """Implements `TenantSlots`."""
        return bool(await self._script("admit", tenant_of(execution_id), (execution_id, _limit(running))))

    async def leave(self, execution_id: str) -> None:
        """Implements `TenantSlots`."""
        await self._script("leave", tenant_of(execution_id), [execution_id])

    async def open_call(self, tenant: str, count: int, limit: int) -> bool:
        """Implements `TenantSlots`."""
        keys = [self._keys.calls(tenant), self._keys.leases]
        return bool(await self._connection.script("calls", keys, [self._replica, count, limit]))

    async def set_open_calls(self, tenant: str, count: int) -> None:
        """Implements `TenantSlots`."""
        await self._connection.call("HSET", self._keys.calls(tenant), self._replica, count)

    async def correct(self, tenant: str, executions: Mapping[str, bool]) -> None:
        """Implements `TenantSlots`."""
        pairs = [each for name, is_running in executions.items() for each in (name, "r" if is_running else "q")]
        await self._script("correct", tenant, pairs)

    async def _script(
        self, action: str, tenant: str, arguments: Sequence[Argument], more_keys: Sequence[str] = ()
    ) -> int:
        keys = [self._keys.slots(tenant), self._keys.leases, *more_keys]
        return int(await self._connection.script("slots", keys, [action, self._replica, *arguments]))


def _limit(limit: int | None) -> int:
    return _NO_LIMIT if limit is None else limit
