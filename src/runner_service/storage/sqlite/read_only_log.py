"""The event log of a STATE_DIR, opened for reading only: beside the service that writes it, or without any.

Nothing is migrated, marked or left behind. Synchronous: for commands, not for the event loop.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from runner_service import states
from runner_service.executors.protocol import Stream
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.sqlite import queries
from runner_service.storage.sqlite.database import require_intact
from runner_service.storage.sqlite.output_files import OutputFiles, OutputKey
from runner_service.storage.sqlite.schema import EVENTS, EVENTS_FILE, OUTPUTS_DIRECTORY
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_PAGE_ROWS = 500
_PAGE_BYTES = 1 << 20


class UnreadableLogError(Exception):
    """There is no log, or this version cannot read it without changing it."""


class ReadOnlyLog:
    """Reads executions, events and outputs. Construct it with `read_only_log`. Methods raise sqlite3.Error, OSError."""

    def __init__(self, connection: sqlite3.Connection, outputs: OutputFiles, *, is_held: bool) -> None:
        self._connection = connection
        self._outputs = outputs
        self._is_held = is_held

    def get(self, execution_id: str) -> runner_pb2.Execution | None:
        """Returns an execution; None when it is not in the log."""
        row = queries.find_execution(self._connection, execution_id)
        return self._with_true_state(row.execution) if row else None

    def list(self, wanted: ExecutionFilter) -> Iterator[runner_pb2.Execution]:
        """Yields executions, newest first."""
        key = 0
        while True:
            page, key = queries.list_executions(
                self._connection, self._with_stored_states(wanted), limit=_PAGE_ROWS, before_key=key
            )
            for execution in map(self._with_true_state, page):
                if not wanted.states or execution.state in wanted.states:
                    yield execution
            if not key:
                return

    def events(self, execution_id: str, after: int = 0) -> Iterator[event_pb2.ExecutionEvent]:
        """Yields the events above `after` that are in the log now."""
        while True:
            frames, last = queries.read_page(
                self._connection, self._outputs, execution_id, after, _PAGE_BYTES, with_output=True
            )
            if last == after:
                return
            yield from runner_pb2.ExecuteAgentResponse.FromString(frames).events
            after = last

    def read_output(
        self, execution_id: str, tool_call_id: str, stream: Stream, offset: int, max_bytes: int
    ) -> bytes | None:
        """Reads output of a command; None when there is no such call."""
        keys = queries.find_output(self._connection, execution_id, tool_call_id)
        return self._outputs.read(OutputKey(*keys, stream), offset, max_bytes) if keys else None

    def _with_true_state(self, execution: runner_pb2.Execution) -> runner_pb2.Execution:
        """Without a service nothing is active: the next one will find it INTERRUPTED."""
        if not self._is_held and states.is_active(execution.state):
            execution.state = states.INTERRUPTED
        return execution

    def _with_stored_states(self, wanted: ExecutionFilter) -> ExecutionFilter:
        if self._is_held or states.INTERRUPTED not in wanted.states:
            return wanted
        return replace(wanted, states=_with_active(wanted.states))


def _with_active(wanted: "Sequence[event_pb2.State.ValueType]") -> "Sequence[event_pb2.State.ValueType]":
    return sorted({*wanted, *states.ACTIVE_STATES})


@contextmanager
def read_only_log(state_dir: Path, *, is_held: bool) -> Iterator[ReadOnlyLog]:
    """Opens the log below `state_dir`. `is_held` says whether a service holds it.

    Raises:
        UnreadableLogError: there is none, it is damaged, or it has another format.
    """
    path = state_dir / EVENTS_FILE
    try:
        require_intact(path)
        connection = _connect(path)
    except (sqlite3.Error, OSError) as error:
        raise UnreadableLogError(str(error)) from error
    with closing(connection):
        try:
            readable = EVENTS.is_current(connection)
        except sqlite3.Error as error:
            raise UnreadableLogError(str(error)) from error
        if not readable:
            raise UnreadableLogError("it has another format")
        yield ReadOnlyLog(connection, OutputFiles(state_dir / OUTPUTS_DIRECTORY), is_held=is_held)


def _connect(path: Path) -> sqlite3.Connection:
    """Opens the file. Without a write-ahead log nobody writes, and SQLite need not create the files to share it."""
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=5.0, isolation_level=None)
