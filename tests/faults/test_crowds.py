"""Very many at once: watchers, starts, and one who never reads."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from grpc_status import rpc_status
from tests.running import Client, Event, StartService, command, one, stdout_of, turn

from runner_service.api.servicer import AgentRunnerServicer
from runner_service.app import RunningService
from runner_service.executions.approval_service import ApprovalService
from runner_service.executions.readiness import Readiness
from runner_service.server import running_server
from runner_service.settings import load_settings
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

WATCHERS, CHANNELS = 1000, 4


async def test_a_thousand_watchers_all_see_everything(start: StartService, tmp_path: Path) -> None:
    client = await start([turn("", command("until [ -e go ]; do sleep 0.05; done; seq 1000")), turn("Done.")])
    caller = client.stub.ExecuteAgent(client.request(execution_id="a"))
    seen = await client.collect(caller, until=lambda event: event.HasField("tool_call_started"))
    async with AsyncExitStack() as channels:
        stubs = [
            runner_grpc.AgentRunnerServiceStub(
                await channels.enter_async_context(
                    grpc.aio.insecure_channel(client.service.address, options=[("grpc.use_local_subchannel_pool", 1)])
                )
            )
            for _ in range(CHANNELS)
        ]
        request = runner_pb2.WatchExecutionRequest(execution_id="a")
        calls = [stubs[number % CHANNELS].WatchExecution(request) for number in range(WATCHERS)]
        # Each of them follows before anything more happens.
        firsts: list[Any] = await asyncio.gather(*(call.read() for call in calls))
        (tmp_path / "workspace" / "go").touch()
        rests = await asyncio.gather(*(rest_of(call) for call in calls))
        whole = seen + await client.collect(caller)

    assert one(whole, "finished").state == event_pb2.STATE_SUCCEEDED
    assert stdout_of(whole).endswith(b"\n1000\n")
    for first, rest in zip(firsts, rests, strict=True):
        assert [*first.events, *rest] == whole


async def rest_of(call: Any) -> list[Event]:
    events: list[Event] = []
    while (response := await call.read()) is not grpc.aio.EOF:
        events += response.events
    return events


async def test_of_two_thousand_starts_at_once_each_gets_its_end_or_a_clear_no(
    start: StartService, tmp_path: Path
) -> None:
    turns = [turn("", command("until [ -e go ]; do sleep 0.1; done")), turn("Done.")]
    client = await start(turns, MAX_CONCURRENT_EXECUTIONS="8", MAX_QUEUED_EXECUTIONS="32")

    starts = [asyncio.create_task(ended(client, f"e{number}")) for number in range(2000)]
    async with asyncio.timeout(60):
        while sum(each.done() for each in starts) < 1960:
            await asyncio.sleep(0.05)
    (tmp_path / "workspace" / "go").touch()

    assert Counter(await asyncio.gather(*starts)) == {"STATE_SUCCEEDED": 40, "RESOURCE_EXHAUSTED": 1960}


async def ended(client: Client, name: str) -> str:
    try:
        events = await client.execute(execution_id=name)
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it is a call too
        assert status
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
        return error.code().name
    return event_pb2.State.Name(one(events, "finished").state)


async def test_a_watcher_that_never_reads_is_ended_and_costs_no_more_than_its_buffers(start: StartService) -> None:
    client = await start([turn("", command("head -c 200000000 /dev/zero")), turn("Done.")])
    service = client.service
    assert isinstance(service, RunningService)
    before = psutil.Process().memory_info().rss
    async with impatient(service) as stub:
        call = client.stub.ExecuteAgent(client.request(execution_id="a"))
        seen = await client.collect(call, until=lambda event: event.HasField("started"))
        request = runner_pb2.WatchExecutionRequest(execution_id="a")
        never = stub.WatchExecution(request)
        await never.read()

        size, last = await consumed(call)

        assert seen
        assert size == 200_000_000
        assert last.finished.state == event_pb2.STATE_SUCCEEDED
        assert psutil.Process().memory_info().rss - before < 140_000_000
        async with asyncio.timeout(60):
            # Its status comes behind what it has not read: it is the server that must have let go by then.
            while service.executions.is_busy:
                await asyncio.sleep(0.05)
            with pytest.raises(grpc.aio.AioRpcError) as stalled:
                await rest_of(never)
        assert "attach again" in str(stalled.value.details())


@asynccontextmanager
async def impatient(
    service: RunningService, approvals: Any = None
) -> AsyncIterator["runner_grpc.AgentRunnerServiceAsyncStub"]:
    """Serves it at another port, where whoever does not read for half a second is given up."""
    parts = (service.executions, approvals or service.approvals, service.changes, service.executions._log)
    handler = AgentRunnerServicer(*parts, write_timeout=0.5).handler()
    serving = running_server(
        load_settings({"MODE": "local", "LISTEN_ADDRESS": "localhost:0"}),
        add_services=lambda server: server.add_generic_rpc_handlers((handler,)),
        service_names=[],
        readiness=Readiness(),
    )
    async with serving as server, grpc.aio.insecure_channel(server.addresses[0]) as channel:
        yield runner_grpc.AgentRunnerServiceStub(channel)


class Observed:
    """Approvals that change a thousand times at once, and tell when nobody watches them any more."""

    def __init__(self, approvals: ApprovalService) -> None:
        self._approvals = approvals
        self.is_left = asyncio.Event()

    async def changes(self, *arguments: Any) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(self._approvals.changes(*arguments)) as changes:
                async for pending in changes:
                    for _ in range(1000):
                        yield pending
        finally:
            self.is_left.set()


async def test_whoever_watches_approvals_and_never_reads_is_ended(start: StartService) -> None:
    client = await start([turn("", command(f"true # {'x' * 30_000}")), turn("Done.")])
    assert isinstance(client.service, RunningService)
    policy = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS)
    call = client.stub.ExecuteAgent(client.request(execution_id="a", approval_policy=policy))
    await client.collect(call, until=lambda event: event.HasField("approval_requested"))
    observed = Observed(client.service.approvals)
    async with impatient(client.service, observed) as stub:
        never = stub.WatchApprovals(runner_pb2.WatchApprovalsRequest())
        await never.read()
        async with asyncio.timeout(60):
            await observed.is_left.wait()
        with pytest.raises(grpc.aio.AioRpcError) as stalled:
            await read_to_the_end(never)
        assert "nothing was read" in str(stalled.value.details())


async def read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def consumed(call: Any) -> tuple[int, Event]:
    size, last = 0, Event()
    async for response in call:
        for event in response.events:
            size += len(event.tool_output.stdout)
            last = event
    return size, last
