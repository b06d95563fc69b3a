"""The schemas of `events.db` and `checkpoints.db`."""

import secrets
import sqlite3
from pathlib import Path

from runner_service.storage.sqlite.migrations import Schema, statements

EVENTS_FILE = "events.db"
OUTPUTS_DIRECTORY = "outputs"

_create_event_tables = statements("""
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE executions (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    state INTEGER NOT NULL,
    changed REAL NOT NULL,
    fingerprint BLOB NOT NULL,
    request BLOB,
    record BLOB NOT NULL
);
CREATE INDEX executions_by_session ON executions (session_id, key) WHERE session_id != '';
CREATE INDEX executions_by_state ON executions (state, key);
CREATE TABLE events (
    execution INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    count INTEGER NOT NULL,
    frame BLOB NOT NULL,
    call INTEGER,
    stream TEXT,
    offset INTEGER,
    length INTEGER,
    PRIMARY KEY (execution, sequence)
) WITHOUT ROWID;
CREATE TABLE tool_calls (
    execution INTEGER NOT NULL,
    tool_call_id TEXT NOT NULL,
    call INTEGER NOT NULL,
    PRIMARY KEY (execution, tool_call_id)
) WITHOUT ROWID
""")

_create_execution_values = statements("""
CREATE TABLE execution_values (
    execution INTEGER NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (execution, name)
) WITHOUT ROWID;
CREATE INDEX execution_values_by_name ON execution_values (name)
""")


def _create_events(connection: sqlite3.Connection, state_dir: Path) -> None:
    _create_event_tables(connection, state_dir)
    connection.execute("INSERT INTO meta VALUES ('fingerprint_key', ?)", (secrets.token_bytes(32),))


EVENTS = Schema([_create_events, _create_execution_values])

CHECKPOINTS = Schema(
    [
        statements("""
CREATE TABLE IF NOT EXISTS journal (
    execution_id TEXT NOT NULL,
    tool_call_id TEXT NOT NULL,
    type TEXT,
    result BLOB,
    event BLOB,
    PRIMARY KEY (execution_id, tool_call_id)
) WITHOUT ROWID
""")
    ],
    unversioned_tables=frozenset({"checkpoints", "writes", "journal"}),
)
"""The tables `checkpoints` and `writes` are LangGraph's, which creates and upgrades them itself."""
