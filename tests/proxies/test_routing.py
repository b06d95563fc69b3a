"""What our clients send, so that a proxy finds the owner, and the service can tell what was lost."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from tests.docs.pages import REPOSITORY
from tests.proxies.test_breaks import go_client

from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

__all__ = ["go_client"]

Event = event_pb2.ExecutionEvent
SERVICE = "runner_service.v1.AgentRunnerService"
OWNER = 1_700_000_000_000_000
STREAMS = [
    [
        Event(sequence=1, started=event_pb2.Started(owner=OWNER)),
        Event(sequence=2, text_delta=event_pb2.TextDelta(text="a")),
    ],
    [Event(sequence=3, notice=event_pb2.Notice(text="nobody knows whose"))],
    [Event(sequence=4, text_delta=event_pb2.TextDelta(text="b"))],
    [Event(sequence=5, finished=event_pb2.Finished(state=event_pb2.STATE_SUCCEEDED))],
]
"""Each is broken off after its events."""
POSITIONS = [(0, 0), (2, OWNER), (3, 0), (4, OWNER)]


class Recorder(grpc.aio.ServerInterceptor):
    """A service that notes what it is sent, and answers ExecuteAgent only."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        """The method and the id in the metadata of each call."""
        self.positions: list[tuple[int, int]] = []

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        metadata = dict(handler_call_details.invocation_metadata)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if service == SERVICE:
            self.sent.append((method, str(metadata.get("x-execution-id", ""))))
        return await continuation(handler_call_details)

    async def execute(self, request: runner_pb2.ExecuteAgentRequest, context: Any) -> None:
        """Sends the next of STREAMS."""
        events = STREAMS[len(self.positions)]
        self.positions.append((request.after_sequence, request.after_owner))
        await context.write(runner_pb2.ExecuteAgentResponse(events=events))
        if not events[-1].HasField("finished"):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[Recorder, str]]:
    recorder = Recorder()
    server = grpc.aio.server(interceptors=[recorder])
    handler: Any = grpc.unary_stream_rpc_method_handler(
        recorder.execute,
        request_deserializer=runner_pb2.ExecuteAgentRequest.FromString,
        response_serializer=runner_pb2.ExecuteAgentResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ExecuteAgent": handler}),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield recorder, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def require_that_it_says_where_it_goes_on(tmp_path: Path, *program: str | Path, address_flag: str = "") -> None:
    async with recording() as (recorder, address):
        process = await asyncio.create_subprocess_exec(
            *program,
            *((address_flag, address) if address_flag else (address,)),
            "hello",
            stdout=asyncio.subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )
        assert await process.wait() == 0
    assert recorder.positions == POSITIONS
    names = {name for method, name in recorder.sent if method == "ExecuteAgent"}
    assert len(names) == 1, "the id of its execution"
    assert names != {""}


async def test_the_command_line_says_where_it_goes_on(tmp_path: Path) -> None:
    await require_that_it_says_where_it_goes_on(
        tmp_path, sys.executable, "-m", "runner_service", "run", "--quiet", address_flag="--server"
    )


async def test_the_example_in_plain_grpc_says_where_it_goes_on(tmp_path: Path) -> None:
    await require_that_it_says_where_it_goes_on(tmp_path, sys.executable, REPOSITORY / "examples" / "python_client.py")


@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
@pytest.mark.timeout(300)  # the first build fetches and compiles gRPC
async def test_the_go_example_says_where_it_goes_on(go_client: Path, tmp_path: Path) -> None:
    await require_that_it_says_where_it_goes_on(tmp_path, go_client, address_flag="-address")


async def test_every_call_of_the_client_about_an_execution_names_it_to_proxies() -> None:
    async with recording() as (recorder, address), RunnerClient(address) as client:
        calls: list[Any] = [
            client.get("e"),
            client.cancel("e"),
            client.delete("e"),
            client.read_output("e", "call"),
            client.get_diff(runner_pb2.GetDiffRequest(execution_id="e")),
            client.revert_changes(runner_pb2.RevertChangesRequest(execution_id="e")),
            client.submit_approval(runner_pb2.SubmitApprovalRequest(execution_id="e")),
            anext(client.list_file_changes("e")),
            anext(client.list_approvals(execution_id="e")),
            anext(client.watch("e")),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError, match="Method not found"):
                await call
        await client.detach("e")
        assert len(recorder.sent) == len(calls) + 1
        assert {name for _, name in recorder.sent} == {"e"}


async def test_an_id_that_no_metadata_can_have_is_left_to_the_service_to_refuse() -> None:
    async with recording() as (recorder, address), RunnerClient(address) as client:
        for name in ("é\n", "x" * 20_000):
            with pytest.raises(grpc.aio.AioRpcError, match="Method not found"):
                await client.get(name)
        with pytest.raises(grpc.aio.AioRpcError, match="Method not found"):
            await client.who_am_i()
        assert {name for _, name in recorder.sent} == {""}
