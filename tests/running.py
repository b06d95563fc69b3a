"""The real service on a real port, its scripted model, and a real client."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from tests.forking import ForkedProcess, ForkServer

from runner_service.app import RunningService, running_service
from runner_service.settings import load_settings
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc
from runner_service.v1 import execution_event_pb2 as event_pb2

Turns = Sequence[Mapping[str, Any]]
Event = event_pb2.ExecutionEvent


def turn(text: str = "", *calls: tuple[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """One turn of the scripted model."""
    made: dict[str, Any] = {**more}
    if text:
        made["text"] = text
    if calls:
        made["tool_calls"] = [{"name": name, "args": args} for name, args in calls]
    return made


def command(text: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """A call of the `execute` tool."""
    return ("execute", {"command": text, **arguments})


class Client:
    """A real client of a service, and what it needs to know of it."""

    def __init__(
        self, service: "RunningService | ServiceProcess", stub: "runner_grpc.AgentRunnerServiceAsyncStub"
    ) -> None:
        self.service = service
        self.stub = stub

    def request(self, message: str = "go", **fields: Any) -> runner_pb2.ExecuteAgentRequest:
        """A request for the scripted agent."""
        fields.setdefault("agent", runner_pb2.Agent(name="tester", instructions="Do it."))
        return runner_pb2.ExecuteAgentRequest(message=message, **fields)

    async def execute(self, message: str = "go", **fields: Any) -> list[Event]:
        """Runs to the end and returns all events."""
        return await self.collect(self.stub.ExecuteAgent(self.request(message, **fields)))

    async def collect(self, call: Any, *, until: Callable[[Event], bool] = lambda _: False) -> list[Event]:
        """Reads a stream to its end, or to the first event that is wanted."""
        events: list[Event] = []
        async for response in call:
            for event in response.events:
                events.append(event)
                if until(event):
                    return events
        return events

    async def started(self, execution_id: str) -> None:
        """Waits until an execution runs that somebody else is about to start."""
        async with asyncio.timeout(60):
            while not await self.is_running(execution_id):
                await asyncio.sleep(0.01)

    async def reached(self, execution_id: str, state: "event_pb2.State.ValueType") -> None:
        """Waits until an execution is in a state."""
        async with asyncio.timeout(60):
            while await self.state(execution_id) != state:
                await asyncio.sleep(0.02)

    async def is_running(self, execution_id: str) -> bool:
        """Asks whether an execution runs; one that is not known does not."""
        try:
            return await self.state(execution_id) == event_pb2.STATE_RUNNING
        except grpc.aio.AioRpcError:
            return False

    async def state(self, execution_id: str) -> "event_pb2.State.ValueType":
        """Asks where an execution stands."""
        response = await self.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id=execution_id))
        return response.execution.state


def _environ(tmp_path: Path, turns: Turns | Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    script = tmp_path / "script.yaml"
    if turns or not script.exists():
        new = tmp_path / "script.yaml.new"  # a service that runs may read the script in this moment
        new.write_text(yaml.safe_dump(turns if isinstance(turns, Mapping) else {"turns": list(turns)}))
        new.replace(script)
    return {
        "MODE": "local",
        "LISTEN_ADDRESS": "127.0.0.1:0",
        "STATE_DIR": str(tmp_path / "state"),
        "SANDBOX_ROOT_DIR": str(tmp_path / "workspace"),
        "STIGMER_LLM_PROVIDER": "scripted",
        "STIGMER_LLM_SCRIPT": str(script),
        "HOME": str(tmp_path),
        **variables,
    }


StartService = Callable[..., Awaitable[Client]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[StartService]:
    """Starts services; each call may give other turns and variables. They stop at the end of the test."""
    async with AsyncExitStack() as parts:

        async def start(turns: Turns | Mapping[str, Any] = (), **variables: str) -> Client:
            service = await parts.enter_async_context(
                running_service(load_settings(_environ(tmp_path, turns, variables)))
            )
            channel = await parts.enter_async_context(grpc.aio.insecure_channel(service.address))
            return Client(service, runner_grpc.AgentRunnerServiceStub(channel))

        yield start


async def written(path: Path) -> None:
    """Waits for a file that a command writes: it is there, and empty, a moment earlier."""
    async with asyncio.timeout(60):
        while not (path.exists() and path.stat().st_size):  # noqa: ASYNC240  # two stats of a local file
            await asyncio.sleep(0.01)


def holding(directory: Path, text: str) -> list[Path]:
    """Returns the files below a directory that hold a text."""
    found = []
    for place, _, names in os.walk(directory):  # `rglob` fails when a directory goes meanwhile
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):  # temporary ones go meanwhile
                if path.is_file() and text.encode() in path.read_bytes():
                    found.append(path)
    return found


def text_of(events: Sequence[Event]) -> str:
    """All text that the model said."""
    return "".join(event.text_delta.text for event in events)


def stdout_of(events: Sequence[Event]) -> bytes:
    """All that commands wrote to standard output."""
    return b"".join(event.tool_output.stdout for event in events)


def one(events: Sequence[Event], kind: str) -> Any:
    """The only event of a kind."""
    found = [getattr(event, kind) for event in events if event.WhichOneof("event") == kind]
    assert len(found) == 1, f"{len(found)} × {kind} in {[event.WhichOneof('event') for event in events]}"
    return found[0]


def kinds(events: Sequence[Event]) -> list[str | None]:
    """The kinds of events, in order."""
    return [event.WhichOneof("event") for event in events]


class ServiceProcess:
    """The service as a process of its own, as a daemon or an operator runs it. Start it with `start_process`."""

    def __init__(self, process: asyncio.subprocess.Process | ForkedProcess, address: str) -> None:
        self.process = process
        self.address = address
        self.channel = grpc.aio.insecure_channel(address)
        self.stub: runner_grpc.AgentRunnerServiceAsyncStub = runner_grpc.AgentRunnerServiceStub(self.channel)

    @property
    def client(self) -> Client:
        """A client of it."""
        return Client(self, self.stub)

    async def kill(self) -> None:
        """Kills it at once, as the kernel would."""
        self.process.kill()
        await self.ended()

    async def ended(self, seconds: float = 30) -> int:
        """Waits for its end and returns its exit code."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()


StartProcess = Callable[..., Awaitable[ServiceProcess]]


@pytest.fixture
async def start_process(tmp_path: Path, fork_server: ForkServer) -> AsyncIterator[StartProcess]:
    """Starts the service as a process; what runs in the end is killed.

    It is forked, unless it is to be started by the program `before`, its error output is read by the test (STDERR), or
    `is_new` says so, for a test of what the kernel shows of it.
    """
    started: list[ServiceProcess] = []

    async def start(
        turns: Turns | Mapping[str, Any] = (), *, before: Sequence[str] = (), is_new: bool = False, **variables: str
    ) -> ServiceProcess:
        with_stderr = bool(variables.pop("STDERR", ""))
        environ = {"PATH": os.environ["PATH"], **_environ(tmp_path, turns, variables)}
        ready, announce = os.pipe()
        process: asyncio.subprocess.Process | ForkedProcess
        if before or with_stderr or is_new:
            process = await _execute(before, environ, announce, with_stderr=with_stderr)
        else:
            process = await fork_server.fork(["serve", "--ready-fd"], environ, announce)
        os.close(announce)
        line = await asyncio.to_thread(_read_line, ready)
        if not line:
            raise RuntimeError(f"the service did not start: exit code {await process.wait()}")
        started.append(ServiceProcess(process, json.loads(line)["address"]))
        return started[-1]

    yield start
    for service in started:
        await service.channel.close()
        if service.process.returncode is None:
            await service.kill()


async def _execute(
    before: Sequence[str], environ: Mapping[str, str], announce: int, *, with_stderr: bool
) -> asyncio.subprocess.Process:
    arguments = [*before, sys.executable, "-m", "runner_service", "serve", "--ready-fd", str(announce)]
    return await asyncio.create_subprocess_exec(
        *arguments,
        env=environ,
        pass_fds=[announce],
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE if with_stderr else None,
    )


def _read_line(descriptor: int) -> str:
    with os.fdopen(descriptor) as stream:
        return stream.readline()
