"""The replicas that share a Redis: leases, what they own, and letters to the owner of an execution."""

import re
import secrets
from collections.abc import Collection, Mapping, Sequence

from runner_service.storage.ownership import Letter, UnsuitableStorageError
from runner_service.storage.redis.connection import Connection, RedisAddress
from runner_service.storage.redis.event_log import RedisEventLog
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys
from runner_service.storage.redis.turns import RedisTurns

_MIN_VERSION = (7, 0)
_LAYOUT = b"1"
_MAX_TAKEN = 100


class RedisReplicas:
    """Implements `Replicas` for the replica of that name."""

    def __init__(
        self, connection: Connection, keys: DeploymentKeys, replica: str, log: RedisEventLog, *, lease_seconds: float
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._replica = replica
        self._log = log
        self.turns = RedisTurns(connection, keys)
        self._lease_ms = round(lease_seconds * 1000)

    @property
    def lease_seconds(self) -> float:
        """Implements `Replicas`."""
        return self._lease_ms / 1000

    async def reach(self) -> None:
        """Implements `Replicas`."""
        self._log.stored_fingerprint_key = await _prepare(self._connection, self._keys)

    async def beat(self) -> Sequence[str]:
        """Implements `Replicas`."""
        reply = await self._connection.script("beat", [self._keys.leases], [self._replica, self._lease_ms])
        return [each.decode() for each in reply]

    async def leave(self) -> None:
        """Implements `Replicas`."""
        await self._connection.call("ZADD", self._keys.leases, 0, self._replica)

    async def owned_by(self, replica: str) -> Sequence[str]:
        """Implements `Replicas`."""
        return [each.decode() for each in await self._connection.call("SMEMBERS", self._keys.owned(replica))]

    async def forget(self, replica: str, execution_id: str = "") -> None:
        """Implements `Replicas`."""
        if execution_id:
            await self._connection.call("SREM", self._keys.owned(replica), execution_id)
        else:
            await self._connection.call("ZREM", self._keys.leases, replica)

    async def hand_over(self, execution_ids: Collection[str]) -> None:
        """Implements `Replicas`."""
        if execution_ids:
            await self._connection.call("SADD", self._keys.orphans, *execution_ids)

    async def handed_over(self) -> Sequence[str]:
        """Implements `Replicas`."""
        reply = await self._connection.call("SPOP", self._keys.orphans, _MAX_TAKEN)
        return [each.decode() for each in reply or ()]

    async def cancel(self, execution_id: str, reason: str) -> None:
        """Implements `Replicas`."""
        await self._connection.call("HSET", ExecutionKeys(execution_id).record, "cancel", reason or " ")

    async def letters(self, tokens: Mapping[str, int]) -> Mapping[str, Letter]:
        """Implements `Replicas`."""
        replies = await self._connection.pipeline([
            ("HMGET", ExecutionKeys(each).record, "token", "cancel") for each in tokens
        ])  # fmt: skip
        return {
            name: Letter(int(token or 0) == tokens[name], cancel.decode() if cancel is not None else None)
            for name, (token, cancel) in zip(tokens, replies, strict=True)
        }


async def _prepare(opened: Connection, keys: DeploymentKeys) -> bytes:
    """Checks that Redis is suitable, and returns the key of fingerprints."""
    info = await opened.call("INFO", "everything")
    _require_suitable(opened.address, info)
    layout, _, key = await opened.pipeline([
        ("GET", keys.layout),
        ("SET", keys.fingerprint_key, secrets.token_bytes(32), "NX"),
        ("GET", keys.fingerprint_key),
    ])  # fmt: skip
    if layout is None:
        await opened.call("SET", keys.layout, _LAYOUT, "NX")
    elif layout != _LAYOUT:
        raise UnsuitableStorageError(
            f"Redis at {opened.address} has data of layout {layout.decode(errors='replace')}, and this version knows "
            f"{_LAYOUT.decode()}: run the version that wrote it, or use another Redis"
        )
    return bytes(key)


def _require_suitable(address: RedisAddress, info: "dict[str, str]") -> None:
    version = tuple(map(int, re.findall(r"\d+", str(info["redis_version"]))[:2]))
    if version < _MIN_VERSION:
        raise UnsuitableStorageError(
            f"Redis at {address} is version {info['redis_version']}: Redis 7.0 or newer, or Valkey, is needed"
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise UnsuitableStorageError(
            f"Redis at {address} has maxmemory-policy {policy}, which deletes executions in silence: "
            "set maxmemory-policy to noeviction"
        )
