"""Redis with a user of an ACL, with TLS, and as `check` sees it."""

from pathlib import Path

import pytest
from tests.check.test_checks import checks_of
from tests.scale.certificates import certificates
from tests.scale.redis_server import RedisServer, needs_redis, redis_server

from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import UnsuitableStorageError
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import redis_storage

pytestmark = needs_redis

PERMISSIONS = ("~rs1:*", "&rs1:*", "+@all", "-@dangerous", "-@admin", "+info")
"""What docs/scale-out.md says a user needs."""


async def reach(address: RedisAddress) -> bytes:
    async with redis_storage(address) as storage:
        await storage.replicas.reach()
        await storage.ownership.claim("e")
        await storage.replicas.beat()
        return storage.log.fingerprint_key


async def test_a_user_of_an_acl_needs_no_dangerous_command(redis: RedisServer) -> None:
    with redis.client as client:
        client.execute_command("ACL", "SETUSER", "runner", "on", ">open sesame", *PERMISSIONS)
    assert len(await reach(RedisAddress("127.0.0.1", redis.port, "open sesame", user="runner"))) == 32
    with pytest.raises(LogError, match="invalid username-password"):
        await reach(RedisAddress("127.0.0.1", redis.port, "wrong", user="runner"))


async def test_tls_verifies_the_certificate_of_redis(tmp_path: Path) -> None:
    tls = certificates(tmp_path, "127.0.0.1")
    async with redis_server(tmp_path / "redis", tls=tls) as redis:
        address = RedisAddress("127.0.0.1", redis.tls_port, tls=True, tls_ca_file=tls.ca_file)
        assert len(await reach(address)) == 32
        with pytest.raises(LogError, match="certificate verify failed"):
            await reach(RedisAddress("127.0.0.1", redis.tls_port, tls=True, tls_ca_file=tls.other_ca_file))


async def test_check_tells_whether_redis_may_hold_executions(redis: RedisServer, tmp_path: Path) -> None:
    cloud = {"MODE": "cloud", "DAYTONA_API_KEY": "dtn_k", "STIGMER_API_KEY": "k", **redis.variables}
    check = (await checks_of(tmp_path, **cloud))["REDIS_HOST"]
    assert check.status == "ok"
    with redis.client as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    check = (await checks_of(tmp_path, **cloud))["REDIS_HOST"]
    assert (check.status, "noeviction" in check.text) == ("fail", True)
    redis.kill()
    check = (await checks_of(tmp_path, **cloud))["REDIS_HOST"]
    assert check.status == "fail"


async def test_a_redis_that_evicts_is_told_apart_from_one_that_is_away(redis: RedisServer) -> None:
    with redis.client as client:
        client.config_set("maxmemory-policy", "volatile-lru")
    with pytest.raises(UnsuitableStorageError, match="set maxmemory-policy to noeviction"):
        await reach(RedisAddress("127.0.0.1", redis.port))


@pytest.mark.parametrize("other", ["1", "3"])
async def test_a_redis_whose_data_has_another_layout_is_refused_and_stays_as_it_is(
    redis: RedisServer, other: str
) -> None:
    address = RedisAddress("127.0.0.1", redis.port)
    key = await reach(address)
    assert await reach(address) == key, "another replica of this version"
    with redis.client as client:
        client.set("rs1:{d:default}:layout", other)
        with pytest.raises(UnsuitableStorageError, match=f"has data of layout {other}, and this version knows 2: run"):
            await reach(address)
        assert client.get("rs1:{d:default}:layout") == other.encode()
