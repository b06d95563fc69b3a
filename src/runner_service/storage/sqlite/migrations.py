"""Versions of the SQLite files below STATE_DIR: a list of steps for each, applied when the file is opened for writing.

The version is `PRAGMA user_version`: the number of steps that have been applied. To change a schema, append a step; a
released step never changes, and `tests/storage/data` keeps files of earlier versions.
"""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner_service.storage.sqlite.database import connect, transaction

logger = logging.getLogger(__name__)

Step = Callable[[sqlite3.Connection, Path], None]
"""Upgrades by one version; the path is that of STATE_DIR. Runs inside a transaction, and must not commit."""


@dataclass(frozen=True)
class Schema:
    """The steps of one file, the oldest first.

    `unversioned_tables` are those that a file may have at version 0 because it is older than this framework.
    """

    steps: Sequence[Step]
    unversioned_tables: frozenset[str] = frozenset()

    def open(self, path: Path, state_dir: Path) -> sqlite3.Connection:
        """Opens the file, for its owner alone, and upgrades it. Raises as `upgrade` does, and OSError."""
        connection = connect(path)
        try:
            path.chmod(0o600)
            self.upgrade(connection, state_dir)
        except BaseException:
            connection.close()
            raise
        return connection

    def upgrade(self, connection: sqlite3.Connection, state_dir: Path) -> None:
        """Applies missing steps, all of them or none.

        Raises:
            sqlite3.Error: a step failed, the file has a newer version, or it belongs to another program.
        """
        version = self._version(connection)
        if version == len(self.steps):
            return
        with transaction(connection):
            for step in self.steps[version:]:
                step(connection, state_dir)
            connection.execute(f"PRAGMA user_version = {len(self.steps)}")
        if version:
            logger.info("schema_upgraded file=%s from=%d to=%d", _file_name(connection), version, len(self.steps))

    def is_current(self, connection: sqlite3.Connection) -> bool:
        """Tells whether the file can be read without an upgrade. Raises sqlite3.Error."""
        return self._version(connection) == len(self.steps)

    def _version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if not 0 <= version <= len(self.steps):
            raise sqlite3.DatabaseError(
                f"{_file_name(connection)} has schema version {version}, this service supports up to "
                f"{len(self.steps)}; start the newer runner-service that wrote it"
            )
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if version == 0 and tables - self.unversioned_tables:
            raise sqlite3.DatabaseError(f"{_file_name(connection)} is the database of another program")
        return version


def statements(script: str) -> Step:
    """Returns a step that executes SQL statements. `executescript` would commit first."""

    def step(connection: sqlite3.Connection, _: Path) -> None:
        for statement in filter(str.strip, script.split(";")):
            connection.execute(statement)

    return step


def _file_name(connection: sqlite3.Connection) -> str:
    return Path(connection.execute("PRAGMA database_list").fetchone()[2]).name
