"""Formats the parts of a status as the daemon and its command line show them."""

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from runner_service.stigmer.truncation import TRUNCATION_MARK
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_MAX_TOOL_MESSAGE_CHARACTERS = 200
_MAX_ERROR_CHARACTERS = 4_000


def refusal_status(code: str, message: str, *, is_cancelled: bool = False) -> bytes:
    """Encodes the final status of an execution that ended before its first event."""
    phase = execution_pb2.EXECUTION_CANCELLED if is_cancelled else execution_pb2.EXECUTION_FAILED
    status = execution_pb2.AgentExecutionStatus(phase=phase, error=error_text(code, message))
    status.completed_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return status.SerializeToString()


def error_text(code: str, message: str) -> str:
    """Formats an error as the daemon shows it."""
    return truncate(f"{code}: {message}", _MAX_ERROR_CHARACTERS)


def encode_entry(name: str, key: str, entry: Any) -> bytes:
    """Encodes a status with a single entry of one list."""
    alone: dict[str, Any] = {name: {key: entry} if name == "todos" else [entry]}
    return execution_pb2.AgentExecutionStatus(**alone).SerializeToString()


def failure_text(finished: event_pb2.ToolCallFinished) -> str:
    """Describes the outcome of a call that did not succeed."""
    outcome = event_pb2.ToolOutcome.Name(finished.outcome).removeprefix("TOOL_OUTCOME_").lower()
    return f"{outcome}, exit code {finished.exit_code}" if finished.HasField("exit_code") else outcome


def tool_message(call: execution_pb2.ToolCall) -> execution_pb2.AgentMessage:
    """Summarises a finished call in a line."""
    outcome = " ".join(call.result.split()) or call.error or "done"
    message = execution_pb2.AgentMessage(
        type=execution_pb2.MESSAGE_TOOL,
        content=truncate(f"{call.name}: {outcome}", _MAX_TOOL_MESSAGE_CHARACTERS),
        timestamp=call.completed_at,
    )
    message.metadata["tool_call_id"] = call.id
    return message


def truncate(text: str, max_characters: int) -> str:
    """Cuts a text, and marks it as cut."""
    return text if len(text) <= max_characters else text[:max_characters] + TRUNCATION_MARK


def iso(time: Timestamp) -> str:
    """Formats a time in ISO 8601, UTC, in milliseconds."""
    moment = datetime.fromtimestamp(time.seconds, UTC).replace(microsecond=time.nanos // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
