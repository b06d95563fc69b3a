"""A failover as a managed Redis does it: one address, behind which the replica takes the place of the primary."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tests.running import Event, command, one, stdout_of, text_of, turn
from tests.scale.redis_server import RedisServer, needs_redis, redis_server, until_replicated
from tests.scale.replicas import Deployment, kind
from tests.scale.tcp_proxy import TcpProxy, tcp_proxy
from tests.scale.test_redis_faults import ready

from runner_service.storage.redis.backend import LEASE_SECONDS
from runner_service.storage.redis.keys import deployment_keys
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long, pytest.mark.timeout(240)]

TURNS = [
    turn("one two three four five six", command("echo once >> marks; wc -l < marks; sleep 1"), delay=0.2),
    turn("", command("wc -l < marks")),
    turn("The end."),
]
EXECUTIONS = 8
LEASES = deployment_keys("default").leases


@dataclass
class ManagedRedis:
    """A primary and its replica. What services use is the address of `clients`."""

    primary: RedisServer
    standby: RedisServer
    clients: TcpProxy
    replication: TcpProxy

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a service that uses it."""
        return {"REDIS_PORT": str(self.clients.port)}

    async def fail_over(self, *, is_killed: bool, renews_leases: bool = False) -> None:
        """Promotes the replica, which has what came through `replication`; the primary is dead, or cut off.

        With `renews_leases` it lacks no more than a lease lasts, however long it was held up on this machine.
        """
        if is_killed:
            self.primary.kill()
        with self.standby.client as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
            if renews_leases:
                renewed_ms = (client.time()[0] + LEASE_SECONDS) * 1000
                client.zadd(LEASES, dict.fromkeys(client.zrange(LEASES, 0, -1), renewed_ms))
        self.replication.drop()
        self.clients.switch(self.standby.port)


@asynccontextmanager
async def managed(primary: RedisServer, directory: Path) -> AsyncIterator[ManagedRedis]:
    """Runs a replica of a primary, and the addresses of both."""
    async with (
        tcp_proxy(primary.port) as clients,
        tcp_proxy(primary.port) as replication,
        redis_server(directory, "--replicaof", f"127.0.0.1 {replication.port}") as standby,
    ):
        await until_replicated(standby)
        yield ManagedRedis(primary, standby, clients, replication)


@asynccontextmanager
async def replica_of_the_promoted(redis: ManagedRedis, directory: Path) -> AsyncIterator[None]:
    """What a managed Redis starts in place of the primary: with REDIS_MIN_REPLICAS nothing begins without it."""
    async with redis_server(directory, "--replicaof", f"127.0.0.1 {redis.standby.port}") as server:
        await until_replicated(server)
        yield


class Starting:
    """Starts executions one after the other at the first replica, until there are enough and a start is refused."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.answered: list[str] = []
        self.enough = asyncio.Event()

    async def run(self) -> None:
        """Runs until a start is refused, or until cancelled."""
        for number in range(EXECUTIONS):
            await self._deployment.begin_replicated(0, f"e{number}")
            self.answered.append(f"e{number}")
        self.enough.set()
        with contextlib.suppress(grpc.aio.AioRpcError):
            for number in itertools.count(EXECUTIONS):
                await self._deployment.begin(0, f"e{number}")
                self.answered.append(f"e{number}")


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "cut off"])
async def test_with_a_replica_no_answered_start_and_no_call_that_began_is_lost(
    deployment: Deployment, tmp_path: Path, is_killed: bool
) -> None:
    async with managed(deployment.redis, tmp_path / "standby") as redis:
        await deployment.start(TURNS, count=2, REDIS_MIN_REPLICAS="1", **redis.variables)
        for each in deployment.replicas:
            await ready(each.address, is_ready=True)
        starting = Starting(deployment)
        task = asyncio.create_task(starting.run())
        async with asyncio.timeout(120):
            await starting.enough.wait()
        redis.replication.hold()  # from here on nothing reaches the replica, and nothing is answered
        await asyncio.wait([task], timeout=3)
        await deployment.kill(0)
        task.cancel()
        accepted = starting.answered
        await redis.fail_over(is_killed=is_killed)
        async with replica_of_the_promoted(redis, tmp_path / "next"):
            ended = [await deployment.watch(1, execution_id=name).ended(120) for name in accepted]
    for events in ended:
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
        outcomes = [each.tool_call_finished.outcome for each in events if each.HasField("tool_call_finished")]
        counts = stdout_of(events).split()
        if event_pb2.TOOL_OUTCOME_INTERRUPTED in outcomes:  # killed before the command began, which the model is told
            assert set(counts) <= {b"1"}, "its command did not run twice"
        else:
            assert counts == [b"1", b"1"], "its command ran once"


async def test_without_replicas_a_start_that_was_answered_can_be_lost(deployment: Deployment, tmp_path: Path) -> None:
    """What docs/scale-out.md says is not promised: if it were, REDIS_MIN_REPLICAS would cost for nothing."""
    async with managed(deployment.redis, tmp_path / "standby") as redis:
        await deployment.start(TURNS, count=2, REDIS_MIN_REPLICAS="0", **redis.variables)
        await deployment.begin(0, "kept", until="finished")
        await until_replicated(redis.standby, of=deployment.redis)
        redis.replication.hold()
        await deployment.begin(0, "lost")
        await deployment.kill(0)
        await redis.fail_over(is_killed=True)
        await ready(deployment.replicas[1].address, is_ready=True)
        assert await deployment.replicas[1].client.state("kept") == event_pb2.STATE_SUCCEEDED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await deployment.replicas[1].client.state("lost")
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("min_replicas", ["0", "1"])
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "cut off"])
async def test_7_owners_that_live_repeat_what_a_failover_behind_one_address_has_lost(
    deployment: Deployment, tmp_path: Path, min_replicas: str, is_killed: bool
) -> None:
    slow = turn(" ".join(str(number) for number in range(80)), delay=0.1)
    async with managed(deployment.redis, tmp_path / "standby") as redis:
        await deployment.start([slow], count=2, REDIS_MIN_REPLICAS=min_replicas, **redis.variables)
        for each in deployment.replicas:
            await ready(each.address, is_ready=True)
        await deployment.begin_replicated(0, "e", until="text_delta")
        watchers = deployment.watch_everywhere("e")
        await watchers.until(kind("text_delta"))
        redis.replication.hold()
        seen = len(watchers.each[1].events)
        await watchers.each[1].until(lambda event: event.sequence > seen + 5)
        await redis.fail_over(is_killed=is_killed, renews_leases=True)
        async with replica_of_the_promoted(redis, tmp_path / "next"):
            events: Sequence[Event] = await watchers.ended(120)
            assert await deployment.watch(1, execution_id="e").ended() == events, "the log has what was seen"
    assert len([each for each in events if each.HasField("started")]) == 1
    assert text_of(events) == slow["text"]
