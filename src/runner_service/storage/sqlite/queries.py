"""What is read from the event log's tables, by the service and by commands that only look."""

import sqlite3
import time
from typing import NamedTuple

from runner_service.identity import ANY_TENANT
from runner_service.storage.changes import StoredChangeSet
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.execution_order import MAX_SORTED_EXECUTIONS, ExecutionOrder
from runner_service.storage.frames import skip_frames
from runner_service.storage.sqlite.output_files import OutputFiles, OutputKey
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_MAX_ROWS_PER_PAGE = 4096
_ROWS_PER_TURN = 200
_TURN_SECONDS = 0.00005  # lets the event loop have the interpreter, which it would else get after 5 ms
_EXECUTION = "record, state, (SELECT IFNULL(MAX(sequence), 0) FROM events WHERE execution = key)"


class StoredRow(NamedTuple):
    """A row of `executions`: the record, the fingerprint, and the stored request, serialized, if any."""

    execution: runner_pb2.Execution
    fingerprint: bytes
    request: bytes | None


def find_execution(connection: sqlite3.Connection, execution_id: str) -> StoredRow | None:
    """Returns an execution; None if there is none."""
    row = connection.execute(
        f"SELECT {_EXECUTION}, fingerprint, request FROM executions WHERE execution_id = ?",  # noqa: S608  # constants
        (execution_id,),
    ).fetchone()
    return StoredRow(_execution(*row[:3]), row[3], row[4]) if row else None


def list_executions(
    connection: sqlite3.Connection, wanted: ExecutionFilter, *, limit: int, before_key: int
) -> tuple[list[runner_pb2.Execution], int]:
    """Returns a page, newest first, and the key that continues it, 0 at the end."""
    conditions = ["(? = 0 OR key < ?)"]
    values: list[int | str] = [before_key, before_key]
    if wanted.tenant != ANY_TENANT:
        conditions.append("tenant = ?")
        values.append(wanted.tenant)
    if wanted.session_id:
        conditions.append("session_id = ?")
        values.append(wanted.session_id)
    if wanted.states:
        conditions.append(f"state IN ({','.join('?' * len(wanted.states))})")
        values += wanted.states
    if wanted.needs_record:
        connection.create_function("matches_record", 1, wanted.matches_record, deterministic=True)
        conditions.append("matches_record(record)")
    query = (
        f"SELECT {_EXECUTION}, key FROM executions "  # noqa: S608  # only constants and marks are joined
        f"WHERE {' AND '.join(conditions)} ORDER BY key DESC LIMIT ?"
    )
    cursor = connection.execute(query, [*values, limit + 1])
    found: list[runner_pb2.Execution] = []
    keys: list[int] = []
    while rows := cursor.fetchmany(_ROWS_PER_TURN):
        if found:
            time.sleep(_TURN_SECONDS)
        found += [_execution(*row[:3]) for row in rows]
        keys += [row[3] for row in rows]
    return found[:limit], keys[limit - 1] if len(keys) > limit else 0


def list_in_order(
    connection: sqlite3.Connection, wanted: ExecutionFilter, order: ExecutionOrder, *, limit: int, position: int
) -> tuple[list[runner_pb2.Execution], int]:
    """Returns a page of the sorted list, and the position of the next one, 0 at the end."""
    newest, _ = list_executions(connection, wanted, limit=MAX_SORTED_EXECUTIONS, before_key=0)
    return order.page(newest, limit=limit, position=position)


def find_change_sets(connection: sqlite3.Connection, execution_id: str) -> list[StoredChangeSet]:
    """Returns the change sets of an execution, the oldest first."""
    query = (
        "SELECT sequence, data FROM change_sets "
        "WHERE execution = (SELECT key FROM executions WHERE execution_id = ?) ORDER BY number"
    )
    return [StoredChangeSet(*row) for row in connection.execute(query, (execution_id,))]


def find_output(connection: sqlite3.Connection, execution_id: str, tool_call_id: str) -> tuple[int, int] | None:
    """Returns the keys of an execution and of its tool call; None if there is no such call."""
    row: tuple[int, int] | None = connection.execute(
        "SELECT execution, call FROM tool_calls JOIN executions ON key = execution "
        "WHERE execution_id = ? AND tool_call_id = ?",
        (execution_id, tool_call_id),
    ).fetchone()
    return row


def read_page(
    connection: sqlite3.Connection,
    outputs: OutputFiles,
    execution_id: str,
    after: int,
    max_bytes: int,
    *,
    with_output: bool,
) -> tuple[bytes, int]:
    """Returns frames of events above `after`, about `max_bytes`, and the sequence of the last. Raises OSError."""
    rows = connection.execute(
        "SELECT sequence, count, frame, execution, call, stream, offset, length FROM events "
        "WHERE execution = (SELECT key FROM executions WHERE execution_id = ?) AND sequence > ? "
        "AND (? OR call IS NULL) ORDER BY sequence LIMIT ?",
        (execution_id, after, with_output, _MAX_ROWS_PER_PAGE),
    )
    frames: list[bytes] = []
    size, last = 0, after
    for sequence, count, frame, execution, call, stream, offset, length in rows:
        seen = max(0, after - sequence + count)
        if size and size + len(frame) + (length or 0) > max_bytes:
            break
        frames.append(skip_frames(frame, seen))
        if call is not None:
            frames.append(_output(outputs, OutputKey(execution, call, stream), offset, length))
        size += len(frame) + (length or 0)
        last = sequence
    return b"".join(frames), last


def _output(outputs: OutputFiles, key: OutputKey, offset: int, length: int) -> bytes:
    data = outputs.read(key, offset, length)
    if len(data) != length:
        raise OSError(f"output file {key.call}.{key.stream} of execution {key.execution} is shorter than its events")
    return data


def _execution(record: bytes, state: "event_pb2.State.ValueType", last_sequence: int) -> runner_pb2.Execution:
    execution = runner_pb2.Execution.FromString(record)
    execution.state = state
    execution.last_sequence = last_sequence
    return execution
