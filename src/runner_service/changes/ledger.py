"""What an execution knows of files: the state that each was in when it was last seen."""

from collections.abc import Sequence

from runner_service.changes.records import ChangeSet, RecordedChange
from runner_service.executors.tracking import FileState, FoundChange


class Ledger:
    """The last known state by path, and what file tools have written."""

    def __init__(self, earlier: Sequence[ChangeSet]) -> None:
        self._states: dict[str, FileState | None] = {
            change.path: change.after for change_set in earlier for change in change_set.changes
        }
        self.written: dict[str, FileState | None] = {}
        """What file tools have left, by path."""

    def known(self, change: FoundChange) -> FileState | None:
        """Returns what the file was before a change: as a file tool saw it, else as last seen, else as scanned."""
        if change.is_exact:
            return change.before
        return self._states.get(change.path, change.before)

    def has(self, change: FoundChange) -> bool:
        """Returns whether a change is known already: a sandbox tells again what it told a process that was killed."""
        seen = change.path in self._states and self._states[change.path] == change.after
        return seen or self.known(change) == change.after

    def learn(self, change: FoundChange) -> None:
        """Notes a change that the execution did not make."""
        self._states[change.path] = change.after

    async def accept(self, change: FoundChange) -> None:
        """Notes a change that is part of the preparation of the sandbox."""
        self.learn(change)

    def record(self, change: RecordedChange, *, is_exact: bool) -> None:
        """Notes a change that the execution made."""
        self._states[change.path] = change.after
        if is_exact:
            self.written[change.path] = change.after
        else:
            self.written.pop(change.path, None)

    def was_written(self, path: str, state: FileState | None) -> bool:
        """Returns whether a file tool has left a file in this state."""
        return path in self.written and self.written[path] == state
