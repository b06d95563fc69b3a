"""Plans a revert: which files are put back, and which cannot be."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from runner_service.changes.messages import is_revertable
from runner_service.changes.net import NetChange, between, net_changes
from runner_service.changes.records import ChangeSet, RecordedChange, decode_state, encode_state
from runner_service.executors.tracking import REPOSITORY, FileState


class Obstacle(StrEnum):
    """Why a file is not put back."""

    CHANGED = "it was changed by somebody else since"
    INTERLEAVED = "it was changed by somebody else between two changes of the execution"
    NOT_STORED = "what it held is not stored: it is larger than 10 MiB or a nested repository, or was pruned"

    @property
    def is_conflict(self) -> bool:
        """Whether somebody else's change would be lost."""
        return self is not Obstacle.NOT_STORED


@dataclass(frozen=True, slots=True)
class RevertItem:
    """A file to be put back: what is there now, and what is to be there."""

    path: str
    expected: FileState | None
    wanted: FileState | None
    shown_path: str
    is_shared: bool = False

    def as_change(self) -> RecordedChange:
        """Returns what putting it back changes."""
        shown = self.shown_path
        return RecordedChange(self.path, self.expected, self.wanted, is_shared=self.is_shared, shown_path=shown)


@dataclass(frozen=True, slots=True)
class RevertPlan:
    """What a revert does, in an order in which it can be done, and what it cannot do."""

    items: Sequence[RevertItem]
    obstacles: Sequence[tuple[str, Obstacle]]


def changes_to_undo(sets: Sequence[ChangeSet], to_sequence: int) -> list[NetChange]:
    """Returns what is to be undone to come back to a point of an execution."""
    return net_changes(between(sets, to_sequence, 0))


def latest_revert(sets: Sequence[ChangeSet]) -> list[NetChange] | None:
    """Returns what the latest revert changed, and what was changed in these files since; None if there is none."""
    last = next((index for index in reversed(range(len(sets))) if sets[index].is_revert), None)
    if last is None:
        return None
    reverted = {change.path for change in sets[last].changes}
    return [each for each in net_changes(sets[last:]) if each.path in reverted]


def plan_revert(
    changes: Sequence[NetChange], present: Mapping[str, FileState | None], stored: Collection[str]
) -> RevertPlan:
    """Plans to undo changes, given what is there now and which contents are stored."""
    items: list[RevertItem] = []
    obstacles: list[tuple[str, Obstacle]] = []
    for change in changes:
        now = present[change.path]
        if any(state and state.kind == REPOSITORY for state in (change.before, change.after)):
            obstacles.append((change.shown_path, Obstacle.NOT_STORED))
            continue
        if now == change.before:
            continue
        if now != change.after:
            obstacles.append((change.shown_path, Obstacle.CHANGED))
        elif change.is_interleaved:
            obstacles.append((change.shown_path, Obstacle.INTERLEAVED))
        elif not is_revertable(change.before, change.after, stored):
            obstacles.append((change.shown_path, Obstacle.NOT_STORED))
        else:
            items.append(RevertItem(change.path, change.after, change.before, change.shown_path, change.is_shared))
    return RevertPlan(_in_order(items), obstacles)


def encode_items(items: Sequence[RevertItem]) -> bytes:
    """Returns items as they are stored while a revert is under way."""
    rows = [[each.path, encode_state(each.expected), encode_state(each.wanted), each.shown_path] for each in items]
    return json.dumps(rows).encode("ascii")


def decode_items(data: bytes) -> list[RevertItem]:
    """Returns the items of a revert that an earlier process has begun."""
    rows = json.loads(data)
    return [RevertItem(path, decode_state(old), decode_state(new), shown) for path, old, new, shown in rows]


def _in_order(items: Sequence[RevertItem]) -> list[RevertItem]:
    """Removes before it writes, the deepest first: a directory may be in the place of a file, or the reverse."""
    removed = sorted(
        (each for each in items if each.wanted is None), key=lambda each: (-each.path.count("/"), each.path)
    )
    return [*removed, *(each for each in items if each.wanted is not None)]
