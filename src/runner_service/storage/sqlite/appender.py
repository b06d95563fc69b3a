"""Writes entries of the event log as rows and output files."""

import sqlite3
import time
from collections.abc import Mapping, Sequence

from runner_service.executors.protocol import Stream
from runner_service.identity import tenant_of
from runner_service.states import is_final
from runner_service.storage.event_log import (
    Entry,
    NewCall,
    NewChangeSet,
    NewEvent,
    NewExecution,
    NewOutput,
    NewRun,
    NewState,
    NewValue,
    Rejection,
)
from runner_service.storage.sqlite.database import transaction
from runner_service.storage.sqlite.output_files import OutputFiles, OutputKey
from runner_service.storage.sqlite.schema import RUN_ID
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_INSERT_EVENTS = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_Row = tuple[int, int, int, bytes, int | None, str | None, int | None, int | None]


class Appender:
    """Appends batches. Belongs to the log's writer thread."""

    def __init__(self, connection: sqlite3.Connection, outputs: OutputFiles) -> None:
        self._connection = connection
        self._outputs = outputs
        self._keys: dict[str, int] = {}
        self._calls: dict[tuple[int, str], int] = {}

    def append(self, entries: Sequence[Entry]) -> Mapping[str, Rejection]:
        """Implements `EventLog.append`. Raises sqlite3.Error, OSError."""
        try:
            match entries:
                case [NewEvent(output=None, tool_call_id="") as events] if events.execution_id in self._keys:
                    # A single statement is its own transaction.
                    self._connection.execute(_INSERT_EVENTS, self._row(events))
                    return {}
                case [NewExecution() as execution] if not execution.values:
                    self._insert_execution(execution)
                    return {}
            with transaction(self._connection):
                rejected = self._append_entries(entries)
            self._outputs.commit()
        except BaseException:
            self.clear_cache()
            self._outputs.rollback()
            raise
        return rejected

    def clear_cache(self) -> None:
        """Forgets the keys of executions, some of which have been deleted."""
        self._keys.clear()
        self._calls.clear()

    def _append_entries(self, entries: Sequence[Entry]) -> Mapping[str, Rejection]:
        rejected: dict[str, Rejection] = {}
        rows: list[_Row] = []
        states: list[NewState] = []
        for entry in entries:
            if isinstance(entry, NewExecution):
                self._insert_execution(entry)
            elif self._find_key(entry.execution_id) is None:
                rejected[entry.execution_id] = Rejection.DELETED
            elif isinstance(entry, NewEvent):
                rows.append(self._row(entry))
                if entry.tool_call_id:
                    self._start_call(entry)
            elif isinstance(entry, NewState):
                states.append(entry)
            else:
                self._append_record(entry)
        if rows:
            self._connection.executemany(_INSERT_EVENTS, rows)
        for state in states:
            self._update_execution(state.execution)
        return rejected

    def _append_record(self, entry: NewOutput | NewValue | NewRun | NewCall | NewChangeSet) -> None:
        match entry:
            case NewOutput():
                self._store_output(entry)
            case NewValue():
                self._store_value(self._key(entry.execution_id), entry.name, entry.value)
            case NewRun():
                self._store_journal(entry.execution_id, RUN_ID, (entry.run_id, None, None))
            case NewCall():
                self._store_journal(entry.execution_id, entry.tool_call_id, entry.result or (None, None, None))
            case NewChangeSet():
                self._store_change_set(self._key(entry.execution_id), entry)

    def _row(self, events: NewEvent) -> _Row:
        key = self._key(events.execution_id)
        return (key, events.sequence, events.count, events.frame, *self._store_output(events.output))

    def _insert_execution(self, entry: NewExecution) -> None:
        execution = entry.execution
        inserted = self._connection.execute(
            "INSERT INTO executions (execution_id, tenant, session_id, state, changed, fingerprint, request, record) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                execution.execution_id,
                tenant_of(execution.execution_id),
                execution.session_id,
                execution.state,
                time.time(),
                entry.fingerprint,
                entry.request.SerializeToString() if entry.request else None,
                execution.SerializeToString(),
            ),
        )
        key = self._keys[execution.execution_id] = int(inserted.lastrowid or 0)
        for name, value in entry.values.items():
            self._store_value(key, name, value)

    def _store_value(self, key: int, name: str, value: bytes | None) -> None:
        if value is None:
            self._connection.execute("DELETE FROM execution_values WHERE execution = ? AND name = ?", (key, name))
        else:
            self._connection.execute("INSERT OR REPLACE INTO execution_values VALUES (?, ?, ?)", (key, name, value))

    def _update_execution(self, execution: runner_pb2.Execution) -> None:
        key = self._key(execution.execution_id)
        self._connection.execute(
            "UPDATE executions SET state = ?, changed = ?, record = ? WHERE key = ?",
            (execution.state, time.time(), execution.SerializeToString(), key),
        )
        if is_final(execution.state):
            self._connection.execute("DELETE FROM journal WHERE execution = ?", (key,))
            self._keys.pop(execution.execution_id, None)
            for call in [call for call in self._calls if call[0] == key]:
                del self._calls[call]

    def _store_journal(self, execution_id: str, tool_call_id: str, columns: Sequence[str | bytes | None]) -> None:
        query = "INSERT OR REPLACE INTO journal VALUES (?, ?, ?, ?, ?)"
        self._connection.execute(query, (self._key(execution_id), tool_call_id, *columns))

    def _store_change_set(self, key: int, entry: NewChangeSet) -> None:
        next_number = "SELECT ?, IFNULL(MAX(number), 0) + 1, ?, ? FROM change_sets WHERE execution = ?"
        query = f"INSERT INTO change_sets {next_number}"  # constants
        self._connection.execute(query, (key, entry.sequence, entry.data, key))

    def _start_call(self, entry: NewEvent) -> None:
        key = self._key(entry.execution_id)
        self._calls[key, entry.tool_call_id] = entry.sequence
        # Ids are unique. If one ever is not, refusing the batch would lose events of every execution.
        query = "INSERT OR REPLACE INTO tool_calls VALUES (?, ?, ?)"
        self._connection.execute(query, (key, entry.tool_call_id, entry.sequence))

    def _store_output(self, output: NewOutput | None) -> tuple[int | None, Stream | None, int | None, int | None]:
        if output is None:
            return (None, None, None, None)
        execution = self._key(output.execution_id)
        call = self._call(execution, output.tool_call_id)
        offset = self._outputs.append(OutputKey(execution, call, output.stream), output.data)
        return (call, output.stream, offset, len(output.data))

    def _key(self, execution_id: str) -> int:
        key = self._find_key(execution_id)
        if key is None:
            raise sqlite3.IntegrityError(f"execution {execution_id} is not in the log")
        return key

    def _find_key(self, execution_id: str) -> int | None:
        if execution_id not in self._keys:
            query = "SELECT key FROM executions WHERE execution_id = ?"
            row = self._connection.execute(query, (execution_id,)).fetchone()
            if row is None:
                return None
            self._keys[execution_id] = row[0]
        return self._keys[execution_id]

    def _call(self, execution: int, tool_call_id: str) -> int:
        if (execution, tool_call_id) not in self._calls:
            query = "SELECT call FROM tool_calls WHERE execution = ? AND tool_call_id = ?"
            row = self._connection.execute(query, (execution, tool_call_id)).fetchone()
            self._calls[execution, tool_call_id] = row[0]
        return self._calls[execution, tool_call_id]
