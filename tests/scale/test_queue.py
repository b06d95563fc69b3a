"""One queue for all replicas: whoever has room takes, in the order of acceptance; nothing that waits is lost."""

import asyncio
import itertools
import json
import os
import random
import signal
from typing import Any

import grpc
import pytest
from tests.running import Event, command, one, stdout_of, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import ANYTHING, Deployment
from tests.scale.test_sessions import finished_at, started_at

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long]

RUNS_LONG = [turn("", command("sleep 600"))]
BLOCKS_IF_TOLD = [turn("", command('[ -z "$BLOCKS" ] || sleep 600; echo ran')), turn("The end.")]
BLOCKS = {"BLOCKS": runner_pb2.EnvironmentValue(value="yes")}


def notices(events: list[Event]) -> list[str]:
    return [each.notice.text for each in events if each.HasField("notice")]


async def cancel(deployment: Deployment, replica: int, name: str) -> None:
    request = runner_pb2.CancelExecutionRequest(execution_id=name, reason="enough")
    await deployment.replicas[replica].stub.CancelExecution(request)


async def call_until(deployment: Deployment, replica: int, name: str, until: str, **fields: Any) -> "Call":
    call = Call(deployment, replica, name, **fields)
    await call.sees(until)
    return call


class Call:
    """A caller of an execution, who stays."""

    def __init__(self, deployment: Deployment, replica: int, name: str, **fields: Any) -> None:
        self._call = deployment.replicas[replica].stub.ExecuteAgent(deployment.request(name, **fields))
        self.events: list[Event] = []

    async def sees(self, wanted: str) -> Event:
        """Reads up to an event of a kind, which it returns."""
        async with asyncio.timeout(60):
            while True:
                for event in self.events:
                    if event.WhichOneof("event") == wanted:
                        return event
                response: Any = await self._call.read()
                self.events += response.events


async def test_what_waits_at_a_full_replica_starts_at_another_one_and_its_caller_follows(
    deployment: Deployment,
) -> None:
    await deployment.start(RUNS_LONG, count=1, MAX_CONCURRENT_EXECUTIONS="1")
    await deployment.begin(0, "first", until="tool_call_started")
    caller = await call_until(deployment, 0, "second", "notice")
    assert notices(caller.events) == ["waits for its turn, at position 1 of the queue"]
    await deployment.start(RUNS_LONG, count=1, MAX_CONCURRENT_EXECUTIONS="1")
    await caller.sees("tool_call_started")
    assert not one(caller.events, "started").resumed
    third = await call_until(deployment, 1, "third", "notice")
    deployment.redis.kill()
    await deployment.redis.start()
    await cancel(deployment, 0, "first")
    await third.sees("tool_call_started")
    await cancel(deployment, 0, "second")
    assert (await caller.sees("finished")).finished.state == event_pb2.STATE_CANCELLED


async def name_of(deployment: Deployment, number: int) -> str:
    """Waits for the first report of a replica, and returns its name."""
    async with asyncio.timeout(60):
        while True:
            for each in reports(deployment):
                if each["process"] == deployment.replicas[number].process.pid:
                    return str(each["name"])
            await asyncio.sleep(0.05)


def keep_lease(deployment: Deployment, name: str) -> None:
    """Lets a replica look alive, whatever happens to it."""
    with deployment.redis.client as client:
        client.zadd("rs1:{d:default}:leases", {name: 1e15})


def reports(deployment: Deployment) -> list[Any]:
    with deployment.redis.client as client:
        return [json.loads(each) for each in client.hgetall("rs1:{d:default}:reports").values()]


async def state(deployment: Deployment, replica: int, name: str) -> str:
    request = runner_pb2.GetExecutionRequest(execution_id=name)
    answer = await deployment.replicas[replica].stub.GetExecution(request)
    return event_pb2.State.Name(answer.execution.state).removeprefix("STATE_")


async def until_state(deployment: Deployment, replica: int, name: str, wanted: str) -> None:
    async with asyncio.timeout(60):
        while await state(deployment, replica, name) != wanted:
            await asyncio.sleep(0.05)


async def test_those_that_wait_at_a_killed_replica_start_at_others_though_its_lease_lasts(
    deployment: Deployment,
) -> None:
    await deployment.start(BLOCKS_IF_TOLD, count=2, MAX_CONCURRENT_EXECUTIONS="1")
    for replica in (0, 1):
        await deployment.begin(replica, f"blocker{replica}", until="tool_call_started", environment=BLOCKS)
    for name, replica in (("e1", 0), ("cancelled", 0), ("e2", 1), ("e3", 0)):
        await deployment.begin(replica, name, until="notice")

    first = await name_of(deployment, 0)
    deployment.signal(0, signal.SIGSTOP)
    keep_lease(deployment, first)
    await cancel(deployment, 1, "cancelled")
    (*_, finished) = await deployment.watch(1, execution_id="cancelled").ended()
    assert finished.finished.state == event_pb2.STATE_CANCELLED
    assert "enough" in finished.finished.error.message
    deployment.signal(0, signal.SIGCONT)
    assert (await deployment.watch(0, execution_id="cancelled").ended())[-1] == finished

    await deployment.kill(0)
    keep_lease(deployment, first)
    await cancel(deployment, 1, "blocker1")
    ends = [await deployment.watch(1, execution_id=name).ended() for name in ("e1", "e2", "e3")]
    for events in ends:
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
        assert not one(events, "started").resumed
        assert stdout_of(events) == b"ran\n"
    starts = [started_at(events) for events in ends]
    assert starts == sorted(starts), "in the order of their acceptance at both replicas"


async def test_a_replica_that_drains_leaves_what_waits_to_others_and_keeps_to_itself_what_only_it_can_run(
    deployment: Deployment,
) -> None:
    await deployment.start(BLOCKS_IF_TOLD, count=2, MAX_CONCURRENT_EXECUTIONS="1")
    await deployment.begin(0, "blocker0", until="tool_call_started", environment=BLOCKS)
    secret = {"TOKEN": runner_pb2.EnvironmentValue(value="hunter2-of-the-caller", is_secret=True)}
    await deployment.begin(0, "secret", until="notice", environment=secret)
    await deployment.begin(0, "blocker1", until="tool_call_started", environment=BLOCKS)
    assert await state(deployment, 1, "secret") == "PENDING", "only replica 0 has its secrets"
    caller = await call_until(deployment, 0, "free", "notice")
    deployment.signal(0, signal.SIGTERM)
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await caller.sees("finished")
    assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
    await deployment.replicas[0].ended()
    await until_state(deployment, 1, "secret", "INTERRUPTED")
    assert await state(deployment, 1, "free") == "PENDING"
    for name in ("blocker0", "blocker1"):
        await cancel(deployment, 1, name)
    events = await deployment.watch(1, execution_id="free").ended()
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert len([each for each in events if each.HasField("started")]) == 1


@pytest.mark.timeout(900)
async def test_sessions_take_turns_and_nothing_is_lost_while_replicas_are_killed(deployment: Deployment) -> None:
    """`CHAOS_EXECUTIONS=400` is the whole of it."""
    chance = random.Random(20)
    turns = [turn("", command("mkdir busy && rmdir busy && echo alone")), turn("The end.")]
    count = int(os.environ.get("CHAOS_EXECUTIONS", "60"))
    await deployment.start(turns, count=3, MAX_CONCURRENT_EXECUTIONS="4")
    names = [f"e{number}" for number in range(count)]
    sessions = {name: f"s{number % 20}" for number, name in enumerate(names)}
    for number, name in enumerate(names):
        living = [at for at, each in enumerate(deployment.replicas) if each.process.returncode is None]
        await deployment.begin(chance.choice(living), name, until=ANYTHING, session_id=sessions[name])
        if number % (count // 3) == count // 6:
            await deployment.kill(chance.choice(living))
            await deployment.start(turns, MAX_CONCURRENT_EXECUTIONS="4")
    seen = {name: await deployment.watch_anywhere(name).ended(600) for name in names}
    for events in seen.values():
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    for session in set(sessions.values()):
        own = [seen[name] for name in names if sessions[name] == session]
        for earlier, later in itertools.pairwise(own):
            assert finished_at(earlier) <= started_at(later)
    async with asyncio.timeout(60):  # until all have reported again, and those of the killed ones are deleted
        while any(each["queued"] for each in reports(deployment)):
            await asyncio.sleep(0.05)
