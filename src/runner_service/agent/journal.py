"""Write-ahead journal of tool calls: no call with side effects runs twice.

The start of a call is recorded before it runs, its result before that is published. After a crash the two tell calls
that never started and calls that ended from those that were running, whose effects are unknown.
"""

import sqlite3
from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple

from langchain_core.messages import ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol

from runner_service.agent.checkpoints import retry_while_locked
from runner_service.v1 import execution_event_pb2 as event_pb2

_NO_CALL = ""  # the row with the run id; no tool_call_id is empty


class CallResult(NamedTuple):
    """The result of a call: the message for the model, and the event for watchers."""

    message: ToolMessage
    event: event_pb2.ToolCallFinished


class JournaledCall(NamedTuple):
    """A call that was started. `result` is None when it did not end, so that its effects are unknown."""

    result: CallResult | None


class Journal:
    """Shares the connection of the checkpoints, and is written on the event loop too, in about 40 µs.

    All methods raise sqlite3.Error.
    """

    def __init__(self, connection: sqlite3.Connection, serializer: SerializerProtocol) -> None:
        self._connection = connection
        self._serializer = serializer

    async def record_run_id(self, execution_id: str, run_id: str) -> None:
        """Records the id of this run, which unlike the execution's is never reused."""
        await self._write(
            "INSERT OR REPLACE INTO journal (execution_id, tool_call_id, type) VALUES (?, ?, ?)",
            (execution_id, _NO_CALL, run_id),
        )

    def run_id(self, execution_id: str) -> str | None:
        """Returns the recorded run id; None when the execution never started."""
        row = self._connection.execute(
            "SELECT type FROM journal WHERE execution_id = ? AND tool_call_id = ?", (execution_id, _NO_CALL)
        ).fetchone()
        return row and str(row[0])

    async def record_call_start(self, execution_id: str, tool_call_id: str) -> None:
        """Records that a call is about to run."""
        await self._write(
            "INSERT OR REPLACE INTO journal (execution_id, tool_call_id) VALUES (?, ?)", (execution_id, tool_call_id)
        )

    async def record_call_result(self, execution_id: str, tool_call_id: str, result: CallResult) -> None:
        """Records the result of a call."""
        values = (
            *self._serializer.dumps_typed(result.message),
            result.event.SerializeToString(),
            execution_id,
            tool_call_id,
        )
        await self._write(
            "UPDATE journal SET type = ?, result = ?, event = ? WHERE execution_id = ? AND tool_call_id = ?", values
        )

    def find_call(self, execution_id: str, tool_call_id: str) -> JournaledCall | None:
        """Looks up a call; None when it never started."""
        row = self._connection.execute(
            "SELECT type, result, event FROM journal WHERE execution_id = ? AND tool_call_id = ?",
            (execution_id, tool_call_id),
        ).fetchone()
        if row is None:
            return None
        if row[0] is None:
            return JournaledCall(None)
        event = event_pb2.ToolCallFinished.FromString(row[2])
        return JournaledCall(CallResult(self._serializer.loads_typed(row[:2]), event))

    def execution_ids(self) -> list[str]:
        """Returns the executions that have entries."""
        return [name for (name,) in self._connection.execute("SELECT DISTINCT execution_id FROM journal")]

    async def delete_execution(self, execution_id: str) -> None:
        """Deletes the entries of an execution that has ended."""
        await self._write("DELETE FROM journal WHERE execution_id = ?", (execution_id,))

    async def _write(self, statement: str, values: Sequence[object]) -> None:
        def write() -> None:
            with self._connection as connection:
                connection.execute(statement, values)

        await retry_while_locked(write)


current_journal: ContextVar[Journal] = ContextVar("journal")
"""The journal of the current task's execution."""
