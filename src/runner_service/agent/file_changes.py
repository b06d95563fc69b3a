"""What `write_file` and `edit_file` would change: a diff for people, and the hash of the file as it is now."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from runner_service.agent.interface import AgentRun
from runner_service.approvals.policy import Call
from runner_service.changes.lines import compare, unified_diff
from runner_service.executors.protocol import FileError

_MAX_FILE_BYTES = 1024 * 1024
_CONTEXT_LINES = 3
_MAX_DIFF_CHARACTERS = 64 * 1024


class FileChange(NamedTuple):
    """A change of a file that has not been made. Empty for calls that change no file."""

    diff: str = ""
    truncated: bool = False
    sha256: str = ""
    """Of the file before the change, in hexadecimal; empty when there is no file, or it is larger than 1 MiB."""


async def describe_change(run: AgentRun, call: Call) -> FileChange:
    """Describes what a call of a file tool would change."""
    if call.name not in ("write_file", "edit_file"):
        return FileChange()
    before = await _read(run, str(call.arguments.get("file_path", "")))
    if before is None:
        return FileChange(truncated=True)
    return await compare(_change, before, call)


async def _read(run: AgentRun, path: str) -> bytes | None:
    """Returns the bytes of a file, none when there is no file; None when it is too large."""
    data = bytearray()
    try:
        async for chunk in run.sandbox.download(path):
            data += chunk
            if len(data) > _MAX_FILE_BYTES:
                return None
    except FileError:
        return b""
    return bytes(data)


def _change(before: bytes, call: Call) -> FileChange:
    after = _changed(before.decode("utf-8", "replace"), call.name, call.arguments).encode("utf-8", "replace")
    sha256 = hashlib.sha256(before).hexdigest() if before else ""
    hunks = unified_diff(before, after, _CONTEXT_LINES)
    diff = "".join([f"--- a/{call.path}\n", f"+++ b/{call.path}\n", *hunks]) if before != after else ""
    return FileChange(diff[:_MAX_DIFF_CHARACTERS], len(diff) > _MAX_DIFF_CHARACTERS, sha256)


def _changed(old: str, tool: str, arguments: Mapping[str, Any]) -> str:
    if tool == "write_file":
        return str(arguments.get("content", ""))
    search, replacement = str(arguments.get("old_string", "")), str(arguments.get("new_string", ""))
    return old.replace(search, replacement, -1 if arguments.get("replace_all") else 1) if search else old
