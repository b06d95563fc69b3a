"""Whether the primaries of Redis may hold executions. INFO is asked, which managed ones allow, and not CONFIG."""

import re
import secrets
from collections.abc import Mapping

from runner_service.storage.ownership import UnsuitableStorageError
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys

_MIN_VERSION = (7, 0)
_LAYOUT = b"2"
"""Replicas with one layout can run side by side. In 1 the ids of events had no token, and only a script fenced."""


async def prepare(opened: Connection, keys: DeploymentKeys) -> bytes:
    """Checks that Redis is suitable, and returns the key of fingerprints. Raises UnsuitableStorageError, LogError."""
    await require_suitable(opened)
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


async def require_suitable(opened: Connection) -> str:
    """Checks that all primaries may hold executions; returns their kinds. Raises UnsuitableStorageError, LogError."""
    servers = await opened.call_primaries("INFO", "server")
    memories = await opened.call_primaries("INFO", "memory")
    for server in servers:
        version = str(server["redis_version"])
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < _MIN_VERSION:
            raise UnsuitableStorageError(
                f"Redis at {opened.address} is version {version}: Redis 7.0 or newer, or Valkey, is needed"
            )
        _require_kind(opened, str(server.get("redis_mode", "standalone")))
    for memory in memories:
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise UnsuitableStorageError(
                f"Redis at {opened.address} has maxmemory-policy {policy}, which deletes executions in silence: "
                "set maxmemory-policy to noeviction"
            )
    return ", ".join(sorted({_name_of(each) for each in servers}))


def _name_of(server: Mapping[str, object]) -> str:
    if "valkey_version" in server:
        return f"Valkey {server['valkey_version']}"
    return f"Redis {server['redis_version']}"


def _require_kind(opened: Connection, mode: str) -> None:
    match mode:
        case "sentinel":
            raise UnsuitableStorageError(
                f"{opened.address} is a sentinel: name it in REDIS_SENTINELS, not in REDIS_HOST"
            )
        case "cluster" if not opened.address.cluster:
            raise UnsuitableStorageError(
                f"Redis at {opened.address} belongs to a cluster: set REDIS_CLUSTER_NODES, and not REDIS_HOST"
            )
