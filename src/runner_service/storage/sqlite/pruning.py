"""Deletion of executions, by id and by retention: by age, then by size.

Large executions take seconds to delete, so it is done in steps, each a short job of the writer thread: an append waits
for one step at most. The first step makes the execution invisible; what a killed process left is deleted by the next
`prune`.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from runner_service.states import ACTIVE_STATES, FINAL_STATES, INTERRUPTED
from runner_service.storage.sqlite.database import transaction
from runner_service.storage.sqlite.output_files import OutputFiles

T = TypeVar("T")

_MAX_PRUNED_PER_CALL = 200
_MAX_STEP_BYTES = 1024 * 1024
_MAX_STEP_ROWS = 2000
_VACUUM_STEP_PAGES = 512
_DELETED = ":deleted"
"""The name of the value that marks an execution whose row is gone, and whose events may not be yet."""


class RunJob(Protocol):
    """Runs a function in the writer thread."""

    def __call__(self, job: Callable[[], T], /) -> Awaitable[T]:
        """Returns its result."""


class Pruner:
    """Deletes executions. `on_deleted` is called in the writer thread with its id when one has become invisible."""

    def __init__(
        self, connection: sqlite3.Connection, outputs: OutputFiles, run: RunJob, on_deleted: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._outputs = outputs
        self._run = run
        self._on_deleted = on_deleted

    async def prune(self, ended_before: float, max_bytes: int) -> int:
        """Deletes what ended before a Unix time, then the oldest while over `max_bytes`; returns how many."""
        for half_deleted in await self._run(self._half_deleted):
            await self._delete_content(half_deleted)
        count = 0
        for expired in await self._run(lambda: self._expired(ended_before)):
            count += await self._delete(expired, unless_active=True)
        excess = await self._size() - max_bytes
        oldest = await self._run(self._oldest_finished) if excess > 0 else []
        for key in oldest:
            if excess <= 0:
                break
            excess -= await self._run(partial(self._size_of, key))
            count += await self._delete(key, unless_active=True)
        if count:
            await self._vacuum()
        return count

    async def delete(self, execution_id: str) -> bool:
        """Deletes one execution; False when there is no such execution."""
        query = "SELECT key FROM executions WHERE execution_id = ?"
        row = await self._run(lambda: self._connection.execute(query, (execution_id,)).fetchone())
        if row is None:
            return False
        await self._delete(row[0], unless_active=False)
        await self._vacuum()
        return True

    async def _delete(self, key: int, *, unless_active: bool) -> bool:
        """Deletes an execution; False when it is active, since it has been resumed meanwhile."""
        is_invisible = await self._run(lambda: self._make_invisible(key, unless_active=unless_active))
        if is_invisible:
            await self._delete_content(key)
        return is_invisible

    async def _delete_content(self, key: int) -> None:
        """Deletes the events and outputs of an invisible execution, and last the mark."""
        await asyncio.to_thread(shutil.rmtree, self._outputs.directory(key), ignore_errors=True)
        while await self._run(lambda: self._delete_some_events(key)):
            pass
        await self._run(lambda: self._delete_remainder(key))

    async def _vacuum(self) -> None:
        """Gives the free pages of the file back to the disk."""
        while await self._run(self._vacuum_some):
            pass

    async def _size(self) -> int:
        size, keys = await self._run(self._database_size)
        return size + await asyncio.to_thread(lambda: sum(map(self._outputs.size, keys)))

    def _half_deleted(self) -> Sequence[int]:
        query = "SELECT execution FROM execution_values WHERE name = ?"
        return [key for (key,) in self._connection.execute(query, (_DELETED,))]

    def _expired(self, ended_before: float) -> Sequence[int]:
        query = f"SELECT key FROM executions WHERE state IN ({_FINAL}, ?) AND changed < ? LIMIT ?"  # noqa: S608  # constants
        return [key for (key,) in self._connection.execute(query, (INTERRUPTED, ended_before, _MAX_PRUNED_PER_CALL))]

    def _oldest_finished(self) -> Sequence[int]:
        query = f"SELECT key FROM executions WHERE state IN ({_FINAL}) ORDER BY changed LIMIT ?"  # noqa: S608  # constants
        return [key for (key,) in self._connection.execute(query, (_MAX_PRUNED_PER_CALL,))]

    def _database_size(self) -> tuple[int, Sequence[int]]:
        connection = self._connection
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        keys = connection.execute("SELECT DISTINCT execution FROM tool_calls").fetchall()
        return (pages - free) * size, [key for (key,) in keys]

    def _size_of(self, key: int) -> int:
        query = "SELECT IFNULL(SUM(LENGTH(frame) + 16), 0) FROM events WHERE execution = ?"
        return int(self._connection.execute(query, (key,)).fetchone()[0]) + self._outputs.size(key)

    def _make_invisible(self, key: int, *, unless_active: bool) -> bool:
        condition = f"AND state NOT IN ({_ACTIVE})" if unless_active else ""
        query = f"DELETE FROM executions WHERE key = ? {condition}"  # noqa: S608  # constants
        with transaction(self._connection):
            row = self._connection.execute(f"{query} RETURNING execution_id", (key,)).fetchone()
            if row is None:
                return False
            self._connection.execute("INSERT OR REPLACE INTO execution_values VALUES (?, ?, x'')", (key, _DELETED))
        self._outputs.close_files_of(key)
        self._on_deleted(row[0])
        return True

    def _delete_some_events(self, key: int) -> bool:
        """Deletes the first events, about `_MAX_STEP_BYTES` of them; False when there are none."""
        query = "SELECT sequence, LENGTH(frame) FROM events WHERE execution = ? ORDER BY sequence LIMIT ?"
        last, size = None, 0
        for sequence, length in self._connection.execute(query, (key, _MAX_STEP_ROWS)):
            if last is not None and size + length > _MAX_STEP_BYTES:
                break
            last, size = sequence, size + length
        if last is None:
            return False
        self._connection.execute("DELETE FROM events WHERE execution = ? AND sequence <= ?", (key, last))
        return True

    def _delete_remainder(self, key: int) -> None:
        with transaction(self._connection):
            for table in ("tool_calls", "journal", "change_sets", "execution_values"):
                self._connection.execute(f"DELETE FROM {table} WHERE execution = ?", (key,))  # noqa: S608  # constants

    def _vacuum_some(self) -> bool:
        self._connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_STEP_PAGES})").fetchall()
        return int(self._connection.execute("PRAGMA freelist_count").fetchone()[0]) > 0


_FINAL = ", ".join(map(str, sorted(FINAL_STATES)))
_ACTIVE = ", ".join(map(str, sorted(ACTIVE_STATES)))
