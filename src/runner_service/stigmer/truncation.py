"""Statuses that are too large for one message."""

from collections.abc import Iterable, Iterator
from typing import Any

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

LARGEST_STATUS = 3 * 1024 * 1024
"""How many bytes a report may have: a server that was not told otherwise takes 4 MiB."""

CUT = " […]"
"""Stands where something was left out."""

_ROOM_TO_CUT = 16


def fitted(encoded: bytes, limit: int = LARGEST_STATUS) -> bytes:
    """Makes a status fit into a message: of the oldest calls the results and arguments go first, then old text.

    It is as on the wire, before and after. One that fits costs nothing; another one takes some 20 ms for each 3 MiB.
    """
    if len(encoded) <= limit:
        return encoded
    status = execution_pb2.AgentExecutionStatus.FromString(encoded)
    for excess_now, call in _while_too_large(status, status.tool_calls, limit):
        del excess_now
        call.result = CUT.strip()
        call.ClearField("args")
    for excess_now, message in _while_too_large(status, status.messages, limit):
        kept = max(0, len(message.content.encode()) - excess_now - _ROOM_TO_CUT)
        message.content = message.content.encode()[:kept].decode("utf-8", "ignore") + CUT
    return status.SerializeToString()


def _while_too_large(
    status: execution_pb2.AgentExecutionStatus, parts: Iterable[Any], limit: int
) -> Iterator[tuple[int, Any]]:
    for part in parts:
        if (excess := status.ByteSize() - limit) <= 0:
            return
        yield excess, part
