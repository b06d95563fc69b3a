"""The event log of a service that stands alone: one SQLite file, and a file for each stream of each command.

SQLite runs in WAL mode with `synchronous=NORMAL`: what was committed survives the death of the process at any moment,
not a power cut. One thread writes, a few read; the event loop does neither.
"""

import asyncio
import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from runner_service.eventlog import (
    FINAL_STATES,
    Entry,
    ExecutionPage,
    LogError,
    NewEvent,
    NewExecution,
    NewOutput,
    NewState,
    Page,
    StoredExecution,
)
from runner_service.eventlog.outputs import OutputFiles, OutputKey
from runner_service.executors import Stream
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

T = TypeVar("T")

_VERSION = 1
_READERS = 2
_ROWS_AT_ONCE = 4096
_PRUNED_AT_ONCE = 200

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS executions (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    state INTEGER NOT NULL,
    changed REAL NOT NULL,
    last_sequence INTEGER NOT NULL DEFAULT 0,
    fingerprint BLOB NOT NULL,
    record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS executions_by_session ON executions (session_id, key) WHERE session_id != '';
CREATE INDEX IF NOT EXISTS executions_by_state ON executions (state, key);
CREATE TABLE IF NOT EXISTS events (
    execution INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    frame BLOB NOT NULL,
    call INTEGER,
    stream TEXT,
    offset INTEGER,
    length INTEGER,
    PRIMARY KEY (execution, sequence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tool_calls (
    execution INTEGER NOT NULL,
    tool_call_id TEXT NOT NULL,
    call INTEGER NOT NULL,
    PRIMARY KEY (execution, tool_call_id)
) WITHOUT ROWID;
"""


@asynccontextmanager
async def sqlite_event_log(state_dir: Path) -> AsyncIterator["SqliteEventLog"]:
    """Opens the log below `state_dir`, which is created for this user alone.

    What an earlier process left running is INTERRUPTED from here on.

    Raises:
        LogError: the directory cannot be written, another process has it open, or the file is not a sound log.
    """
    log = await asyncio.to_thread(_open, state_dir)
    try:
        yield log
    finally:
        await log.close()


def _open(state_dir: Path) -> "SqliteEventLog":
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LogError(
            f"STATE_DIR {state_dir} cannot be used: {error.strerror}; choose a writable directory"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return SqliteEventLog(state_dir, lock)
    except BlockingIOError:
        os.close(lock)
        raise LogError(
            f"STATE_DIR {state_dir} is in use by another runner-service; stop it, or give this one its own directory"
        ) from None
    except (sqlite3.Error, OSError) as error:
        os.close(lock)
        raise LogError(
            f"the event log in STATE_DIR {state_dir} cannot be opened: {error}; "
            "move the directory away to begin with an empty one"
        ) from error


class SqliteEventLog:
    """The `EventLog` in a directory. Construct it with `sqlite_event_log`."""

    def __init__(self, state_dir: Path, lock: int) -> None:
        self._path = state_dir / "events.db"
        self._lock = lock
        self._outputs = OutputFiles(state_dir / "outputs")
        self._keys: dict[str, int] = {}
        self._calls: dict[tuple[int, str], int] = {}
        self._writer = self._connect()
        self._prepare()
        self._readers: list[sqlite3.Connection] = []
        self._write_thread = ThreadPoolExecutor(1, "event-log-writer")
        self._read_threads = ThreadPoolExecutor(_READERS, "event-log-reader")

    @property
    def fingerprint_key(self) -> bytes:
        """As of `EventLog`."""
        return self._fingerprint_key

    async def append(self, entries: Sequence[Entry]) -> None:
        """As of `EventLog`."""
        await self._run(self._write_thread, lambda: self._append(entries))

    async def read(self, execution_id: str, after: int, max_bytes: int) -> Page:
        """As of `EventLog`."""
        return await self._read(lambda connection: self._read_page(connection, execution_id, after, max_bytes))

    async def get(self, execution_id: str) -> StoredExecution | None:
        """As of `EventLog`."""

        def find(connection: sqlite3.Connection) -> StoredExecution | None:
            row = connection.execute(
                "SELECT record, state, last_sequence, fingerprint FROM executions WHERE execution_id = ?",
                (execution_id,),
            ).fetchone()
            return StoredExecution(_execution(*row[:3]), row[3]) if row else None

        return await self._read(find)

    async def list_executions(
        self, *, limit: int, before_key: int, states: Collection["event_pb2.State.ValueType"], session_id: str
    ) -> ExecutionPage:
        """As of `EventLog`."""
        conditions = ["(? = 0 OR key < ?)"]
        values: list[int | str] = [before_key, before_key]
        if session_id:
            conditions.append("session_id = ?")
            values.append(session_id)
        if states:
            conditions.append(f"state IN ({','.join('?' * len(states))})")
            values += states
        query = (
            "SELECT record, state, last_sequence, key FROM executions "  # noqa: S608  # only constants and marks are joined
            f"WHERE {' AND '.join(conditions)} ORDER BY key DESC LIMIT ?"
        )

        def find(connection: sqlite3.Connection) -> ExecutionPage:
            rows = connection.execute(query, [*values, limit + 1]).fetchall()
            next_key = rows[limit - 1][3] if len(rows) > limit else 0
            return ExecutionPage([_execution(*row[:3]) for row in rows[:limit]], next_key)

        return await self._read(find)

    async def read_output(
        self, execution_id: str, tool_call_id: str, stream: Stream, offset: int, max_bytes: int
    ) -> bytes | None:
        """As of `EventLog`."""

        def find(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(
                "SELECT execution, call FROM tool_calls JOIN executions ON key = execution "
                "WHERE execution_id = ? AND tool_call_id = ?",
                (execution_id, tool_call_id),
            ).fetchone()
            return self._outputs.read(OutputKey(row[0], row[1], stream), offset, max_bytes) if row else None

        return await self._read(find)

    async def prune(self, *, max_age: float, max_bytes: int) -> int:
        """As of `EventLog`."""
        return await self._run(self._write_thread, lambda: self._prune(time.time() - max_age, max_bytes))

    async def close(self) -> None:
        """Waits for what is under way, and closes the files."""
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
            connection = self._readers.pop() if self._readers else self._connect()
            try:
                return find(connection)
            finally:
                self._readers.append(connection)

        return await self._run(self._read_threads, with_connection)

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except (sqlite3.Error, OSError) as error:
            raise LogError(str(error)) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _prepare(self) -> None:
        self._path.chmod(0o600)
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, _VERSION}:
            raise sqlite3.DatabaseError(f"it has format {version}, this service writes format {_VERSION}")
        with self._transaction() as connection:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('fingerprint_key', ?)", (secrets.token_bytes(32),))
            connection.execute(
                "UPDATE executions SET state = ? WHERE state IN (?, ?)",
                (event_pb2.STATE_INTERRUPTED, event_pb2.STATE_PENDING, event_pb2.STATE_RUNNING),
            )
        row = self._writer.execute("SELECT value FROM meta WHERE name = 'fingerprint_key'").fetchone()
        self._fingerprint_key: bytes = row[0]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield self._writer
            self._writer.execute("COMMIT")
        except BaseException:
            # A full disk may have rolled back already.
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def _append(self, entries: Sequence[Entry]) -> None:
        try:
            with self._transaction() as connection:
                self._append_entries(connection, entries)
            self._outputs.keep()
        except BaseException:
            self._keys.clear()
            self._calls.clear()
            self._outputs.rollback()
            raise

    def _append_entries(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
        rows: list[tuple[int, int, bytes, int | None, str | None, int | None, int | None]] = []
        newest: dict[int, int] = {}
        states: list[NewState] = []
        for entry in entries:
            if isinstance(entry, NewEvent):
                key = self._key(connection, entry.execution_id)
                rows.append((key, entry.sequence, entry.frame, *self._store_output(connection, entry.output)))
                newest[key] = entry.sequence
                if entry.tool_call_id:
                    self._start_call(connection, key, entry)
            elif isinstance(entry, NewOutput):
                self._store_output(connection, entry)
            elif isinstance(entry, NewState):
                states.append(entry)
            else:
                self._insert_execution(connection, entry)
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.executemany(
            "UPDATE executions SET last_sequence = ? WHERE key = ?", [(last, key) for key, last in newest.items()]
        )
        for state in states:
            self._update_execution(connection, state.execution)

    def _insert_execution(self, connection: sqlite3.Connection, entry: NewExecution) -> None:
        execution = entry.execution
        connection.execute(
            "INSERT INTO executions (execution_id, session_id, state, changed, fingerprint, record) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                execution.execution_id,
                execution.session_id,
                execution.state,
                time.time(),
                entry.fingerprint,
                execution.SerializeToString(),
            ),
        )

    def _update_execution(self, connection: sqlite3.Connection, execution: runner_pb2.Execution) -> None:
        key = self._key(connection, execution.execution_id)
        connection.execute(
            "UPDATE executions SET state = ?, changed = ?, record = ? WHERE key = ?",
            (execution.state, time.time(), execution.SerializeToString(), key),
        )
        if execution.state in FINAL_STATES:
            self._keys.pop(execution.execution_id, None)
            for call in [call for call in self._calls if call[0] == key]:
                del self._calls[call]

    def _start_call(self, connection: sqlite3.Connection, key: int, entry: NewEvent) -> None:
        self._calls[key, entry.tool_call_id] = entry.sequence
        connection.execute("INSERT INTO tool_calls VALUES (?, ?, ?)", (key, entry.tool_call_id, entry.sequence))

    def _store_output(
        self, connection: sqlite3.Connection, output: NewOutput | None
    ) -> tuple[int | None, Stream | None, int | None, int | None]:
        if output is None:
            return (None, None, None, None)
        execution = self._key(connection, output.execution_id)
        call = self._call(connection, execution, output.tool_call_id)
        offset = self._outputs.append(OutputKey(execution, call, output.stream), output.data)
        return (call, output.stream, offset, len(output.data))

    def _key(self, connection: sqlite3.Connection, execution_id: str) -> int:
        if execution_id not in self._keys:
            query = "SELECT key FROM executions WHERE execution_id = ?"
            self._keys[execution_id] = connection.execute(query, (execution_id,)).fetchone()[0]
        return self._keys[execution_id]

    def _call(self, connection: sqlite3.Connection, execution: int, tool_call_id: str) -> int:
        if (execution, tool_call_id) not in self._calls:
            query = "SELECT call FROM tool_calls WHERE execution = ? AND tool_call_id = ?"
            row = connection.execute(query, (execution, tool_call_id)).fetchone()
            self._calls[execution, tool_call_id] = row[0]
        return self._calls[execution, tool_call_id]

    def _read_page(self, connection: sqlite3.Connection, execution_id: str, after: int, max_bytes: int) -> Page:
        rows = connection.execute(
            "SELECT sequence, frame, execution, call, stream, offset, length FROM events "
            "WHERE execution = (SELECT key FROM executions WHERE execution_id = ?) AND sequence > ? "
            "ORDER BY sequence LIMIT ?",
            (execution_id, after, _ROWS_AT_ONCE),
        )
        frames: list[bytes] = []
        size, last = 0, after
        for sequence, frame, execution, call, stream, offset, length in rows:
            if size and size + len(frame) + (length or 0) > max_bytes:
                break
            frames.append(frame)
            if call is not None:
                frames.append(self._output(OutputKey(execution, call, stream), offset, length))
            size += len(frame) + (length or 0)
            last = sequence
        return Page(b"".join(frames), last)

    def _output(self, key: OutputKey, offset: int, length: int) -> bytes:
        data = self._outputs.read(key, offset, length)
        if len(data) != length:
            raise OSError(
                f"output file {key.call}.{key.stream} of execution {key.execution} is shorter than its events"
            )
        return data

    def _prune(self, ended_before: float, max_bytes: int) -> int:
        final = ",".join(str(state) for state in sorted(FINAL_STATES))
        old = self._writer.execute(
            f"SELECT key FROM executions WHERE state IN ({final}, ?) AND changed < ? LIMIT ?",  # noqa: S608  # constants
            (event_pb2.STATE_INTERRUPTED, ended_before, _PRUNED_AT_ONCE),
        ).fetchall()
        for (key,) in old:
            self._forget(key)
        forgotten = len(old)
        finished = self._writer.execute(
            f"SELECT key FROM executions WHERE state IN ({final}) ORDER BY changed LIMIT ?",  # noqa: S608  # constants
            (_PRUNED_AT_ONCE,),
        ).fetchall()
        excess = self._size() - max_bytes
        for (key,) in finished:
            if excess <= 0:
                break
            excess -= self._forget(key)
            forgotten += 1
        if forgotten:
            self._writer.execute("PRAGMA incremental_vacuum").fetchall()
        return forgotten

    def _size(self) -> int:
        connection = self._writer
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        keys = connection.execute("SELECT DISTINCT execution FROM tool_calls").fetchall()
        return int((pages - free) * size + sum(self._outputs.size(key) for (key,) in keys))

    def _forget(self, key: int) -> int:
        """Removes an execution and returns about how many bytes that freed."""
        with self._transaction() as connection:
            query = "SELECT IFNULL(SUM(LENGTH(frame) + 16), 0) FROM events WHERE execution = ?"
            size = connection.execute(query, (key,)).fetchone()[0]
            connection.execute("DELETE FROM events WHERE execution = ?", (key,))
            connection.execute("DELETE FROM tool_calls WHERE execution = ?", (key,))
            connection.execute("DELETE FROM executions WHERE key = ?", (key,))
        self._keys = {name: known for name, known in self._keys.items() if known != key}
        return int(size) + self._outputs.remove(key)


def _execution(record: bytes, state: "event_pb2.State.ValueType", last_sequence: int) -> runner_pb2.Execution:
    execution = runner_pb2.Execution.FromString(record)
    execution.state = state
    execution.last_sequence = last_sequence
    return execution
