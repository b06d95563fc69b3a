"""Executions whose final report has not reached the daemon yet: a value that is stored with each."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runner_service.storage.event_log import EventLog, NewValue

if TYPE_CHECKING:
    from runner_service.events.stream import EventStream

_NAME = "pending_report"

PENDING_REPORT: Mapping[str, bytes] = {_NAME: b""}
"""To be stored with a new execution that is to be reported."""


async def pending_reports(log: EventLog) -> Sequence[str]:
    """Returns the execution ids, sorted. Raises LogError."""
    return sorted(await log.find_values(_NAME))


def add_pending_report(stream: "EventStream") -> None:
    """Stores that an execution is to be reported."""
    stream.append(NewValue(stream.execution_id, _NAME, b""), 0)


def remove_pending_report(stream: "EventStream") -> None:
    """Stores that its final report has arrived, or never will."""
    stream.append(NewValue(stream.execution_id, _NAME, None), 0)
