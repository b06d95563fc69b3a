"""The agent loop by itself: a real log, a real sandbox, and the scripted model or whichever one is given."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.message import Message

from runner_service.agent.harness import AgentHarness, agent_harness
from runner_service.agent.interface import AgentRun
from runner_service.agent.model_calls import RetryPolicy
from runner_service.approvals.requests import Approvals
from runner_service.errors import ExecutionEnd
from runner_service.events.stream import EventStream
from runner_service.events.writer import LogWriter, log_writer
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import Executor, SandboxSpec, Stream
from runner_service.models import ModelChoice
from runner_service.redaction import Redactor
from runner_service.storage.event_log import EventLog, NewExecution
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

QUICK = RetryPolicy(first_delay_seconds=0.01, max_delay_seconds=5.0)


@dataclass(frozen=True)
class Played:
    """What came of an execution."""

    answer: str | None
    end: ExecutionEnd | None
    usage: event_pb2.Usage
    events: list[event_pb2.ExecutionEvent]

    def all(self, kind: str) -> list[Any]:
        """The events of one kind, without their envelope."""
        return [getattr(event, kind) for event in self.events if event.WhichOneof("event") == kind]

    def one(self, kind: str) -> Any:
        """The only event of a kind."""
        (event,) = self.all(kind)
        return event

    def kinds(self) -> list[str]:
        """The kinds of events, in order, loop_detectors left out."""
        return [kind for kind, _ in itertools.groupby(str(event.WhichOneof("event")) for event in self.events)]

    def output(self, call: str, stream: str = "stdout") -> bytes:
        """What a call wrote to a stream, by its events."""
        return b"".join(getattr(each, stream) for each in self.all("tool_output") if each.tool_call_id == call)

    def finished(self, call: str) -> event_pb2.ToolCallFinished:
        """How a call ended."""
        events: list[event_pb2.ToolCallFinished] = self.all("tool_call_finished")
        (event,) = [each for each in events if each.tool_call_id == call]
        return event


class Bench:
    """Runs agents, one execution after the other, or at once."""

    def __init__(
        self, harness: AgentHarness, executor: Executor, log: EventLog, writer: LogWriter, directory: Path
    ) -> None:
        self.harness = harness
        self.root = directory / "workspace"
        self.state_dir = directory / "state"
        self.scripts = directory / "scripts"
        self.scripts.mkdir(exist_ok=True)
        self._executor = executor
        self._log = log
        self._writer = writer
        self._count = itertools.count(1)

    def script(self, turns: Sequence[Mapping[str, Any]], sub_agents: Sequence[Mapping[str, Any]] = ()) -> ModelChoice:
        """Writes a script, and chooses the model that plays it."""
        path = self.scripts / f"{next(self._count)}.yaml"
        path.write_text(yaml.safe_dump({"turns": list(turns), "sub_agents": list(sub_agents)}))
        return ModelChoice("scripted", "scripted", script=path, script_version=path.stat().st_mtime_ns)

    async def play(self, *turns: Mapping[str, Any], **options: Any) -> Played:
        """Plays turns."""
        return await self.run(self.script(turns, options.pop("sub_agents", ())), **options)

    async def run(
        self,
        model: ModelChoice,
        *,
        message: str = "Do it.",
        instructions: str = "",
        secrets: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        session: str = "",
        execution_id: str = "",
        limits: Mapping[str, int] | None = None,
        command_timeout: int = 20,
        watch: Callable[[Message], None] | None = None,
        is_read: bool = True,
    ) -> Played:
        """Runs an agent to its end, whichever it is. `watch` sees each event as it is published, but for text.

        `is_read` says whether its events are read from the log afterwards.
        """
        execution_id = execution_id or f"e{next(self._count)}"
        await self._log.append([NewExecution(runner_pb2.Execution(execution_id=execution_id), b"")])
        stream = _Watched(execution_id, self._writer, self._log, watch)
        async with self._executor.open(SandboxSpec(execution_id, session, environment or {})) as sandbox:
            run = AgentRun(
                execution_id=execution_id,
                session_id=session,
                agent=runner_pb2.Agent(name="tester", instructions=instructions),
                message=message,
                limits=_limits(limits or {}, command_timeout),
                model=model,
                sandbox=sandbox,
                events=stream,
                redactor=Redactor(secrets),
                approvals=Approvals(stream.publish, lambda _: None),
            )
            answer = end = None
            try:
                answer = await self.harness.run(run)
            except ExecutionEnd as error:
                end = error
        await self.harness.forget(run.execution_id, run.session_id)
        return Played(answer, end, run.usage, await self.events(stream) if is_read else [])

    async def appears(self, name: str) -> None:
        """Waits for a file that a command makes."""
        while not (self.root / name).exists():
            await asyncio.sleep(0.01)

    def let_go(self, event: object) -> None:
        """Makes the file `go` once there is output: `watch` for a command that waits until it was seen."""
        if isinstance(event, event_pb2.ToolOutput):
            (self.root / "go").touch()

    async def events(self, stream: EventStream) -> list[event_pb2.ExecutionEvent]:
        """Reads all events of an execution from the log."""
        await stream.flush()
        events: list[event_pb2.ExecutionEvent] = []
        while len(events) < stream.last_sequence:
            page = await self._log.read(stream.execution_id, len(events), 1 << 20)
            events += runner_pb2.ExecuteAgentResponse.FromString(page.frames).events
        return events


class _Watched(EventStream):
    def __init__(
        self, execution_id: str, writer: LogWriter, log: EventLog, watch: Callable[[Message], None] | None
    ) -> None:
        super().__init__(execution_id, writer, log)
        self._watch = watch

    def publish(self, event: Message, *, sub_agent_id: str = "") -> int:
        if self._watch:
            self._watch(event)
        return super().publish(event, sub_agent_id=sub_agent_id)

    def publish_output(self, tool_call_id: str, stream: Stream, data: bytes, *, sub_agent_id: str = "") -> None:
        super().publish_output(tool_call_id, stream, data, sub_agent_id=sub_agent_id)
        if self._watch:
            self._watch(event_pb2.ToolOutput(tool_call_id=tool_call_id, **{stream: data}))


@asynccontextmanager
async def open_bench(
    directory: Path, written: Callable[[EventLog], EventLog] = lambda log: log
) -> AsyncIterator[Bench]:
    """Opens everything that an agent runs on, below `directory`; `written` wraps the log that is written to."""
    state_dir = directory / "state"
    async with (
        sqlite_storage(state_dir) as storage,
        log_writer(written(storage.log)) as writer,
        local_executor(root=directory / "workspace", state_dir=state_dir) as executor,
        agent_harness(storage, storage.load_checkpoints(), retries=QUICK) as harness,
    ):
        yield Bench(harness, executor, storage.log, writer, directory)


def turn(text: str = "", *calls: tuple[str, Any], **more: Any) -> dict[str, Any]:
    """One turn of the scripted model."""
    return {"text": text, "tool_calls": [{"name": name, "args": args} for name, args in calls], **more}


def command(text: str, **arguments: Any) -> tuple[str, Any]:
    """A call of `execute`."""
    return "execute", {"command": text, **arguments}


def _limits(given: Mapping[str, int], command_timeout: int) -> runner_pb2.ExecutionLimits:
    defaults = {
        "max_model_calls": 50,
        "max_tool_calls": 50,
        "max_total_tokens": 1_000_000,
        "max_output_bytes": 1 << 28,
    }
    limits = runner_pb2.ExecutionLimits()
    for name, value in {**defaults, **given}.items():
        setattr(limits, name, value)
    limits.command_timeout.seconds = command_timeout
    limits.timeout.seconds = 60
    return limits
