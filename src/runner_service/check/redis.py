"""Checks Redis as the service does at its start: does it answer, and may it hold executions."""

from importlib.util import find_spec

from runner_service.check.result import Check
from runner_service.settings import Settings
from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import UnsuitableStorageError

_HOST = "REDIS_HOST"


async def redis_check(settings: Settings) -> Check:
    """Asks Redis for what the service needs of it. One that cannot be reached is a failure: nothing can start."""
    if find_spec("redis") is None:
        return Check(_HOST, "fail", "Redis needs an extra", "install runner-service[cloud]")
    from runner_service.storage.redis.connection import connection, redis_address  # noqa: PLC0415  # may be missing
    from runner_service.storage.redis.suitability import require_suitable  # noqa: PLC0415  # as above

    address = redis_address(settings)
    try:
        async with connection(address) as opened:
            version = await require_suitable(opened)
            replicas = int((await opened.call("INFO", "replication")).get("connected_slaves", 0))
    except UnsuitableStorageError as error:
        return Check(_HOST, "fail", str(error), "correct Redis, or use another one")
    except LogError as error:
        return Check(_HOST, "fail", str(error), f"start Redis, or correct {_HOST}, REDIS_PORT and REDIS_PASSWORD")
    if replicas < settings.redis_min_replicas:
        text = f"{address} has {replicas} replicas, and REDIS_MIN_REPLICAS is {settings.redis_min_replicas}"
        return Check(_HOST, "fail", text, "add replicas to Redis: until then nothing starts")
    safety = "" if settings.redis_min_replicas else "; with REDIS_MIN_REPLICAS=0 a failover can lose starts and claims"
    return Check(_HOST, "ok", f"{address} answers, version {version}, and keeps what it is given{safety}")
