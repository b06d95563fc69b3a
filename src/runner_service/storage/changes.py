"""What executions changed in files: sets of changes in the log, and the contents before and after."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class StoredChangeSet(NamedTuple):
    """The changes of one call or of one revert, encoded; `sequence` is that of its event, or of the last before it."""

    sequence: int
    data: bytes


class ChangeSets(Protocol):
    """Reads change sets; `EventLog.append` writes them with the event. Raises LogError."""

    async def change_sets(self, execution_id: str) -> Sequence[StoredChangeSet]:
        """Returns the change sets of an execution in the order in which they were appended."""


class ContentStore(Protocol):
    """Stores the contents of changed files by execution and SHA-256, in hexadecimal. Raises LogError.

    A second implementation must hold: what `put` returned True for survives the death of the process, and is there for
    every process; all of an execution is gone when `EventLog.delete` or `EventLog.prune` deletes the execution; the
    contents of all together take at most CHANGES_MAX_BYTES, as stored. One content has up to 10 MiB.
    """

    async def put(self, execution_id: str, sha256: str, data: bytes) -> bool:
        """Stores a content, if it is not there, and returns whether it is there now.

        For room, contents of other executions are deleted, those of the oldest first. False: there is none.
        """

    async def get(self, execution_id: str, sha256: str) -> bytes | None:
        """Returns a content; None when it is not stored, or no longer."""

    async def names(self, execution_id: str) -> frozenset[str]:
        """Returns the SHA-256 of each content that is stored of an execution."""
