"""Checkpoints of conversations, in SQLite, so that sessions outlive the process.

Each is written where it is made, on the event loop: that takes 40 µs, 150 µs at the 99th percentile, where the
library's own asynchronous saver makes several thread hops. What takes longer, carrying the write-ahead log over into
the file, is done in a thread on a connection of its own.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
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
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

from runner_service.storage.sqlite.schema import require_whole

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PUTS_BETWEEN_CARRIES = 500
_LOCK_PATIENCE, _LOCK_PAUSE = 10.0, 0.02  # seconds


async def patiently(write: Callable[[], T]) -> T:
    """Writes; while another process holds the file, again and again for some seconds, in which the loop goes on.

    Raises:
        sqlite3.Error: the file cannot be written.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _LOCK_PATIENCE
    while True:
        try:
            return write()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or loop.time() > give_up:
                raise
        await asyncio.sleep(_LOCK_PAUSE)


class StateSerializer(JsonPlusSerializer):
    """Reads messages and plain values, and nothing else: commands, being of the same user, could write to the file.

    By default the library imports whatever a checkpoint names, and calls it. What is not on its list of safe types
    stays the plain value that it was stored as.
    """

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=None)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Reads a value. Raises NotImplementedError for the form of earlier versions, which names classes as well."""
        if data[0] == "json":
            raise NotImplementedError("JSON was never written here")
        return super().loads_typed(data)


class InlineSqliteSaver(SqliteSaver):
    """Does the asynchronous operations at once. Belongs to the event loop."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection, serde=StateSerializer())
        self.grown = asyncio.Event()
        self._puts = 0

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Reads a checkpoint."""
        return self.get_tuple(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # the library's name for it
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Reads the checkpoints of a thread, the newest first."""
        for each in self.list(config, filter=filter, before=before, limit=limit):
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
        if self._puts % _PUTS_BETWEEN_CARRIES == 0:
            self.grown.set()
        return await patiently(lambda: self.put(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Writes what a step has done, before the step is over."""
        await patiently(lambda: self.put_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        """Forgets a conversation."""
        await patiently(lambda: self.delete_thread(thread_id))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Reads the changes of channels that are stored as such."""
        return self.get_delta_channel_history(config=config, channels=channels)


@asynccontextmanager
async def checkpoint_saver(path: Path) -> AsyncIterator[InlineSqliteSaver]:
    """Opens the checkpoints in the file `path`, which is made when missing. Raises OSError, sqlite3.Error."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # once, at start
    with _connection(path) as connection:
        saver = InlineSqliteSaver(connection)
        saver.setup()
        async with asyncio.TaskGroup() as tasks:
            carrying = tasks.create_task(_carry_over(saver, path), name="checkpoint-log")
            try:
                yield saver
            finally:
                carrying.cancel()


@contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    # Made and used on the event loop's thread; the check would only get in the way of closing it elsewhere. It never
    # waits for a lock there: `patiently` does.
    require_whole(path)
    with closing(sqlite3.connect(path, timeout=0, check_same_thread=False)) as connection:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        yield connection


async def _carry_over(saver: InlineSqliteSaver, path: Path) -> None:
    while True:
        await saver.grown.wait()
        saver.grown.clear()
        try:
            await asyncio.to_thread(_carry_over_now, path)
        except sqlite3.Error as error:  # as on a full disk; there will be another time
            logger.warning("carry_over_failed error=%s", error)


def _carry_over_now(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def thread_ids(path: Path) -> list[str]:
    """Returns the conversations in the file `path`. Blocks: belongs in a thread. Raises sqlite3.Error."""
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT DISTINCT thread_id FROM checkpoints")]
