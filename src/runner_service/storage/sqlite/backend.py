"""The storage of a service that has a STATE_DIR for itself."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runner_service.storage.checkpoints import OpenCheckpoints
from runner_service.storage.sqlite.activities import SqliteActivityStore, sqlite_activity_store
from runner_service.storage.sqlite.audit import SqliteAuditStore
from runner_service.storage.sqlite.content_files import ContentFiles
from runner_service.storage.sqlite.event_log import SqliteEventLog, sqlite_event_log
from runner_service.storage.sqlite.ownership import SoleOwnership
from runner_service.storage.sqlite.scratch_files import DirectoryScratchFiles
from runner_service.storage.sqlite.usage import SqliteUsageStore

_DEFAULT_CHANGES_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class SqliteStorage:
    """Implements `Storage` with SQLite and files below `state_dir`. Construct it with `sqlite_storage`."""

    state_dir: Path
    log: SqliteEventLog
    contents: ContentFiles
    ownership: SoleOwnership
    scratch_files: DirectoryScratchFiles
    usage: SqliteUsageStore
    audit: SqliteAuditStore
    replicas: None = None

    def open_activities(self) -> AbstractAsyncContextManager[SqliteActivityStore]:
        """Implements `Storage`."""
        return sqlite_activity_store(self.state_dir)

    def load_checkpoints(self) -> OpenCheckpoints:
        """Implements `Storage`."""
        from runner_service.storage.sqlite.checkpoints import sqlite_checkpoints  # noqa: PLC0415  # takes long

        return partial(sqlite_checkpoints, self.state_dir)


@asynccontextmanager
async def sqlite_storage(
    state_dir: Path, *, changes_max_bytes: int = _DEFAULT_CHANGES_MAX_BYTES
) -> AsyncIterator[SqliteStorage]:
    """Opens the storage below `state_dir`, which is created with mode 0700. Raises LogError."""
    contents = ContentFiles(state_dir / "contents", changes_max_bytes)
    async with sqlite_event_log(state_dir, on_deleted=contents.remove) as log:
        scratch_files = DirectoryScratchFiles(state_dir / "agents")
        yield SqliteStorage(
            state_dir, log, contents, SoleOwnership(), scratch_files, SqliteUsageStore(log), SqliteAuditStore(log)
        )
