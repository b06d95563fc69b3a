"""Streams that break: the same execution goes on being shown, each event once."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from grpc_status import rpc_status
from tests.cli.command_line import OBEDIENT, CommandLine, local_environ, running

from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[CommandLine]:
    """Commands for a service on a socket that stays the same through restarts."""
    # Not below tmp_path, whose name may be too long for a socket.
    address = f"unix:/tmp/runner-service-{os.getpid()}.sock"
    environ = {"LISTEN_ADDRESS": address, "RUNNER_SERVICE_ADDRESS": address}
    yield CommandLine(tmp_path, local_environ(tmp_path, OBEDIENT) | environ)
    Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def test_run_attaches_again_after_the_service_was_killed_and_restarted(shell: CommandLine) -> None:
    service = running(shell)
    with service, shell.start("run", "--json", "--id", "survivor", "echo begun; sleep 60") as run:
        assert run.stdout is not None
        lines: list[str] = []
        while '"tool_output"' not in "".join(lines):
            lines.append(run.stdout.readline())
        service.kill()
        with running(shell):
            out, err = run.communicate(timeout=60)
    events = [json.loads(line) for line in [*lines, *out.splitlines()]]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert "finished" in events[-1]
    assert err.count("lost the service") == err.count("it is back") == 1
    assert run.returncode in {0, 1}  # as the service continues it, or cannot


def test_run_starts_its_own_service_again_when_that_was_killed(alone: CommandLine) -> None:
    with alone.start("run", "--json", "--id", "survivor", "echo begun; sleep 60") as run:
        assert run.stdout is not None
        lines: list[str] = []
        while '"tool_output"' not in "".join(lines):
            lines.append(run.stdout.readline())
        os.kill(alone.service()["pid"], signal.SIGKILL)
        out, err = run.communicate(timeout=60)
    events = [json.loads(line) for line in [*lines, *out.splitlines()]]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert "finished" in events[-1], err


def test_following_an_execution_that_lost_its_secrets_says_how_it_can_go_on(shell: CommandLine) -> None:
    service = running(shell)
    options = ("--id", "secretive", "--secret", "API_TOKEN", "echo begun; sleep 60")
    with service, shell.start("run", *options, API_TOKEN="tell-nobody-this") as run:
        assert run.stdout is not None
        while "[1] | begun" not in run.stdout.readline():
            pass
        run.kill()
        service.kill()
        with running(shell), shell.start("events", "secretive", "--follow") as following:
            assert following.stderr is not None
            note = following.stderr.readline()
            following.kill()
    assert "`runner-service run --id secretive`" in note


async def test_the_client_attaches_again_and_yields_each_event_once(shell: CommandLine) -> None:
    breaks: list[grpc.StatusCode] = []

    async def on_disconnect(error: grpc.aio.AioRpcError) -> None:
        breaks.append(error.code())

    request = runner_pb2.ExecuteAgentRequest(
        agent=runner_pb2.Agent(name="tester"), message="echo begun; sleep 60", execution_id="survivor"
    )
    sequences = []
    service, again = running(shell), running(shell)
    await asyncio.to_thread(service.__enter__)
    try:
        async with RunnerClient(shell.environ["RUNNER_SERVICE_ADDRESS"], on_disconnect=on_disconnect) as client:
            async for event in client.execute(request):
                sequences.append(event.sequence)
                if event.HasField("tool_output") and not breaks and service is not again:
                    service.kill()
                    service = again
                    await asyncio.to_thread(again.__enter__)
    finally:
        await asyncio.to_thread(service.__exit__)
    assert breaks
    assert breaks[0] == grpc.StatusCode.UNAVAILABLE
    assert sequences == list(range(1, len(sequences) + 1))


async def test_the_client_gives_up_when_its_patience_is_at_an_end() -> None:
    async with RunnerClient("127.0.0.1:1", retry_timeout=0.2) as client:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in client.watch("anything"):
                pass
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_request_that_is_refused_is_not_tried_again(service: CommandLine) -> None:
    async def on_disconnect(error: grpc.aio.AioRpcError) -> None:
        pytest.fail(f"tried again after {error.code()}")

    async with RunnerClient(service.environ["RUNNER_SERVICE_ADDRESS"], on_disconnect=on_disconnect) as client:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in client.watch("nobody"):
                pass
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


class _Full:
    """Refuses as a service whose queue is full, and takes the third call."""

    calls = 0

    def handler(self) -> grpc.GenericRpcHandler:
        method: Any = grpc.unary_stream_rpc_method_handler(
            self._execute, response_serializer=runner_pb2.ExecuteAgentResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler("runner_service.v1.AgentRunnerService", {"ExecuteAgent": method})

    async def _execute(self, request: bytes, context: Any) -> None:
        self.calls += 1
        if self.calls <= 2:
            retry = any_pb2.Any()
            retry.Pack(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=20_000_000)))
            status = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], details=[retry])
            await context.abort_with_status(rpc_status.to_status(status))
        event = event_pb2.ExecutionEvent(sequence=1, finished=event_pb2.Finished(state=event_pb2.STATE_SUCCEEDED))
        await context.write(runner_pb2.ExecuteAgentResponse(events=[event]))


@pytest.mark.parametrize(("patience", "calls"), [(0.0, 1), (60.0, 3)])
async def test_a_full_queue_is_tried_again_as_told_if_the_caller_has_patience(patience: float, calls: int) -> None:
    full, server = _Full(), grpc.aio.server()
    server.add_generic_rpc_handlers((full.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    states: list[int] = []
    codes = []
    try:
        async with RunnerClient(f"127.0.0.1:{port}", queue_timeout=patience) as client:
            states = [
                each.finished.state async for each in client.execute(runner_pb2.ExecuteAgentRequest(message="hi"))
            ]
    except grpc.aio.AioRpcError as error:
        codes.append(error.code())
    finally:
        await server.stop(0)
    assert full.calls == calls
    assert states == ([event_pb2.STATE_SUCCEEDED] if patience else [])
    assert codes == ([] if patience else [grpc.StatusCode.RESOURCE_EXHAUSTED])
