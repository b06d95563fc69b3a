"""The SQLite file of the event log: its tables, and connections to it."""

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner_service import states

_VERSION = 1
_MAGIC = b"SQLite format 3\0"
_PAGE_SIZE = slice(16, 18)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS executions (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    state INTEGER NOT NULL,
    changed REAL NOT NULL,
    fingerprint BLOB NOT NULL,
    request BLOB,
    record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS executions_by_session ON executions (session_id, key) WHERE session_id != '';
CREATE INDEX IF NOT EXISTS executions_by_state ON executions (state, key);
CREATE TABLE IF NOT EXISTS events (
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
CREATE TABLE IF NOT EXISTS tool_calls (
    execution INTEGER NOT NULL,
    tool_call_id TEXT NOT NULL,
    call INTEGER NOT NULL,
    PRIMARY KEY (execution, tool_call_id)
) WITHOUT ROWID;
"""


def require_intact(path: Path) -> None:
    """Refuses a file that SQLite would take for an empty or an intact one, and overwrite.

    An empty file is accepted: its service was killed right after creating it. So is a truncated one with a write-ahead
    log beside it, which holds the rest. Other damage is detected by SQLite.

    Raises:
        sqlite3.Error, OSError: the file is damaged or cannot be read.
    """
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        return
    with path.open("rb") as file:
        head = file.read(_PAGE_SIZE.stop)
    if not head.startswith(_MAGIC):
        raise sqlite3.DatabaseError(f"{path.name} is not a database")
    page_size = int.from_bytes(head[_PAGE_SIZE]) or 1
    if size % page_size and not path.with_name(f"{path.name}-wal").exists():
        raise sqlite3.DatabaseError(f"{path.name} is truncated")


def connect(path: Path) -> sqlite3.Connection:
    """Opens the file; transactions are begun and ended by hand. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def prepare(connection: sqlite3.Connection) -> bytes:
    """Makes the tables, puts down as INTERRUPTED what was at work, and returns the key for fingerprints.

    Raises sqlite3.Error, also when the file is of another format.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in {0, _VERSION}:
        raise sqlite3.DatabaseError(f"it has format {version}, this service writes format {_VERSION}")
    if version == 0 and connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        raise sqlite3.DatabaseError("it is the database of another program")
    with transaction(connection):
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('fingerprint_key', ?)", (secrets.token_bytes(32),))
        connection.execute(
            "UPDATE executions SET state = ? WHERE state IN (?, ?)",
            (states.INTERRUPTED, *states.ACTIVE_STATES),
        )
    key: bytes = connection.execute("SELECT value FROM meta WHERE name = 'fingerprint_key'").fetchone()[0]
    return key


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits what is done inside, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
