"""Renames, as a way to show an addition and a deletion of the same content."""

from collections.abc import Sequence

from runner_service.v1 import execution_event_pb2 as event_pb2


def with_renames(changes: Sequence[event_pb2.FileChange]) -> list[event_pb2.FileChange]:
    """Joins each added file with a deleted one of the same content, if it has any."""
    deleted: dict[str, list[event_pb2.FileChange]] = {}
    for change in changes:
        if change.kind == event_pb2.FileChange.KIND_DELETED and change.before_sha256 and change.size:
            deleted.setdefault(change.before_sha256, []).append(change)
    joined: set[str] = set()
    for change in changes:
        if change.kind == event_pb2.FileChange.KIND_ADDED and (sources := deleted.get(change.after_sha256)):
            source = sources.pop(0)
            joined.add(source.path)
            change.kind, change.old_path = event_pb2.FileChange.KIND_RENAMED, source.path
            change.lines_added = 0
            change.before_sha256 = source.before_sha256
            change.revertable &= source.revertable
            change.shared |= source.shared
    return [each for each in changes if each.path not in joined]
