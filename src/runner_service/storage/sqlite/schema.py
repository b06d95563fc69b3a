"""The schemas of `events.db` and `checkpoints.db`."""

import logging
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from runner_service.identity import DEFAULT_TENANT
from runner_service.storage.sqlite.migrations import Schema, statements

EVENTS_FILE = "events.db"
OUTPUTS_DIRECTORY = "outputs"
logger = logging.getLogger(__name__)

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


_create_journal = statements("""
CREATE TABLE journal (
    execution INTEGER NOT NULL,
    tool_call_id TEXT NOT NULL,
    type TEXT,
    message BLOB,
    event BLOB,
    PRIMARY KEY (execution, tool_call_id)
) WITHOUT ROWID
""")

_create_change_sets = statements("""
CREATE TABLE change_sets (
    execution INTEGER NOT NULL,
    number INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (execution, number)
) WITHOUT ROWID
""")

PENDING_REPORTS_1 = "reports-owed"
"""The directory of version 1 with a file for each pending report. To be deleted after the upgrade."""

RUN_ID = ""
"""The `tool_call_id` of the journal's row with the run id, in `type`."""


def _import_journal(connection: sqlite3.Connection, state_dir: Path) -> None:
    """Copies the journal of version 1, which was in `checkpoints.db`."""
    path = state_dir / "checkpoints.db"
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path)) as checkpoints:
            rows = checkpoints.execute("SELECT tool_call_id, type, result, event, execution_id FROM journal").fetchall()
    except sqlite3.Error as error:  # as are the checkpoints then, without which it is of no use
        logger.warning("journal_unreadable error=%s", error)
        return
    insert = "INSERT INTO journal SELECT key, ?, ?, ?, ? FROM executions WHERE execution_id = ?"
    connection.executemany(insert, rows)


def _import_pending_reports(connection: sqlite3.Connection, state_dir: Path) -> None:
    """Copies the pending reports of version 1, which were files."""
    directory = state_dir / PENDING_REPORTS_1
    if directory.is_dir():
        insert = "INSERT INTO execution_values SELECT key, 'pending_report', x'' FROM executions WHERE execution_id = ?"
        connection.executemany(insert, [(each.name,) for each in directory.iterdir()])


def _upgrade_to_2(connection: sqlite3.Connection, state_dir: Path) -> None:
    _create_execution_values(connection, state_dir)
    _create_journal(connection, state_dir)
    _import_journal(connection, state_dir)
    _import_pending_reports(connection, state_dir)


_add_tenants = statements(f"""
ALTER TABLE executions ADD COLUMN tenant TEXT NOT NULL DEFAULT '{DEFAULT_TENANT}';
CREATE INDEX executions_by_tenant ON executions (tenant, key);
CREATE INDEX executions_by_tenant_state ON executions (tenant, state, key)
""")


_create_usage = statements("""
CREATE TABLE usage (
    tenant TEXT NOT NULL,
    day TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (tenant, day)
) WITHOUT ROWID
""")


_create_audit = statements("""
CREATE TABLE audit (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    added REAL NOT NULL,
    tenant TEXT NOT NULL,
    entry BLOB NOT NULL
);
CREATE INDEX audit_by_tenant ON audit (tenant, key)
""")


def _create_events(connection: sqlite3.Connection, state_dir: Path) -> None:
    _create_event_tables(connection, state_dir)
    connection.execute("INSERT INTO meta VALUES ('fingerprint_key', ?)", (secrets.token_bytes(32),))


EVENTS = Schema([_create_events, _upgrade_to_2, _add_tenants, _create_change_sets, _create_usage, _create_audit])

CHECKPOINTS = Schema(
    [statements("DROP TABLE IF EXISTS journal")],  # copied by the upgrade of `events.db`, which is opened before
    unversioned_tables=frozenset({"checkpoints", "writes", "journal"}),
)
"""The tables `checkpoints` and `writes` are LangGraph's, which creates and upgrades them itself."""
