"""Any replica starts, shows, lists and cancels any execution."""

import asyncio
import signal

import grpc
import pytest
from tests.running import Event, command, one, stdout_of, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment, kind

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long, pytest.mark.timeout(120)]


async def execute(deployment: Deployment, replica: int, request: runner_pb2.ExecuteAgentRequest) -> list[Event]:
    events: list[Event] = []
    async for response in deployment.replicas[replica].stub.ExecuteAgent(request):
        events += response.events
    return events


async def test_10_two_starts_of_an_id_are_one_execution(deployment: Deployment) -> None:
    await deployment.start([turn("The end.")], count=2)
    one_request = deployment.request("e")
    here, there = await asyncio.gather(*(execute(deployment, each, one_request) for each in (0, 1)))
    assert here == there
    assert here[-1].finished.state == event_pb2.STATE_SUCCEEDED
    other = deployment.request("e", agent=runner_pb2.Agent(name="another"))
    for replica in (0, 1):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await execute(deployment, replica, other)
        assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_12_cancel_at_another_replica_while_the_owner_is_stopped(deployment: Deployment) -> None:
    await deployment.start([turn("", command("echo begun; sleep 600; touch never"))], count=2)
    await deployment.begin(0, "e", until="tool_output")
    watcher = deployment.watch(1, execution_id="e")
    await watcher.until(kind("tool_output"))
    deployment.signal(0, signal.SIGSTOP)
    request = runner_pb2.CancelExecutionRequest(execution_id="e", reason="enough")
    response = await deployment.replicas[1].stub.CancelExecution(request)
    assert response.state == event_pb2.STATE_RUNNING
    events = await watcher.ended()
    assert one(events, "finished").state == event_pb2.STATE_CANCELLED
    assert "enough" in one(events, "finished").error.message
    deployment.signal(0, signal.SIGCONT)


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
    call.cancel()
    await asyncio.sleep(8)  # twice the grace
    assert await client.state("e") == event_pb2.STATE_RUNNING
    await deployment.kill(1)
    events = await deployment.watch(2, execution_id="e").ended()
    assert one(events, "finished").state == event_pb2.STATE_CANCELLED
    elsewhere.cancel()


async def test_15_a_rolling_update_interrupts_no_execution(deployment: Deployment) -> None:
    slow = turn(" ".join(str(number) for number in range(80)), delay=0.1)
    await deployment.start([slow], count=2)
    names = [f"e{number}" for number in range(6)]
    await asyncio.gather(*(deployment.begin(at % 2, name, until="text_delta") for at, name in enumerate(names)))
    await deployment.start([slow], count=2)
    watchers = [deployment.watch(0, 1, 2, 3, execution_id=name) for name in names]
    await asyncio.gather(*(each.until(kind("text_delta")) for each in watchers))
    for old in (0, 1):
        deployment.signal(old, signal.SIGTERM)
        await deployment.replicas[old].ended()
    for watcher in watchers:
        events = await watcher.ended(90)
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
        assert one(events, "finished").output == slow["text"]


async def test_18_every_replica_lists_reads_and_cancels_alike(deployment: Deployment) -> None:
    await deployment.start([turn("", command("echo out")), turn("", command("sleep 600"))], count=2)
    await deployment.begin(0, "e", until="tool_call_finished")
    watcher = deployment.watch(1, execution_id="e")
    call = (await watcher.until(kind("tool_call_finished"))).tool_call_finished.tool_call_id
    output = runner_pb2.ReadToolOutputRequest(
        execution_id="e", tool_call_id=call, stream=runner_pb2.OUTPUT_STREAM_STDOUT, max_bytes=100
    )
    for replica in deployment.replicas:
        listed = await replica.stub.ListExecutions(runner_pb2.ListExecutionsRequest())
        assert [(each.execution_id, each.state) for each in listed.executions] == [("e", event_pb2.STATE_RUNNING)]
        read = await replica.stub.ReadToolOutput(output)
        assert read.data == b"out\n"
        got = await replica.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="e"))
        assert got.execution.state == event_pb2.STATE_RUNNING
    await deployment.replicas[1].stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="e"))
    events = await watcher.ended()
    assert one(events, "finished").state == event_pb2.STATE_CANCELLED
    assert stdout_of(events) == b"out\n"


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
