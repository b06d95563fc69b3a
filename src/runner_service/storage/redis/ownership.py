"""Which replica owns an execution: leases say when to take over, tokens say who may write."""

import secrets
from collections.abc import Collection, Sequence

from runner_service.states import FINAL_STATES
from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import Claim
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys

_UNUSED_CLAIM_SECONDS = 60


class RedisOwnership:
    """Implements `Ownership` for one replica, which has a new name with each start."""

    def __init__(self, connection: Connection, keys: DeploymentKeys) -> None:
        self._connection = connection
        self._keys = keys
        self.replica = secrets.token_hex(8)

    async def claim(self, execution_id: str, *, anew: bool = False, token: int | None = None) -> Claim | None:
        """Implements `Ownership`."""
        keys = ExecutionKeys(execution_id)
        # Added before the claim, or a crash in between would leave an execution that nobody looks for.
        await self._connection.call("SADD", self._keys.owned(self.replica), execution_id)
        owner, current = await self._owner(keys.record)
        if token is None and owner == self.replica and not anew:
            return Claim(execution_id, current)
        if not await self._is_free(owner) if token is None else token != current:
            if owner != self.replica:
                await self._connection.call("SREM", self._keys.owned(self.replica), execution_id)
            return None
        new, is_replicated = await self._connection.replicated_script(
            "claim", [keys.record, keys.events], [self.replica, current, _UNUSED_CLAIM_SECONDS]
        )
        if not is_replicated:  # nothing is begun by a claim that a failover would lose
            await self.release(execution_id)
            raise LogError(
                f"Redis at {self._connection.address} has fewer than REDIS_MIN_REPLICAS = "
                f"{self._connection.address.min_replicas} replicas that are up to date; call again"
            )
        if new is None:  # another one was faster, or the answer of this claim was lost and it was tried again
            owner, current = await self._owner(keys.record)
            return Claim(execution_id, current) if owner == self.replica else None
        return Claim(execution_id, int(new))

    async def release(
        self, execution_id: str, *, floor: int = 0, has_ended: bool = False, hands_over: bool = False
    ) -> None:
        """Implements `Ownership`."""
        record, expected = ExecutionKeys(execution_id).record, sorted(FINAL_STATES) if has_ended else []
        if await self._connection.script("release", [record], [self.replica, floor, *expected]):
            offer = [("SADD", self._keys.orphans, execution_id)] if hands_over else []
            # Last, or a crash in between would leave an execution that nobody looks for.
            await self._connection.pipeline([*offer, ("SREM", self._keys.owned(self.replica), execution_id)])

    async def abandoned(self, execution_ids: Collection[str]) -> Collection[str]:
        """Implements `Ownership`."""
        ids = list(execution_ids)
        replies = await self._connection.pipeline([("HGET", ExecutionKeys(each).record, "owner") for each in ids])
        owners = {each: owner.decode() for each, owner in zip(ids, replies, strict=True) if owner}
        alive = await self.alive(sorted(set(owners.values())))
        return [each for each in ids if not alive.get(owners.get(each, ""))]

    async def alive(self, replicas: Sequence[str]) -> dict[str, bool]:
        """Tells for each replica whether its lease is not over. Raises LogError."""
        if not replicas:
            return {}
        reply = await self._connection.script("alive", [self._keys.leases], replicas)
        return {each: bool(alive) for each, alive in zip(replicas, reply, strict=True)}

    async def _is_free(self, owner: str) -> bool:
        return owner in {"", self.replica} or not (await self.alive([owner]))[owner]

    async def _owner(self, record: str) -> tuple[str, int]:
        owner, token = await self._connection.call("HMGET", record, "owner", "token")
        return (owner or b"").decode(), int(token or 0)
