"""Publishes the events of a tool call."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from google.protobuf.struct_pb2 import Struct
from langchain_core.messages import ToolMessage
from langgraph.types import Command
from opentelemetry.trace import Span

from runner_service.agent.interface import AgentRun
from runner_service.agent.tools.command_output import CommandOutput
from runner_service.agent.tools.excerpt import shorten
from runner_service.agent.tools.scope import RunningCall, RunScope
from runner_service.executors.protocol import CommandResult
from runner_service.telemetry import metrics, record_command, record_failure
from runner_service.v1 import execution_event_pb2 as event_pb2

_KINDS = {
    "execute": event_pb2.TOOL_KIND_EXECUTE,
    "ls": event_pb2.TOOL_KIND_READ,
    "read_file": event_pb2.TOOL_KIND_READ,
    "write_file": event_pb2.TOOL_KIND_WRITE,
    "edit_file": event_pb2.TOOL_KIND_WRITE,
    "glob": event_pb2.TOOL_KIND_SEARCH,
    "grep": event_pb2.TOOL_KIND_SEARCH,
    "write_todos": event_pb2.TOOL_KIND_PLAN,
    "task": event_pb2.TOOL_KIND_SUB_AGENT,
}
_TODO_STATUSES = {
    "pending": event_pb2.Todo.STATUS_PENDING,
    "in_progress": event_pb2.Todo.STATUS_IN_PROGRESS,
    "completed": event_pb2.Todo.STATUS_COMPLETED,
}
_MAX_RESULT_CHARACTERS = 32_000
_MAX_ARGUMENT_CHARACTERS = 16_000
_MAX_ITEMS = 200
_MAX_DEPTH = 20
_MAX_VALUES = 5000  # of which a Struct takes some milliseconds to fill
_UNKNOWN_TOOL = "unknown"
_MAX_ARGUMENTS_BYTES = 192 * 1024
_GENERAL_PURPOSE = "general-purpose"


def sub_agent_names(run: AgentRun) -> set[str]:
    """Returns the sub-agents that a `task` call can name."""
    return {_GENERAL_PURPOSE, *(each.name for each in run.agent.sub_agents)}


@dataclass(frozen=True)
class Outcome:
    """A finished tool call: the result for the model, and the event."""

    result: ToolMessage | Command[Any]
    event: event_pb2.ToolCallFinished
    command: CommandResult | None

    def with_remark(self, remark: str) -> ToolMessage | Command[Any]:
        """Returns the result with a remark for the model appended."""
        message = _message_in(self.result)
        return _with_message(self.result, message, message.model_copy(update={"content": f"{message.text}{remark}"}))

    def record(self, span: Span) -> None:
        """Sets the attributes of the call's span."""
        if self.command:
            used = self.event.resources
            record_command(
                span,
                exit_code=self.command.exit_code,
                cpu_time=self.command.cpu_time,
                peak_memory=self.command.peak_memory,
                stdout_bytes=used.stdout_bytes,
                stderr_bytes=used.stderr_bytes,
            )
        if self.event.outcome != event_pb2.TOOL_OUTCOME_SUCCEEDED:
            record_failure(span, event_pb2.ToolOutcome.Name(self.event.outcome).removeprefix("TOOL_OUTCOME_").lower())


class ToolCallReporter:
    """Publishes the start of a call when constructed, and its end once: the first of `end` and `cancel`.

    `shown` are the arguments, redacted.
    """

    def __init__(
        self, scope: RunScope, call: RunningCall, arguments: Mapping[str, Any], shown: Mapping[str, Any]
    ) -> None:
        self._scope = scope
        self._call = call
        self._shown = shown
        self._start_time = time.monotonic()
        self._ended = False
        self._sub_agents = sub_agent_names(scope.run)
        self._sub_agent = str(arguments.get("subagent_type", "")) if call.name == "task" else ""
        if resumption := scope.run.resumption:
            resumption.unfinished_messages.pop(call.sub_agent_id, None)
            self._ended = call.id in resumption.finished_calls
            if call.id in resumption.started_calls:
                return
        struct = arguments_struct(shown)
        self._publish(
            event_pb2.ToolCallStarted(tool_call_id=call.id, name=call.name, kind=kind_of(call.name), arguments=struct)
        )
        if self._sub_agent in self._sub_agents:
            task = shorten(str(shown.get("description", "")), _MAX_ARGUMENT_CHARACTERS)
            self._publish(event_pb2.SubAgentStarted(tool_call_id=call.id, name=self._sub_agent, description=task))

    async def outcome(self, result: ToolMessage | Command[Any]) -> Outcome:
        """Returns the outcome of the call, redacted."""
        message = _message_in(result)
        redact = self._scope.run.redactor.any_value
        update = {"content": await redact(message.content), "artifact": await redact(message.artifact)}
        clean = message.model_copy(update=update)
        event = self._call.ended or self._finished_with(clean)
        command = self._call.output.result if self._call.output else None
        return Outcome(_with_message(result, message, clean), event, command)

    @property
    def elapsed_seconds(self) -> float:
        """How long the call has taken."""
        return time.monotonic() - self._start_time

    def end(self, outcome: Outcome) -> None:
        """Publishes the end of the call."""
        if self._call.name == "write_todos" and outcome.event.outcome == event_pb2.TOOL_OUTCOME_SUCCEEDED:
            self._publish_todos()
        self._end(outcome.event)

    def cancel(self, reason: str = "") -> None:
        """Publishes that the call was cancelled or interrupted, unless it has ended or its command continues.

        `reason` is redacted.
        """
        run = self._scope.run
        interrupted = run.is_interrupted()
        continues = interrupted and self._call.name == "execute" and run.sandbox.keeps_commands
        if not (self._ended or continues):
            event = self._finished(
                event_pb2.TOOL_OUTCOME_INTERRUPTED if interrupted else event_pb2.TOOL_OUTCOME_CANCELLED
            )
            event.result = shorten(reason, _MAX_RESULT_CHARACTERS)
            self._end(event)

    def _end(self, event: event_pb2.ToolCallFinished) -> None:
        if self._ended:  # published by an earlier process
            return
        self._ended = True
        metrics.tool_called(
            self._call.name if self._call.is_known else _UNKNOWN_TOOL, event.outcome, self.elapsed_seconds
        )
        if self._call.output and (ran := self._call.output.result) and ran.spawn_time:
            metrics.command_spawned(ran.spawn_time)
        if self._sub_agent in self._sub_agents:
            self._publish(event_pb2.SubAgentFinished(tool_call_id=self._call.id))
        self._publish(event)

    def _finished_with(self, message: ToolMessage) -> event_pb2.ToolCallFinished:
        event = self._finished(_outcome(message, self._call))
        if (exit_code := _exit_code(message)) is not None:
            event.exit_code = exit_code
        event.result = shorten(message.text, _MAX_RESULT_CHARACTERS)
        event.truncated |= event.result != message.text
        return event

    def _finished(self, outcome: event_pb2.ToolOutcome.ValueType) -> event_pb2.ToolCallFinished:
        event = event_pb2.ToolCallFinished(tool_call_id=self._call.id, outcome=outcome)
        event.elapsed.FromNanoseconds(int(self.elapsed_seconds * 1e9))
        if output := self._call.output:
            _describe_output(event, output)
        return event

    def _publish_todos(self) -> None:
        todos = self._shown.get("todos", [])
        items = [event_pb2.Todo(content=each["content"], status=_TODO_STATUSES[each["status"]]) for each in todos]
        self._publish(event_pb2.TodosUpdated(todos=items))

    def _publish(self, event: Any) -> None:
        self._scope.run.events.publish(event, sub_agent_id=self._call.sub_agent_id)


def kind_of(tool: str) -> event_pb2.ToolKind.ValueType:
    """Returns the kind of a tool, by the name that the model uses."""
    return _KINDS.get(tool, event_pb2.TOOL_KIND_OTHER)


def _outcome(message: ToolMessage, call: RunningCall) -> event_pb2.ToolOutcome.ValueType:
    if call.rejected:
        return event_pb2.TOOL_OUTCOME_REJECTED
    if call.interrupted:
        return event_pb2.TOOL_OUTCOME_INTERRUPTED
    command = call.output.result if call.output else None
    if command and command.timed_out:
        return event_pb2.TOOL_OUTCOME_TIMED_OUT
    if command and command.exceeded:
        return event_pb2.TOOL_OUTCOME_LIMIT_EXCEEDED
    failed = message.status == "error" or bool(_exit_code(message))
    return event_pb2.TOOL_OUTCOME_FAILED if failed else event_pb2.TOOL_OUTCOME_SUCCEEDED


def _exit_code(message: ToolMessage) -> int | None:
    """The exit code of a command, including one that an earlier process ran."""
    return message.artifact.get("exit_code") if isinstance(message.artifact, dict) else None


def _describe_output(event: event_pb2.ToolCallFinished, output: CommandOutput) -> None:
    event.truncated = output.excerpt.left_out > 0
    event.dropped_bytes = output.dropped
    event.resources.stdout_bytes = output.written["stdout"]
    event.resources.stderr_bytes = output.written["stderr"]
    if command := output.result:
        event.exit_code = command.exit_code
        event.resources.cpu_time.FromNanoseconds(int(command.cpu_time * 1e9))
        event.resources.peak_memory_bytes = command.peak_memory
        event.killed_processes.extend(f"{each.pid} {each.name}" for each in command.killed)


def _message_in(result: ToolMessage | Command[Any]) -> ToolMessage:
    if isinstance(result, ToolMessage):
        return result
    return next(each for each in _update_of(result)["messages"] if isinstance(each, ToolMessage))


def _with_message(result: ToolMessage | Command[Any], old: ToolMessage, new: ToolMessage) -> ToolMessage | Command[Any]:
    if isinstance(result, ToolMessage):
        return new
    update = _update_of(result)
    return replace(result, update={**update, "messages": [new if each is old else each for each in update["messages"]]})


def _update_of(command: Command[Any]) -> dict[str, Any]:
    if not isinstance(command.update, dict):
        raise TypeError("a tool's command changes the state by names of fields")
    return command.update


def arguments_struct(arguments: Mapping[str, Any]) -> Struct:
    """Returns the arguments of a call as events show them, cut to the limits of events."""
    struct = Struct()
    struct.update(_bounded(arguments, _MAX_DEPTH, iter(range(_MAX_VALUES))))
    if struct.ByteSize() > _MAX_ARGUMENTS_BYTES:
        size = struct.ByteSize()
        struct.Clear()
        struct.update({"…": f"{size:,} bytes of arguments"})
    return struct


def _bounded(value: Any, depth: int, room: Iterator[int]) -> Any:
    """Returns a JSON value cut to the limits of events. Each item takes one from `room`."""
    match value:
        case str():
            return shorten(value, _MAX_ARGUMENT_CHARACTERS)
        case dict() if depth:
            items = zip(islice(value.items(), _MAX_ITEMS), room, strict=False)
            return {str(name): _bounded(item, depth - 1, room) for (name, item), _ in items}
        case list() if depth:
            return [_bounded(item, depth - 1, room) for item, _ in zip(value[:_MAX_ITEMS], room, strict=False)]
        case None | bool() | int() | float():
            return value
        case _:
            return "…"
