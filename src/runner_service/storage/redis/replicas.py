"""The replicas that share a Redis: leases, what they own, and letters to the owner of an execution."""

from collections.abc import Collection, Mapping, Sequence

from runner_service.storage.ownership import Letter
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.event_log import RedisEventLog
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys
from runner_service.storage.redis.open_calls import RedisOpenCalls
from runner_service.storage.redis.queue import RedisQueue
from runner_service.storage.redis.suitability import prepare, require_suitable

_MAX_TAKEN = 100
_MAX_DECISIONS = 100
_DECISION_SECONDS = 60


class RedisReplicas:
    """Implements `Replicas` for the replica of that name."""

    def __init__(
        self,
        connection: Connection,
        keys: DeploymentKeys,
        replica: str,
        log: RedisEventLog,
        queue: RedisQueue,
        *,
        lease_seconds: float,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._replica = replica
        self._log = log
        self.queue = queue
        self.open_calls = RedisOpenCalls(connection, keys, replica)
        self._lease_ms = round(lease_seconds * 1000)
        self.is_replicated = True
        """As of `Replicas`."""
        self._suitable_primaries = 0
        """The version of the topology whose primaries are known to be suitable."""

    @property
    def name(self) -> str:
        """Implements `Replicas`."""
        return self._replica

    @property
    def lease_seconds(self) -> float:
        """Implements `Replicas`."""
        return self._lease_ms / 1000

    async def reach(self) -> None:
        """Implements `Replicas`."""
        self._log.stored_fingerprint_key = await prepare(self._connection, self._keys)

    async def beat(self) -> Sequence[str]:
        """Implements `Replicas`."""
        reply, self.is_replicated = await self._connection.replicated_script(
            "beat", [self._keys.leases], [self._replica, self._lease_ms]
        )
        await self._require_suitable()  # the primary may have changed meanwhile
        return [each.decode() for each in reply]

    async def _require_suitable(self) -> None:
        version = self._connection.topology.version
        if version != self._suitable_primaries:
            await require_suitable(self._connection)
            self._suitable_primaries = version

    async def leave(self) -> None:
        """Implements `Replicas`."""
        await self._connection.call("ZADD", self._keys.leases, 0, self._replica)
        await self._connection.call("HDEL", self._keys.reports, self._replica)

    async def report(self, report: bytes) -> None:
        """Implements `Replicas`."""
        await self._connection.call("HSET", self._keys.reports, self._replica, report)

    async def reports(self) -> Mapping[str, bytes]:
        """Implements `Replicas`."""
        leases = {each.decode() for each in await self._connection.call("ZRANGE", self._keys.leases, 0, -1)}
        found = await self._connection.call("HGETALL", self._keys.reports)
        return {name.decode(): report for name, report in found.items() if name.decode() in leases}

    async def owned_by(self, replica: str = "") -> Sequence[str]:
        """Implements `Replicas`."""
        replica = replica or self._replica
        return [each.decode() for each in await self._connection.call("SMEMBERS", self._keys.owned(replica))]

    async def forget(self, replica: str, execution_id: str = "") -> None:
        """Implements `Replicas`."""
        if execution_id:
            await self._connection.call("SREM", self._keys.owned(replica or self._replica), execution_id)
        else:
            await self._connection.call("ZREM", self._keys.leases, replica)
            await self._connection.call("HDEL", self._keys.reports, replica)

    async def handed_over(self) -> Sequence[str]:
        """Implements `Replicas`."""
        orphans, owned = self._keys.orphans, self._keys.owned(self._replica)
        offered = await self._connection.call("SRANDMEMBER", orphans, _MAX_TAKEN)
        moved = await self._connection.pipeline([("SMOVE", orphans, owned, each) for each in offered])
        return [each.decode() for each, is_moved in zip(offered, moved, strict=True) if is_moved]

    async def attend(self, execution_ids: Collection[str]) -> None:
        """Implements `Replicas`."""
        await self._connection.pipeline([
            ("SET", ExecutionKeys(each).callers, self._replica, "PX", self._lease_ms) for each in execution_ids
        ])  # fmt: skip

    async def set_disconnect_policy(self, execution_id: str, policy: int) -> None:
        """Implements `Replicas`."""
        await self._connection.call("HSET", ExecutionKeys(execution_id).record, "policy", policy)

    async def cancel(self, execution_id: str, reason: str) -> None:
        """Implements `Replicas`."""
        await self._connection.call("HSET", ExecutionKeys(execution_id).record, "cancel", reason or " ")

    async def decide(self, execution_id: str, decision: bytes) -> None:
        """Implements `Replicas`."""
        key = ExecutionKeys(execution_id).decisions
        await self._connection.pipeline([("RPUSH", key, decision), ("EXPIRE", key, _DECISION_SECONDS)])

    async def letters(self, tokens: Mapping[str, int]) -> Mapping[str, Letter]:
        """Implements `Replicas`."""
        keys = [ExecutionKeys(each) for each in tokens]
        records = await self._connection.pipeline(
            [("HMGET", each.record, "token", "cancel", "policy") for each in keys]
        )
        callers = await self._connection.pipeline([("EXISTS", each.callers) for each in keys])
        decisions = await self._connection.pipeline([("LPOP", each.decisions, _MAX_DECISIONS) for each in keys])
        return {
            name: Letter(
                int(token or 0) == tokens[name],
                cancel.decode() if cancel is not None else None,
                int(policy or 0),
                bool(has_callers),
                tuple(submitted or ()),
            )
            for name, (token, cancel, policy), has_callers, submitted in zip(
                tokens, records, callers, decisions, strict=True
            )
        }
