"""Changed files as lines of text."""

from collections.abc import Collection, Iterable, Iterator

from runner_service.cli.views.lines import printable
from runner_service.cli.views.wording import counted
from runner_service.v1 import execution_event_pb2 as event_pb2

_ADDED, _MODIFIED = event_pb2.FileChange.KIND_ADDED, event_pb2.FileChange.KIND_MODIFIED
_DELETED = event_pb2.FileChange.KIND_DELETED
_LETTERS = {
    event_pb2.FileChange.KIND_ADDED: "A",
    event_pb2.FileChange.KIND_MODIFIED: "M",
    event_pb2.FileChange.KIND_DELETED: "D",
    event_pb2.FileChange.KIND_RENAMED: "R",
}
_MAX_LISTED = 20


def add_change(files: dict[str, event_pb2.FileChange], change: event_pb2.FileChange) -> None:
    """Adds the change of one call to what is known of the files of an execution, by path."""
    before = files.pop(change.path, None)
    if before is None:
        files[change.path] = change
        return
    was_there, is_there = before.kind != _ADDED, change.kind != _DELETED
    if not (was_there or is_there) or before.before_sha256 == change.after_sha256 != "":
        return
    joined = event_pb2.FileChange()
    joined.CopyFrom(change)
    joined.kind = (_MODIFIED if is_there else _DELETED) if was_there else _ADDED
    joined.before_sha256 = before.before_sha256
    joined.lines_added += before.lines_added
    joined.lines_removed += before.lines_removed
    files[change.path] = joined


def changed_files(files: Collection[event_pb2.FileChange], summary: event_pb2.FilesChangedSummary) -> Iterator[str]:
    """Yields a line for each file, some at most, then a count."""
    for change in sorted(files, key=lambda each: each.path)[:_MAX_LISTED]:
        yield change_line(change)
    if summary.files:
        yield f"{counted(summary.files, 'file')} changed, +{summary.lines_added} -{summary.lines_removed}"


def change_line(change: event_pb2.FileChange) -> str:
    """Returns a line such as `M src/main.py +3 -1`."""
    source = f"{printable(change.old_path)} -> " if change.old_path else ""
    counts = " binary" if change.binary else f" +{change.lines_added} -{change.lines_removed}"
    shared = " (perhaps of another execution)" if change.shared else ""
    return f"{_LETTERS.get(change.kind, '?')} {source}{printable(change.path)}{counts}{shared}"


def summary_line(changes: Iterable[event_pb2.FileChange]) -> str:
    """Returns a line such as `2 files changed, +3 -1`."""
    listed = list(changes)
    added, removed = sum(each.lines_added for each in listed), sum(each.lines_removed for each in listed)
    return f"{counted(len(listed), 'file')} changed, +{added} -{removed}"
