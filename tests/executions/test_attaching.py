"""Coming, leaving and coming back: same id, same events, once each."""

import asyncio
from typing import Any

import grpc
import pytest
from tests.running import Client, StartService, command, kinds, one, stdout_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

SLOW = [turn("", command("echo begun; until [ -e go ]; do sleep 0.02; done; echo done")), turn("Done.")]


async def begin(client: Client, name: str, **fields: Any) -> tuple[Any, list[event_pb2.ExecutionEvent]]:
    call = client.stub.ExecuteAgent(client.request(execution_id=name, **fields))
    return call, await client.collect(call, until=lambda event: event.HasField("tool_output"))


async def let_go(events: list[event_pb2.ExecutionEvent]) -> None:
    touch = await asyncio.create_subprocess_exec("touch", f"{one(events, 'started').sandbox.root}/go")
    await touch.wait()


async def test_the_same_request_attaches_and_sees_the_same(start: StartService) -> None:
    client = await start(SLOW)
    call, seen = await begin(client, "a")
    second = asyncio.create_task(client.execute(execution_id="a"))
    await asyncio.sleep(0.05)
    await let_go(seen)

    whole = seen + await client.collect(call)

    assert await second == whole
    assert await client.execute(execution_id="a") == whole
    assert await client.execute(execution_id="a", after_sequence=3) == whole[3:]


async def test_the_id_alone_is_enough_to_attach(start: StartService) -> None:
    client = await start([turn("Hi.")])
    whole = await client.execute(execution_id="a")

    assert await client.collect(client.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a"))) == whole


async def test_another_request_under_a_known_id_is_refused(start: StartService) -> None:
    client = await start([turn("Hi.")])
    await client.execute("one", execution_id="a")

    for difference in (
        {"message": "two"},
        {"message": "one", "labels": {"x": "y"}},
        {"message": "one", "session_id": "s"},
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="another request") as refused:
            await client.execute(execution_id="a", **difference)
        assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_how_to_watch_is_no_part_of_what_makes_a_request_the_same(start: StartService) -> None:
    client = await start([turn("Hi.")])
    whole = await client.execute(execution_id="a")

    detached = await client.execute(
        execution_id="a", after_sequence=1, disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH
    )

    assert detached == whole[1:]


async def test_unknown_ids_are_not_found(start: StartService) -> None:
    client = await start([turn("Hi.")])

    for call in (
        client.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="nobody")),
        client.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="nobody")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.collect(call)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    for unary in (
        client.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="nobody")),
        client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="nobody")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_sequence_from_the_future_is_out_of_range(start: StartService) -> None:
    client = await start([turn("Hi.")])
    newest = len(await client.execute(execution_id="a"))

    for name, after in (("a", newest + 1), ("a", 10_000), ("never-started", 1)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.execute(execution_id=name, after_sequence=after)
        assert refused.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert await client.execute(execution_id="a", after_sequence=newest) == []
    assert not await client.is_running("never-started")


async def test_an_execution_whose_caller_left_is_cancelled_after_the_grace(start: StartService) -> None:
    client = await start(SLOW, DISCONNECT_GRACE="0.2")
    call, _ = await begin(client, "a")
    call.cancel()

    await client.reached("a", event_pb2.STATE_CANCELLED)
    events = await client.execute(execution_id="a")
    assert "caller left" in one(events, "finished").error.message
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_CANCELLED


async def test_a_caller_that_comes_back_within_the_grace_finds_it_running(start: StartService) -> None:
    client = await start(SLOW, DISCONNECT_GRACE="60")
    call, seen = await begin(client, "a")
    call.cancel()
    again = asyncio.create_task(client.execute(execution_id="a", after_sequence=seen[-1].sequence))
    await asyncio.sleep(0.1)
    await let_go(seen)

    rest = await again
    assert [event.sequence for event in seen + rest] == list(range(1, len(seen + rest) + 1))
    assert one(rest, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_a_detached_execution_runs_on(start: StartService) -> None:
    client = await start(SLOW, DISCONNECT_GRACE="0.05")
    call, seen = await begin(client, "a", disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH)
    call.cancel()
    await asyncio.sleep(0.3)
    assert await client.state("a") == event_pb2.STATE_RUNNING
    await let_go(seen)

    await client.reached("a", event_pb2.STATE_SUCCEEDED)
    assert stdout_of(await client.execute(execution_id="a")) == b"begun\ndone\n"


async def test_a_watcher_neither_starts_an_execution_nor_keeps_it(start: StartService) -> None:
    client = await start(SLOW, DISCONNECT_GRACE="0.1")
    call, _ = await begin(client, "a")
    watching = asyncio.create_task(
        client.collect(client.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="a")))
    )
    await asyncio.sleep(0.1)
    call.cancel()

    events = await watching
    assert one(events, "finished").state == event_pb2.STATE_CANCELLED


async def test_cancelling_says_what_it_found_and_is_idempotent(start: StartService) -> None:
    client = await start(SLOW)
    call, seen = await begin(client, "a")
    request = runner_pb2.CancelExecutionRequest(execution_id="a", reason="changed my mind")

    assert (await client.stub.CancelExecution(request)).state == event_pb2.STATE_RUNNING
    events = seen + await client.collect(call)
    assert (await client.stub.CancelExecution(request)).state == event_pb2.STATE_CANCELLED

    finished = one(events, "finished")
    assert finished.state == event_pb2.STATE_CANCELLED
    assert "changed my mind" in finished.error.message
    assert kinds(events)[-1] == "finished"


async def test_a_hundred_watchers_see_the_same(start: StartService) -> None:
    client = await start(SLOW)
    call, seen = await begin(client, "a")
    watching = [
        asyncio.create_task(
            client.collect(client.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="a")))
        )
        for _ in range(100)
    ]
    await let_go(seen)
    whole = seen + await client.collect(call)

    for events in await asyncio.gather(*watching):
        assert events == whole
