"""Clients of ours that lose the service behind a real proxy: each goes on where it was."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from tests.docs.pages import REPOSITORY
from tests.ports import free_port
from tests.proxies.proxies import PROGRAMS, in_front_of, program_path
from tests.running import StartProcess, command, turn

from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

TURNS = [turn("Let me see.", command("echo begun; sleep 600")), turn("The end.")]
DETACHED = runner_pb2.DISCONNECT_POLICY_DETACH

PROXIES = pytest.mark.parametrize(
    "program",
    [
        pytest.param(each, marks=pytest.mark.skipif(program_path(each) is None, reason=f"{each} is missing: {how}"))
        for each, how in PROGRAMS.items()
    ],
)


@PROXIES
async def test_the_python_client_goes_on(program: str, start_process: StartProcess, tmp_path: Path) -> None:
    service = await start_process(TURNS, LISTEN_ADDRESS=f"127.0.0.1:{free_port()}")
    request = runner_pb2.ExecuteAgentRequest(
        agent=runner_pb2.Agent(name="tester"), message="Go.", disconnect_policy=DETACHED
    )
    sequences: list[int] = []
    codes: list[grpc.StatusCode] = []

    async def note(error: grpc.aio.AioRpcError) -> None:
        codes.append(error.code())

    async with (
        in_front_of(service.address, program, tmp_path) as address,
        RunnerClient(address, on_disconnect=note) as client,
    ):
        async for event in client.execute(request):
            sequences.append(event.sequence)
            if event.HasField("tool_output"):
                await service.kill()
                await start_process(LISTEN_ADDRESS=service.address)

    assert event.finished.state == event_pb2.STATE_SUCCEEDED
    assert event.finished.output == "The end."
    assert sequences == list(range(1, len(sequences) + 1))
    assert codes


async def _begun(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while (line := await process.stdout.readline()).split(b"| ")[
            -1
        ] != b"begun\n":  # what shows the command is not it
            assert line, "the client ended too early"


@PROXIES
async def test_the_command_line_goes_on(program: str, start_process: StartProcess, tmp_path: Path) -> None:
    service = await start_process(TURNS, LISTEN_ADDRESS=f"127.0.0.1:{free_port()}")
    async with in_front_of(service.address, program, tmp_path) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "runner_service", "run", "Go."),
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RUNNER_SERVICE_ADDRESS": address},
        )
        await _begun(process)
        await service.kill()
        await start_process(LISTEN_ADDRESS=service.address)
        output, _ = await process.communicate()

    assert process.returncode == 0
    assert b"The end." in output


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    client = tmp_path_factory.mktemp("go") / "client"
    example = REPOSITORY / "examples" / "go"
    built = subprocess.run(["go", "build", "-o", client, "."], cwd=example, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return client


@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
@pytest.mark.timeout(300)  # the first build fetches and compiles gRPC
@PROXIES
async def test_the_go_example_goes_on(
    program: str, go_client: Path, start_process: StartProcess, tmp_path: Path
) -> None:
    service = await start_process(TURNS, LISTEN_ADDRESS=f"127.0.0.1:{free_port()}")
    async with in_front_of(service.address, program, tmp_path) as address:
        process = await asyncio.create_subprocess_exec(
            go_client,
            *("-address", address, "Go."),
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
        )
        await _begun(process)
        await service.kill()
        await start_process(LISTEN_ADDRESS=service.address)
        output, _ = await process.communicate()

    assert process.returncode == 0
    assert output.endswith(b"The end.\nSTATE_SUCCEEDED\n")


async def test_an_internal_error_of_the_service_itself_is_no_break() -> None:
    """With its ErrorInfo the status is meant, and is raised at once."""
    from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # has no marker
    from grpc_status import rpc_status

    async def refuse(request: object, context: grpc.aio.ServicerContext[object, object]) -> None:
        detail = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message="internal error 1234")
        detail.details.add().Pack(error_details_pb2.ErrorInfo(reason="INTERNAL", domain="runner-service"))
        status = rpc_status.to_status(detail)
        await context.abort(status.code, status.details, status.trailing_metadata)

    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        refuse,
        request_deserializer=runner_pb2.ExecuteAgentRequest.FromString,
        response_serializer=runner_pb2.ExecuteAgentResponse.SerializeToString,
    )
    name = "runner_service.v1.AgentRunnerService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {"ExecuteAgent": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with RunnerClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                async for _ in client.execute(runner_pb2.ExecuteAgentRequest(message="Go.")):
                    pass
    finally:
        await server.stop(0)
    assert raised.value.code() == grpc.StatusCode.INTERNAL
