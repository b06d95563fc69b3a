"""The `ActivityStore` in SQLite: `activities.db` below STATE_DIR."""

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from runner_service.storage.activities import AnnouncedWorkflow, OpenActivity, WorkerIdentity
from runner_service.storage.event_log import LogError
from runner_service.storage.sqlite.database import require_intact, transaction
from runner_service.storage.sqlite.migrations import Schema, statements
from runner_service.storage.sqlite.writer_thread import WriterThread

T = TypeVar("T")

_COLUMNS = (
    "workflow_id, run_id, activity_id, activity_type, task_token, execution_id, deadline, heartbeat_interval_seconds, "
    "request, result_encoding"
)
_SCHEMA = Schema([
    statements(
        """
        CREATE TABLE activities (
            key INTEGER PRIMARY KEY AUTOINCREMENT,
            workflow_id TEXT NOT NULL,
            run_id TEXT NOT NULL,
            activity_id TEXT NOT NULL,
            activity_type TEXT NOT NULL,
            task_token BLOB NOT NULL,
            execution_id TEXT NOT NULL,
            deadline REAL NOT NULL,
            heartbeat_interval_seconds REAL NOT NULL,
            request BLOB NOT NULL,
            result_encoding TEXT NOT NULL,
            UNIQUE (workflow_id, run_id, activity_id)
        )
        """
    ),
    statements(
        """
        CREATE TABLE announced_workflows (
            workflow_id TEXT NOT NULL,
            run_id TEXT NOT NULL,
            PRIMARY KEY (workflow_id, run_id)
        ) WITHOUT ROWID;
        CREATE TABLE worker (name TEXT NOT NULL, starts INTEGER NOT NULL)
        """
    ),
])  # fmt: skip

_WITHDRAW = "DELETE FROM announced_workflows WHERE workflow_id = ? AND run_id = ?"


@asynccontextmanager
async def sqlite_activity_store(state_dir: Path) -> AsyncIterator["SqliteActivityStore"]:
    """Opens the store below `state_dir`, which the event log holds.

    Raises:
        LogError: the file is damaged, or cannot be written.
    """
    path = state_dir / "activities.db"
    thread = WriterThread("activity-store")
    try:
        connection = await _as_log_error(thread, lambda: _open(path, state_dir))
        try:
            yield SqliteActivityStore(thread, connection)
        finally:
            await thread.run(connection.close)
    finally:
        await asyncio.to_thread(thread.shutdown)


def _open(path: Path, state_dir: Path) -> sqlite3.Connection:
    require_intact(path)
    return _SCHEMA.open(path, state_dir)


async def _as_log_error(thread: WriterThread, job: Callable[[], T]) -> T:
    try:
        return await thread.run(job)
    except (sqlite3.Error, OSError) as error:
        raise LogError(f"the store of activities cannot be used: {error}") from error


class SqliteActivityStore:
    """The `ActivityStore` in a file. Construct it with `sqlite_activity_store`."""

    is_shared = False

    def __init__(self, thread: WriterThread, connection: sqlite3.Connection) -> None:
        self._thread = thread
        self._connection = connection
        self._identity: WorkerIdentity | None = None

    async def add(self, activity: OpenActivity) -> None:
        """Implements `ActivityStore`."""
        marks = ", ".join("?" * len(_COLUMNS.split(",")))
        query = f"INSERT OR REPLACE INTO activities ({_COLUMNS}) VALUES ({marks})"  # noqa: S608  # constants
        values = [getattr(activity, name.strip()) for name in _COLUMNS.split(",")]
        withdrawal = (_WITHDRAW, (activity.workflow_id, activity.run_id))
        await self._write((query, values), withdrawal)

    async def remove(self, activity: OpenActivity) -> None:
        """Implements `ActivityStore`."""
        query = "DELETE FROM activities WHERE workflow_id = ? AND run_id = ? AND activity_id = ? AND task_token = ?"
        await self._write((query, (activity.workflow_id, activity.run_id, activity.activity_id, activity.task_token)))

    async def list_open(self) -> Sequence[OpenActivity]:
        """Implements `ActivityStore`."""
        query = f"SELECT {_COLUMNS} FROM activities ORDER BY key"  # noqa: S608  # constants
        rows = await _as_log_error(self._thread, lambda: self._connection.execute(query).fetchall())
        return [OpenActivity(*row) for row in rows]

    async def new_identity(self) -> WorkerIdentity:
        """Implements `ActivityStore`."""

        def count_start() -> WorkerIdentity:
            with transaction(self._connection):
                if not self._connection.execute("UPDATE worker SET starts = starts + 1").rowcount:
                    self._connection.execute("INSERT INTO worker VALUES (?, 1)", (secrets.token_hex(8),))
                return WorkerIdentity(*self._connection.execute("SELECT name, starts FROM worker").fetchone())

        self._identity = await _as_log_error(self._thread, count_start)
        return self._identity

    async def has_ended(self, worker: str) -> bool:
        """Implements `ActivityStore`."""
        return self._identity is not None and self._identity.is_later_than(worker)

    async def announce(self, workflow: AnnouncedWorkflow) -> None:
        """Implements `ActivityStore`."""
        await self._write(("INSERT OR REPLACE INTO announced_workflows VALUES (?, ?)", workflow))

    async def withdraw(self, workflow: AnnouncedWorkflow) -> None:
        """Implements `ActivityStore`."""
        await self._write((_WITHDRAW, workflow))

    async def list_announced(self) -> Sequence[AnnouncedWorkflow]:
        """Implements `ActivityStore`."""
        query = "SELECT workflow_id, run_id FROM announced_workflows"
        rows = await _as_log_error(self._thread, lambda: self._connection.execute(query).fetchall())
        return [AnnouncedWorkflow(*row) for row in rows]

    async def _write(self, *changes: tuple[str, Sequence[object]]) -> None:
        def write() -> None:
            with transaction(self._connection):
                for query, values in changes:
                    self._connection.execute(query, values)

        await _as_log_error(self._thread, write)
