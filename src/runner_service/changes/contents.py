"""Stores the contents of changed files, and reads them for counts and diffs."""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

from runner_service.changes.lines import LineCounts, compare, count_lines
from runner_service.changes.net import NetChange
from runner_service.changes.records import RecordedChange
from runner_service.executors.tracking import SYMLINK, FileState, FoundChange
from runner_service.redaction import Redactor
from runner_service.storage.changes import ContentStore

_MAX_PATH_CHARACTERS = 4096
_CHANGES_PER_PAUSE = 250


def shown_path(path: str) -> str:
    r"""Returns a path as text; bytes that are not UTF-8 are `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")[:_MAX_PATH_CHARACTERS]


class Contents:
    """The contents of one execution. `redactor` knows its secrets; it is needed to record, and not to read."""

    def __init__(self, execution_id: str, store: ContentStore, redactor: Redactor) -> None:
        self._execution_id = execution_id
        self._store = store
        self.redactor = redactor

    async def record(self, change: FoundChange, before: FileState | None, *, is_shared: bool) -> RecordedChange:
        """Stores the contents of a change, and describes it. `before` may be a state that was stored earlier.

        Raises:
            LogError: an earlier content cannot be read.
        """
        stored_before = await self._stored(before, change.contents.get(before.sha256) if before else None)
        after = await self._stored(change.after, change.contents.get(change.after.sha256) if change.after else None)
        counts = await self._counts(stored_before, after, change)
        path = self.redactor.text(shown_path(change.path))
        return RecordedChange(change.path, stored_before, after, *counts, is_shared, path)

    async def net(self, changes: Sequence[NetChange]) -> list[RecordedChange]:
        """Describes net changes. Raises LogError."""
        described: list[RecordedChange] = []
        for number, change in enumerate(changes, 1):
            described.append(await self._net(change))
            if not number % _CHANGES_PER_PAUSE:
                await asyncio.sleep(0)
        return described

    async def _net(self, change: NetChange) -> RecordedChange:
        whole = RecordedChange(
            change.path, change.before, change.after, 0, 0, change.is_binary, change.is_shared, change.shown_path
        )
        if len(change.parts) == 1:
            return replace(whole, lines_added=change.parts[0].lines_added, lines_removed=change.parts[0].lines_removed)
        return await self.compared(whole)

    async def compared(self, change: RecordedChange) -> RecordedChange:
        """Counts the lines of a change, if both contents are stored. Raises LogError."""
        before, after = await self.read(change.before), await self.read(change.after)
        if before is None or after is None or _has_link(change.before, change.after):
            return change
        counts = await compare(count_lines, before, after)
        return replace(change, lines_added=counts.added, lines_removed=counts.removed, is_binary=counts.is_binary)

    async def read(self, state: FileState | None, *, for_callers: bool = False) -> bytes | None:
        """Returns the content of a state: nothing for no file, None if it is not stored. Raises LogError.

        `for_callers`: with secrets redacted.
        """
        if state is None:
            return b""
        if not state.has_content:
            return None
        return await self._store.get(self._execution_id, (for_callers and state.shown) or state.sha256)

    async def _stored(self, state: FileState | None, data: bytes | None) -> FileState | None:
        if state is None or data is None:
            return state
        await self._store.put(self._execution_id, state.sha256, data)
        shown = await asyncio.to_thread(self.redactor.data, data) if self.redactor else data
        if shown == data:
            return state
        name = hashlib.sha256(shown).hexdigest()
        await self._store.put(self._execution_id, name, shown)
        return replace(state, shown=name)

    async def _counts(self, before: FileState | None, after: FileState | None, change: FoundChange) -> LineCounts:
        sides = []
        for state in (before, after):
            data = change.contents.get(state.sha256) if state else b""
            sides.append(await self.read(state) if data is None else data)
        old, new = sides
        if old is None or new is None or _has_link(before, after):
            return LineCounts(0, 0, is_binary=old is None or new is None)
        return await compare(count_lines, old, new)


def _has_link(*states: FileState | None) -> bool:
    return any(state.kind == SYMLINK for state in states if state)
