"""Writes entries of the event log as rows and output files."""

import sqlite3
import time
from collections.abc import Sequence

from runner_service import states
from runner_service.executors.protocol import Stream
from runner_service.storage.event_log import Entry, NewEvent, NewExecution, NewOutput, NewState, NewValue
from runner_service.storage.sqlite.database import transaction
from runner_service.storage.sqlite.output_files import OutputFiles, OutputKey
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

    def append(self, entries: Sequence[Entry]) -> None:
        """Commits all entries in order, or none. Raises sqlite3.Error, OSError."""
        try:
            match entries:
                case [NewEvent(output=None, tool_call_id="") as events]:  # a single statement is its own transaction
                    self._connection.execute(_INSERT_EVENTS, self._row(events))
                case _:
                    with transaction(self._connection):
                        self._append_entries(entries)
                    self._outputs.commit()
        except BaseException:
            self._keys.clear()
            self._calls.clear()
            self._outputs.rollback()
            raise

    def _append_entries(self, entries: Sequence[Entry]) -> None:
        rows: list[_Row] = []
        states: list[NewState] = []
        for entry in entries:
            if isinstance(entry, NewEvent):
                rows.append(self._row(entry))
                if entry.tool_call_id:
                    self._start_call(entry)
            elif isinstance(entry, NewOutput):
                self._store_output(entry)
            elif isinstance(entry, NewState):
                states.append(entry)
            elif isinstance(entry, NewValue):
                self._store_value(self._key(entry.execution_id), entry.name, entry.value)
            else:
                self._insert_execution(entry)
        self._connection.executemany(_INSERT_EVENTS, rows)
        for state in states:
            self._update_execution(state.execution)

    def _row(self, events: NewEvent) -> _Row:
        key = self._key(events.execution_id)
        return (key, events.sequence, events.count, events.frame, *self._store_output(events.output))

    def _insert_execution(self, entry: NewExecution) -> None:
        execution = entry.execution
        inserted = self._connection.execute(
            "INSERT INTO executions (execution_id, session_id, state, changed, fingerprint, request, record) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                execution.execution_id,
                execution.session_id,
                execution.state,
                time.time(),
                entry.fingerprint,
                entry.request.SerializeToString() if entry.request else None,
                execution.SerializeToString(),
            ),
        )
        for name, value in entry.values.items():
            self._store_value(inserted.lastrowid, name, value)

    def _store_value(self, key: int | None, name: str, value: bytes | None) -> None:
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
        if states.is_final(execution.state):
            self._keys.pop(execution.execution_id, None)
            for call in [call for call in self._calls if call[0] == key]:
                del self._calls[call]

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
        if execution_id not in self._keys:
            query = "SELECT key FROM executions WHERE execution_id = ?"
            self._keys[execution_id] = self._connection.execute(query, (execution_id,)).fetchone()[0]
        return self._keys[execution_id]

    def _call(self, execution: int, tool_call_id: str) -> int:
        if (execution, tool_call_id) not in self._calls:
            query = "SELECT call FROM tool_calls WHERE execution = ? AND tool_call_id = ?"
            row = self._connection.execute(query, (execution, tool_call_id)).fetchone()
            self._calls[execution, tool_call_id] = row[0]
        return self._calls[execution, tool_call_id]
