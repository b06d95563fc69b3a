"""What a session is told of reverts: its conversation does not show them."""

import json
import time
from collections.abc import Sequence

from runner_service.changes.records import RecordedChange
from runner_service.identity import OwnerKey
from runner_service.storage.event_log import EventLog, NewValue
from runner_service.storage.execution_filter import ExecutionFilter

_MAX_NAMED = 20


def new_note(execution_id: str, session_id: str, changes: Sequence[RecordedChange]) -> NewValue:
    """Returns what is stored of a revert for the next message of its session."""
    paths = [change.shown_path for change in changes]
    note = {"at": time.time_ns(), "paths": paths[:_MAX_NAMED], "omitted": len(paths[_MAX_NAMED:])}
    return NewValue(execution_id, _name(session_id), json.dumps(note).encode())


async def with_notes(message: str, log: EventLog, session: OwnerKey, execution_id: str) -> str:
    """Returns a message with a line about the reverts since the last message of its session. Raises LogError."""
    if not session:
        return message
    lines = []
    for value in (await log.find_values(_name(session))).values():
        note = json.loads(value)
        since = ExecutionFilter(session_id=session, created_after=note["at"])
        later = (await log.list_executions(since, limit=2)).executions
        if all(each.execution_id == execution_id for each in later):
            lines.append(_line(note["paths"], note["omitted"]))
    return "\n\n".join([*lines, message])


def _name(session_id: str) -> str:
    return f"revert-note:{session_id}"


def _line(paths: Sequence[str], omitted: int) -> str:
    names = ", ".join(paths) + (f" and {omitted} more" if omitted else "")
    return (
        f"[Since your last message, files that you had changed were set back: {names}. Read them again before you "
        "rely on what they hold.]"
    )
