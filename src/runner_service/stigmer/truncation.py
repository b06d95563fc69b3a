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
    """Truncates an encoded status to `limit` bytes: oldest tool results and arguments first, then the oldest text.

    One that fits is returned as it is; any other takes about 20 ms per 3 MiB.
    """
    if len(encoded) <= limit:
        return encoded
    status = execution_pb2.AgentExecutionStatus.FromString(encoded)
    for _, call in _while_too_large(status, status.tool_calls, limit):
        call.result = TRUNCATION_MARK.strip()
        call.ClearField("args")
    for excess, message in _while_too_large(status, status.messages, limit):
        kept = max(0, len(message.content.encode()) - excess - _MARK_BYTES)
        message.content = message.content.encode()[:kept].decode("utf-8", "ignore") + TRUNCATION_MARK
    return status.SerializeToString()


def _while_too_large(
    status: execution_pb2.AgentExecutionStatus, parts: Iterable[Any], limit: int
) -> Iterator[tuple[int, Any]]:
    for part in parts:
        if (excess := status.ByteSize() - limit) <= 0:
            return
        yield excess, part
