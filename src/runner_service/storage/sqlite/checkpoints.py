"""LangGraph checkpoints in SQLite, so that sessions outlive the process.

They are written on the event loop, in 40 µs (p99: 150 µs): the library's own asynchronous saver makes several thread
hops. WAL checkpoints, which take longer, run in a thread on a connection of their own.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.sqlite import SqliteSaver

from runner_service.storage.event_log import LogError
from runner_service.storage.sqlite.database import create_private, require_intact
from runner_service.storage.sqlite.schema import CHECKPOINTS
from runner_service.storage.state_serializer import StateSerializer

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FILE = "checkpoints.db"
_PUTS_PER_WAL_CHECKPOINT = 500
_LOCK_TIMEOUT_SECONDS, _LOCK_RETRY_INTERVAL_SECONDS = 10.0, 0.02


@contextmanager
def _as_log_error() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise LogError(f"{_FILE} cannot be used: {error}") from error


async def retry_while_locked(write: Callable[[], T]) -> T:
    """Calls `write`, and retries for `_LOCK_TIMEOUT_SECONDS` while another process holds the file's lock.

    Raises:
        LogError: the file cannot be written.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _LOCK_TIMEOUT_SECONDS
    with _as_log_error():
        while True:
            try:
                return write()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or loop.time() > give_up:
                    raise
            await asyncio.sleep(_LOCK_RETRY_INTERVAL_SECONDS)


class InlineSqliteSaver(SqliteSaver):
    """Runs the asynchronous operations synchronously. Belongs to the event loop."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection, serde=StateSerializer())
        self.wal_grown = asyncio.Event()
        self._puts = 0

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Reads a checkpoint."""
        with _as_log_error():
            return self.get_tuple(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # the library's name for it
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Reads the checkpoints of a thread, newest first."""
        with _as_log_error():
            found = list(self.list(config, filter=filter, before=before, limit=limit))
        for each in found:
            yield each

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Writes a checkpoint."""
        self._puts += 1
        if self._puts % _PUTS_PER_WAL_CHECKPOINT == 0:
            self.wal_grown.set()
        return await retry_while_locked(lambda: self.put(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Writes what a node has returned, before the superstep ends."""
        await retry_while_locked(lambda: self.put_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        """Deletes the checkpoints of a thread."""
        await retry_while_locked(lambda: self.delete_thread(thread_id))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Reads the history of delta channels."""
        with _as_log_error():
            return self.get_delta_channel_history(config=config, channels=channels)


class SqliteCheckpoints:
    """Implements `Checkpoints`. Construct it with `sqlite_checkpoints`."""

    def __init__(self, saver: InlineSqliteSaver, path: Path) -> None:
        self._saver = saver
        self._path = path

    @property
    def saver(self) -> InlineSqliteSaver:
        """Implements `Checkpoints`."""
        return self._saver

    async def enter(self, thread_id: str, execution_id: str) -> None:
        """Implements `Checkpoints`: there is no other process."""

    async def thread_ids(self) -> Sequence[str]:
        """Implements `Checkpoints`."""
        with _as_log_error():
            return await asyncio.to_thread(_thread_ids, self._path)

    async def delete_thread(self, thread_id: str) -> None:
        """Implements `Checkpoints`."""
        await self._saver.adelete_thread(thread_id)


@asynccontextmanager
async def sqlite_checkpoints(state_dir: Path) -> AsyncIterator[SqliteCheckpoints]:
    """Opens `checkpoints.db`, which is created when missing. Raises LogError."""
    path = state_dir / _FILE
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(_connection(path))
            CHECKPOINTS.upgrade(connection, state_dir)
            saver = InlineSqliteSaver(connection)
            saver.setup()
        except (sqlite3.Error, OSError) as error:
            raise LogError(
                f"{_FILE} in STATE_DIR {state_dir} cannot be used: {error}; to begin without the conversations so "
                "far, move it away and start the service again"
            ) from error
        async with asyncio.TaskGroup() as tasks:
            wal_checkpoints = tasks.create_task(_checkpoint_wal_forever(saver, path), name="wal-checkpoints")
            try:
                yield SqliteCheckpoints(saver, path)
            finally:
                wal_checkpoints.cancel()


@contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    # Used on the event loop's thread only; the check would prevent closing it elsewhere. timeout=0: a lock must not
    # block the loop, `retry_while_locked` waits instead.
    require_intact(path)
    create_private(path)
    with closing(sqlite3.connect(path, timeout=0, check_same_thread=False)) as connection:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        yield connection


async def _checkpoint_wal_forever(saver: InlineSqliteSaver, path: Path) -> None:
    while True:
        await saver.wal_grown.wait()
        saver.wal_grown.clear()
        try:
            await asyncio.to_thread(_checkpoint_wal, path)
        except sqlite3.Error as error:  # e.g. the disk is full; retried after more puts
            logger.warning("wal_checkpoint_failed error=%s", error)


def _checkpoint_wal(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _thread_ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT DISTINCT thread_id FROM checkpoints")]
