"""REDIS_MIN_REPLICAS: nothing is done because of a write that a failover of Redis could lose."""

import asyncio
import contextlib
from pathlib import Path

import grpc
import pytest
from tests.check.test_checks import checks_of
from tests.running import one, text_of, turn
from tests.scale.redis_server import RedisServer, needs_redis, standby_of
from tests.scale.replicas import Deployment, kind
from tests.scale.test_redis_faults import ready

from runner_service.storage.event_log import LogError
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import RedisStorage, redis_storage
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = needs_redis


async def test_a_claim_that_no_replica_of_redis_has_begins_nothing(redis: RedisServer, tmp_path: Path) -> None:
    address = RedisAddress("127.0.0.1", redis.port, min_replicas=1)
    async with redis_storage(address) as storage:
        with pytest.raises(LogError, match="REDIS_MIN_REPLICAS = 1"):
            await storage.ownership.claim("e")
        await storage.replicas.beat()
        assert not storage.replicas.is_replicated
        async with standby_of(redis, tmp_path / "standby"):
            async with asyncio.timeout(30):
                await claimed(storage)
                while not storage.replicas.is_replicated:
                    await storage.replicas.beat()


async def claimed(storage: RedisStorage) -> None:
    """Claims an execution; calls again, as the error says, while the standby has no time to answer."""
    while True:
        with contextlib.suppress(LogError):
            assert await storage.ownership.claim("e")
            return


@pytest.mark.long
async def test_without_its_replica_nothing_starts_and_what_runs_goes_on(deployment: Deployment, tmp_path: Path) -> None:
    slow = turn(" ".join(str(number) for number in range(60)), delay=0.1)
    async with standby_of(deployment.redis, tmp_path / "standby") as standby:
        await deployment.start([slow], count=1, REDIS_MIN_REPLICAS="1")
        await ready(deployment.replicas[0].address, is_ready=True)
        await deployment.begin_replicated(0, "e", until="text_delta")
        watcher = deployment.watch(0, execution_id="e")
        await watcher.until(kind("text_delta"))
        standby.kill()
        await ready(deployment.replicas[0].address, is_ready=False)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await deployment.begin(0, "f")
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        events = await watcher.ended()
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
        assert text_of(events) == slow["text"]
        await standby.start()
        await ready(deployment.replicas[0].address, is_ready=True)
        await deployment.begin_replicated(0, "f", until="finished")


async def test_check_tells_what_is_not_promised_without_replicas(redis: RedisServer, tmp_path: Path) -> None:
    cloud = {"MODE": "cloud", "DAYTONA_API_KEY": "dtn_k", "STIGMER_API_KEY": "k", **redis.variables}
    assert "a failover can lose starts" in (await checks_of(tmp_path, **cloud))["REDIS_HOST"].text
    check = (await checks_of(tmp_path, REDIS_MIN_REPLICAS="1", **cloud))["REDIS_HOST"]
    assert (check.status, "has 0 replicas" in check.text) == ("fail", True)
