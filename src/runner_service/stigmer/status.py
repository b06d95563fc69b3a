"""Events into the daemon's account of an execution."""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from runner_service.stigmer.truncation import CUT, fitted
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

LISTS = frozenset({"messages", "tool_calls", "sub_agent_executions", "todos"})
"""What the daemon replaces when it is sent some of it."""

_LONGEST_RESULT = 4_000
_WISH = "(wish)"  # among the ids of messages
_COMPONENTS = {
    event_pb2.TOOL_KIND_EXECUTE: "terminal",
    event_pb2.TOOL_KIND_READ: "preview",
    event_pb2.TOOL_KIND_WRITE: "preview",
    event_pb2.TOOL_KIND_SEARCH: "search",
    event_pb2.TOOL_KIND_PLAN: "todos",
    event_pb2.TOOL_KIND_SUB_AGENT: "sub-agent",
}
_TODO_STATUSES = {
    event_pb2.Todo.STATUS_PENDING: execution_pb2.TODO_PENDING,
    event_pb2.Todo.STATUS_IN_PROGRESS: execution_pb2.TODO_IN_PROGRESS,
    event_pb2.Todo.STATUS_COMPLETED: execution_pb2.TODO_COMPLETED,
}
_PHASES = {
    event_pb2.STATE_SUCCEEDED: execution_pb2.EXECUTION_COMPLETED,
    event_pb2.STATE_CANCELLED: execution_pb2.EXECUTION_CANCELLED,
}


@dataclass
class _Message:
    """A message of the agent while it grows: pieces are joined only when they are wanted."""

    timestamp: str
    pieces: list[str] = field(default_factory=list)
    calls: list[execution_pb2.ToolCall] = field(default_factory=list)

    def reported(self) -> execution_pb2.AgentMessage:
        self.pieces = ["".join(self.pieces)]
        return execution_pb2.AgentMessage(
            type=execution_pb2.MESSAGE_AI, content=self.pieces[0], timestamp=self.timestamp, tool_calls=self.calls
        )


class StatusFold:
    """The status of one execution so far. Feed it every event, in order."""

    def __init__(self, wish: str = "", asked_at: Timestamp | None = None) -> None:
        self._wish = wish
        self._asked_at = _iso(asked_at) if asked_at else ""
        self._messages: dict[str, _Message] = {}
        self._last_message = ""
        self._calls: dict[str, execution_pb2.ToolCall] = {}
        self._sub_agents: dict[str, execution_pb2.SubAgentExecution] = {}
        self._todos: dict[str, execution_pb2.TodoItem] = {}
        self._head = execution_pb2.AgentExecutionStatus(phase=execution_pb2.EXECUTION_PENDING)
        self._encoded: dict[str, dict[str, bytes]] = {name: {} for name in LISTS}
        self.sizes = dict.fromkeys(LISTS, 0) | {"messages": len(wish)}
        """About how many bytes each list has."""
        self.changed: set[str] = {"messages"} if wish else set()
        """The lists that have changed since `unchanged` was called."""
        self.is_urgent = True
        """True when what has changed is to be reported at once."""

    @property
    def size(self) -> int:
        """About how many bytes the whole status has."""
        return sum(self.sizes.values()) + _HEAD_BYTES

    def unchanged(self) -> set[str]:
        """Begins to look for changes anew; returns which lists had any."""
        changed, self.changed = self.changed, set()
        self.is_urgent = False
        return changed

    def take(self, event: event_pb2.ExecutionEvent) -> None:
        """Takes the next event."""
        kind = event.WhichOneof("event")
        if kind and (fold := _FOLDS.get(kind)):
            fold(self, getattr(event, kind), event)

    def report(self, lists: AbstractSet[str] = LISTS) -> bytes:
        """Makes an `AgentExecutionStatus`, as on the wire: phase, times and error always, and these lists.

        What has not changed since the last report is not encoded again: messages laid end to end are one message.
        """
        parts = [self._head.SerializeToString()]
        for name in sorted(lists):
            encoded = self._encoded[name]
            for key, entry in self._entries(name):
                if key not in encoded:
                    encoded[key] = _alone(name, key, entry)
                parts.append(encoded[key])
        return fitted(b"".join(parts))

    def _entries(self, name: str) -> Iterable[tuple[str, Any]]:
        match name:
            case "messages":
                return self._said()
            case "tool_calls":
                return self._calls.items()
            case "sub_agent_executions":
                return self._sub_agents.items()
        return self._todos.items()

    def _said(self) -> Iterator[tuple[str, "_Message | execution_pb2.AgentMessage"]]:
        if self._wish:
            wish = execution_pb2.AgentMessage(type=execution_pb2.MESSAGE_HUMAN, content=self._wish)
            wish.timestamp = self._asked_at
            yield _WISH, wish
        yield from self._messages.items()

    def _mark(self, name: str, key: str, grown: int, *, urgent: bool) -> None:
        """Notes that an entry of a list has changed. Call it after the change."""
        self.sizes[name] += grown
        self._encoded[name].pop(key, None)
        self.changed.add(name)
        self.is_urgent |= urgent

    def _begin(self, _: event_pb2.Started, event: event_pb2.ExecutionEvent) -> None:
        self._head.phase = execution_pb2.EXECUTION_IN_PROGRESS
        self._head.started_at = self._head.started_at or _iso(event.create_time)
        self.is_urgent = True

    def _hear(self, delta: event_pb2.TextDelta, event: event_pb2.ExecutionEvent) -> None:
        if event.sub_agent_id:  # its answer comes with the end of its call
            return
        self._message(delta.message_id, event).pieces.append(delta.text)
        self._mark("messages", delta.message_id, len(delta.text), urgent=False)

    def _message(self, message_id: str, event: event_pb2.ExecutionEvent) -> _Message:
        self._last_message = message_id
        if message_id not in self._messages:
            self._messages[message_id] = _Message(_iso(event.create_time))
            self._mark("messages", message_id, _MESSAGE_BYTES, urgent=False)
        return self._messages[message_id]

    def _finish_message(self, finished: event_pb2.MessageFinished, event: event_pb2.ExecutionEvent) -> None:
        if not event.sub_agent_id:
            self._last_message = finished.message_id

    def _discard(self, discarded: event_pb2.MessageDiscarded, _: event_pb2.ExecutionEvent) -> None:
        if message := self._messages.pop(discarded.message_id, None):
            grown = -_MESSAGE_BYTES - sum(map(len, message.pieces))
            self._mark("messages", discarded.message_id, grown, urgent=False)

    def _begin_call(self, started: event_pb2.ToolCallStarted, event: event_pb2.ExecutionEvent) -> None:
        call = execution_pb2.ToolCall(
            id=started.tool_call_id,
            name=started.name,
            args=started.arguments,
            status=execution_pb2.TOOL_CALL_RUNNING,
            started_at=_iso(event.create_time),
        )
        shown = call.component_metadata
        shown.component_type = _COMPONENTS.get(started.kind, "tool")
        shown.component_group = "sub-agent-tools" if event.sub_agent_id else "main-agent-tools"
        if event.sub_agent_id:
            shown.metadata["sub_agent_id"] = event.sub_agent_id
        else:
            mention = execution_pb2.ToolCall(id=call.id, name=call.name)
            self._message(self._last_message, event).calls.append(mention)
            self._mark("messages", self._last_message, mention.ByteSize(), urgent=False)
        self._calls[call.id] = call
        self._mark("tool_calls", call.id, call.ByteSize(), urgent=True)

    def _end_call(self, finished: event_pb2.ToolCallFinished, event: event_pb2.ExecutionEvent) -> None:
        if (call := self._calls.get(finished.tool_call_id)) is None:
            return
        before = call.ByteSize()
        succeeded = finished.outcome == event_pb2.TOOL_OUTCOME_SUCCEEDED
        call.status = execution_pb2.TOOL_CALL_COMPLETED if succeeded else execution_pb2.TOOL_CALL_FAILED
        call.completed_at = _iso(event.create_time)
        call.result = _shortened(finished.result)
        call.error = "" if succeeded else _failure(finished)
        self._mark("tool_calls", call.id, call.ByteSize() - before, urgent=True)
        if sub_agent := self._sub_agents.get(call.id):
            sub_agent.output = finished.result if succeeded else ""
            sub_agent.error = call.error
            done = execution_pb2.SUB_AGENT_COMPLETED if succeeded else execution_pb2.SUB_AGENT_FAILED
            sub_agent.status = done
            sub_agent.completed_at = call.completed_at
            grown = len(sub_agent.output) + len(sub_agent.error)
            self._mark("sub_agent_executions", call.id, grown, urgent=True)

    def _begin_sub_agent(self, started: event_pb2.SubAgentStarted, event: event_pb2.ExecutionEvent) -> None:
        sub_agent = execution_pb2.SubAgentExecution(
            id=started.tool_call_id,
            name=started.name,
            input=started.description,
            status=execution_pb2.SUB_AGENT_IN_PROGRESS,
            started_at=_iso(event.create_time),
        )
        self._sub_agents[sub_agent.id] = sub_agent
        self._mark("sub_agent_executions", sub_agent.id, sub_agent.ByteSize(), urgent=True)

    def _plan(self, updated: event_pb2.TodosUpdated, event: event_pb2.ExecutionEvent) -> None:
        now, old = _iso(event.create_time), self._todos
        self._todos = {}
        for number, todo in enumerate(updated.todos, start=1):
            item = execution_pb2.TodoItem(
                id=str(number), content=todo.content, status=_TODO_STATUSES[todo.status], created_at=now, updated_at=now
            )
            before = old.get(item.id)
            if before and before.content == item.content:
                item.created_at = before.created_at
                item.updated_at = before.updated_at if before.status == item.status else now
            self._todos[item.id] = item
        grown = sum(item.ByteSize() for item in self._todos.values()) - self.sizes["todos"]
        self._encoded["todos"].clear()
        self._mark("todos", "", grown, urgent=True)

    def _end(self, finished: event_pb2.Finished, event: event_pb2.ExecutionEvent) -> None:
        self._head.phase = _PHASES.get(finished.state, execution_pb2.EXECUTION_FAILED)
        self._head.completed_at = _iso(event.create_time)
        if finished.HasField("error"):
            self._head.error = f"{finished.error.code}: {finished.error.message}"
        self.is_urgent = True


Fold = Callable[[StatusFold, Any, event_pb2.ExecutionEvent], None]

# The methods are private to the class, not to the module that holds the table of them.
_FOLDS: dict[str, Fold] = {
    "started": StatusFold._begin,  # noqa: SLF001  # as above
    "text_delta": StatusFold._hear,  # noqa: SLF001  # as above
    "message_finished": StatusFold._finish_message,  # noqa: SLF001  # as above
    "message_discarded": StatusFold._discard,  # noqa: SLF001  # as above
    "tool_call_started": StatusFold._begin_call,  # noqa: SLF001  # as above
    "tool_call_finished": StatusFold._end_call,  # noqa: SLF001  # as above
    "sub_agent_started": StatusFold._begin_sub_agent,  # noqa: SLF001  # as above
    "todos_updated": StatusFold._plan,  # noqa: SLF001  # as above
    "finished": StatusFold._end,  # noqa: SLF001  # as above
}
_HEAD_BYTES = 80
_MESSAGE_BYTES = 40


def _alone(name: str, key: str, entry: Any) -> bytes:
    """Encodes a status that has this one entry of one list."""
    entry = entry.reported() if isinstance(entry, _Message) else entry
    alone: dict[str, Any] = {name: {key: entry} if name == "todos" else [entry]}
    return execution_pb2.AgentExecutionStatus(**alone).SerializeToString()


def _failure(finished: event_pb2.ToolCallFinished) -> str:
    outcome = event_pb2.ToolOutcome.Name(finished.outcome).removeprefix("TOOL_OUTCOME_").lower()
    return f"{outcome}, exit code {finished.exit_code}" if finished.HasField("exit_code") else outcome


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_RESULT else text[:_LONGEST_RESULT] + CUT


def _iso(time: Timestamp) -> str:
    moment = datetime.fromtimestamp(time.seconds, UTC).replace(microsecond=time.nanos // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
