"""How many at once, who is next, and what those who wait and those who are refused are told."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from tests.running import Client, Event, StartProcess, StartService, command, kinds, one, turn

from runner_service.errors import QueueFullError
from runner_service.executions.queue import ExecutionQueue
from runner_service.storage.queue import Notify
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

WAITS = [turn("", command("until [ -e go ]; do sleep 0.02; done")), turn("Done.")]
ONE_AT_ONCE = {"MAX_CONCURRENT_EXECUTIONS": "1"}


class Caller:
    """Somebody who called for an execution, and reads what becomes of it."""

    def __init__(self, client: Client, name: str, **fields: Any) -> None:
        self._client = client
        self.name = name
        self.call = client.stub.ExecuteAgent(client.request(execution_id=name, **fields))
        self.events: list[Event] = []

    async def sees(self, kind: str) -> Event:
        """Reads up to the next event of a kind."""
        await self._read(lambda event: event.WhichOneof("event") == kind)
        return self.events[-1]

    async def end(self) -> event_pb2.Finished:
        await self._read(lambda _: False)
        finished: event_pb2.Finished = one(self.events, "finished")
        return finished

    async def _read(self, until: Callable[[Event], bool]) -> None:
        async with asyncio.timeout(60):
            self.events += await self._client.collect(self.call, until=until)

    @property
    def notices(self) -> list[tuple[str, str]]:
        return [(event.notice.code, event.notice.text) for event in self.events if event.HasField("notice")]


async def runs(client: Client, name: str, **fields: Any) -> Caller:
    caller = Caller(client, name, **fields)
    await caller.sees("tool_call_started")
    return caller


async def waits(client: Client, name: str, **fields: Any) -> Caller:
    caller = Caller(client, name, **fields)
    await caller.sees("notice")
    return caller


async def start_times(client: Client) -> list[str]:
    """The names of all executions in the order in which they began."""
    listed = await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest())
    return [each.execution_id for each in sorted(listed.executions, key=lambda each: each.start_time.ToNanoseconds())]


def details_of(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it is a call too
    assert status is not None
    found = kind()
    assert [detail.Unpack(found) for detail in status.details if detail.Is(kind.DESCRIPTOR)] == [True]
    return found


async def test_what_does_not_fit_waits_and_is_told_its_position(start: StartService, tmp_path: Path) -> None:
    client = await start(WAITS, **ONE_AT_ONCE)
    first = await runs(client, "first")
    second, third, fourth = [await waits(client, name) for name in ("second", "third", "fourth")]

    assert await client.state("fourth") == event_pb2.STATE_PENDING
    pending = runner_pb2.ListExecutionsRequest(states=[event_pb2.STATE_PENDING])
    listed = await client.stub.ListExecutions(pending)
    assert [each.execution_id for each in listed.executions] == ["fourth", "third", "second"]
    (tmp_path / "workspace" / "go").touch()

    for caller in (first, second, third, fourth):
        assert (await caller.end()).state == event_pb2.STATE_SUCCEEDED
    assert await start_times(client) == ["first", "second", "third", "fourth"]
    assert first.notices == []
    assert third.notices == [
        ("QUEUED", "waits for its turn, at position 2 of the queue"),
        ("QUEUED", "waits for its turn, at position 1 of the queue"),
    ]
    assert [text.split()[6] for _, text in fourth.notices] == ["3", "2", "1"]


async def test_what_the_queue_does_not_hold_is_refused_and_everything_else_passes(
    start: StartService, tmp_path: Path
) -> None:
    client = await start(WAITS, **ONE_AT_ONCE, MAX_QUEUED_EXECUTIONS="1")
    first = await runs(client, "first")
    second = await waits(client, "second")

    with pytest.raises(grpc.aio.AioRpcError, match="MAX_QUEUED_EXECUTIONS") as refused:
        await client.execute(execution_id="third")
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(refused.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert details_of(refused.value, error_details_pb2.ErrorInfo).reason == "QUEUE_FULL"
    with pytest.raises(grpc.aio.AioRpcError, match="not in the log"):
        await client.state("third")

    async with grpc.aio.insecure_channel(client.service.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    attached = client.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="first"))
    watched = client.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="second"))
    (tmp_path / "workspace" / "go").touch()
    assert await client.collect(attached) == (await first.end(), first.events)[1]
    assert await client.collect(watched) == (await second.end(), second.events)[1]
    assert one(await client.execute(execution_id="third"), "finished").state == event_pb2.STATE_SUCCEEDED


async def test_sessions_take_turns_and_one_of_a_session_runs_at_a_time(start: StartService, tmp_path: Path) -> None:
    client = await start(WAITS, **ONE_AT_ONCE)
    callers = [await runs(client, "greedy-1", session_id="greedy")]
    for name, session in [
        ("greedy-2", "greedy"),
        ("greedy-3", "greedy"),
        ("modest-1", "modest"),
        ("alone", ""),
        ("modest-2", "modest"),
    ]:
        callers.append(await waits(client, name, session_id=session))
    (tmp_path / "workspace" / "go").touch()
    for caller in callers:
        assert (await caller.end()).state == event_pb2.STATE_SUCCEEDED

    assert await start_times(client) == ["greedy-1", "modest-1", "alone", "greedy-2", "modest-2", "greedy-3"]
    assert callers[1].notices[0] == ("SESSION_BUSY", "waits for another execution of session greedy to end")
    assert callers[1].notices[1][0] == "QUEUED"


async def test_a_session_that_waits_for_itself_holds_up_nobody(start: StartService, tmp_path: Path) -> None:
    client = await start(WAITS, MAX_CONCURRENT_EXECUTIONS="2")
    first = await runs(client, "first", session_id="s")
    second = await waits(client, "second", session_id="s")

    other = await runs(client, "other")
    (tmp_path / "workspace" / "go").touch()
    for caller in (first, second, other):
        assert (await caller.end()).state == event_pb2.STATE_SUCCEEDED
    assert second.notices == [("SESSION_BUSY", "waits for another execution of session s to end")]


async def test_what_waits_can_be_cancelled(start: StartService, tmp_path: Path) -> None:
    client = await start(WAITS, **ONE_AT_ONCE)
    first = await runs(client, "first", session_id="s")
    second, same, third = [
        await waits(client, name, session_id=session)
        for name, session in [("second", ""), ("same", "s"), ("third", "")]
    ]

    for caller in (second, same):
        found = await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id=caller.name))
        assert found.state == event_pb2.STATE_PENDING
        finished = await caller.end()
        assert finished.state == event_pb2.STATE_CANCELLED
        assert finished.elapsed.ToNanoseconds() == 0
        assert "started" not in kinds(caller.events)
    assert (await third.sees("notice")).notice.text == "waits for its turn, at position 1 of the queue"
    (tmp_path / "workspace" / "go").touch()
    assert (await first.end()).state == event_pb2.STATE_SUCCEEDED
    assert (await third.end()).state == event_pb2.STATE_SUCCEEDED


async def test_whoever_leaves_while_it_waits_finds_it_again(start: StartService, tmp_path: Path) -> None:
    client = await start(WAITS, **ONE_AT_ONCE, DISCONNECT_GRACE="0")
    first = await runs(client, "first")
    second = await waits(client, "second")
    second.call.cancel()
    while client.service.executions.watchers > 1:  # type: ignore[union-attr]  # it runs in this process
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)

    assert await client.state("second") == event_pb2.STATE_PENDING
    back = client.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="second"))
    await client.collect(back, until=lambda event: event.HasField("notice"))
    (tmp_path / "workspace" / "go").touch()
    assert (await first.end()).state == event_pb2.STATE_SUCCEEDED
    assert one(await client.collect(back), "finished").state == event_pb2.STATE_SUCCEEDED


async def test_the_clock_stands_still_while_it_waits(start: StartService, tmp_path: Path) -> None:
    client = await start(WAITS, **ONE_AT_ONCE)
    first = await runs(client, "first")
    limits = runner_pb2.ExecutionLimits()
    limits.timeout.FromMilliseconds(4000)  # enough for a command on a slow machine
    second = await waits(client, "second", limits=limits)
    await asyncio.sleep(4.1)
    (tmp_path / "workspace" / "go").touch()
    await first.end()

    finished = await second.end()
    assert finished.state == event_pb2.STATE_SUCCEEDED
    assert finished.elapsed.ToNanoseconds() < 4e9


async def test_a_drain_sends_away_what_waits_and_it_begins_after_the_restart(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service = await start_process(WAITS, **ONE_AT_ONCE, DRAIN_TIMEOUT="30")
    first = await runs(service.client, "first")
    second = await waits(service.client, "second")
    same = await waits(service.client, "same", session_id="s")
    service.process.send_signal(signal.SIGTERM)

    for caller in (second, same):
        with pytest.raises(grpc.aio.AioRpcError) as sent_away:
            await caller.end()
        assert sent_away.value.code() == grpc.StatusCode.UNAVAILABLE
    assert await service.client.state("first") == event_pb2.STATE_RUNNING
    await service.client.reached("second", event_pb2.STATE_INTERRUPTED)  # which may be after its caller was told
    (tmp_path / "workspace" / "go").touch()
    assert (await first.end()).state == event_pb2.STATE_SUCCEEDED
    assert await service.ended() == 0

    again = (await start_process()).client
    await again.execute(execution_id="after", session_id="s")
    for caller in (second, same):
        request = runner_pb2.ExecuteAgentRequest(execution_id=caller.name, after_sequence=len(caller.events))
        events = caller.events + await again.collect(again.stub.ExecuteAgent(request))
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
        assert not one(events, "started").resumed
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_what_goes_on_by_itself_takes_its_turn_and_is_never_refused(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service = await start_process(WAITS, MAX_CONCURRENT_EXECUTIONS="2")
    for name in ("first", "second"):
        await runs(service.client, name)
    await waits(service.client, "third")
    await service.kill()

    again = (await start_process(**ONE_AT_ONCE, MAX_QUEUED_EXECUTIONS="0", RESUME_ON_START="true")).client
    await again.started("first")
    assert await again.state("second") == event_pb2.STATE_PENDING
    assert await again.state("third") == event_pb2.STATE_PENDING
    (tmp_path / "workspace" / "go").touch()
    async with asyncio.timeout(30):
        while await again.state("third") != event_pb2.STATE_SUCCEEDED:
            await asyncio.sleep(0.02)
    assert await again.state("second") == event_pb2.STATE_SUCCEEDED


async def test_a_long_queue_hears_of_its_positions_seldom_and_in_the_end_always() -> None:
    told: list[list[int]] = [[] for _ in range(1000)]

    def listener(heard: list[int]) -> Notify:
        return lambda notice: heard.append(int(notice.text.split()[6]))

    queue = ExecutionQueue(max_running=1, max_queued=999)
    turns = [queue.enqueue("", listener(heard)) for heard in told]
    with pytest.raises(QueueFullError):
        await queue.require_room("")
    for each in turns:
        assert each.is_admitted
        queue.release(each)

    assert told[0] == []
    assert told[1] == [1]
    assert told[999] == [999, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1]
    assert (queue.running, queue.queued) == (0, 0)
