"""Carries a revert out: all files or none, also when the service is killed meanwhile."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

from runner_service.changes.contents import Contents
from runner_service.changes.records import ChangeSet, RecordedChange
from runner_service.changes.revert import RevertItem, decode_items, encode_items
from runner_service.changes.workspaces import Workspaces
from runner_service.errors import PreconditionError, UnavailableError
from runner_service.events.stream import EventStream
from runner_service.executions.revert_notes import new_note
from runner_service.executors.protocol import FileError, SandboxError
from runner_service.executors.tracking import FileState, Restoration, Restorer
from runner_service.storage.event_log import LogError, NewChangeSet, NewValue

logger = logging.getLogger(__name__)

PENDING_REVERT = "revert"
"""The name of the stored value that says what a revert is about to do. It is there until all of it is done."""

_MAX_BATCH_ITEMS = 200
_MAX_BATCH_BYTES = 4 * 1024 * 1024


class _ContentGoneError(LogError):
    """What a file held is no longer stored."""


class Reverting:
    """A revert of one execution, in the directory `root`; `session_id` is empty if it belongs to no session.

    `require_rest` raises PreconditionError while an execution uses the files.
    """

    def __init__(
        self,
        stream: EventStream,
        contents: Contents,
        restorer: Restorer,
        *,
        workspaces: Workspaces,
        root: str,
        session_id: str,
        require_rest: Callable[[], Awaitable[None]],
    ) -> None:
        self._session_id = session_id
        self._require_rest = require_rest
        self._stream = stream
        self._contents = contents
        self._restorer = restorer
        self._workspaces = workspaces
        self._root = root

    async def carry_out(self, items: Sequence[RevertItem]) -> list[RecordedChange]:
        """Puts files back and records that.

        Raises:
            UnavailableError: it failed; then no file is changed, or the service completes it later.
            PreconditionError, LogError: an execution has begun to use the files.
        """
        await self._require_space(items)
        data = await asyncio.to_thread(encode_items, items)
        # From here on an execution that begins, at any replica, sees the revert and waits for its end.
        await self._store(NewValue(self._stream.execution_id, PENDING_REVERT, encode_items([])))
        try:
            await self._require_rest()
            await self._store(NewValue(self._stream.execution_id, PENDING_REVERT, data))
        except (PreconditionError, LogError):
            await self._store(NewValue(self._stream.execution_id, PENDING_REVERT, None))
            raise
        attempted: list[RevertItem] = []
        try:
            for batch in _batches(items):
                attempted += batch
                await self._restore(batch)
        except (FileError, SandboxError, LogError) as error:
            await self._take_back(attempted)
            await self._store(NewValue(self._stream.execution_id, PENDING_REVERT, None))
            raise UnavailableError(f"nothing was put back: {error}") from error
        return await self._record(attempted)

    async def complete(self, data: bytes) -> None:
        """Completes what another process has begun. What was changed since, or cannot be put back, stays as it is.

        Raises:
            SandboxError, LogError, UnavailableError: it cannot be completed now.
        """
        items = decode_items(data)
        present = await self._restorer.states([item.path for item in items])
        left_out: set[str] = set()
        left = []
        for item, now in zip(items, present, strict=True):
            if now == item.expected or _is_between(item, now):
                left.append(replace(item, expected=now))
            elif now != item.wanted:
                self._leave_out(item, "it was changed since")
                left_out.add(item.path)
        for batch in _batches(left):
            left_out |= await self._restore_possible(batch)
        await self._record([item for item in items if item.path not in left_out])

    async def _restore_possible(self, items: Sequence[RevertItem]) -> set[str]:
        """Restores what can be restored, and returns the paths of the rest."""
        try:
            await self._restore(items)
        except (FileError, _ContentGoneError) as error:
            if len(items) == 1:
                self._leave_out(items[0], error)
                return {items[0].path}
        else:
            return set()
        present = await self._restorer.states([item.path for item in items])
        left = [item for item, now in zip(items, present, strict=True) if now != item.wanted]
        return {path for item in left for path in await self._restore_possible([item])}

    def _leave_out(self, item: RevertItem, reason: object) -> None:
        logger.warning("revert_left_out execution=%s path=%r reason=%s", self._stream.execution_id, item.path, reason)

    async def _restore(self, items: Sequence[RevertItem]) -> None:
        restorations = []
        for item in items:
            data = await self._contents.read(item.wanted)
            if data is None:
                raise _ContentGoneError(f"the content of {item.path!r} is no longer stored")
            self._workspaces.note_restored(f"{self._root}/{item.path}", item.wanted)
            restorations.append(Restoration(item.path, item.expected, item.wanted, data))
        await self._restorer.restore(restorations)

    async def _take_back(self, attempted: Sequence[RevertItem]) -> None:
        """Undoes what is done of a revert that failed."""
        try:
            present = await self._restorer.states([item.path for item in attempted])
            done = [
                replace(item, expected=now, wanted=item.expected)
                for item, now in zip(attempted, present, strict=True)
                if now == item.wanted or _is_between(item, now)
            ]
            for batch in _batches(done[::-1]):
                await self._restore(batch)
        except (FileError, SandboxError, LogError) as error:
            logger.error("revert_incomplete execution=%s error=%s", self._stream.execution_id, error)  # noqa: TRY400
            raise UnavailableError(f"only some files were put back: {error}. The service completes it later") from error

    async def _require_space(self, items: Sequence[RevertItem]) -> None:
        try:
            await self._restorer.require_space(sum(item.wanted.size for item in items if item.wanted))
        except (FileError, SandboxError) as error:
            raise UnavailableError(f"nothing was put back: {error}") from error

    async def _record(self, done: Sequence[RevertItem]) -> list[RecordedChange]:
        changes = [await self._contents.compared(item.as_change()) for item in done]
        if changes:
            execution_id, sequence = self._stream.execution_id, self._stream.last_sequence
            data = await asyncio.to_thread(ChangeSet(0, changes, is_revert=True).encode)
            self._stream.append(NewChangeSet(execution_id, sequence, data), len(data))
            if self._session_id:
                self._stream.append(new_note(execution_id, self._session_id, changes), 0)
        await self._store(NewValue(self._stream.execution_id, PENDING_REVERT, None))
        return changes

    async def _store(self, entry: NewValue) -> None:
        """Returns when the log has the entry, and what was appended before. Raises UnavailableError."""
        self._stream.append(entry, len(entry.value or b""))
        await self._stream.flush()
        if self._stream.broken:
            raise UnavailableError(self._stream.broken.message, retry_delay=5.0)


def _is_between(item: RevertItem, now: FileState | None) -> bool:
    """Returns whether a file was removed, and not yet written: one of another kind takes its place."""
    return bool(now is None and item.expected and item.wanted and item.expected.kind != item.wanted.kind)


def _batches(items: Sequence[RevertItem]) -> Iterator[list[RevertItem]]:
    """Yields items in batches that fit into memory and into a request."""
    batch: list[RevertItem] = []
    size = 0
    for item in items:
        added = item.wanted.size if item.wanted else 0
        if batch and (len(batch) >= _MAX_BATCH_ITEMS or size + added > _MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += added
    if batch:
        yield batch
