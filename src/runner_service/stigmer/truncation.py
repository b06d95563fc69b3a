"""Truncates a status that is too large for one gRPC message."""

from collections.abc import Iterable, Iterator
from typing import Any

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

MAX_STATUS_BYTES = 3 * 1024 * 1024
"""Maximum size of a report: a gRPC server accepts 4 MiB by default."""

TRUNCATION_MARK = " […]"
"""Replaces text that was cut."""

_MARK_BYTES = 16


def fit_status(encoded: bytes, limit: int = MAX_STATUS_BYTES) -> bytes:
    """Truncates an encoded status to at most `limit` bytes; one that fits is returned as it is.

    The oldest goes first: results and arguments of tool calls, then texts of messages and sub-agents, then todo items
    are cut. If that is not enough, whole tool calls and messages are dropped. Takes about 20 ms per 3 MiB.
    """
    if len(encoded) <= limit:
        return encoded
    status = execution_pb2.AgentExecutionStatus.FromString(encoded)
    for excess, call in _while_too_large(status, status.tool_calls, limit):
        call.ClearField("args")
        _cut(call, "result", excess)
    for excess, message in _while_too_large(status, status.messages, limit):
        _cut(message, "content", excess)
    for excess, sub_agent in _while_too_large(status, status.sub_agent_executions, limit):
        _cut(sub_agent, "input", excess)
        _cut(sub_agent, "output", excess)
    for excess, item in _while_too_large(status, status.todos.values(), limit):
        _cut(item, "content", excess)
    for entries in (status.tool_calls, status.messages, status.sub_agent_executions):
        while entries and status.ByteSize() > limit:  # each round halves the list
            del entries[: (len(entries) + 1) // 2]
    if status.ByteSize() > limit:
        status.ClearField("todos")
    return status.SerializeToString()


def _cut(entry: Any, field: str, excess: int) -> None:
    """Cuts the text in a field by about `excess` bytes, if that makes it shorter."""
    text = getattr(entry, field).encode()
    kept = max(0, len(text) - excess - _MARK_BYTES)
    if kept + _MARK_BYTES < len(text):
        setattr(entry, field, text[:kept].decode("utf-8", "ignore") + TRUNCATION_MARK)


def _while_too_large(
    status: execution_pb2.AgentExecutionStatus, entries: Iterable[Any], limit: int
) -> Iterator[tuple[int, Any]]:
    """Yields entries, each with the bytes that are still too many, until the status fits."""
    excess = status.ByteSize() - limit
    for entry in entries:
        if excess <= 0:
            return
        before = entry.ByteSize()
        yield excess, entry
        excess -= before - entry.ByteSize()
