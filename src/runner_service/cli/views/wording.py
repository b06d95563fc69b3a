"""The texts of events and states, the same in every view."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from runner_service import states
from runner_service.cli.views.changes import real_path
from runner_service.cli.views.lines import printable
from runner_service.v1 import execution_event_pb2 as event_pb2

_MAX_ARGUMENT_LENGTH = 100
_MAX_CALL_LENGTH = 2000
_MAX_REASON_LENGTH = 400
_STATES = {
    states.SUCCEEDED: "succeeded",
    states.FAILED: "failed",
    states.CANCELLED: "cancelled",
    states.TIMED_OUT: "timed out",
}
_OUTCOMES = {
    event_pb2.TOOL_OUTCOME_SUCCEEDED: "done",
    event_pb2.TOOL_OUTCOME_FAILED: "failed",
    event_pb2.TOOL_OUTCOME_TIMED_OUT: "timed out",
    event_pb2.TOOL_OUTCOME_CANCELLED: "cancelled",
    event_pb2.TOOL_OUTCOME_INTERRUPTED: "interrupted",
    event_pb2.TOOL_OUTCOME_LIMIT_EXCEEDED: "limit exceeded",
}
_TODO_MARKS = {
    event_pb2.Todo.STATUS_PENDING: "[ ]",
    event_pb2.Todo.STATUS_IN_PROGRESS: "[>]",
    event_pb2.Todo.STATUS_COMPLETED: "[x]",
}
_SECOND, _MINUTE = 1.0, 60.0


def call_title(call: event_pb2.ToolCallStarted, root: str = "") -> str:
    """Returns `$ command` for a command, and `tool name=value …` for other tools, on one line.

    A file that is written is named by its real path below `root`.
    """
    arguments = MessageToDict(call.arguments)
    if call.kind == event_pb2.TOOL_KIND_EXECUTE and isinstance(arguments.get("command"), str):
        return f"$ {one_line(arguments['command'], _MAX_CALL_LENGTH)}"
    file = arguments.pop("file_path", "")
    if call.kind == event_pb2.TOOL_KIND_WRITE and file:
        file, arguments = real_path(str(file), root), {}  # what is written is shown as changes
    shown = [f"{name}={_argument(value)}" for name, value in sorted(arguments.items())]  # a Struct has no order
    return one_line(" ".join([call.name, *([str(file)] if file else []), *shown]), _MAX_CALL_LENGTH)


def call_result(call: event_pb2.ToolCallFinished) -> str:
    """Returns how a call ended, on one line."""
    word = _OUTCOMES.get(call.outcome, "ended")
    if call.HasField("exit_code") and call.outcome in {
        event_pb2.TOOL_OUTCOME_SUCCEEDED,
        event_pb2.TOOL_OUTCOME_FAILED,
    }:
        word = f"exit {call.exit_code}"
    return "; ".join([f"{word} in {duration(call.elapsed)}", *_remarks(call)])


def _remarks(call: event_pb2.ToolCallFinished) -> Iterator[str]:
    if call.outcome == event_pb2.TOOL_OUTCOME_FAILED and not call.HasField("exit_code"):
        yield _reason_line(call.result)
    if call.dropped_bytes:
        yield f"{call.dropped_bytes:,} bytes of output dropped"
    if call.killed_processes:
        yield f"killed with it: {one_line(', '.join(call.killed_processes), _MAX_ARGUMENT_LENGTH)}"


def _reason_line(text: str) -> str:
    """Returns an error on one line; of a long one the beginning and the end, where its point is."""
    line = one_line(text, _MAX_CALL_LENGTH)
    if len(line) <= _MAX_REASON_LENGTH:
        return line
    half = _MAX_REASON_LENGTH // 2
    return f"{line[:half]} ... {line[-half:]}"


def plan_lines(todos: event_pb2.TodosUpdated) -> list[str]:
    """Returns a line for each item of a plan."""
    return [f"{_TODO_MARKS.get(todo.status, '[?]')} {one_line(todo.content, _MAX_CALL_LENGTH)}" for todo in todos.todos]


def end_summary(finished: event_pb2.Finished) -> str:
    """Returns how an execution ended, and its usage, on one line."""
    usage = finished.usage
    parts = [f"{_STATES.get(finished.state, 'ended')} in {duration(finished.elapsed)}"]
    if reason := _reason(finished):
        parts[0] += f": {reason}"
    parts.append(tokens(usage))
    if finished.HasField("cost"):
        parts.append(cost(finished.cost))
    parts.append(f"{counted(usage.model_calls, 'model call')}, {counted(usage.tool_calls, 'tool call')}")
    return "; ".join(parts)


def _reason(finished: event_pb2.Finished) -> str:
    message = one_line(finished.error.message, _MAX_CALL_LENGTH)
    if states.is_failure(finished.state):
        return f"{finished.error.code}: {message}"
    return message.removeprefix("cancelled: ")


def tokens(usage: event_pb2.Usage) -> str:
    """Returns how many tokens were used."""
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    return f"{usage.input_tokens:,} tokens in{cached}, {usage.output_tokens:,} out"


def cost(spent: event_pb2.Cost) -> str:
    """Returns what model calls cost."""
    calls = spent.unpriced_model_calls
    unknown = f" and {counted(calls, 'model call')} without a price" if calls else ""
    return f"{spent.nanos / 1e9:.4f} {one_line(spent.currency, _MAX_ARGUMENT_LENGTH)}{unknown}"


def state_name(state: "event_pb2.State.ValueType") -> str:
    """Returns the name of a state."""
    return event_pb2.State.Name(state).removeprefix("STATE_").replace("_", " ").lower()


def counted(number: int, noun: str) -> str:
    """Returns `1 call`, `2 calls`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def duration(elapsed: Duration) -> str:
    """Returns a duration, rounded for people."""
    return seconds(elapsed.ToTimedelta() / timedelta(seconds=1))


def seconds(value: float) -> str:
    """Returns a number of seconds as `12 ms`, `3.4 s`, `5 min 06 s`."""
    if value < _SECOND:
        return f"{value * 1000:.0f} ms"
    if value < _MINUTE:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s"


def one_line(text: str, max_length: int) -> str:
    """Returns `text` on one line, cut when it is longer."""
    line = " ".join(printable(part) for part in text.splitlines() if part.strip())
    return line if len(line) <= max_length else f"{line[: max_length - 4]} ..."


def _argument(value: object) -> str:
    if isinstance(value, float) and value.is_integer():  # a Struct knows no other numbers
        value = int(value)
    text = value if isinstance(value, str) and " " not in value and value else json.dumps(value, ensure_ascii=False)
    return one_line(text, _MAX_ARGUMENT_LENGTH)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the rows as lines, their cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
