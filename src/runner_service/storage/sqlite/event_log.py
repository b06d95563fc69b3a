"""The event log in SQLite, with a file for each output stream of each command.

SQLite runs in WAL mode with `synchronous=NORMAL`: commits survive the death of the process, but not a power failure.
One thread writes, a few read; the event loop does neither.
"""

import asyncio
import fcntl
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from runner_service import states
from runner_service.executors.protocol import Stream
from runner_service.state_dir import IN_USE
from runner_service.storage.changes import StoredChangeSet
from runner_service.storage.event_log import (
    Entry,
    ExecutionPage,
    LogError,
    NewValue,
    Notify,
    Page,
    Rejection,
    StateDirError,
    StoredExecution,
)
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.execution_order import ExecutionOrder
from runner_service.storage.journal import CallResult, JournaledCall
from runner_service.storage.sqlite import queries
from runner_service.storage.sqlite.appender import Appender
from runner_service.storage.sqlite.database import connect, require_intact, transaction
from runner_service.storage.sqlite.output_files import OutputFiles, OutputKey
from runner_service.storage.sqlite.private_directory import require_private
from runner_service.storage.sqlite.pruning import Pruner
from runner_service.storage.sqlite.schema import EVENTS, EVENTS_FILE, OUTPUTS_DIRECTORY, PENDING_REPORTS_1, RUN_ID
from runner_service.storage.sqlite.writer_thread import WriterThread
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

T = TypeVar("T")

_READ_THREADS = 2
_ACTIVE = ", ".join(map(str, sorted(states.ACTIVE_STATES)))
_JOURNAL = (
    "SELECT type, message, event FROM journal "
    "WHERE execution = (SELECT key FROM executions WHERE execution_id = ?) AND tool_call_id = ?"
)


@asynccontextmanager
async def sqlite_event_log(
    state_dir: Path, *, on_deleted: Callable[[str], None] = lambda _: None
) -> AsyncIterator["SqliteEventLog"]:
    """Opens the log below `state_dir`, which is created with mode 0700.

    `on_deleted` is called, in a thread, with the id of each execution that was deleted.

    Raises:
        LogError: the directory cannot be written, another process holds it, or the file is not an intact log.
    """
    log = await asyncio.to_thread(_open, state_dir, on_deleted)
    try:
        yield log
    finally:
        await log.close()


def _open(state_dir: Path, on_deleted: Callable[[str], None]) -> "SqliteEventLog":
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_private(state_dir)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateDirError(
            f"STATE_DIR {state_dir} cannot be used: {error.strerror}; set it to a directory that can be written"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return SqliteEventLog(state_dir, lock, on_deleted)
    except BlockingIOError:
        os.close(lock)
        raise LogError(f"STATE_DIR {state_dir} {IN_USE}; stop it, or give this one its own directory") from None
    except (sqlite3.Error, OSError) as error:
        os.close(lock)
        raise LogError(
            f"the event log in STATE_DIR {state_dir} cannot be opened: {error}; "
            "move the directory away to begin with an empty one"
        ) from error


def _set_aside_outputs(outputs: Path) -> None:
    """Renames the outputs of a deleted log: a new log numbers from 1 again, and would append to those files."""
    if outputs.exists() and any(outputs.iterdir()):
        kept = outputs.with_name(f"outputs-without-log-{time.time_ns()}")
        outputs.rename(kept)
        logger.warning("outputs_without_a_log renamed_to=%s", kept)


class SqliteEventLog:
    """The `EventLog` in a directory. Construct it with `sqlite_event_log`."""

    def __init__(self, state_dir: Path, lock: int, on_deleted: Callable[[str], None]) -> None:
        self._path = state_dir / EVENTS_FILE
        self._lock = lock
        require_intact(self._path)
        if not self._path.exists():
            _set_aside_outputs(state_dir / OUTPUTS_DIRECTORY)
        self._outputs = OutputFiles(state_dir / OUTPUTS_DIRECTORY)
        self._writer = EVENTS.open(self._path, state_dir)
        shutil.rmtree(state_dir / PENDING_REPORTS_1, ignore_errors=True)
        self._fingerprint_key: bytes = self._writer.execute(
            "SELECT value FROM meta WHERE name = 'fingerprint_key'"
        ).fetchone()[0]
        self._appender = Appender(self._writer, self._outputs)
        self._readers: list[sqlite3.Connection] = []
        self._write_thread = WriterThread("event-log-writer")
        self._on_deleted = on_deleted
        self._pruner = Pruner(self._writer, self._outputs, self._write_thread.run, self._forget)
        self._read_threads = ThreadPoolExecutor(_READ_THREADS, "event-log-reader")

    @property
    def fingerprint_key(self) -> bytes:
        """Implements `EventLog`."""
        return self._fingerprint_key

    async def append(self, entries: Sequence[Entry], owners: Mapping[str, int] = {}) -> Mapping[str, Rejection]:
        """Implements `EventLog`. The lock of STATE_DIR makes this process the only owner, so tokens are not checked."""
        del owners
        return await self._as_log_error(self._write_thread.run(lambda: self._appender.append(entries)))

    async def read(self, execution_id: str, after: int, max_bytes: int, *, with_output: bool = True) -> Page:
        """Implements `EventLog`."""
        return await self._read(
            lambda connection: Page(
                *queries.read_page(connection, self._outputs, execution_id, after, max_bytes, with_output=with_output)
            )
        )

    async def get(self, execution_id: str) -> StoredExecution | None:
        """Implements `EventLog`."""

        def find(connection: sqlite3.Connection) -> StoredExecution | None:
            row = queries.find_execution(connection, execution_id)
            return StoredExecution(row.execution, row.fingerprint, _request(row.request)) if row else None

        return await self._read(find)

    def subscribe(self, execution_id: str, notify: Notify) -> AbstractContextManager[None]:
        """Implements `EventLog`: no other process writes the log."""
        del execution_id, notify
        return nullcontext()

    async def find_values(self, name: str) -> Mapping[str, bytes]:
        """Implements `EventLog`."""
        query = "SELECT execution_id, value FROM execution_values JOIN executions ON key = execution WHERE name = ?"
        return await self._read(lambda connection: dict(connection.execute(query, (name,)).fetchall()))

    async def remove_values(self, name: str, execution_ids: Collection[str]) -> None:
        """Implements `EventLog`."""
        await self.append([NewValue(each, name, None) for each in execution_ids])

    async def list_executions(
        self, wanted: ExecutionFilter, *, limit: int, before_key: int = 0, order: ExecutionOrder | None = None
    ) -> ExecutionPage:
        """Implements `EventLog`."""
        return await self._read(
            lambda connection: ExecutionPage(
                *(
                    queries.list_in_order(connection, wanted, order, limit=limit, position=before_key)
                    if order
                    else queries.list_executions(connection, wanted, limit=limit, before_key=before_key)
                )
            )
        )

    async def read_output(
        self, execution_id: str, tool_call_id: str, stream: Stream, offset: int, max_bytes: int
    ) -> bytes | None:
        """Implements `EventLog`."""

        def find(connection: sqlite3.Connection) -> bytes | None:
            keys = queries.find_output(connection, execution_id, tool_call_id)
            return self._outputs.read(OutputKey(*keys, stream), offset, max_bytes) if keys else None

        return await self._read(find)

    async def unfinished(self) -> Sequence[str]:
        """Implements `EventLog`."""
        query = f"SELECT execution_id FROM executions WHERE state IN ({_ACTIVE})"  # noqa: S608  # constants
        return await self._read(lambda connection: [name for (name,) in connection.execute(query)])

    async def write_rows(self, statements: Sequence[tuple[str, Sequence[object]]]) -> None:
        """Executes statements in one transaction, for tables that are not the log's own. Raises LogError."""

        def write() -> None:
            with transaction(self._writer):
                for statement, values in statements:
                    self._writer.execute(statement, values)

        await self._as_log_error(self._write_thread.run(write))

    async def read_rows(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """Returns the rows of a query. Raises LogError."""
        return await self._read(lambda connection: connection.execute(query, values).fetchall())

    async def mark_interrupted(self, execution_ids: Collection[str]) -> None:
        """Implements `EventLog`."""
        await self._as_log_error(self._write_thread.run(lambda: self._mark_interrupted(execution_ids)))

    async def run_id(self, execution_id: str) -> str | None:
        """Implements `Journal`."""
        row = await self._read(lambda connection: connection.execute(_JOURNAL, (execution_id, RUN_ID)).fetchone())
        return row and str(row[0])

    async def find_call(self, execution_id: str, tool_call_id: str) -> JournaledCall | None:
        """Implements `Journal`."""
        row = await self._read(lambda connection: connection.execute(_JOURNAL, (execution_id, tool_call_id)).fetchone())
        if row is None:
            return None
        return JournaledCall(CallResult(*row) if row[0] is not None else None)

    async def change_sets(self, execution_id: str) -> Sequence[StoredChangeSet]:
        """Implements `ChangeSets`."""
        return await self._read(lambda connection: queries.find_change_sets(connection, execution_id))

    def _mark_interrupted(self, execution_ids: Collection[str]) -> None:
        query = f"UPDATE executions SET state = ? WHERE execution_id = ? AND state IN ({_ACTIVE})"  # noqa: S608  # constants
        with transaction(self._writer):
            self._writer.executemany(query, [(states.INTERRUPTED, each) for each in execution_ids])

    async def stored_bytes(self, execution_id: str) -> int:
        """Implements `EventLog`."""

        def measure(connection: sqlite3.Connection) -> int:
            query = "SELECT key, (SELECT IFNULL(SUM(LENGTH(frame)), 0) FROM events WHERE execution = key) "
            row = connection.execute(query + "FROM executions WHERE execution_id = ?", (execution_id,)).fetchone()
            return int(row[1]) + self._outputs.size(row[0]) if row else 0

        return await self._read(measure)

    async def delete(self, execution_id: str) -> bool:
        """Implements `EventLog`."""
        return await self._as_log_error(self._pruner.delete(execution_id))

    async def prune(self, *, max_age: float, max_bytes: int) -> int:
        """Implements `EventLog`."""
        return await self._as_log_error(self._pruner.prune(time.time() - max_age, max_bytes))

    def _forget(self, execution_id: str) -> None:
        self._appender.clear_cache()
        self._on_deleted(execution_id)

    async def close(self) -> None:
        """Waits for running operations and closes the files."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._write_thread.shutdown()
        self._read_threads.shutdown()
        for connection in [*self._readers, self._writer]:
            connection.close()
        self._outputs.close()
        os.close(self._lock)

    async def _read(self, find: Callable[[sqlite3.Connection], T]) -> T:
        def with_connection() -> T:
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = connect(self._path)
            try:
                return find(connection)
            finally:
                self._readers.append(connection)

        return await self._as_log_error(asyncio.get_running_loop().run_in_executor(self._read_threads, with_connection))

    async def _as_log_error(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except (sqlite3.Error, OSError) as error:
            raise LogError(str(error)) from error


def _request(stored: bytes | None) -> runner_pb2.ExecuteAgentRequest | None:
    return runner_pb2.ExecuteAgentRequest.FromString(stored) if stored is not None else None
