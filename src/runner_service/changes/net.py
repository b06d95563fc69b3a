"""The difference between two points of an execution, by path."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runner_service.changes.records import ChangeSet, RecordedChange
from runner_service.executors.tracking import FileState


@dataclass(slots=True)
class NetChange:
    """What happened to a path in all. `parts` are the changes that led there, in order."""

    path: str
    parts: list[RecordedChange]

    @property
    def shown_path(self) -> str:
        """The path for callers."""
        return self.parts[0].shown_path

    @property
    def before(self) -> FileState | None:
        """What was there before the first."""
        return self.parts[0].before

    @property
    def after(self) -> FileState | None:
        """What was there after the last."""
        return self.parts[-1].after

    @property
    def is_shared(self) -> bool:
        """Whether another execution worked in the directory meanwhile."""
        return any(each.is_shared for each in self.parts)

    @property
    def is_interleaved(self) -> bool:
        """Whether somebody else changed the file between two of the changes."""
        return any(one.after != other.before for one, other in zip(self.parts, self.parts[1:], strict=False))

    @property
    def is_binary(self) -> bool:
        """Whether it was not text before one of the changes, or after it."""
        return any(each.is_binary for each in self.parts)


def net_changes(sets: Iterable[ChangeSet]) -> list[NetChange]:
    """Returns the net changes, by path; what is as it was before is left out."""
    found: dict[str, NetChange] = {}
    for change_set in sets:
        for change in change_set.changes:
            if change.path in found:
                found[change.path].parts.append(change)
            else:
                found[change.path] = NetChange(change.path, [change])
    return sorted((each for each in found.values() if each.before != each.after), key=lambda each: each.path)


def between(sets: Sequence[ChangeSet], after_sequence: int, to_sequence: int) -> list[ChangeSet]:
    """Returns the change sets above a sequence, and up to another if that is not 0."""
    return [
        each
        for each in sets
        if each.sequence > after_sequence and (not to_sequence or (each.sequence <= to_sequence and not each.is_revert))
    ]
