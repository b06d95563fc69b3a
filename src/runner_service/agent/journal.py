"""What was about to run, and what came of it: the reason why nothing with effects happens twice.

A call is written down before it begins, and its result before anyone hears of it. After a crash the two tell apart what
never began, what has ended, and what was under way, of which nobody knows how far it came.
"""

import sqlite3
from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple

from langchain_core.messages import ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol

from runner_service.agent.checkpoints import patiently
from runner_service.v1 import execution_event_pb2 as event_pb2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
    execution_id TEXT NOT NULL,
    tool_call_id TEXT NOT NULL,
    type TEXT,
    result BLOB,
    event BLOB,
    PRIMARY KEY (execution_id, tool_call_id)
) WITHOUT ROWID
"""

_NO_CALL = ""  # no id of a call is empty


class JournaledEnd(NamedTuple):
    """How a call has ended: what the model is told, and what everybody else is."""

    result: ToolMessage
    event: event_pb2.ToolCallFinished


class JournalEntry(NamedTuple):
    """A call that has begun. `end` is None when it is not known how far it came."""

    end: JournaledEnd | None


class Journal:
    """Shares the connection of the checkpoints, and like them is written on the event loop, in some 40 µs.

    All methods raise sqlite3.Error.
    """

    def __init__(self, connection: sqlite3.Connection, serializer: SerializerProtocol) -> None:
        self._connection = connection
        self._serializer = serializer
        with connection:
            connection.execute(_SCHEMA)

    async def begin_life(self, execution_id: str, name: str) -> None:
        """Writes down under which name the execution begins, other than its id."""
        await self._write(
            "INSERT OR REPLACE INTO journal (execution_id, tool_call_id, type) VALUES (?, ?, ?)",
            (execution_id, _NO_CALL, name),
        )

    def life(self, execution_id: str) -> str | None:
        """Returns the name under which the execution began; None when it never got so far."""
        row = self._connection.execute(
            "SELECT type FROM journal WHERE execution_id = ? AND tool_call_id = ?", (execution_id, _NO_CALL)
        ).fetchone()
        return row and str(row[0])

    async def begin(self, execution_id: str, tool_call_id: str) -> None:
        """Writes down that a call is about to run."""
        await self._write(
            "INSERT OR REPLACE INTO journal (execution_id, tool_call_id) VALUES (?, ?)", (execution_id, tool_call_id)
        )

    async def end(self, execution_id: str, tool_call_id: str, end: JournaledEnd) -> None:
        """Writes down what came of it."""
        values = (*self._serializer.dumps_typed(end.result), end.event.SerializeToString(), execution_id, tool_call_id)
        await self._write(
            "UPDATE journal SET type = ?, result = ?, event = ? WHERE execution_id = ? AND tool_call_id = ?", values
        )

    def find(self, execution_id: str, tool_call_id: str) -> JournalEntry | None:
        """Looks a call up; None when it never began."""
        row = self._connection.execute(
            "SELECT type, result, event FROM journal WHERE execution_id = ? AND tool_call_id = ?",
            (execution_id, tool_call_id),
        ).fetchone()
        if row is None:
            return None
        if row[0] is None:
            return JournalEntry(None)
        event = event_pb2.ToolCallFinished.FromString(row[2])
        return JournalEntry(JournaledEnd(self._serializer.loads_typed(row[:2]), event))

    def executions(self) -> list[str]:
        """Returns the executions of which something is written down."""
        return [name for (name,) in self._connection.execute("SELECT DISTINCT execution_id FROM journal")]

    async def forget(self, execution_id: str) -> None:
        """Forgets what is written down of an execution that is finished for good."""
        await self._write("DELETE FROM journal WHERE execution_id = ?", (execution_id,))

    async def _write(self, statement: str, values: Sequence[object]) -> None:
        def write() -> None:
            with self._connection as connection:
                connection.execute(statement, values)

        await patiently(write)


current_journal: ContextVar[Journal] = ContextVar("journal")
"""Where the calls of the current task's execution are written down."""
