"""Builds the daemon's `AgentExecutionStatus` from the events of an execution."""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from runner_service import states
from runner_service.stigmer.formatting import encode_entry, error_text, failure_text, iso, tool_message, truncate
from runner_service.stigmer.truncation import fit_status
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

LISTS = frozenset({"messages", "tool_calls", "sub_agent_executions", "todos"})
"""The lists of a status: the daemon replaces each one that is not empty in a report."""

_MAX_RESULT_CHARACTERS = 4_000
_HEAD_BYTES = 80
_TAG_BYTES = 3
_USER_MESSAGE_KEY = "(user message)"  # cannot be a message id
_COMPONENTS = {
    event_pb2.TOOL_KIND_EXECUTE: "terminal",
    event_pb2.TOOL_KIND_READ: "filesystem",
    event_pb2.TOOL_KIND_WRITE: "editor",
    event_pb2.TOOL_KIND_SEARCH: "filesystem",
    event_pb2.TOOL_KIND_SUB_AGENT: "subagent",
}
_TODO_STATUSES = {
    event_pb2.Todo.STATUS_PENDING: execution_pb2.TODO_PENDING,
    event_pb2.Todo.STATUS_IN_PROGRESS: execution_pb2.TODO_IN_PROGRESS,
    event_pb2.Todo.STATUS_COMPLETED: execution_pb2.TODO_COMPLETED,
}
_PHASES = {
    states.SUCCEEDED: execution_pb2.EXECUTION_COMPLETED,
    states.CANCELLED: execution_pb2.EXECUTION_CANCELLED,
}


@dataclass
class _StreamedMessage:
    """A message of the agent that is still being streamed."""

    timestamp: str
    pieces: list[str] = field(default_factory=list)


class StatusBuilder:
    """The status of one execution so far. Apply every event to it, in order.

    The daemon's command line prints a message once, when the list has grown, and knows of tools only by messages. So
    `messages` has only complete, non-empty ones, and one of type MESSAGE_TOOL for each finished tool call.
    """

    def __init__(self, user_message: str = "", asked_at: Timestamp | None = None) -> None:
        self._messages: dict[str, execution_pb2.AgentMessage] = {}
        self._streamed: dict[str, _StreamedMessage] = {}
        self._last_message = ""
        self._calls: dict[str, execution_pb2.ToolCall] = {}
        self._sub_agents: dict[str, execution_pb2.SubAgentExecution] = {}
        self._todos: dict[str, execution_pb2.TodoItem] = {}
        self._head = execution_pb2.AgentExecutionStatus(phase=execution_pb2.EXECUTION_PENDING)
        self._encoded: dict[str, dict[str, bytes]] = {name: {} for name in LISTS}
        self.sizes = dict.fromkeys(LISTS, 0)
        """Estimated size of each list in bytes."""
        self.changed: set[str] = set()
        """Lists that have changed since the last `clear_changes`."""
        self.is_urgent = True
        """Whether a change should be reported without delay."""
        if user_message:
            human = execution_pb2.AgentMessage(type=execution_pb2.MESSAGE_HUMAN, content=user_message)
            human.timestamp = iso(asked_at) if asked_at else ""
            self._add_message(_USER_MESSAGE_KEY, human)

    @property
    def size(self) -> int:
        """Estimated size of the whole status in bytes."""
        return sum(self.sizes.values()) + _HEAD_BYTES

    def clear_changes(self) -> set[str]:
        """Resets `changed` and `is_urgent`; returns the lists that had changed."""
        changed, self.changed = self.changed, set()
        self.is_urgent = False
        return changed

    def apply_event(self, event: event_pb2.ExecutionEvent) -> None:
        """Applies the next event."""
        kind = event.WhichOneof("event")
        if kind and (apply := _HANDLERS.get(kind)):
            apply(self, getattr(event, kind), event)

    def report(self, lists: AbstractSet[str] = LISTS) -> bytes:
        """Encodes an `AgentExecutionStatus` with phase, times, error and these lists.

        Unchanged entries are not encoded again: concatenated protobuf messages are one message.
        """
        parts = [self._head.SerializeToString()]
        for name in sorted(lists):
            encoded = self._encoded[name]
            for key, entry in self._entries(name):
                if key not in encoded:
                    encoded[key] = encode_entry(name, key, entry)
                parts.append(encoded[key])
        return fit_status(b"".join(parts))

    def _entries(self, name: str) -> Iterable[tuple[str, Any]]:
        match name:
            case "messages":
                return self._messages.items()
            case "tool_calls":
                return self._calls.items()
            case "sub_agent_executions":
                return self._sub_agents.items()
        return self._todos.items()

    def _mark_changed(self, name: str, key: str, added_bytes: int, *, urgent: bool) -> None:
        """Records that an entry of a list has changed. Call it after the change."""
        self.sizes[name] += added_bytes
        self._encoded[name].pop(key, None)
        self.changed.add(name)
        self.is_urgent |= urgent

    def _start(self, _: event_pb2.Started, event: event_pb2.ExecutionEvent) -> None:
        self._head.phase = execution_pb2.EXECUTION_IN_PROGRESS
        self._head.started_at = self._head.started_at or iso(event.create_time)
        self.is_urgent = True

    def _append_text(self, delta: event_pb2.TextDelta, event: event_pb2.ExecutionEvent) -> None:
        if event.sub_agent_id:  # its answer is the output of its call
            return
        if delta.message_id not in self._streamed:
            self._streamed[delta.message_id] = _StreamedMessage(iso(event.create_time))
        self._streamed[delta.message_id].pieces.append(delta.text)

    def _finish_message(self, finished: event_pb2.MessageFinished, event: event_pb2.ExecutionEvent) -> None:
        if event.sub_agent_id:
            return
        self._last_message = finished.message_id
        self._add_streamed(finished.message_id)

    def _add_streamed(self, message_id: str) -> None:
        """Adds a complete message, if it has any text."""
        streamed = self._streamed.pop(message_id, None)
        if streamed and (text := "".join(streamed.pieces)).strip():
            message = execution_pb2.AgentMessage(type=execution_pb2.MESSAGE_AI, content=text)
            message.timestamp = streamed.timestamp
            self._add_message(message_id, message)

    def _add_message(self, key: str, message: execution_pb2.AgentMessage) -> None:
        self._messages[key] = message
        self._mark_changed("messages", key, message.ByteSize() + _TAG_BYTES, urgent=False)

    def _discard_message(self, discarded: event_pb2.MessageDiscarded, _: event_pb2.ExecutionEvent) -> None:
        self._streamed.pop(discarded.message_id, None)
        if message := self._messages.pop(discarded.message_id, None):
            self._mark_changed("messages", discarded.message_id, -message.ByteSize() - _TAG_BYTES, urgent=False)

    def _start_call(self, started: event_pb2.ToolCallStarted, event: event_pb2.ExecutionEvent) -> None:
        if started.kind == event_pb2.TOOL_KIND_PLAN:  # it is in `todos`
            return
        call = execution_pb2.ToolCall(
            id=started.tool_call_id,
            name=started.name,
            args=started.arguments,
            status=execution_pb2.TOOL_CALL_RUNNING,
            started_at=iso(event.create_time),
        )
        shown = call.component_metadata
        shown.component_type = _COMPONENTS.get(started.kind, "tool")
        shown.component_group = "sub-agent-tools" if event.sub_agent_id else "main-agent-tools"
        if event.sub_agent_id:
            shown.metadata["sub_agent_id"] = event.sub_agent_id
        elif message := self._messages.get(self._last_message):
            mention = message.tool_calls.add(id=call.id, name=call.name)
            self._mark_changed("messages", self._last_message, mention.ByteSize() + _TAG_BYTES, urgent=False)
        self._calls[call.id] = call
        self._mark_changed("tool_calls", call.id, call.ByteSize(), urgent=True)

    def _finish_call(self, finished: event_pb2.ToolCallFinished, event: event_pb2.ExecutionEvent) -> None:
        if (call := self._calls.get(finished.tool_call_id)) is None:
            return
        before = call.ByteSize()
        succeeded = finished.outcome == event_pb2.TOOL_OUTCOME_SUCCEEDED
        call.status = execution_pb2.TOOL_CALL_COMPLETED if succeeded else execution_pb2.TOOL_CALL_FAILED
        call.completed_at = iso(event.create_time)
        call.result = truncate(finished.result, _MAX_RESULT_CHARACTERS)
        call.error = "" if succeeded else failure_text(finished)
        self._mark_changed("tool_calls", call.id, call.ByteSize() - before, urgent=True)
        self._add_message(f"tool {call.id}", tool_message(call))
        if sub_agent := self._sub_agents.get(call.id):
            sub_agent.output = finished.result if succeeded else ""
            sub_agent.error = call.error
            done = execution_pb2.SUB_AGENT_COMPLETED if succeeded else execution_pb2.SUB_AGENT_FAILED
            sub_agent.status = done
            sub_agent.completed_at = call.completed_at
            added_bytes = len(sub_agent.output) + len(sub_agent.error)
            self._mark_changed("sub_agent_executions", call.id, added_bytes, urgent=True)

    def _start_sub_agent(self, started: event_pb2.SubAgentStarted, event: event_pb2.ExecutionEvent) -> None:
        sub_agent = execution_pb2.SubAgentExecution(
            id=started.tool_call_id,
            name=started.name,
            input=started.description,
            status=execution_pb2.SUB_AGENT_IN_PROGRESS,
            started_at=iso(event.create_time),
        )
        self._sub_agents[sub_agent.id] = sub_agent
        self._mark_changed("sub_agent_executions", sub_agent.id, sub_agent.ByteSize(), urgent=True)

    def _replace_todos(self, updated: event_pb2.TodosUpdated, event: event_pb2.ExecutionEvent) -> None:
        now, old = iso(event.create_time), self._todos
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
        added_bytes = sum(item.ByteSize() for item in self._todos.values()) - self.sizes["todos"]
        self._encoded["todos"].clear()
        self._mark_changed("todos", "", added_bytes, urgent=True)

    def _finish(self, finished: event_pb2.Finished, event: event_pb2.ExecutionEvent) -> None:
        for message_id in list(self._streamed):  # they will not grow any more
            self._add_streamed(message_id)
        self._head.phase = _PHASES.get(finished.state, execution_pb2.EXECUTION_FAILED)
        self._head.completed_at = iso(event.create_time)
        if finished.HasField("error"):
            self._head.error = error_text(finished.error.code, finished.error.message)
        self.is_urgent = True


Handler = Callable[[StatusBuilder, Any, event_pb2.ExecutionEvent], None]

# The methods are private to this module rather than to the class.
_HANDLERS: dict[str, Handler] = {
    "started": StatusBuilder._start,  # noqa: SLF001  # as above
    "text_delta": StatusBuilder._append_text,  # noqa: SLF001  # as above
    "message_finished": StatusBuilder._finish_message,  # noqa: SLF001  # as above
    "message_discarded": StatusBuilder._discard_message,  # noqa: SLF001  # as above
    "tool_call_started": StatusBuilder._start_call,  # noqa: SLF001  # as above
    "tool_call_finished": StatusBuilder._finish_call,  # noqa: SLF001  # as above
    "sub_agent_started": StatusBuilder._start_sub_agent,  # noqa: SLF001  # as above
    "todos_updated": StatusBuilder._replace_todos,  # noqa: SLF001  # as above
    "finished": StatusBuilder._finish,  # noqa: SLF001  # as above
}
