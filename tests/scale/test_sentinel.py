"""A primary that sentinels watch: all connections follow a failover."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from tests.check.test_checks import checks_of
from tests.emulator import running_emulator
from tests.running import StartProcess, one, text_of, turn
from tests.scale.certificates import certificates
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment, kind, resumed
from tests.scale.sentinels import PASSWORD, WatchedRedis, watched_redis
from tests.scale.test_redis_faults import ready

from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import UnsuitableStorageError
from runner_service.storage.redis.address import RedisAddress, Sentinels
from runner_service.storage.redis.backend import redis_storage
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long]

SLOW = turn(" ".join(str(number) for number in range(60)), delay=0.2)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[WatchedRedis]:
    async with watched_redis(tmp_path / "redis", sentinels=1) as redis:
        yield redis


async def start_until(done: asyncio.Event, deployment: Deployment, acknowledged: list[str]) -> None:
    """Starts one execution after the other at the second replica."""
    while not done.is_set():
        name = f"e{len(acknowledged)}"
        with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
            await deployment.begin(1, name)
            acknowledged.append(name)
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
async def test_the_service_goes_on_with_the_primary_that_the_sentinels_promote(
    start_process: StartProcess, tmp_path: Path, has_tls: bool
) -> None:
    tls = certificates(tmp_path, "127.0.0.1") if has_tls else None
    async with running_emulator(tmp_path / "cloud") as cloud, watched_redis(tmp_path / "redis", tls=tls) as watched:
        deployment = Deployment(watched.servers[0], cloud, start_process, tmp_path)
        await deployment.start([SLOW], count=2, REDIS_MIN_REPLICAS="1", **watched.variables)
        for replica in deployment.replicas:
            await ready(replica.address, is_ready=True)
        await deployment.begin_replicated(0, "e", until="text_delta")
        here, there = deployment.watch(0, execution_id="e"), deployment.watch(1, execution_id="e")
        await there.until(kind("text_delta"))
        acknowledged: list[str] = []
        done = asyncio.Event()
        starting = asyncio.create_task(start_until(done, deployment, acknowledged))
        while not acknowledged:
            await asyncio.sleep(0.05)
        old = watched.primary()
        old.kill()
        await watched.promoted_instead_of(old)
        done.set()
        await starting
        for replica in deployment.replicas:
            await ready(replica.address, is_ready=True)
        await deployment.begin_replicated(1, "after")
        events = await there.ended()
        assert await here.ended() == events
        assert not any(map(resumed, events)), "nobody took over"
        assert text_of(events) == SLOW["text"]
        for name in [*acknowledged, "after"]:  # what is lost is not found
            finished = one(await deployment.watch(1, execution_id=name).ended(), "finished")
            assert finished.state == event_pb2.STATE_SUCCEEDED, finished


async def test_check_tells_what_is_wrong_with_sentinels(watched: WatchedRedis, tmp_path: Path) -> None:
    cloud = {"MODE": "cloud", "DAYTONA_API_KEY": "dtn_k", "STIGMER_API_KEY": "k"}

    async def checked(**variables: str) -> tuple[str, str, str]:
        check = (await checks_of(tmp_path, **cloud, **watched.variables | variables))["REDIS_SENTINELS"]
        return check.status, check.text, check.next_step

    assert (await checked(REDIS_MIN_REPLICAS="2"))[0] == "ok"
    status, text, next_step = await checked(REDIS_SENTINEL_MASTER="other")
    assert (status, "no primary found for 'other'" in text, "REDIS_SENTINEL_MASTER" in next_step) == (
        "fail",
        True,
        True,
    )
    status, text, next_step = await checked(REDIS_SENTINEL_PASSWORD="wrong")  # it is
    assert (status, "invalid" in text, "REDIS_SENTINEL_PASSWORD" in next_step) == ("fail", True, True), text
    status, text, _ = await checked(REDIS_SENTINELS=f"127.0.0.1:{watched.servers[0].port}")
    assert (status, "it is no sentinel: set REDIS_HOST" in text) == ("fail", True), text
    here = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(watched.sentinels[0]), "REDIS_PASSWORD": PASSWORD}
    check = (await checks_of(tmp_path, **cloud, **here))["REDIS_HOST"]
    assert (check.status, "name it in REDIS_SENTINELS" in check.text) == ("fail", True)


async def test_tls_verifies_the_certificates_of_sentinels(tmp_path: Path) -> None:
    tls = certificates(tmp_path, "127.0.0.1")
    async with watched_redis(tmp_path / "redis", sentinels=1, tls=tls) as watched:
        address = RedisAddress(
            sentinels=Sentinels(watched.addresses, "agents", PASSWORD), tls=True, tls_ca_file=tls.ca_file
        )
        async with redis_storage(address) as storage:
            await storage.replicas.reach()
        async with redis_storage(replace(address, tls_ca_file=tls.other_ca_file)) as storage:
            with pytest.raises(LogError, match="certificate verify failed"):
                await storage.replicas.reach()


async def test_a_new_primary_that_evicts_renews_no_lease(watched: WatchedRedis) -> None:
    sentinels = Sentinels(watched.addresses, "agents", PASSWORD)
    async with redis_storage(RedisAddress(sentinels=sentinels)) as storage:
        await storage.replicas.reach()
        await storage.replicas.beat()
        for each in watched.servers[1:]:
            with each.client as client:
                client.config_set("maxmemory-policy", "allkeys-lru")
        watched.servers[0].kill()
        await watched.promoted_instead_of(watched.servers[0])
        with pytest.raises(UnsuitableStorageError, match="set maxmemory-policy to noeviction"):
            await storage.replicas.beat()
        with watched.primary().client as client:
            client.config_set("maxmemory-policy", "noeviction")
        await storage.replicas.beat()
