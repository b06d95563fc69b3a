"""Changes as callers see them."""

from collections.abc import Collection

from runner_service.changes.records import RecordedChange
from runner_service.executors.tracking import REPOSITORY, FileState
from runner_service.v1 import execution_event_pb2 as event_pb2


def file_change(change: RecordedChange, stored: Collection[str] | None = None) -> event_pb2.FileChange:
    """Returns the message of a change. `stored` names the contents that are still there; None: all that were read."""
    before, after = change.before, change.after
    return event_pb2.FileChange(
        path=change.shown_path,
        kind=_kind(before, after),
        lines_added=change.lines_added,
        lines_removed=change.lines_removed,
        size=(after or before or FileState("", 0)).size,
        binary=change.is_binary,
        revertable=is_revertable(before, after, stored),
        shared=change.is_shared,
        before_sha256=before.sha256 if before else "",
        after_sha256=after.sha256 if after else "",
    )


def is_revertable(before: FileState | None, after: FileState | None, stored: Collection[str] | None) -> bool:
    """Returns whether what was there before can be put back, and what is there now again, if that fails."""
    return all(state is None or _is_there(state, stored) for state in (before, after))


def _is_there(state: FileState, stored: Collection[str] | None) -> bool:
    return state.kind != REPOSITORY and state.has_content and (stored is None or state.sha256 in stored)


def _kind(before: FileState | None, after: FileState | None) -> event_pb2.FileChange.Kind.ValueType:
    if before is None:
        return event_pb2.FileChange.KIND_ADDED
    return event_pb2.FileChange.KIND_MODIFIED if after else event_pb2.FileChange.KIND_DELETED
