"""Unified diffs of net changes, within bounds and with secrets redacted."""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from runner_service.changes.contents import Contents
from runner_service.changes.lines import compare, is_binary, unified_diff
from runner_service.changes.net import NetChange
from runner_service.executors.tracking import EXECUTABLE, SYMLINK, FileState

_MAX_DIFF_BYTES = 1024 * 1024
_MAX_FILE_BYTES = 256 * 1024
_MODES = {EXECUTABLE: "100755", SYMLINK: "120000"}
_MODE = "100644"


class Diff(NamedTuple):
    """A diff, and whether something is left out of it."""

    text: str
    is_truncated: bool


async def diff_of(changes: Sequence[NetChange], contents: Contents, context: int) -> Diff:
    """Returns the diff of changes, each cut to 256 KiB, together at most 1 MiB. Raises LogError."""
    parts: list[str] = []
    room, is_truncated = _MAX_DIFF_BYTES, False
    for change in changes:
        before = await contents.read(change.before, for_callers=True)
        after = await contents.read(change.after, for_callers=True)
        part = await compare(_part, change, before, after, context)
        size = len(part.text.encode())
        if size > room:
            return Diff("".join(parts), is_truncated=True)
        parts.append(part.text)
        room -= size
        is_truncated |= part.is_truncated
    return Diff("".join(parts), is_truncated)


def _part(change: NetChange, before: bytes | None, after: bytes | None, context: int) -> Diff:
    path = change.shown_path.replace("\n", "\\n")
    header = list(_header(path, change.before, change.after))
    if before is None or after is None:
        return Diff("".join([*header, f"The content of {path} is not stored\n"]), is_truncated=True)
    if before == after and change.before and change.after:
        is_redacted = change.before.sha256 != change.after.sha256
        return Diff(
            "".join([*header, *([f"Only secrets in {path} differ\n"] if is_redacted else [])]), is_truncated=False
        )
    if is_binary(before) or is_binary(after):
        return Diff("".join([*header, f"Binary files a/{path} and b/{path} differ\n"]), is_truncated=False)
    names = [
        "/dev/null" if change.before is None else f"a/{path}",
        "/dev/null" if change.after is None else f"b/{path}",
    ]
    if before != after:
        header += [f"--- {names[0]}\n", f"+++ {names[1]}\n"]
    return _cut(header, unified_diff(before, after, context))


def _cut(header: Sequence[str], lines: Iterator[str]) -> Diff:
    size = 0

    def fits(line: str) -> bool:
        nonlocal size
        size += len(line.encode("utf-8", "replace"))
        return size <= _MAX_FILE_BYTES

    kept = list(takewhile(fits, lines))
    is_truncated = size > _MAX_FILE_BYTES
    return Diff("".join([*header, *kept, *(["\\ The rest is left out\n"] if is_truncated else [])]), is_truncated)


def _header(path: str, before: FileState | None, after: FileState | None) -> Iterator[str]:
    yield f"diff --git a/{path} b/{path}\n"
    old, new = (_MODES.get(state.kind, _MODE) if state else "" for state in (before, after))
    if not old:
        yield f"new file mode {new}\n"
    elif not new:
        yield f"deleted file mode {old}\n"
    elif old != new:
        yield f"old mode {old}\n"
        yield f"new mode {new}\n"
