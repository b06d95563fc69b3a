"""SQLite files: checks before opening, connections, transactions."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MAGIC = b"SQLite format 3\0"
_PAGE_SIZE = slice(16, 18)


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


def create_private(path: Path) -> None:
    """Creates the file, for its owner alone, if it is missing; what SQLite puts beside it has the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def connect(path: Path) -> sqlite3.Connection:
    """Opens the file, with explicit transactions. Raises sqlite3.Error."""
    create_private(path)
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits the statements inside, or none of them."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
