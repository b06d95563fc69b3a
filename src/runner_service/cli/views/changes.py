"""What a file tool changed, as lines of a diff."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from google.protobuf.json_format import MessageToDict

from runner_service.changes.lines import edits_between
from runner_service.cli.views.lines import printable
from runner_service.v1 import execution_event_pb2 as event_pb2

_MAX_LINES = 60
_HEAD_LINES = 40
_MOUNTS = ("/tool_output/", "/large_tool_results/", "/conversation_history/", "/skills/")
"""Directories of the file tools that are not below the root."""


def real_path(path: str, root: str) -> str:
    """Returns the path on the sandbox's machine of one that a file tool was given: `/` means the root."""
    if not root or path.startswith(_MOUNTS) or PurePosixPath(path).is_relative_to(root):
        return path
    return str(PurePosixPath(root, path.lstrip("/")))


def changed_lines(call: event_pb2.ToolCallStarted) -> Iterator[tuple[str, str]]:
    """Yields `-` or `+`, and a line, for each line that a successful call removed or added; then how many are hidden.

    The mark of what is hidden is `.`. Other calls than writes of a file yield nothing.
    """
    changes = list(_changes(call))
    if len(changes) <= _MAX_LINES:
        yield from changes
        return
    yield from changes[:_HEAD_LINES]
    yield ".", f"{len(changes) - _HEAD_LINES:,} more lines changed"


def _changes(call: event_pb2.ToolCallStarted) -> Iterator[tuple[str, str]]:
    if call.kind != event_pb2.TOOL_KIND_WRITE:
        return
    arguments = MessageToDict(call.arguments)
    if isinstance(content := arguments.get("content"), str):
        before, after = "", content
    else:
        before, after = str(arguments.get("old_string", "")), str(arguments.get("new_string", ""))
    yield from _difference(_lines(before), _lines(after))


def _difference(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the removed lines of each change, then the added ones. Very different texts are not compared by line."""
    for edit in edits_between(before, after):
        yield from (("-", line) for line in before[edit.old_start : edit.old_end])
        yield from (("+", line) for line in after[edit.new_start : edit.new_end])


def _lines(text: str) -> list[str]:
    return [printable(line) for line in text.splitlines()]
