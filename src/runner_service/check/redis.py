"""Checks Redis as the service does at its start: does it answer, and may it hold executions."""

from importlib.util import find_spec

from runner_service.check.result import Check
from runner_service.settings import Settings
from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import UnsuitableStorageError


async def redis_check(settings: Settings) -> Check:
    """Asks Redis for what the service needs of it. One that cannot be reached is a failure: nothing can start."""
    name, next_step = _named_by(settings)
    if find_spec("redis") is None:
        return Check(name, "fail", "Redis needs an extra", "install runner-service[cloud]")
    from runner_service.storage.redis.address import redis_address  # noqa: PLC0415  # may be missing
    from runner_service.storage.redis.connection import connection  # noqa: PLC0415  # as above
    from runner_service.storage.redis.suitability import require_suitable  # noqa: PLC0415  # as above

    address = redis_address(settings)
    try:
        async with connection(address) as opened:
            version = await require_suitable(opened)
            replications = await opened.call_primaries("INFO", "replication")
            persistences = await opened.call_primaries("INFO", "persistence")
    except UnsuitableStorageError as error:
        return Check(name, "fail", str(error), "correct Redis, or use another one")
    except LogError as error:
        return Check(name, "fail", str(error), next_step)
    replicas = min(int(each.get("connected_slaves", 0)) for each in replications)
    if replicas < settings.redis_min_replicas:
        text = f"{address} has {replicas} replicas, and REDIS_MIN_REPLICAS is {settings.redis_min_replicas}"
        return Check(name, "fail", text, "add replicas to Redis: until then nothing starts")
    if not all(int(each.get("aof_enabled", 0)) for each in persistences):
        text = f"{address} ({version}) keeps no append-only file: when it ends, newer executions than its snapshot do"
        return Check(name, "warn", text, "set appendonly yes, unless its provider keeps the data in another way")
    safety = "" if settings.redis_min_replicas else "; with REDIS_MIN_REPLICAS=0 a failover can lose starts and claims"
    return Check(name, "ok", f"{address} answers, {version}, and keeps what it is given{safety}")


def _named_by(settings: Settings) -> tuple[str, str]:
    """Returns the variable that says where Redis is, and what to do when it is not there."""
    if settings.redis_sentinels:
        names = "REDIS_SENTINELS, REDIS_SENTINEL_MASTER, REDIS_SENTINEL_PASSWORD and REDIS_PASSWORD"
        return "REDIS_SENTINELS", f"start Redis and its sentinels, or correct {names}"
    if settings.redis_cluster_nodes:
        return "REDIS_CLUSTER_NODES", "start the cluster, or correct REDIS_CLUSTER_NODES and REDIS_PASSWORD"
    return "REDIS_HOST", "start Redis, or correct REDIS_HOST, REDIS_PORT and REDIS_PASSWORD"
