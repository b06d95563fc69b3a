"""Change sets as they are stored: one for each call or revert that changed something."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from runner_service.executors.tracking import FileState
from runner_service.storage.changes import StoredChangeSet


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """What happened to one path, relative to the root. Lines are counted in text only."""

    path: str
    before: FileState | None
    after: FileState | None
    lines_added: int = 0
    lines_removed: int = 0
    is_binary: bool = False
    is_shared: bool = False
    shown_path: str = ""
    """The path for callers: text, with secrets redacted."""


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """The changes of a call, or of a revert, which has no call; `sequence` is that of the event."""

    sequence: int
    changes: Sequence[RecordedChange]
    tool_call_id: str = ""
    is_revert: bool = False

    def encode(self) -> bytes:
        """Returns the change set as it is stored, without its sequence: JSON, one line for each change.

        Takes a second for 20,000 changes: do it in a thread. Paths may hold bytes that are not UTF-8.
        """
        head = {"tool_call_id": self.tool_call_id, "is_revert": self.is_revert}
        rows = map(asdict, self.changes)
        return "\n".join(json.dumps(each, separators=(",", ":")) for each in (head, *rows)).encode("ascii")


def decode_all(stored: Iterable[StoredChangeSet]) -> list[ChangeSet]:
    """Returns stored change sets. Takes as long as it took to encode them."""
    return [_decoded(each) for each in stored]


def _decoded(stored: StoredChangeSet) -> ChangeSet:
    head, *rows = stored.data.split(b"\n")
    fields = json.loads(head)
    # A set may also be one object, as it was stored first. No other thread runs while a line is parsed.
    changes = [*map(_change, fields.get("changes", ())), *(_change(json.loads(each)) for each in rows)]
    return ChangeSet(stored.sequence, changes, fields["tool_call_id"], fields["is_revert"])


def encode_state(state: FileState | None) -> dict[str, object] | None:
    """Returns a state as JSON."""
    return asdict(state) if state else None


def decode_state(fields: dict[str, str | int] | None) -> FileState | None:
    """Returns a state that was stored."""
    return FileState(**fields) if fields else None  # type: ignore[arg-type]  # as `encode_state` made them


def _change(fields: dict[str, object]) -> RecordedChange:
    sides = {side: decode_state(fields[side]) for side in ("before", "after")}  # type: ignore[arg-type]  # as stored
    return RecordedChange(**{**fields, **sides})  # type: ignore[arg-type]  # as stored
