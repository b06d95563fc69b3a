"""Redis goes away, comes back, is full, or is none that may hold executions."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.running import StartProcess, one, text_of, turn
from tests.scale.redis_server import RedisServer, needs_redis, redis_server, standby_of
from tests.scale.replicas import Deployment, kind
from tests.scraping import metrics_url, scrape

from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = needs_redis

SLOW = turn(" ".join(str(number) for number in range(60)), delay=0.2)


async def outlives(deployment: Deployment, fault: str, seconds: float, words: int = 60) -> None:
    slow = turn(" ".join(str(number) for number in range(words)), delay=0.2)
    await deployment.start([slow], count=2)
    async with deployment.behind_proxy():
        await deployment.begin(0, "e", until="text_delta")
        watchers = deployment.watch_everywhere("e")
        await watchers.until(kind("text_delta"))
        if fault == "killed":
            deployment.redis.kill()
            await asyncio.sleep(seconds)
            await deployment.redis.start()
        else:
            deployment.redis.pause()
            await asyncio.sleep(seconds)
            deployment.redis.resume()
        events = await watchers.ended()
    assert len([each for each in events if each.HasField("started")]) == 1, "nobody took over"
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert text_of(events) == slow["text"]


@pytest.mark.long
async def test_6_redis_is_killed_for_two_seconds(deployment: Deployment) -> None:
    await outlives(deployment, "killed", 2.0)


async def test_6_redis_is_killed_for_half_a_second(deployment: Deployment) -> None:
    await outlives(deployment, "killed", 0.5, words=25)


@pytest.mark.long
async def test_6_redis_is_killed_for_longer_than_a_lease(deployment: Deployment) -> None:
    await outlives(deployment, "killed", 5.0)


@pytest.mark.long
async def test_6_redis_is_stopped_for_longer_than_a_lease(deployment: Deployment) -> None:
    await outlives(deployment, "stopped", 4.0)


@pytest.mark.long
async def test_7_a_failover_that_loses_half_a_second_is_not_noticed(deployment: Deployment, tmp_path: Path) -> None:
    async with standby_of(deployment.redis, tmp_path / "standby") as standby:
        await deployment.start([SLOW], count=2)
        await deployment.begin(0, "e", until="text_delta")
        here, there = deployment.watch(0, execution_id="e"), deployment.watch(1, execution_id="e")
        await there.until(kind("text_delta"))
        await deployment.redis.fail_over_to(standby, asyncio.sleep(0.5))
        events = await there.ended()
        assert await here.ended() == events
        assert await deployment.watch(1, execution_id="e").ended() == events, "the log has what was seen"
    assert len([each for each in events if each.HasField("started")]) == 1
    assert text_of(events) == SLOW["text"]


@pytest.mark.long
async def test_9_executions_wait_while_redis_is_full(deployment: Deployment) -> None:
    await deployment.start([SLOW], count=2)
    await deployment.begin(0, "e", until="text_delta")
    watcher = deployment.watch(1, execution_id="e")
    await watcher.until(kind("text_delta"))
    with deployment.redis.client as client:
        client.config_set("maxmemory", "1")
        for replica in deployment.replicas:
            await ready(replica.address, is_ready=False)
        client.config_set("maxmemory", "0")
    for replica in deployment.replicas:
        await ready(replica.address, is_ready=True)
    events = await watcher.ended()
    assert len([each for each in events if each.HasField("started")]) == 1
    assert text_of(events) == SLOW["text"]


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_9_executions_end_when_redis_is_full_for_over_a_minute(deployment: Deployment, tmp_path: Path) -> None:
    endless = turn(" ".join(str(number) for number in range(3000)), delay=0.2)
    await deployment.start([endless], count=2, METRICS_ADDRESS="127.0.0.1:0")
    await deployment.begin(0, "e", until="text_delta")
    with deployment.redis.client as client:
        client.config_set("maxmemory", "1")
        async with asyncio.timeout(180):
            while not (await scrape(metrics_url(tmp_path / "state-0"))).value("runner_log_unavailable"):
                await asyncio.sleep(0.5)
        client.config_set("maxmemory", "0")
    events = await deployment.watch(1, execution_id="e").ended()
    assert one(events, "finished").error.code == "LOG_UNAVAILABLE"


async def ready(address: str, *, is_ready: bool) -> None:
    """Waits for the readiness of a service."""
    wanted = health_pb2.HealthCheckResponse.SERVING if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING
    async with asyncio.timeout(60):
        while await health_of(address, "") != wanted:
            await asyncio.sleep(0.1)


async def health_of(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def test_a_service_starts_without_redis_and_is_ready_when_it_comes(
    deployment: Deployment, redis: RedisServer
) -> None:
    redis.kill()
    await deployment.start([turn("The end.")])
    address = deployment.replicas[0].address
    assert await health_of(address, "liveness") == health_pb2.HealthCheckResponse.SERVING
    assert await health_of(address, "") == health_pb2.HealthCheckResponse.NOT_SERVING
    await redis.start()
    await ready(address, is_ready=True)
    await deployment.begin(0, "e", until="finished")


async def test_9_a_redis_that_evicts_is_refused(start_process: StartProcess, tmp_path: Path) -> None:
    async with redis_server(
        tmp_path / "evicting", "--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"
    ) as redis:
        variables = {"MODE": "cloud", "DAYTONA_API_KEY": "dtn_k", "STIGMER_API_KEY": "k", **redis.variables}
        with pytest.raises(RuntimeError, match="did not start"):
            await start_process([], **variables)


@pytest.mark.long
async def test_a_replica_ends_on_sigterm_while_redis_is_away(deployment: Deployment) -> None:
    await deployment.start([SLOW])
    await deployment.begin(0, "e", until="text_delta")
    deployment.redis.kill()
    deployment.signal(0, signal.SIGTERM)
    await deployment.replicas[0].ended()
    await deployment.redis.start()
    await deployment.start([turn("The end.")])
    events = await deployment.watch(1, execution_id="e").ended()
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
