"""Any replica starts, shows, lists and cancels any execution."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from tests.running import Event, command, one, stdout_of, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import IS_WHOLE, Deployment, Watcher, kind, resumed

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long]


RUNS_LONG = [turn("", command("sleep 600 & echo $$ $!; sleep 600"))]
UPDATED_EXECUTIONS, UPDATE_SECONDS = (100, 90) if IS_WHOLE else (12, 30)
STARTS = 1000 if IS_WHOLE else 200


async def execute(deployment: Deployment, replica: int, request: runner_pb2.ExecuteAgentRequest) -> list[Event]:
    events: list[Event] = []
    async for response in deployment.replicas[replica].stub.ExecuteAgent(request):
        events += response.events
    return events


async def test_10_two_starts_of_an_id_are_one_execution(deployment: Deployment) -> None:
    await deployment.start([turn("The end.")], count=2)
    one_request = deployment.request("e")
    async with deployment.behind_proxy():
        here, there = await asyncio.gather(*(execute(deployment, each, one_request) for each in (0, 1)))
        assert here == there == await deployment.watch_everywhere("e").ended()
    assert here[-1].finished.state == event_pb2.STATE_SUCCEEDED
    other = deployment.request("e", agent=runner_pb2.Agent(name="another"))
    for replica in (0, 1):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await execute(deployment, replica, other)
        assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize("session", ["", "s"], ids=["alone", "in a session"])
async def test_12_cancel_at_another_replica_while_the_owner_is_stopped(deployment: Deployment, session: str) -> None:
    await deployment.start(RUNS_LONG, count=2)
    await deployment.begin(0, "e", until="tool_output", session_id=session)
    watcher = deployment.watch(1, execution_id="e")
    processes = await running_processes(watcher)
    deployment.signal(0, signal.SIGSTOP)
    request = runner_pb2.CancelExecutionRequest(execution_id="e", reason="enough")
    response = await deployment.replicas[1].stub.CancelExecution(request)
    assert response.state == event_pb2.STATE_RUNNING
    events = await watcher.ended()
    assert one(events, "finished").state == event_pb2.STATE_CANCELLED
    assert "enough" in one(events, "finished").error.message
    await until_ended(processes)
    deployment.signal(0, signal.SIGCONT)
    assert await deployment.watch(0, execution_id="e").ended() == events


async def running_processes(watcher: Watcher) -> list[Path]:
    """Waits until a command of RUNS_LONG runs, and returns its processes."""
    output = (await watcher.until(kind("tool_output"))).tool_output.stdout
    processes = [Path("/proc") / each.decode() for each in output.split()]
    assert len(processes) == 2
    assert all(each.exists() for each in processes)
    return processes


async def until_ended(processes: Sequence[Path]) -> None:
    """Waits until there are no such processes; they tell nobody."""
    async with asyncio.timeout(30):
        while any(each.exists() for each in processes):
            await asyncio.sleep(0.05)


async def test_a_command_in_a_sandbox_that_others_use_ends_with_an_execution_that_is_cancelled_before_it_goes_on(
    deployment: Deployment,
) -> None:
    await deployment.start(RUNS_LONG, count=2, MAX_CONCURRENT_EXECUTIONS="1")
    await deployment.begin(1, "blocker", until="tool_output")
    await deployment.begin(0, "e", until="tool_output", session_id="s")
    watcher = deployment.watch(1, execution_id="e")
    processes = await running_processes(watcher)
    deployment.signal(0, signal.SIGSTOP)
    client = deployment.replicas[1].client
    await client.reached("e", event_pb2.STATE_PENDING)  # taken over, and there is no room for it
    assert all(each.exists() for each in processes)
    await deployment.replicas[1].stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="e"))
    assert one(await watcher.ended(), "finished").state == event_pb2.STATE_CANCELLED
    await until_ended(processes)
    deployment.signal(0, signal.SIGCONT)
    assert await client.state("blocker") == event_pb2.STATE_RUNNING


async def test_13_an_execution_lasts_as_long_as_it_has_callers_at_any_replica(deployment: Deployment) -> None:
    turns = [turn("", command("echo begun; sleep 600"))]
    await deployment.start(turns, count=3, DISCONNECT_GRACE="4")
    request = deployment.request("e", disconnect_policy=runner_pb2.DISCONNECT_POLICY_CANCEL)
    call = deployment.replicas[0].stub.ExecuteAgent(request)
    async for response in call:
        if any(each.HasField("tool_output") for each in response.events):
            break
    elsewhere = deployment.replicas[1].stub.ExecuteAgent(request)
    await elsewhere.read()
    client = deployment.replicas[2].client
    async with asyncio.timeout(60):  # until the owner can learn of it; the grace begins when its own caller leaves
        with deployment.redis.client as redis:
            while not redis.exists("rs1:{e}:p"):
                await asyncio.sleep(0.02)
    call.cancel()
    await asyncio.sleep(8)  # twice the grace
    assert await client.state("e") == event_pb2.STATE_RUNNING
    await deployment.kill(1)
    events = await deployment.watch(2, execution_id="e").ended()
    assert one(events, "finished").state == event_pb2.STATE_CANCELLED
    elsewhere.cancel()


@pytest.mark.timeout(900)
async def test_15_a_rolling_update_interrupts_no_execution(deployment: Deployment) -> None:
    slow = turn(" ".join(str(number) for number in range(UPDATE_SECONDS * 2)), delay=0.5)
    await deployment.start([slow], count=3)
    names = [f"e{number}" for number in range(UPDATED_EXECUTIONS)]
    async with deployment.behind_proxy(spare=3):
        for first in range(0, len(names), 12):  # a hundred sandboxes at once would take the CPU that leases need
            some = enumerate(names[first : first + 12], first)
            await asyncio.gather(
                *(deployment.begin(at % 3, name, until="text_delta", seconds=300) for at, name in some)
            )
        watchers = [
            Watcher([deployment.proxy], name) if deployment.proxy and at % 2 else deployment.watch_anywhere(name)
            for at, name in enumerate(names)
        ]
        await asyncio.gather(*(each.until(kind("text_delta"), 120) for each in watchers))
        for old in range(3):
            await deployment.start([slow])
            deployment.signal(old, signal.SIGTERM)
            await deployment.replicas[old].ended(120)
        everything = [await watcher.ended(300) for watcher in watchers]
    for events in everything:
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
        assert one(events, "finished").output == slow["text"]
    assert any(resumed(event) for events in everything for event in events)
    pauses = sorted(each.longest_pause_seconds for each in watchers)
    print(f"longest pause of a stream: {pauses[len(pauses) // 2]:.1f} s (median), {pauses[-1]:.1f} s (most)")


class Starting:
    """Starts many executions, whose first one keeps the others waiting."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.accepted: list[str] = []

    async def run(self, count: int) -> None:
        room = asyncio.Semaphore(20)
        await asyncio.gather(*(self._start(f"e{number:04}", number, room) for number in range(count)))

    async def _start(self, name: str, number: int, room: asyncio.Semaphore) -> None:
        async with room:
            await self._deployment.begin(number % len(self._deployment.replicas), name, until="", seconds=120)
        self.accepted.append(name)


async def listed(deployment: Deployment, replica: int) -> list[str]:
    """The ids of all executions, from pages."""
    names: list[str] = []
    request = runner_pb2.ListExecutionsRequest(page_size=70)
    while True:
        page = await deployment.replicas[replica].stub.ListExecutions(request)
        names += [each.execution_id for each in page.executions]
        if not page.next_page_token:
            return names
        request.page_token = page.next_page_token


@pytest.mark.timeout(600)
async def test_18_every_replica_lists_all_executions_while_more_are_started(deployment: Deployment) -> None:
    limits = {"MAX_CONCURRENT_EXECUTIONS": "1", "MAX_QUEUED_EXECUTIONS": str(2 * STARTS)}
    await deployment.start([turn("", command("sleep 600"))], count=3, **limits)
    await deployment.begin(0, "first")  # the others wait, but for one or two
    starting = Starting(deployment)
    task = asyncio.create_task(starting.run(STARTS))
    rounds = 0
    while not task.done() or not rounds:
        for replica in range(3):
            before = set(starting.accepted)
            names = await listed(deployment, replica)
            assert len(names) == len(set(names)), "none twice"
            assert before <= set(names), "none left out"
        rounds += 1
    await task
    names = await listed(deployment, 0)
    assert len(names) == STARTS + 1
    assert await listed(deployment, 1) == await listed(deployment, 2) == names
    for replica in range(3):  # before the sandboxes go: the next in line would want one of its own
        await deployment.kill(replica)
    print(f"listed {3 * rounds} times meanwhile")


async def test_18_every_replica_reads_and_cancels_alike(deployment: Deployment) -> None:
    await deployment.start([turn("", command("echo out")), turn("", command("sleep 600"))], count=3)
    async with deployment.behind_proxy():
        await deployment.begin(0, "e", until="tool_call_finished")
        watchers = deployment.watch_everywhere("e")
        await watchers.until(kind("tool_call_finished"))
        call = (await watchers.each[1].until(kind("tool_call_finished"))).tool_call_finished.tool_call_id
        output = runner_pb2.ReadToolOutputRequest(
            execution_id="e", tool_call_id=call, stream=runner_pb2.OUTPUT_STREAM_STDOUT, max_bytes=100
        )
        got = runner_pb2.GetExecutionRequest(execution_id="e")
        everywhere = [each.stub for each in (*deployment.replicas, deployment.proxy) if each]
        listed = [await each.ListExecutions(runner_pb2.ListExecutionsRequest()) for each in everywhere]
        assert [(each.execution_id, each.state) for each in listed[0].executions] == [("e", event_pb2.STATE_RUNNING)]
        read = [await each.ReadToolOutput(output) for each in everywhere]
        assert {each.data for each in read} == {b"out\n"}
        found = [await each.GetExecution(got) for each in everywhere]
        assert {each.execution.state for each in found} == {event_pb2.STATE_RUNNING}
        await deployment.replicas[1].stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="e"))
        events = await watchers.ended()
        assert one(events, "finished").state == event_pb2.STATE_CANCELLED
        assert stdout_of(events) == b"out\n"
        found = [await each.GetExecution(got) for each in everywhere]
        assert all(each == found[0] for each in found)
        read = [await each.ReadToolOutput(output) for each in everywhere]
        assert all(each == read[0] for each in read)


async def test_a_decision_at_another_replica_reaches_the_call_that_waits_in_memory(deployment: Deployment) -> None:
    await deployment.start([turn("", command("echo out")), turn("The end.")], count=2, APPROVAL_HOLD="600")
    policy = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS)
    await deployment.begin(0, "e", until="approval_requested", approval_policy=policy)
    watcher = deployment.watch(1, execution_id="e")
    asked = (await watcher.until(kind("approval_requested"))).approval_requested
    decision = runner_pb2.SubmitApprovalRequest(
        execution_id="e",
        tool_call_id=asked.tool_call_id,
        generation=asked.generation,
        action=event_pb2.APPROVAL_ACTION_APPROVE,
    )
    stub = deployment.replicas[1].stub
    old = runner_pb2.SubmitApprovalRequest()
    old.CopyFrom(decision)
    old.generation += 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.SubmitApproval(old)
    assert refused.value.code() == grpc.StatusCode.ABORTED
    assert (await stub.SubmitApproval(decision)).state == event_pb2.STATE_RUNNING
    events = await watcher.ended()
    assert one(events, "approval_decided").action == event_pb2.APPROVAL_ACTION_APPROVE
    assert stdout_of(events) == b"out\n"
    assert len([each for each in events if each.HasField("started")]) == 1, "it was not parked"
