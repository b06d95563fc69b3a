"""Retention by age, then by size."""

import sqlite3
from collections.abc import Callable

from runner_service.states import FINAL_STATES, INTERRUPTED
from runner_service.storage.sqlite.database import transaction
from runner_service.storage.sqlite.output_files import OutputFiles

_MAX_PRUNED_PER_CALL = 200


class Pruner:
    """Deletes executions. Belongs to the log's writer thread."""

    def __init__(self, connection: sqlite3.Connection, outputs: OutputFiles, on_deleted: Callable[[str], None]) -> None:
        self._connection = connection
        self._on_deleted = on_deleted
        self._outputs = outputs

    def prune(self, ended_before: float, max_bytes: int) -> int:
        """Deletes what ended before a Unix time, then the oldest while over `max_bytes`; returns how many."""
        final = ",".join(str(state) for state in sorted(FINAL_STATES))
        old = self._connection.execute(
            f"SELECT key FROM executions WHERE state IN ({final}, ?) AND changed < ? LIMIT ?",  # noqa: S608  # constants
            (INTERRUPTED, ended_before, _MAX_PRUNED_PER_CALL),
        ).fetchall()
        for (key,) in old:
            self._delete(key)
        deleted = len(old)
        finished = self._connection.execute(
            f"SELECT key FROM executions WHERE state IN ({final}) ORDER BY changed LIMIT ?",  # noqa: S608  # constants
            (_MAX_PRUNED_PER_CALL,),
        ).fetchall()
        excess = self._size() - max_bytes
        for (key,) in finished:
            if excess <= 0:
                break
            excess -= self._delete(key)
            deleted += 1
        if deleted:
            self._connection.execute("PRAGMA incremental_vacuum").fetchall()
        return deleted

    def delete(self, execution_id: str) -> bool:
        """Deletes one execution; False when there is no such execution."""
        row = self._connection.execute("SELECT key FROM executions WHERE execution_id = ?", (execution_id,)).fetchone()
        if row is None:
            return False
        self._delete(row[0])
        self._connection.execute("PRAGMA incremental_vacuum").fetchall()
        return True

    def _size(self) -> int:
        connection = self._connection
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        keys = connection.execute("SELECT DISTINCT execution FROM tool_calls").fetchall()
        return int((pages - free) * size + sum(self._outputs.size(key) for (key,) in keys))

    def _delete(self, key: int) -> int:
        """Deletes an execution and returns approximately how many bytes that freed."""
        with transaction(self._connection):
            query = "SELECT IFNULL(SUM(LENGTH(frame) + 16), 0) FROM events WHERE execution = ?"
            size = self._connection.execute(query, (key,)).fetchone()[0]
            query = "SELECT execution_id FROM executions WHERE key = ?"
            execution_id = self._connection.execute(query, (key,)).fetchone()[0]
            for table in ("events", "tool_calls", "execution_values", "journal", "change_sets"):
                self._connection.execute(f"DELETE FROM {table} WHERE execution = ?", (key,))  # noqa: S608  # constants
            self._connection.execute("DELETE FROM executions WHERE key = ?", (key,))
        self._on_deleted(execution_id)
        return int(size) + self._outputs.remove(key)
