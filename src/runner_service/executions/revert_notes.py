"""What a session is told of reverts: its conversation does not show them."""

import json
import logging
import time
from collections.abc import Collection, Sequence

from runner_service.changes.records import RecordedChange
from runner_service.executions.execution import Execution
from runner_service.identity import OwnerKey
from runner_service.storage.event_log import EventLog, LogError, NewValue
from runner_service.storage.execution_filter import ExecutionFilter

logger = logging.getLogger(__name__)

_MAX_NAMED = 20


def new_note(execution_id: str, session_id: str, changes: Sequence[RecordedChange]) -> NewValue:
    """Returns what is stored of a revert for the next message of its session."""
    paths = [change.shown_path for change in changes]
    note = {"at": time.time_ns(), "paths": paths[:_MAX_NAMED], "omitted": len(paths[_MAX_NAMED:])}
    return NewValue(execution_id, _name(session_id), json.dumps(note).encode())


async def with_notes(
    message: str, log: EventLog, execution: Execution, *, resumes: bool
) -> tuple[str, Collection[str]]:
    """Returns a message with a line about each revert since the last message of its session, and what has notes.

    That can be forgotten once the execution has succeeded. Raises LogError.
    """
    if not execution.session:
        return message, ()
    lines, noted = [], []
    for name, value in (await log.find_values(_name(execution.session))).items():
        note = json.loads(value)
        if resumes and execution.record.create_time.ToNanoseconds() < note["at"]:
            continue  # its message is in the conversation already
        noted.append(name)
        since = ExecutionFilter(session_id=execution.session, created_after=note["at"])
        later = (await log.list_executions(since, limit=2)).executions
        if all(each.execution_id == execution.id for each in later):
            lines.append(_line(note["paths"], note["omitted"]))
    return "\n\n".join([*lines, message]), noted


async def forget_notes(log: EventLog, session: OwnerKey, noted: Collection[str]) -> None:
    """Removes the notes about executions: the conversation has them now. One that is left is not told again."""
    try:
        if noted:
            await log.remove_values(_name(session), noted)
    except LogError as error:
        logger.warning("revert_notes_not_removed session=%s error=%s", session, error)


def _name(session_id: str) -> str:
    return f"revert-note:{session_id}"


def _line(paths: Sequence[str], omitted: int) -> str:
    names = ", ".join(paths) + (f" and {omitted} more" if omitted else "")
    return (
        f"[Since your last message, files that you had changed were set back: {names}. Read them again before you "
        "rely on what they hold.]"
    )
